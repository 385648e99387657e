"""Starting time: `saccade --help` against `yolo help`.

    python benchmarks/peers/startup.py [--times 5]

Question: how long does a user wait for the help text? Median of several starts, by turns, after one that fills the
disk cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from environment import peers_python


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    commands = {
        "saccade --help": [sys.executable, "-m", "saccade", "--help"],
        "saccade train --help": [sys.executable, "-m", "saccade", "train", "--help"],
        "yolo help": [str(peers_python().parent / "yolo"), "help"],
    }
    for command in commands.values():
        seconds(command)
    rounds = [[seconds(command) for command in commands.values()] for _ in range(times)]
    for name, column in zip(commands, zip(*rounds, strict=True), strict=True):
        print(f"{name:22} {statistics.median(column):.3f} s ({min(column):.3f} to {max(column):.3f})")


if __name__ == "__main__":
    main()
