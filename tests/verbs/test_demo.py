"""`saccade demo`: from nothing to pictures in one call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saccade.errors import UsageError
from saccade.verbs.demo import demo


def test_an_unknown_demo_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classify, detect, segment"):
        demo("fly", tmp_path / "demo")  # type: ignore[arg-type]
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_leaves_scenes_run_and_pictures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the scenes of the first time serve the second
        demo("classify", tmp_path, minutes=0.1)
    assert "This machine is slow, or busy" in capfd.readouterr().err  # 60 passes are more than six seconds
    run = tmp_path / "classify-run"
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["top1"]["value"] <= 1  # how much is learnt in seconds depends on the machine
    assert (run / "report.html").is_file()
    assert json.loads((tmp_path / "classify-pictures" / "predictions.json").read_text())
