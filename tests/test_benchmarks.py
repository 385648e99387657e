"""What the scripts of `benchmarks/` ask of the command line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

PEERS = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"


@pytest.fixture
def same_minutes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PEERS))
    return importlib.import_module("same_minutes")


def test_a_model_of_class_maps_stands_beside_mask_rcnn_and_is_scored_by_objects(same_minutes: Any) -> None:
    def words(model: str, task: str) -> tuple[str, str]:
        asked = same_minutes.TASKS[task]
        train, score = same_minutes.commands(model, asked, Path("d"), Path("f"), ["--minutes=1"], "val")
        return " ".join(train[3:]), " ".join(score[3:])

    assert same_minutes.TASKS["nuclei"].models == ("mask_rcnn_small", "unet")
    train, score = words("unet", "nuclei")
    assert train == "train unet d --out=f/run --device=cpu --set border_class=2 --minutes=1"
    assert score == "evaluate f/run d --out=f/scored --device=cpu --split val --instances"
    train, score = words("mask_rcnn_small", "nuclei")
    assert train == "train mask_rcnn_small d --out=f/run --device=cpu --size 320 --minutes=1"
    assert score == "evaluate f/run d --out=f/scored --device=cpu --split val"
    train, score = words("unet", "isbi")  # class maps are the truth there
    assert "border_class" not in train
    assert "--instances" not in score
