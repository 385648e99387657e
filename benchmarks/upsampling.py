"""Does it matter how a decoder enlarges its maps? Every way in one network: score, and the grid that it leaves behind.

    python benchmarks/upsampling.py DATA/camvid --out OUT [--minutes 4 | --epochs N] [--seeds 0] [--only nearest ...]
        [--set NAME=VALUE ...]

`segnet_small` learns the same images with `upsampling` set to each way (models/segmenters/segnet.py), all else being
equal. The grid ("checkerboard", Odena et al. 2016) is measured on the logits of a fresh and of the trained network:

- ripple: of an image of one gray, whose logits should be even away from the border, the standard deviation of the
  logits there, over that for a photograph. 0 is even.
- peak: of photographs, the energy of the logits' spectrum at periods of 2, 4 and 8 pixels along rows or columns, over
  that of the frequencies beside them. 1 is no grid.

Prints a table and leaves OUT/upsampling.png: of each way the logits of the likeliest class for the even image, fresh
and trained, and what the trained network says of a photograph. Runs that are finished are kept.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import make_parser, markdown, settings_flags, train
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.formats import read
from saccade.data.image import decode
from saccade.inference.trained import open_run
from saccade.plots.figures import new_figure, to_png
from saccade.plots.palette import class_colour

MODEL = "segnet_small"
WAYS = ("unpool", "nearest", "bed_of_nails", "bilinear", "transposed_3", "transposed_4")
SIDES = (160, 224)  # of the images that are measured, multiples of 32
BORDER = 224  # pixels from the border, beyond what its zeros reach, at which an even image is measured
PERIODS = (2, 4, 8)
PHOTOS = 8


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, help="ways of enlarging")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--size", default="160x224", help="crop that all are trained on")
    parser.add_argument("--scale", type=float, default=0.5, help="of all images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    photos = photographs(options.data, options.scale)
    rows, pictures = [], []
    for way in options.only:
        scores, fresh, trained = [], [], []
        for seed in options.seeds:
            flags = [length, f"--seed={seed}", f"--size={options.size}", "--set", f"scale={options.scale:g}"]
            flags += [*settings_flags(options.set), "--set", f"upsampling={way}"]
            folder = options.out / f"{way}-seed{seed}"
            found = train(MODEL, options.data, folder, flags)
            if found is None:
                continue
            network = open_run(folder).network
            torch.manual_seed(seed)
            start = settled(type(network)(network.config), photos)
            scores.append({name: found["metrics"][name]["value"] for name in ("mean_iou", "pixel_accuracy")})
            fresh.append(grid(start, photos))
            trained.append(grid(network, photos))
            if seed == options.seeds[0]:
                pictures.append((way, even_logits(start), even_logits(network), classes_of(network, photos[:1])))
        rows.append([f"`{way}`", *cells(scores, fresh, trained)])
    if pictures:
        (options.out / "upsampling.png").write_bytes(plot(pictures))
    heads = ["upsampling", "mean IoU", "pixel accuracy", "ripple fresh", "trained", "peak fresh", "trained"]
    print(markdown(heads, rows))


def cells(scores: list[dict[str, float]], fresh: list[Grid], trained: list[Grid]) -> list[str]:
    """Means over the seeds."""
    if not scores:
        return ["diverged"] * 6
    means = [f"{statistics.fmean(score[name] for score in scores):.3f}" for name in scores[0]]
    for number, form in ((0, "{:.3f}"), (1, "{:.2f}")):
        means += [form.format(statistics.fmean(each[number] for each in grids)) for grids in (fresh, trained)]
    return means


Grid = tuple[float, float]  # ripple and peak


def photographs(data: Path, scale: float) -> Tensor:
    """[PHOTOS, 3, *SIDES] in [0, 1]: the middle of images spread over the data, made smaller by `scale`."""
    dataset = read(data, "segment")
    images = []
    for record in dataset.records[:: max(1, len(dataset.records) // PHOTOS)][:PHOTOS]:
        pixels = torch.from_numpy(decode(dataset.root / record.path)).permute(2, 0, 1)[None].float() / 255
        small = F.interpolate(pixels, scale_factor=scale, mode="bilinear", antialias=True)
        height, width = small.shape[2:]
        if height < SIDES[0] or width < SIDES[1]:
            small = F.interpolate(pixels, size=SIDES, mode="bilinear", antialias=True)
            height, width = SIDES
        top, left = (height - SIDES[0]) // 2, (width - SIDES[1]) // 2
        images.append(small[:, :, top : top + SIDES[0], left : left + SIDES[1]])
    return torch.cat(images)


@torch.no_grad()
def settled(network: nn.Module, photos: Tensor) -> nn.Module:
    """A fresh network with the statistics of the photographs in its norms, as training would have them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # what was seen last
    network.train()(photos)
    return network.eval()


