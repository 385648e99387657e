"""A data set of one object a picture with its box, for the lesson on localization; and how labels are written in YOLO's
format: `python examples/one_object.py one-digit [--images 1500] [--size 64]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.scenes import CLASSES, compose, material


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--images", type=int, default=1500, help="a fifth of them are for validation")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    options = parser.parse_args(arguments)
    held_out = options.images // 5
    for part, count in (("train", options.images - held_out), ("val", held_out)):
        pictures, labels = options.out / "images" / part, options.out / "labels" / part
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        digits = material(part)
        for i in range(count):
            scene = compose(digits, np.random.default_rng([i, part == "val"]), options.size, 1, (0.35, 0.65))
            Image.fromarray(scene.image).save(pictures / f"{i:05d}.jpg", quality=92)
            x1, y1, x2, y2 = (value / options.size for value in scene.boxes[0])
            centre_and_sides = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            numbers = " ".join(f"{value:.6f}" for value in centre_and_sides)
            (labels / f"{i:05d}.txt").write_text(f"{scene.labels[0]} {numbers}\n", encoding="utf-8")
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CLASSES))
    (options.out / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}\n", encoding="utf-8")
    print(f"{options.out}: {options.images} pictures of one digit each")


if __name__ == "__main__":
    main()
