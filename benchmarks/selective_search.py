"""Does selective search find as many objects as OpenCV contrib's, and how much sooner?

    python benchmarks/selective_search.py DATA... --out OUT [--modes fast quality] [--images 60] [--photos FOLDER]

Both sides get the same pixels, resized beforehand to a width of 500 (of tall images to a height of 1,500), one thread
each, and take turns image by image in two processes; the peer's lives in the peers' environment
(peers/environment.py). For each data set and mode: the share of the objects that one of the first n boxes overlaps with
an IoU of at least 0.5, the mean of these shares over the IoUs 0.5, 0.55, ... 0.95, and the median of the times. With
`--photos` times are taken of photographs without labels too. Crowd regions are no objects.

What is measured is kept in OUT; what is there already is not measured again, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.image import decode
from saccade.data.truth import read_truth
from saccade.ops.boxes import box_iou
from saccade.ops.selective_search import selective_search, working_size
from saccade.plots.figures import new_figure, style

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from environment import Peer  # the folder of scripts is no package

NUMBERS = (10, 20, 50, 100, 200, 500, 1000, 2000)  # proposals an image
IOUS = torch.arange(0.5, 0.951, 0.05)
SIDES = ("saccade", "opencv")
WANTED = (-0.01, 3.0)  # recall at 2,000 proposals beside the peer's, and times as fast


@dataclass(frozen=True)
class Picture:
    """One image as both sides get it, with its objects [t, 4] in the same pixels."""

    name: str
    pixels: np.ndarray
    objects: torch.Tensor


def pictures(data: Path, limit: int | None) -> Iterator[Picture]:
    """The images of a data set with objects, at most `limit`, spread evenly."""
    dataset = read(data, "detect")
    records = [record for record in sorted(dataset.records, key=lambda record: record.id) if record.things]
    for record in records[:: max(1, len(records) // limit)][:limit] if limit else records:
        yield labelled(dataset, record)


def labelled(dataset: DataSet, record: Record) -> Picture:
    """A record's picture and objects at the size at which selective search works."""
    image, truth = decode(dataset.root / record.path), read_truth(record, dataset, "detect").objects
    assert truth is not None
    boxes = truth.boxes if truth.crowd is None else truth.boxes[~truth.crowd]
    pixels = resized(image)
    factor = torch.tensor([pixels.shape[1] / image.shape[1], pixels.shape[0] / image.shape[0]]).repeat(2)
    return Picture(record.id, pixels, boxes * factor)


def resized(image: np.ndarray) -> np.ndarray:
    """At the width at which selective search works, by the area that each pixel covers."""
    height, width = working_size(image.shape[0], image.shape[1])
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=way))


def measure(name: str, each: Iterator[Picture], mode: str, peer: Peer, out: Path) -> list[dict[str, Any]]:
    """What every image gave: `best`, the IoU of each object with the best of the first n boxes; boxes; seconds."""
    rows = []
    for number, picture in enumerate(each):
        file = out / f"{name}-{mode}" / (picture.name.replace("/", "_") + ".json")
        if not file.is_file():
            row: dict[str, Any] = {"image": picture.name, "size": list(picture.pixels.shape[:2])}
            for side in SIDES if number % 2 else reversed(SIDES):
                row[side] = found(side, picture, mode, peer)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(row))
            print(name, mode, picture.name, [round(row[side]["seconds"], 2) for side in SIDES], flush=True)
        rows.append(json.loads(file.read_text()))
    return rows


def found(side: str, picture: Picture, mode: str, peer: Peer) -> dict[str, Any]:
    """The answer of one side to one image."""
    if side == "saccade":
        start = time.perf_counter()
        boxes = selective_search(picture.pixels, mode)
        seconds = time.perf_counter() - start
    else:
        answer, arrays = peer.ask({"mode": mode, "threads": 1, "seed": 0}, {"image": picture.pixels})
        boxes, seconds = arrays["boxes"], answer["seconds"]
    overlap = box_iou(picture.objects, torch.from_numpy(np.array(boxes)))
    best = [overlap[:, :n].amax(1).tolist() if len(picture.objects) else [] for n in NUMBERS]
    return {"seconds": seconds, "boxes": len(boxes), "best": best}


