"""A small data set of another task, for the lesson on transfer: is a digit even or odd?

    python examples/few_images.py demo/classify-scenes-64 few [--of-each 6]

Takes a few validation pictures of each digit from the scenes of `saccade demo --task classify`, which its network has
not trained on, and sorts them into the two class folders `even` and `odd`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from saccade.data.scenes import CLASSES


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="class folders of digits with a part val")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--of-each", type=int, default=6, help="pictures of each digit")
    options = parser.parse_args(arguments)
    for digit, name in enumerate(CLASSES):
        folder = options.out / ("odd" if digit % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        for picture in sorted((options.scenes / "val" / name).iterdir())[: options.of_each]:
            shutil.copy(picture, folder / f"{name}-{picture.name}")
    print(f"{options.out}: {sum(1 for _ in options.out.rglob('*.jpg'))} pictures, even and odd")


if __name__ == "__main__":
    main()
