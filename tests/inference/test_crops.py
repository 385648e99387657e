"""Several crops: where they lie, that their mean is what a loop over them gives, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Sample
from saccade.errors import UsageError
from saccade.inference.crops import Square, check_crops, parts, predictions_by_crops, views
from saccade.inference.predictor import Predictor
from saccade.inference.score import Pass, score

CROP = Preprocessing((56, 56), "crop")


class Means(nn.Module):
    """Says how bright the left half and the right half of its input are, and notes every input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def predict(self, batch: Batch) -> list[Annotation]:
        self.seen.append(batch.images)
        half = batch.images.shape[3] // 2
        halves = [batch.images[..., :half].mean((1, 2, 3)), batch.images[..., half:].mean((1, 2, 3))]
        return [
            Annotation(size, label=0, probabilities=s)
            for size, s in zip(batch.sizes, torch.stack(halves, 1), strict=True)
        ]


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    rng = np.random.default_rng(0)
    records = []
    for i, size in enumerate([(90, 120), (80, 64), (64, 64)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{i}.png")
        records.append(Record(f"{i}.png", size, label=0))
    return DataSet(tmp_path, "test", "classify", ["left", "right"], records)


def test_ten_crops_are_corners_centre_and_mirrors(dataset: DataSet) -> None:
    predictor = Predictor(Means(), "classify", dataset.classes, CROP, precision="fp32")
    found = list(predictions_by_crops(predictor, dataset, dataset.records, 10, batch=3, workers=0))
    inputs = predictor.network.seen  # the predictor works with a copy
    assert len(inputs) == 10
    assert {tuple(seen.shape) for seen in inputs} == {(3, 3, 56, 56)}
    image = torch.from_numpy(np.array(Image.open(dataset.root / "2.png"))).permute(2, 0, 1) / 255
    corners = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]  # of 64 pixels, the view of an input of 56
    for i, (y, x) in enumerate(corners):
        expected = image[:, y : y + 56, x : x + 56]
        torch.testing.assert_close(inputs[2 * i][2], expected)
        torch.testing.assert_close(inputs[2 * i + 1][2], expected.flip(2))
    for i, (record, answer) in enumerate(found):
        assert record is dataset.records[i]
        assert answer.size == record.size
        mean = torch.stack([seen[i].mean() for seen in inputs]).mean()
        torch.testing.assert_close(answer.probabilities, mean.expand(2))  # every crop is there with its mirror image
        assert answer.label in (0, 1)


def test_two_crops_and_batches_that_do_not_fill(dataset: DataSet) -> None:
    predictor = Predictor(Means(), "tag", dataset.classes, CROP, precision="fp32", thresholds=(0.0, 1.0))
    one, two = (list(predictions_by_crops(predictor, dataset, dataset.records, 2, batch=b, workers=0)) for b in (2, 3))
    for (_, first), (_, second) in zip(one, two, strict=True):
        torch.testing.assert_close(first.probabilities, second.probabilities)
        assert first.tags is not None
        assert first.tags.tolist() == [True, False]  # by the thresholds


def test_144_crops(dataset: DataSet) -> None:
    predictor = Predictor(Means(), "classify", dataset.classes, CROP, precision="fp32")
    found = list(predictions_by_crops(predictor, dataset, dataset.records, 144, batch=3, workers=0))
    inputs = predictor.network.seen  # the predictor works with a copy
    assert len(inputs) == 144
    assert {tuple(seen.shape) for seen in inputs} == {(3, 3, 56, 56)}
    for i, (_, answer) in enumerate(found):
        mean = torch.stack([seen[i].mean() for seen in inputs]).mean()
        torch.testing.assert_close(answer.probabilities, mean.expand(2), atol=1e-5, rtol=0)
    sides = [step.side for view in views("classify", CROP, 144) for step in view.transforms if isinstance(step, Square)]
    assert sides == [64] * 3 + [72] * 3 + [80] * 3 + [88] * 3


def test_squares_lie_along_the_longer_side() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 20:] = 200
    image[:, :10] = 100
    for place, value in ((0.0, 100), (0.5, 0), (1.0, 200)):
        for turned in (image, image.transpose(1, 0, 2)):
            turned = np.ascontiguousarray(turned)
            sample = Sample(turned, Annotation(turned.shape[:2]), "x", turned.shape[:2])
            out = Square(20, place)(sample, np.random.default_rng(0))
            assert out.image.shape == (20, 20, 3)
            assert (out.image == value).all()


def test_views_of_other_preprocessings() -> None:
    sample = Sample(np.full((40, 60, 3), 9, np.uint8), Annotation((40, 60)), "x", (40, 60))
    for shape, side in ((Preprocessing((32, 32), "crop", pad=4), 40), (Preprocessing((56, 56), "stretch"), 64)):
        (view,) = views("classify", shape, 10)
        out = view.apply(sample)
        assert out.image.shape == (side, side, 3)
    assert out.image.min() == 9
    assert len(list(parts(torch.zeros(1, 3, 40, 40), (32, 32), 10))) == 5


@pytest.mark.parametrize("crops", [1, 10])
def test_the_bar_of_evaluate_is_shown_where_it_is_wanted(
    crops: int, dataset: DataSet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    predictor = Predictor(Means(), "classify", dataset.classes, CROP, precision="fp32")
    for wanted in (False, True):
        score(predictor, dataset, dataset.records, Pass(workers=0, progress=wanted, crops=crops))
        out, err = capfd.readouterr()
        assert out == ""
        assert ("evaluating" in err) == wanted
        assert ("100%" in err) == wanted


@pytest.mark.parametrize(
    ("crops", "task", "shape", "message"),
    [
        (5, "classify", CROP, r"crops is 5, allowed: 1, 2, 10, 144"),
        (10, "detect", CROP, r"for classify and tag, not detect; use crops=1"),
        (10, "tag", Preprocessing((8, 8), "letterbox"), r"letterboxed images: allowed are 1 and 2"),
        (144, "classify", Preprocessing((8, 8), "crop", pad=2), r"144 crops are for square inputs.*use 10"),
        (144, "classify", Preprocessing((8, 9), "crop"), r"144 crops are for square inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(crops: int, task: str, shape: Preprocessing, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_crops(crops, task, shape)
