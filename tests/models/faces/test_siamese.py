"""Siamese networks: the encoder of Koch et al., and what is compared how."""

from __future__ import annotations

import torch

from saccade.models import create
from saccade.models.faces.siamese import KochEncoder


def test_the_maps_of_koch_are_those_of_figure_4() -> None:
    with torch.device("meta"):
        encoder, x, found = KochEncoder(1.0), torch.empty(1, 1, 105, 105), []
        for layer in encoder.layers:
            x = layer(x)
            found.append(x.shape[-1])
    assert list(dict.fromkeys(found)) == [96, 48, 42, 21, 18, 9, 6]
    assert encoder.outputs == 9216


def test_a_learned_similarity_is_symmetric_and_largest_for_equals() -> None:
    torch.manual_seed(0)
    for kind in ("weighted_l1", "chi_square"):
        model = create("siamese_small", trunk_width=8, similarity_kind=kind).eval()
        with torch.no_grad():
            vectors = model.embed(torch.rand(4, 3, 48, 48))
            alike = model.similarity(vectors, vectors)
        assert bool((vectors >= 0).all())
        torch.testing.assert_close(alike, alike.T)
        assert bool((alike.diagonal() >= alike.max() - 1e-6).all())
        assert bool(((alike > 0) & (alike < 1)).all())


def test_the_contrastive_form_compares_by_the_cosine() -> None:
    model = create("siamese_small", trunk_width=8).eval()
    a = torch.nn.functional.normalize(torch.randn(3, 128))
    torch.testing.assert_close(model.similarity(a, a), a @ a.T)
