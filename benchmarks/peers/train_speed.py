"""Training speed: images/s of whole training loops, Saccade against torchvision's reference loops and Ultralytics.

    python benchmarks/peers/train_speed.py CLASSIFY_FOLDER VOC_FOLDER [--only resnet18] [--slices 5] [--seconds 5]

Question: on the same cores, from JPEG files on disk, with loading, augmentation, loss, matching and optimiser, how many
images does each side train on in a second, and how much memory does it take?

Both sides run as child processes with their own loader workers; by turns one of them is stopped (SIGSTOP) while the
other trains for some seconds, so that both see the same machine. A slice counts whole steps between two step ends, the
first step after a stop left out. CLASSIFY_FOLDER has train/CLASS/*.jpg, VOC_FOLDER the layout of Pascal VOC.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import peers_python

from saccade.cli_start import SPINS

HERE = Path(__file__).resolve().parent
WARMUP = 3  # steps that nobody counts

# row: (Saccade's task, the peer's task, ratio that is asked for)
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "resnet18": (
        {"model": "resnet18", "size": 224, "batch": 32},
        {"kind": "classify", "model": "resnet18", "size": 224, "batch": 32},
        2.2,
    ),
    "ssd300": (
        {"model": "ssd300", "size": 300, "batch": 4},
        {"kind": "detect", "model": "ssd300_vgg16", "size": 300, "batch": 4},
        2.2,
    ),
    "faster_rcnn": (
        {"model": "faster_rcnn_r50_fpn", "size": 512, "batch": 2},
        {"kind": "detect", "model": "fasterrcnn_resnet50_fpn", "size": 512, "batch": 2},
        2.2,
    ),
    "yolov8n": (  # multiply-adds about equal: 1.17 and 1.09 GMAC
        {"model": "atss_small", "size": 320, "batch": 8},
        {"kind": "ultralytics", "model": "yolov8n", "size": 320, "batch": 8},
        3.0,
    ),
    "yolov8s": (
        {"model": "atss_small", "size": 320, "batch": 8, "settings": {"trunk_width": 56, "channels": 116}},
        {"kind": "ultralytics", "model": "yolov8s", "size": 320, "batch": 8},
        3.0,
    ),
}


class Side:
    """A training process and its loader workers, stopped but for its turns."""

    def __init__(self, command: list[str], threads: int, peer: bool) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} if peer else dict(os.environ)
        if not peer and "OMP_WAIT_POLICY" not in environment:
            environment.setdefault("GOMP_SPINCOUNT", SPINS)  # as the command `saccade` does
        environment |= {"OMP_NUM_THREADS": str(threads), "YOLO_VERBOSE": "False", "YOLO_OFFLINE": "True"}
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True, process_group=0
        )
        self.facts: dict[str, Any] = {}
        while not self.facts:
            line = self._line()
            if line.startswith("{"):
                self.facts = json.loads(line)
        for _ in range(WARMUP):
            self.step()
        self.stop()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.process.args!r} ended:\n{self.log.read().decode(errors='replace')[-3000:]}")
        return line

    def step(self) -> tuple[float, int]:
        """Time and images so far of the next step that ends."""
        while True:
            words = self._line().split()
            if len(words) == 2 and words[1].isdecimal():
                return float(words[0]), int(words[1])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def rate(self, seconds: float) -> float:
        """Images/s over the whole steps of a turn of about so many seconds, two steps at least."""
        os.killpg(self.process.pid, signal.SIGCONT)
        begun = time.monotonic()
        first, before = self.step()
        while first < begun:  # printed before the stop
            first, before = self.step()
        now, images = self.step()
        while now - first < seconds:
            now, images = self.step()
        self.stop()
        return (images - before) / (now - first)

    def memory(self) -> float:
        """Peak resident memory in GB: the sum of the high-water marks of the process and its workers (Linux)."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if os.getpgid(int(status.parent.name)) == self.process.pid:
                    mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                    total += int(mark.split()[1])
            except (OSError, StopIteration):
                continue  # it has ended meanwhile
        return total / 1e6

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def yolo_data(voc: str, folder: str) -> str:
    """The Pascal VOC folder in Ultralytics' layout; the path of its data.yaml."""
    target = Path(folder) / "yolo"
    command = [sys.executable, "-m", "saccade", "convert", voc, "--to", "yolo", "--out", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(next(target.glob("*.yaml")))


def take_turns(sides: list[Side], slices: int, seconds: float) -> list[list[float]]:
    """Images/s of each side in each slice."""
    return [[side.rate(seconds) for side in sides] for _ in range(slices)]


def measure(name: str, options: argparse.Namespace) -> None:
    """One row of the table."""
    ours, theirs, wanted = PAIRS[name]
    data = options.classify if theirs["kind"] == "classify" else options.voc
    common = {"workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        peer_data = yolo_data(data, folder) if theirs["kind"] == "ultralytics" else data
        scripts = (
            [sys.executable, str(HERE / "train_speed_saccade.py")],
            [str(peers_python()), str(HERE / "train_speed_peer.py")],
        )
        tasks = (ours | common | {"data": data}, theirs | common | {"data": peer_data})
        sides: list[Side] = []
        try:
            for script, task, peer in zip(scripts, tasks, (False, True), strict=True):
                sides.append(Side([*script, json.dumps(task)], options.threads, peer))
            rates = take_turns(sides, options.slices, options.seconds)
            memory = [side.memory() for side in sides]
        finally:
            for side in sides:
                side.end()
    ratios = sorted(a / b for a, b in rates)
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    macs = " / ".join(f"{side.facts['gmacs']:.2f}" for side in sides)
    print(
        f"{name:12} {theirs['model']:24} {ours['batch']:5} {macs:>15} {a:9.2f} {b:9.2f} "
        f"{statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) {wanted:5.1f}  "
        f"{memory[0]:.2f} / {memory[1]:.2f}",
        flush=True,
    )


def ended(number: int, _: Any) -> None:
    """A signal unwinds the stack, so that the children end too."""
    raise SystemExit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, ended)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("classify", help="folder with train/CLASS/*.jpg")
    parser.add_argument("voc", help="Pascal VOC folder")
    parser.add_argument("--only", choices=PAIRS, action="append", help="this row; may be repeated")
    parser.add_argument("--slices", type=int, default=5, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=5, help="of one turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each side")
    options = parser.parse_args()
    print(
        f"{'ours':12} {'peer':24} batch  GMAC ours/peer ours im/s peer im/s  ratio (of slices)    asked  GB ours/peer"
    )
    for name in options.only or PAIRS:
        measure(name, options)


if __name__ == "__main__":
    main()
