"""The code for CUDA, run on a machine without a GPU (docs/architecture.md, "CUDA, played on the CPU").

The play changes torch for good, so each test is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.models import catalogue

HERE = Path(__file__).parent
TESTS = HERE.parent
SOURCE = TESTS.parent / "src"
WAITS = {  # most waits for the GPU of one step on four images
    "classify": 1,
    "rescaled": 1,
    "tag": 1,
    "localize": 1,
    "segment": 1,
    "ssd": 4,
    "faster_rcnn": 4,
    "mask_rcnn": 5,
}
MODULES = {entry["module"] for entry in catalogue().values()}
FILES = len(MODULES)
FEWER = len([module for module in MODULES if ".backbones." not in module]) + 3  # that classify
Play = Callable[..., str]


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Run a script of this folder on played devices; what it printed. Builds guard.cpp once for all test processes."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("CUDA is played with a small C++ library: needs Linux with g++ or clang++")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    guard = shared / "guard.so"
    if not guard.is_file():
        place = Path(torch.__file__).parent
        headers = place / "include"
        own = base / "guard.so.made"
        flags = ["-std=c++20", "-shared", "-fPIC", f"-I{headers}", f"-I{headers}/torch/csrc/api/include"]
        libraries = [f"-L{place}/lib", "-lc10", "-ltorch_cpu"]
        command = [compiler, *flags, str(HERE / "guard.cpp"), "-o", str(own), *libraries]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"{compiler} cannot build guard.cpp here: {built.stderr[-500:]}")
        own.replace(guard)

    def run(script: str, *arguments: str | Path) -> str:
        path = os.pathsep.join([str(SOURCE), str(TESTS), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"SACCADE_PLAYED_CUDA": str(guard), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done.stdout

    return run


def test_models_compute_the_same_on_cuda(play: Play) -> None:
    assert f"{FEWER} models, 0 differences" in play("networks.py")


@pytest.mark.slow
def test_every_file_computes_the_same_in_half_precision_and_deterministically(play: Play) -> None:
    assert f"{FILES} models, 0 differences" in play("networks.py", "--long")


@pytest.mark.parametrize(
    "tasks", [["classify", "rescaled", "tag", "localize", "segment"], ["ssd", "faster_rcnn", "mask_rcnn"]]
)
def test_training_gives_the_weights_of_the_cpu_and_hardly_makes_the_gpu_wait(
    tasks: list[str], play: Play, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in play("programs.py", tmp_path, *tasks).splitlines() if line.startswith("{")]
    assert [row["task"] for row in rows] == tasks
    for row in rows:
        assert sum(row["waits"].values()) <= WAITS[row["task"]], row
        assert row["distance"] < 0.02, row


def test_the_other_verbs_the_devices_and_the_faults_that_the_play_sees(play: Play, tmp_path: Path) -> None:
    lines = play("programs.py", tmp_path, "faults", "devices", "verbs").splitlines()
    rows = {row["task"]: row for row in (json.loads(line) for line in lines if line.startswith("{"))}
    assert set(rows) == {"faults", "devices", "verbs"}
    assert rows["verbs"]["distance"] == 0  # a run that was stopped and resumed
