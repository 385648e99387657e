"""Loading speed: JPEG files to batches of random 224-pixel crops, Saccade against torchvision's v2 transforms.

    python benchmarks/peers/loader.py [--slices 5] [--seconds 2]

Question: how many images a second do two loader processes turn from JPEG files into uint8 batches [b, 3, 224, 224]
(random resized crop, mirror), ready to be normalised? The files are made here: smooth noise with grain, quality 90, of
500 x 375 and 1920 x 1080 pixels. Sides take turns as in train_speed.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from environment import peers_python
from train_speed import HERE, Side

FORMS = {"500x375": ((375, 500), 256), "1920x1080": ((1080, 1920), 160)}  # (height, width), files


def make_files(folder: Path, size: tuple[int, int], files: int) -> None:
    """Class folders a and b of JPEG files with detail at every scale."""
    rng = np.random.default_rng(0)
    height, width = size
    for i in range(files):
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-6, 7, image.shape, dtype=np.int16)
        target = folder / "train" / "ab"[i % 2]
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(target / f"{i:04}.jpg"), np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slices", type=int, default=5, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=2, help="of one turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    peer = [str(peers_python()), str(HERE / "loader_peer.py")]
    commands = {"saccade": [sys.executable, str(HERE / "loader_saccade.py")]}
    commands |= {"torchvision.io": [*peer, "io"], "Pillow": [*peer, "pil"]}
    for form, (size, files) in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), size, files)
            sides: list[Side] = []
            try:
                for name, command in commands.items():
                    arguments = [folder, str(options.workers), str(options.batch)]
                    sides.append(Side([*command, *arguments], 1, name != "saccade"))
                rates = [[side.rate(options.seconds) for side in sides] for _ in range(options.slices)]
            finally:
                for side in sides:
                    side.end()
        for i, name in enumerate(commands):
            ratios = sorted(row[0] / row[i] for row in rates)
            rate = statistics.median(row[i] for row in rates)
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"{form:10} {name:15} {rate:8.0f} images/s  saccade {statistics.median(ratios):.2f}x ({spread})")


if __name__ == "__main__":
    main()
