"""DeepFace: the sizes of figure 2, vectors of the hidden layer, similarities fitted to pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError, UsageError
from saccade.models import create
from saccade.models.faces import deepface
from saccade.models.stage import Given

SMALL = {"size": (48, 48), "hidden": 24, "classes": 3, "first": 8, "second": 8, "local": ((8, 3, 1),)}


def test_the_sizes_are_those_of_figure_2() -> None:
    with torch.device("meta"):
        model, found = create("deepface"), []
        x = torch.empty(1, 3, 152, 152)
        for layer in (*model.layers, *model.local):
            x = layer(x)
            found.append(x.shape[-1])
    assert list(dict.fromkeys(found)) == [142, 71, 63, 55, 25, 21]
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert parts["f7"] == 28_905_472
    assert parts["f8"] == 16_510_910
    local = [sum(p.numel() for p in layer.parameters()) for layer in model.local if "Local" in type(layer).__name__]
    assert local == [62_774_800, 7_850_000, 2_829_456]


def test_images_too_small_for_the_local_layers_are_told() -> None:
    with pytest.raises(UsageError, match="size 48 x 60 leaves the local layers no place; 55 pixels a side are needed"):
        create("deepface_small", size=(48, 60))
    assert create("deepface_small", size=(55, 60), classes=2)(torch.rand(1, 3, 55, 60)).shape == (1, 256)


def coloured(n: int = 12) -> Batch:
    """Three identities, each a colour."""
    labels = [i % 3 for i in range(n)]
    images = 0.3 * torch.rand(n, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for image, label in zip(images, labels, strict=True):
        image[label] += 0.6
    return Batch(images, [(48, 48)] * n, [Annotation((48, 48), label=label) for label in labels])


def given_of(model: torch.nn.Module, batch: Batch, folder: Path) -> Given:
    def batches() -> Iterator[Batch]:
        yield batch[:5]
        yield batch[5:]

    return Given(model.eval(), frozenset(), ["a", "b", "c"], batches, torch.device("cpu"), 0, folder, lambda text: None)


@pytest.mark.parametrize("kind", ["cosine", "weighted_l1", "chi_square"])
def test_the_solve_scales_the_hidden_layer_and_fits_the_similarity(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batch = create("deepface_small", **SMALL, similarity_kind=kind).eval(), coloured()
    solved = deepface.solve_vectors(given_of(model, batch, tmp_path))
    model.load_state_dict(model.state_dict() | solved)
    with torch.no_grad():
        scaled = model.hidden(batch.images) / model.largest
        vectors = model.embed(batch.images)
        alike = model.similarity(vectors, vectors)
    assert float(scaled.max()) == pytest.approx(1, abs=1e-5)
    assert bool((vectors >= 0).all())
    labels = torch.tensor([truth.label for truth in batch.truth or []])
    same = labels[:, None] == labels
    assert float(alike[same].mean()) > float(alike[~same].mean())
    if kind != "cosine":
        assert bool((alike[same] > 0.5).all())
        assert bool((alike[~same] < 0.5).all())


def test_pairs_are_drawn_of_both_kinds_alike() -> None:
    pairs, same = deepface.draw_pairs([0, 0, 0, 1, 1, 2], seed=0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], same)
    assert int(same.sum()) == int((~same).sum()) == 4
    with pytest.raises(DataError, match="one kind is not there"):
        deepface.draw_pairs([0, 1, 2], seed=0)