def recalls(rows: Sequence[dict[str, Any]], side: str) -> tuple[list[float], list[float]]:
    """Recall at IoU 0.5, and its mean over IOUS, with the first n boxes of every image, for NUMBERS."""
    half, mean = [], []
    for place in range(len(NUMBERS)):
        best = torch.tensor([value for row in rows for value in row[side]["best"][place]])
        half.append(float((best >= 0.5).float().mean()))
        mean.append(float((best[:, None] >= IOUS).float().mean()))
    return half, mean


def table(name: str, mode: str, rows: Sequence[dict[str, Any]]) -> str:
    """The lines of one data set and mode, the last with what was asked for."""
    seconds = {side: [row[side]["seconds"] for row in rows] for side in SIDES}
    ratio = statistics.median(seconds["opencv"]) / statistics.median(seconds["saccade"])
    objects = sum(len(row["saccade"]["best"][0]) for row in rows)
    lines = [f"{name}, {mode}: {len(rows)} images, {objects} objects"]
    times = ", ".join(f"{side} {statistics.median(seconds[side]):.2f} s" for side in SIDES)
    lines.append(f"  time of an image (median): {times}; {ratio:.1f} times as fast")
    if objects:
        lines.append("  " + " ".join([f"{'first':>22}", *(f"{n:>6}" for n in NUMBERS), "   boxes"]))
        for side in SIDES:
            count = statistics.mean(row[side]["boxes"] for row in rows)
            for label, values in zip(("recall", "mean recall"), recalls(rows, side), strict=True):
                text = " ".join([f"{side + ' ' + label:>22}", *(f"{value:6.3f}" for value in values)])
                lines.append(f"  {text} {count:8.0f}")
        gain = recalls(rows, "saccade")[0][-1] - recalls(rows, "opencv")[0][-1]
        met = gain >= WANTED[0] and ratio >= WANTED[1]
        lines.append(f"  recall at {NUMBERS[-1]:,} beside the peer's {gain:+.3f}: {'met' if met else 'MISSED'}")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Recall at IoU 0.5 against the number of proposals, a panel a data set, a line a side and mode."""
    figure = new_figure(4.2 * len(results), 3.6)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    colours = {"saccade": "#0b6e4f", "opencv": "#c8553d"}
    for axes, (name, modes) in zip(panels, results.items(), strict=True):
        style(axes, name, "proposals an image", "recall at IoU 0.5")
        for mode, rows in modes.items():
            for side in SIDES:
                line = "-" if mode == "fast" else "--"
                axes.plot(NUMBERS, recalls(rows, side)[0], line, color=colours[side], label=f"{side}, {mode}")
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what the command line names; exit with 1 where a wish is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, nargs="+", help="data sets with boxes, in any format that Saccade reads")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", default=["fast", "quality"], choices=["fast", "quality"])
    parser.add_argument("--images", type=int, help="of each data set, spread evenly; by default all")
    parser.add_argument("--photos", type=Path, help="a folder of photographs whose times are taken")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    selective_search(np.zeros((30, 40, 3), np.uint8))  # compiles
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    lines = []
    with Peer("opencv_selective_search.py", threads=1) as peer:
        for mode in arguments.modes:
            for data in arguments.data:
                rows = measure(data.name, pictures(data, arguments.images), mode, peer, arguments.out)
                results.setdefault(data.name, {})[mode] = rows
                lines.append(table(data.name, mode, rows))
            if arguments.photos is not None:
                files = sorted(arguments.photos.glob("*.jpg"))
                photos = (Picture(file.name, resized(decode(file)), torch.zeros(0, 4)) for file in files)
                lines.append(table("photos", mode, measure("photos", photos, mode, peer, arguments.out)))
    print("\n" + "\n".join(lines))
    draw(results, arguments.out / "recall.png")
    if any("MISSED" in line for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
