"""What every test may use."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: test workers side by side would fight for the cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every program that a test starts compiles the package anew

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# What `make test` draws is the same every time, on every machine; `make test-slow` explores.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("same")


def _save_a_dot(figure: object, file: io.BytesIO, **_: object) -> None:
    Image.new("RGB", (1, 1)).save(file, "PNG")


@pytest.fixture(scope="session", autouse=True)
def dots_for_figures() -> Iterator[Callable[..., None]]:
    """Figures of reports are made and not drawn, which takes longer than the small trainings that they tell of: a dot
    is saved for each, but where `drawn_figures` is used, as by the tests of plots and reports."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _save_a_dot)
        yield savefig


@pytest.fixture
def drawn_figures(dots_for_figures: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as they are."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", dots_for_figures)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data sets; tests that use them are skipped where they are absent."""
    place = Path(os.environ.get("SACCADE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("the development data sets are not beside this checkout")
    return place


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noisy 32 px images, reddish and bluish: 40 to train on, 10 for validation."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (32, 32, 3), np.uint8)
                pixels[..., channel] += 80
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """The run folder of a small classifier that tells red from blue."""
    import saccade

    folder = tmp_path_factory.mktemp("trained") / "run"
    small: dict[str, Any] = {"epochs": 12, "batch": 8, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}
    saccade.train("resnet20", colours, out=folder, progress=False, workers=0, **small)
    return folder


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`saccade ...` in this process: exit code, stdout and stderr. A traceback or a fault of ours fails the test."""
    from saccade.cli_start import run as _main

    def run(*arguments: str | Path | int) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saccade", *map(str, arguments)])
        capfd.readouterr()
        code = _main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err, err
        assert code != 1, err
        return code, out, err

    return run
