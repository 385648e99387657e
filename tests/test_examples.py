"""Every file of examples/ does what it says, on tiny data."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import saccade
from saccade.data.scenes import CLASSES

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Printed = Callable[..., str]


@pytest.fixture
def example(capsys: pytest.CaptureFixture[str]) -> Printed:
    """What a script prints that is called with these words."""

    def call(name: str, *words: str | Path) -> str:
        runpy.run_path(str(EXAMPLES / name), run_name="example")["main"]([str(word) for word in words])
        return capsys.readouterr().out

    return call


def test_each_has_a_test() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert len(files) > 4
    assert [name for name in files if f'"{name}"' not in here] == []


def test_train_and_predict(example: Printed, tmp_path: Path) -> None:
    printed = example("train_and_predict.py", "--out", tmp_path, "--images", "25", "--epochs", "1")
    assert (tmp_path / "run/report.html").is_file()
    assert "top-1 0." in printed
    assert printed.count("%)") == 5


def test_own_loop_lowers_the_loss(example: Printed, tmp_path: Path) -> None:
    printed = example("own_loop.py", "--out", tmp_path / "digits", "--images", "60", "--epochs", "6")
    losses = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("epoch")]
    assert losses[-1] < losses[0] - 0.1
    assert "top-1 0." in printed


def test_the_app_is_run_where_files_are_written() -> None:
    """tests/verbs/test_export.py runs "onnx_app.py" on a file of `saccade export`."""
    assert '"onnx_app.py"' in (EXAMPLES.parent / "tests/verbs/test_export.py").read_text(encoding="utf-8")


def test_few_images_are_of_two_classes(example: Printed, tmp_path: Path) -> None:
    for name in CLASSES:
        folder = tmp_path / "scenes/val" / name
        folder.mkdir(parents=True)
        for i in range(3):
            Image.effect_noise((16, 16), 50).save(folder / f"{i}.jpg")
    example("few_images.py", tmp_path / "scenes", tmp_path / "few", "--of-each", "2")
    dataset = saccade.read(tmp_path / "few")
    assert dataset.classes == ["even", "odd"]
    assert len(dataset.records) == 20


def test_one_object_is_read_with_its_box(example: Printed, tmp_path: Path) -> None:
    example("one_object.py", tmp_path / "one", "--images", "10", "--size", "32")
    dataset = saccade.read(tmp_path / "one")
    assert dataset.task == "detect"
    assert [record.split for record in dataset.records].count("val") == 2
    assert all(len(record.things) == 1 for record in dataset.records)


@pytest.mark.usefixtures("drawn_figures")
def test_compare_runs(example: Printed, tmp_path: Path) -> None:
    """An epoch without a measurement is no point of the score's line."""
    for name, best in (("small", 0.25), ("large", 0.5)):
        first, last = {"epoch": 1, "losses": {"a": 2.0}}, {"epoch": 2, "losses": {"a": 1.0}, "metrics": {"top1": best}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n", encoding="utf-8")
    printed = example("compare_runs.py", tmp_path / "small", tmp_path / "large", "--out", tmp_path / "runs.png")
    assert [line.split() for line in printed.splitlines()] == [
        ["small", "2", "epochs", "top1", "0.250"],
        ["large", "2", "epochs", "top1", "0.500"],
    ]
    assert (tmp_path / "runs.png").stat().st_size > 1000


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code runs from top to bottom; the first cell says on how much, and here it is less."""
    notebook = json.loads((EXAMPLES / "first_run.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # none are committed
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"first_run.ipynb, code cell {number + 1}", "exec"), names)
        if number == 0:
            names.update(images=25, epochs=1)
    assert "top-1 0." in capsys.readouterr().out


def test_faults_of_the_lab_are_there_to_be_found(example: Printed, tmp_path: Path) -> None:
    """What `check` can see it says; the swapped pictures are for the worst mistakes of a report."""
    example("lab_data.py", tmp_path / "lab", "--images", "160", "--size", "16")
    text = json.dumps(saccade.check(tmp_path / "lab"))
    for words in ("'sevne' (1 labels) are kept apart", "notes.png", "leak"):
        assert words in text
    answers = (tmp_path / "answers.txt").read_text(encoding="utf-8")
    assert len(answers.splitlines()) == 6
    assert (tmp_path / "lab/val/seven/1000.png").is_file()
    assert "val/seven/1000.png shows the digit two" in answers
