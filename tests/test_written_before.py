"""What an earlier Saccade wrote is still read: checkpoints of every kind of network, and a run that goes on.

The files in written_before/ were made by version 0.1.0 before its packages moved (inference/, reports/, machine/ and
the others), from networks with weights by chance on an image by chance. They are never made anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import saccade

FOLDER = Path(__file__).parent / "written_before"
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
BEST = 2  # objects compared: those behind them may trade places on another processor


@pytest.mark.parametrize("model", ANSWERS)
def test_a_checkpoint_answers_as_it_did(model: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    answer = saccade.load(FOLDER / f"{model}.safetensors", "cpu", "fp32").answer(image)
    before = ANSWERS[model]
    if "scores" in before:
        assert answer.probabilities is not None
        assert answer.probabilities.tolist() == pytest.approx(before["scores"], abs=1e-4)
    if "boxes" in before:
        assert answer.objects is not None
        torch.testing.assert_close(answer.objects.boxes[:BEST], torch.tensor(before["boxes"][:BEST]), atol=0.05, rtol=0)
        assert answer.objects.labels[:BEST].tolist() == before["labels"][:BEST]
    if "pixels" in before:
        assert answer.semantic is not None
        counts = torch.bincount(answer.semantic.flatten().long(), minlength=3)
        assert (counts - torch.tensor(before["pixels"])).abs().max() <= 10


def test_a_run_goes_on(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(FOLDER / "run", run)
    epochs = len((run / "log.jsonl").read_text().splitlines())
    result = saccade.train("resnet20", colours, out=run, resume=True, epochs=epochs + 1, progress=False, workers=0)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert result["metrics"]["top1"]["value"] is not None
    assert saccade.evaluate(run, colours, bootstrap=0)["images"] == 10
