"""The rows of a run's log reach a callable, the logger `saccade.train`, and TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.errors import UsageError, how_to_install
from saccade.training.tensorboard import TensorBoard

SMALL: dict[str, Any] = {"epochs": 2, "batch": 8, "width": 2, "depths": [1, 1, 1], "precision": "fp32", "workers": 0}


def test_each_row_of_the_log_is_told(colours: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, Any]] = []
    with caplog.at_level(logging.INFO, "saccade"):
        saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, on_epoch=rows.append, **SMALL)
    written = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows == written
    assert len(rows) == 2
    lines = [record.getMessage() for record in caplog.records if record.name == "saccade.train"]
    assert any(line.startswith("epoch 2 ") for line in lines)


def test_an_error_of_the_callable_ends_the_run(colours: Path, tmp_path: Path) -> None:
    def enough(row: dict[str, Any]) -> None:
        raise KeyError(row["epoch"])

    with pytest.raises(KeyError, match="1"):
        saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, on_epoch=enough, **SMALL)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, Any] = {"step": 3, "losses": {"class": 0.5}, "metrics": {"top1": 0.25, "other": None}, "lr": 0.1}
    row |= {"images_per_second": 9.0, "waiting": 0.0, "minutes": 0.1}
    row |= {"validation_losses": {"class": 0.75}, "training_metrics": {"top1": 0.5}}
    row |= {"points": [{"step": 2, "lr": 0.1, "losses": {"class": 0.625}}]}
    if importlib.util.find_spec("tensorboard") is not None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        TensorBoard(tmp_path)(row)
        events = EventAccumulator(str(tmp_path)).Reload()
        assert [(e.step, e.value) for e in events.Scalars("score/top1")] == [(3, 0.25)]
        assert "loss/class" in events.Tags()["scalars"]
        assert [(e.step, e.value) for e in events.Scalars("validation_loss/class")] == [(3, 0.75)]
        assert [(e.step, e.value) for e in events.Scalars("training_score/top1")] == [(3, 0.5)]
        assert [(e.step, e.value) for e in events.Scalars("step_loss/class")] == [(2, 0.625)]
        assert "score/other" not in events.Tags()["scalars"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as error:
        TensorBoard(tmp_path)
    assert how_to_install("tensorboard") in str(error.value)
