"""The peers' own Python: one virtual environment outside the project, and conversations with scripts that run in it.

Saccade never imports a peer. A benchmark on Saccade's side starts a script of this folder in the peers' environment
(`Peer`), sends it requests and gets answers; both travel as JSON, arrays beside them as safetensors files.

    from environment import Peer
    with Peer("torchvision_ops.py", threads=2) as peer:
        answer, arrays = peer.ask({"op": "nms"}, {"boxes": boxes})

The peer's script is a function `handle(request, arrays) -> (answer, arrays)` and `peer_side.serve(handle)`.
Set SACCADE_PEERS to keep the environment elsewhere than in ~/.cache/saccade/peers; delete the folder to build it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PACKAGES = ("torchvision", "ultralytics", "timm", "segmentation-models-pytorch")
OPENCV = "opencv-contrib-python-headless"  # last, for ultralytics brings the build that needs a display's libraries
IMPORTS = "import torchvision, ultralytics, timm, segmentation_models_pytorch, cv2"
HERE = Path(__file__).resolve().parent


def peers_folder() -> Path:
    """Where the peers' environment is or will be: SACCADE_PEERS, or ~/.cache/saccade/peers."""
    named = os.environ.get("SACCADE_PEERS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "saccade" / "peers"


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is built where it is missing (minutes; needs a network).

    The peers get the torch version of the running Python, so that both sides compute with the same library; where the
    index has no torchvision that fits this build of it, the newest pair of both, and a line that says so. What pip is
    configured to use (PIP_INDEX_URL and the like) is used: with an index of CPU builds the environment takes about
    2 GB, with PyPI's CUDA builds on Linux about 8 GB. A file READY in the folder marks a finished environment.

    Raises:
        SystemExit: the environment cannot be built (no network, no disk); the message says what to do.
    """
    folder = peers_folder()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / "READY").is_file() and python.exists():
        return python
    torch = "torch==" + metadata.version("torch").split("+")[0]
    print(
        f"Building the peers' virtual environment in {folder}: {torch}, {', '.join(PACKAGES)}, {OPENCV}.\n"
        "This downloads 0.5 GB (CPU builds of torch) to 4 GB (CUDA builds) and takes 2 GB to 8 GB of disk, once.",
        file=sys.stderr,
    )
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "--quiet", torch, *PACKAGES],
        [*pip, "uninstall", "--quiet", "--yes", "opencv-python", "opencv-python-headless"],
        [*pip, "install", "--quiet", "--force-reinstall", "--no-deps", OPENCV],
    ]
    for step in steps:
        _install(step)
    if not _imports(python):
        print(f"torchvision is of another build than {torch}: taking the newest pair of both.", file=sys.stderr)
        _install([*pip, "install", "--quiet", "--upgrade", "torch", "torchvision"])
        if not _imports(python):
            raise SystemExit(
                f"The peers' environment in {folder} is built, but its packages cannot be imported (above): mend it "
                "there, and write a file READY into the folder."
            )
    (folder / "READY").write_text("built by benchmarks/peers/environment.py\n", encoding="utf-8")
    return python


def _install(step: list[str]) -> None:
    """One step of building. Raises SystemExit with what to do where it fails."""
    try:
        subprocess.run(step, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"The peers' environment could not be built (above; {type(error).__name__}): {' '.join(step[1:])}\n"
            "It needs a package index within reach (PyPI, or the one that PIP_INDEX_URL names) and free disk. "
            "Without a network, build it on another machine of the same kind, copy the folder to the same place "
            "and name it in SACCADE_PEERS; or run the benchmarks that need no peer."
        ) from None


def _imports(python: Path) -> bool:
    """Whether all peers can be imported."""
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return not subprocess.run([str(python), "-c", IMPORTS], stdout=sys.stderr, env=outside).returncode


class Peer:
    """A script of this folder that runs in the peers' environment and answers requests until it is closed.

    Args:
        script: file name in this folder.
        threads: OMP_NUM_THREADS of the process; the script sets torch's number itself if it wants another.
    """

    def __init__(self, script: str, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "YOLO_VERBOSE": "False"}
        self.script = script
        self.folder = tempfile.TemporaryDirectory(prefix="saccade-peer-")
        self.process = subprocess.Popen(
            [str(peers_python()), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(
        self, request: dict[str, Any], arrays: dict[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """One request and its answer, both JSON-able, each with arrays by name.

        Raises:
            RuntimeError: the script ended or failed; its traceback stands on stderr.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        there, back = Path(self.folder.name) / "request.safetensors", Path(self.folder.name) / "answer.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}, there)
        try:
            self.process.stdin.write(json.dumps({"request": request, "there": str(there), "back": str(back)}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.script} ended with status {self.process.wait()} on {request}")
        return json.loads(line), load_file(back)

    def close(self) -> None:
        """End the process, which finishes when its input does, and remove its files."""
        self.process.communicate()
        self.folder.cleanup()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


if __name__ == "__main__":
    print(peers_python())
