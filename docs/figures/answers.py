"""A strip of pictures with a run's answers drawn in, small enough for a page:
`python docs/figures/answers.py RUN FOLDER OUT.png [--count 4] [--side 200]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import saccade
from saccade.data.image import decode
from saccade.plots.draw import draw, fit


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, help="folder; some spread evenly over it are taken")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--side", type=int, default=200, help="of each in the strip, in pixels")
    parser.add_argument("--threshold", type=float, default=0.3, help="boxes of a lower score are left out")
    options = parser.parse_args(arguments)
    predictor = saccade.load(options.run)
    paths, strip = sorted(options.pictures.rglob("*.jpg")), []
    for path in paths[:: max(1, len(paths) // options.count)][: options.count]:
        image, answer = decode(path), predictor.answer(path)
        if answer.objects is not None and answer.objects.scores is not None and answer.label is None:
            answer.objects = answer.objects[answer.objects.scores >= options.threshold]
        large, placed = fit(image, answer, options.side)
        strip += [draw(large, placed, predictor.classes), np.full((large.shape[0], 8, 3), 255, np.uint8)]
    Image.fromarray(np.concatenate(strip[:-1], 1)).quantize(96).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
