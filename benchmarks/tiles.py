"""What do tiles cost, what do they save, and how far do they answer as the whole picture?

    python benchmarks/tiles.py [--models unet_light,unet] [--sides 1024,2048,4096] [--tile 1024] [--rounds 3]

Of each untrained network and each square photograph (one of scikit-image's, enlarged) the answer for the whole and that
in tiles are computed one after the other, `rounds` times, in this process; the ratio is of the medians of processor
time (of all threads: give OMP_NUM_THREADS=1 for that of the clock), which other work disturbs little. The peaks of
memory are those of processes that compute one answer each, beyond what they held before it. A trained segmenter's run
may stand in place of a network's name: then the share of pixels that differ says something. Needs Linux.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

import saccade
from saccade.data.pipelines import Preprocessing
from saccade.inference.predictor import Predictor
from saccade.models import create


def predictor_of(model: str, precision: str) -> Predictor:
    """A run, or an untrained network of 11 classes."""
    if Path(model).exists():
        return saccade.load(model, precision=precision)
    torch.manual_seed(0)
    shape = Preprocessing(None, "stretch")
    return Predictor(create(model, classes=11).eval(), "segment", list("abcdefghijk"), shape, "cpu", precision)


def photograph(side: int) -> np.ndarray:
    """[side, side, 3] uint8 RGB."""
    return cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)


def peak(model: str, precision: str, side: int, tile: int | None) -> float:
    """MiB that one answer takes at most, beyond what the process held before it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_peak, (model, precision, side, tile)))


def _peak(model: str, precision: str, side: int, tile: int | None) -> float:
    predictor, pixels = predictor_of(model, precision), photograph(side)
    predictor.predict(photograph(64))
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak until now
    before = memory("VmRSS")
    predictor.predict(pixels, tile=tile)
    return memory("VmHWM") - before


def memory(name: str) -> float:
    """MiB of this process, of Linux's account."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="unet_light,unet")
    parser.add_argument("--sides", default="1024,2048,4096")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    print("| model | side | whole, s | tiles, s | tiles / whole | differ | whole, MiB | tiles, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for model in given.models.split(","):
        predictor = predictor_of(model, given.precision)
        for side in map(int, given.sides.split(",")):
            pixels = photograph(side)
            times: tuple[list[float], list[float]] = ([], [])
            maps: list[Any] = [None, None]
            for _ in range(given.rounds + 1):  # the first warms up
                for way, tile in enumerate((None, given.tile)):
                    start = time.process_time()
                    maps[way] = predictor.predict(pixels, tile=tile).semantic
                    times[way].append(time.process_time() - start)
            whole, tiles = (statistics.median(each[1:]) for each in times)
            differ = float((maps[0] != maps[1]).float().mean())
            peaks = [peak(model, given.precision, side, tile) for tile in (None, given.tile)]
            print(
                f"| {model} | {side} | {whole:.2f} | {tiles:.2f} | {tiles / whole:.3f} | {100 * differ:.2f} % | "
                f"{peaks[0]:.0f} | {peaks[1]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