@torch.no_grad()
def even_logits(network: nn.Module) -> Tensor:
    """[C, 64, 64] of an image of one gray, without its border."""
    side = 2 * BORDER + 64
    logits: Tensor = network(torch.full((1, 3, side, side), 0.5))
    return logits[0, :, BORDER:-BORDER, BORDER:-BORDER]


@torch.no_grad()
def grid(network: nn.Module, photos: Tensor) -> Grid:
    """Ripple and peak of a network; see above."""
    logits: Tensor = network(photos)
    ripple = even_logits(network).std((1, 2)).mean() / logits.std((2, 3)).mean()
    return float(ripple), peak(logits)


def peak(logits: Tensor) -> float:
    """Energy of [n, C, H, W] at PERIODS along rows and columns over that of the frequencies beside; mean over both.

    A period of p pixels is the frequency H / p of the rows, whatever the columns do: one line of the spectrum. Its
    neighbours are two and three lines away.
    """
    window = torch.hann_window(logits.shape[2])[:, None] * torch.hann_window(logits.shape[3])
    energy = torch.fft.fft2((logits - logits.mean((2, 3), keepdim=True)) * window).abs().square().sum((0, 1))
    found = []
    for lines in (energy.sum(1), energy.sum(0)):
        for period in PERIODS:
            k = len(lines) // period
            beside = torch.stack([lines[(k + away) % len(lines)] for away in (-3, -2, 2, 3)])
            found.append(float(lines[k] / beside.mean()))
    return statistics.fmean(found)


@torch.no_grad()
def classes_of(network: nn.Module, photo: Tensor) -> np.ndarray:
    """[H, W, 3]: the class of every pixel of [1, 3, H, W] in its colour."""
    classes = network(photo)[0].argmax(0).numpy()
    colours = np.array([class_colour(c) for c in range(int(classes.max()) + 1)], np.uint8)
    shown: np.ndarray = colours[classes]
    return shown


def plot(pictures: list[tuple[str, Tensor, Tensor, np.ndarray]]) -> bytes:
    """PNG: a row a way, the even image fresh and trained, and a photograph's classes."""
    figure = new_figure(9, 2.3 * len(pictures))
    axes: Any = figure.subplots(len(pictures), 3, squeeze=False)
    for row, (way, fresh, trained, shown) in zip(axes, pictures, strict=True):
        for axis, image, title in (
            (row[0], surest(fresh), "one gray, fresh"),
            (row[1], surest(trained), "one gray, trained"),
            (row[2], shown, "a photograph, trained"),
        ):
            middle, reach = float(image.mean()), max(2 * float(image.std()), 1e-6)
            axis.imshow(image, cmap="gray", vmin=middle - reach, vmax=middle + reach, interpolation="nearest")
            axis.set_title(f"{way}: {title}", fontsize=8)
            axis.axis("off")
    return to_png(figure)


def surest(logits: Tensor) -> np.ndarray:
    """[32, 32] of the class that is likeliest, of 32 pixels in the middle."""
    best = int(logits.mean((1, 2)).argmax())
    return logits[best, 16:48, 16:48].numpy()


if __name__ == "__main__":
    main()
