"""boxes3d: what is wrong with an image, in words, and what an answer says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.tasks import boxes3d

CLASSES = ["Car", "Tram"]
CAMERA = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])


def image(*rows: list[float], boxes: int = 0) -> Annotation:
    """Cars with these cuboids, in boxes side by side from place `boxes` on."""
    n = len(rows)
    corners = [[100.0 * (boxes + i), 50, 100.0 * (boxes + i) + 90, 120] for i in range(n)]
    objects = Objects(torch.tensor(corners).reshape(-1, 4), torch.zeros(n, dtype=torch.int64), torch.full((n,), 0.9))
    objects.cuboids = torch.tensor(rows).reshape(-1, 7)
    return Annotation((300, 1200), objects=objects, camera=CAMERA)


CAR = [1.5, 1.7, 4.0, 2.0, 1.5, 12.0, 0.3]


def test_how_bad_an_image_is() -> None:
    truth = image(CAR, [*CAR[:5], 20.0, 0.3])
    assert boxes3d.judge(truth, truth, CLASSES).score == pytest.approx(0)
    far = image(CAR, [*CAR[:5], 24.0, 0.3 + np.pi / 2])
    verdict = boxes3d.judge(truth, far, CLASSES)
    assert verdict.score == pytest.approx(0.5)
    (mistake,) = verdict.mistakes
    assert (mistake["kind"], mistake["truth"], mistake["iou"]) == ("poor cuboid", 1, 0)
    words = "Car (0.90) misplaced in space: 4.0 m and 90 degrees off, IoU 0.00"
    assert boxes3d.mistake_in_words([mistake], CLASSES) == words
    assert boxes3d.mistake_in_words([mistake] * 2, CLASSES).startswith("2 x Car (up to 0.90)")
    missed = boxes3d.judge(truth, image(), CLASSES)
    assert (missed.score, [row["kind"] for row in missed.mistakes]) == (1, ["missed", "missed"])
    extra = boxes3d.judge(image(), image(CAR), CLASSES)
    assert boxes3d.mistake_in_words(extra.mistakes, CLASSES) == "Car (0.90) where there is nothing"
    unknown = image([float("nan")] * 7)
    assert boxes3d.judge(unknown, image(CAR), CLASSES).score == 0
    assert truth.objects is not None
    with pytest.raises(DataError, match="need cuboids"):
        boxes3d.judge(
            truth, dataclasses.replace(truth, objects=dataclasses.replace(truth.objects, cuboids=None)), CLASSES
        )


def test_what_an_answer_says() -> None:
    described = boxes3d.to_json(image(CAR, [*CAR[:5], 20.0, 0.3]), CLASSES)
    first = described["objects"]["cuboids"][0]
    assert first["alpha"] == pytest.approx(0.3 - np.arctan2(2, 12), abs=1e-4)
    assert (first["length"], first["z"]) == (4.0, 12.0)
    assert described["camera"][0] == [700.0, 0.0, 600.0, 0.0]
    assert boxes3d.short_line(described) == "2 Car; the nearest 12.2 m away"
    assert boxes3d.short_line(boxes3d.to_json(image(), CLASSES)) == "nothing found"


def test_scores_in_words() -> None:
    numbers = {"iou_3d": 0.4, "place_error": 1.25, "turn_error": 12.0, "ap_3d": 0.05}
    found = {
        "metrics": {name: {"value": value} for name, value in numbers.items()},
        "per_class": [{"name": "Car", "objects": 12}, {"name": "Tram", "objects": 0}],
        "proposals": "truth",
    }
    assert "1.25 m from where they are" in boxes3d.score_in_words(found)[1]
    assert len(boxes3d.cautions(found)) == 2
    assert "(Car)" in boxes3d.cautions(found)[1]
    found["metrics"]["iou_3d"] = {"value": None}
    assert boxes3d.score_in_words(found) == ["There was no object with a known size and place to measure."]
