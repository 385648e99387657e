"""A new user's path with a torchvision that breaks on import (the field's usual state) and without any network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        raise RuntimeError(f"network: {event} {arguments}")

sys.addaudithook(watch)
from saccade.cli_start import run as _main

data, out = sys.argv[1:]
small = ["--set", "width=4", "--set", "depths=[1,1,1]", "--epochs", "1", "--workers", "0", "--precision", "fp32"]
for words in (
    ["models"],
    ["check", data],
    ["train", "resnet20", data, "--out", f"{out}/run", *small],
    ["evaluate", f"{out}/run", data, "--workers", "0", "--out", f"{out}/scores"],
    ["predict", f"{out}/run", f"{data}/val", "--workers", "0", "--out", f"{out}/pictures"],
    ["export", f"{out}/run", "--to", "torch"],
):
    sys.argv = ["saccade", *words]
    code = _main()
    if code:
        sys.exit(f"saccade {' '.join(words)}: exit {code}")
if "torchvision" in sys.modules:
    sys.exit("torchvision was imported")
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package `torchvision` that raises what a mismatched one raises."""
    root = tmp_path_factory.mktemp("broken")
    (root / "torchvision").mkdir()
    fault = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    (root / "torchvision" / "__init__.py").write_text(fault)
    return root


def test_the_main_verbs_work(broken: Path, colours: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(broken), *sys.path])}
    command = [sys.executable, "-c", PROGRAM, str(colours), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.pt2").is_file()
    assert (tmp_path / "scores" / "report.html").is_file()


def test_the_broken_package_would_be_found(broken: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(broken)}
    done = subprocess.run([sys.executable, "-c", "import torchvision"], env=env, capture_output=True, text=True)
    assert "nms does not exist" in done.stderr
