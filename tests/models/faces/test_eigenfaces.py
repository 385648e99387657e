"""Eigenfaces: the components against scikit-learn's, few and equal pictures, people of ORL whom it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import saccade
from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.models import create
from saccade.models.faces.eigenfaces import principal_components
from saccade.models.stage import Given


def given(images: torch.Tensor, components: int = 5, colour: bool = False) -> Given:
    def batches() -> Iterator[Batch]:
        for part in images.split(4):
            yield Batch(part, [(24, 36)] * len(part), [Annotation((24, 36), label=0)] * len(part))

    network = create("eigenfaces", side=12, components=components, colour=colour)
    return Given(network.eval(), frozenset(), ["a"], batches, torch.device("cpu"), 0, Path(), lambda _: None)


@pytest.mark.parametrize("colour", [False, True])
def test_components_against_scikit_learn(colour: bool) -> None:
    images = torch.rand(30, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    work = given(images, colour=colour)
    network = work.network
    network.load_state_dict(principal_components(work))
    seen = images if colour else (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    pixels = seen.unflatten(2, (12, 2)).unflatten(4, (12, 3)).mean((3, 5)).flatten(1).numpy()
    expected = PCA(5, svd_solver="full").fit_transform(pixels)
    with torch.inference_mode():
        found = network.coordinates(network.pixels(images)).numpy()  # type: ignore[operator]
        vectors = network.predict(Batch(images, [(24, 36)] * 30))[0].embedding  # type: ignore[operator]
        worse = create("eigenfaces", side=12, components=5, colour=colour)
        losses = [float(net.loss(Batch(images, [], []))["reconstruction"]) for net in (network, worse)]  # type: ignore[operator]
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)
    np.testing.assert_allclose(vectors.numpy(), found[0] / np.linalg.norm(found[0]), atol=1e-5)
    assert losses[0] == pytest.approx(
        ((pixels - pixels.mean(0)) ** 2).mean() - (expected**2).sum() / pixels.size, rel=1e-3
    )
    assert losses[0] < losses[1]


def test_few_and_equal_pictures() -> None:
    images = torch.rand(3, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    solved = principal_components(given(images))
    assert (solved["directions"].norm(dim=1) > 0.99).tolist() == [True, True, False, False, False]
    with pytest.raises(DataError, match="nothing differs"):
        principal_components(given(images[:1].expand(4, -1, -1, -1)))


@pytest.mark.slow
@pytest.mark.shared
def test_people_of_orl_whom_it_has_not_seen(shared_data: Path, tmp_path: Path) -> None:
    for number in range(1, 29):
        folder = tmp_path / "orl" / ("train" if number <= 20 else "val") / f"s{number}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(shared_data / "orl_faces" / f"s{number}", target_is_directory=True)
    found = saccade.train("eigenfaces", tmp_path / "orl", out=tmp_path / "run", workers=0, progress=False)["metrics"]
    assert found["auc"]["value"] > 0.967
    assert found["rank_1"]["value"] > 0.86
