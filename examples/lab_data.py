"""The data of the lab sheet (docs/lessons/lab_sheet.md): pictures of four digits in class folders, with faults planted
among them, as data have them: `python examples/lab_data.py lab-digits [--images 960] [--size 32]`.

Planted: three pictures of the validation part in the folder of another class, one that is also in the training part, a
class folder whose name is misspelt, and a file that is no picture. `answers.txt` beside the folder names them, for the
one who teaches.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.scenes import CLASSES, compose, material

CHOSEN = ("two", "three", "seven", "eight")
SWAPPED = (("two", "seven"), ("three", "eight"), ("eight", "three"))  # true class, folder in which the picture lies
MISSPELT = ("seven", "sevne")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--images", type=int, default=960, help="to train on; a quarter as many to validate")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures")
    options = parser.parse_args(arguments)
    for part, count in (("train", options.images), ("val", options.images // 4)):
        digits, made, seed = material(part), dict.fromkeys(CHOSEN, 0), 0
        while min(made.values()) < count // len(CHOSEN):
            scene = compose(digits, np.random.default_rng([seed, part == "val"]), options.size, 1, (0.7, 0.95))
            seed += 1
            name = CLASSES[scene.labels[0]]
            if made.get(name, count) < count // len(CHOSEN):
                folder = options.out / part / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scene.image).save(folder / f"{made[name]:04d}.png")
                made[name] += 1
    faults = plant(options.out)
    options.out.with_name("answers.txt").write_text("\n".join(faults) + "\n", encoding="utf-8")
    print(f"{options.out}: {options.images} pictures to train on, {len(faults)} faults (answers.txt names them)")


def plant(root: Path) -> list[str]:
    """Put the faults into a sound data set; what each is, in words."""
    faults = []
    for number, (name, folder) in enumerate(SWAPPED):
        moved = root / "val" / folder / f"1{number:03d}.png"
        (root / "val" / name / f"{number + 5:04d}.png").rename(moved)
        faults.append(f"{moved.relative_to(root).as_posix()} shows the digit {name}")
    twin = root / "train" / "two" / "2000.png"
    shutil.copy(root / "val" / "two" / "0000.png", twin)
    faults.append(f"{twin.relative_to(root).as_posix()} is val/two/0000.png, too")
    right, wrong = MISSPELT
    (root / "train" / wrong).mkdir()
    shutil.copy(root / "train" / right / "0005.png", root / "train" / wrong / "0005.png")
    faults.append(f"train/{wrong} is a misspelt {right}")
    (root / "train" / "eight" / "notes.png").write_text("look at 0017 again", encoding="utf-8")
    faults.append("train/eight/notes.png is no picture")
    return faults


if __name__ == "__main__":
    main()
