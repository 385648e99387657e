"""How many times faster are Saccade's operators than torchvision's CPU kernels?

    python benchmarks/peers/ops.py [--repeats 7] [--only nms]

Both sides get the same arrays and two threads and take turns; a line is the median of the repetitions, the ratio of the
medians and the smallest and largest ratio of two neighbouring repetitions. Saccade's time is that of the operator as
users call it, conversions of layout included. The first call, which may compile, is timed apart.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from environment import Peer
from torch import Tensor

from saccade.ops.boxes import box_iou
from saccade.ops.nms import nms
from saccade.ops.roi_align import roi_align
from saccade.ops.roi_pool import roi_pool

THREADS = 2


@dataclass(frozen=True)
class Case:
    """One line of the table: what the peer is asked, what Saccade runs, and the ratio that is wanted."""

    name: str
    op: str
    settings: dict[str, Any]
    arrays: dict[str, Tensor]
    ours: Callable[[], Any]
    wanted: float


def random_boxes(n: int, image: tuple[float, float], sides: tuple[float, float], seed: int = 0) -> Tensor:
    """n boxes with log-uniform sides inside an image (width, height)."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(sides).log()
    side = (torch.rand(n, 2, generator=generator) * (high - low) + low).exp()
    corner = torch.rand(n, 2, generator=generator) * (torch.tensor(image) - side)
    return torch.cat((corner, corner + side), 1)


def nms_cases() -> Iterator[Case]:
    """Boxes spread over a large picture, of which most stay, and a detector's heaps of twelve."""
    for n, wanted in ((1_000, 3.0), (10_000, 6.0), (100_000, 8.0)):
        generator = torch.Generator().manual_seed(1)
        scores = torch.rand(n, generator=generator)
        spread = random_boxes(n, (1333, 800), (10, 200))
        heap = random_boxes(max(n // 50, 1), (1333, 800), (20, 300))[torch.arange(n) % max(n // 50, 1)]
        heap = heap + torch.randn(n, 4, generator=generator) * 4
        for kind, boxes in (("spread", spread), ("heaps", heap)):
            if n == 100_000 and kind == "spread":
                continue  # the peer takes 20 s, Saccade 0.1 s
            arrays = {"boxes": boxes, "scores": scores}
            run = _nms(boxes, scores)
            yield Case(f"nms {n} {kind}, {len(run())} kept", "nms", {"threshold": 0.5}, arrays, run, wanted)


def _nms(boxes: Tensor, scores: Tensor) -> Callable[[], Tensor]:
    return lambda: nms(boxes, scores, 0.5)


def region_cases() -> Iterator[Case]:
    """1000 regions of 256 channels of a 16th (one image of 1333 x 800) and of a 4th (a pyramid's finest map)."""
    generator = torch.Generator().manual_seed(2)
    boxes = random_boxes(1000, (1333, 800), (32, 512), seed=3)
    rois = torch.cat((torch.zeros(1000, 1), boxes), 1)
    for stride, side in ((16, 7), (4, 7), (16, 14)):
        features = torch.randn(1, 256, 800 // stride, 1344 // stride, generator=generator)
        scaled = rois if stride == 16 else torch.cat((rois[:, :1], random_boxes(1000, (1333, 800), (16, 128), 3)), 1)
        for op in ("roi_align", "roi_pool"):
            gradient = torch.randn(1000, 256, side, side, generator=generator)
            settings = {"size": side, "scale": 1 / stride, "ratio": 2, "aligned": False}
            wanted = 4.0 if op == "roi_align" else 2.0
            for back in (False, True):
                arrays = {"features": features, "rois": scaled} | ({"gradient": gradient} if back else {})
                way = "forward + backward" if back else "forward"
                name = f"{op} {side}x{side} of 1/{stride}, {way}"
                yield Case(name, op, settings, arrays, _pool(op, settings, arrays), wanted)


def _pool(op: str, settings: dict[str, Any], arrays: dict[str, Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        features = arrays["features"].detach().requires_grad_("gradient" in arrays)
        size, scale = settings["size"], settings["scale"]
        if op == "roi_align":
            out = roi_align(features, arrays["rois"], size, scale, settings["ratio"], settings["aligned"])
        else:
            out = roi_pool(features, arrays["rois"], size, scale)
        return torch.autograd.grad(out, features, arrays["gradient"])[0] if "gradient" in arrays else out

    return run


def iou_cases() -> Iterator[Case]:
    """All pairs of ten thousand anchors and a thousand boxes."""
    a, b = random_boxes(10_000, (1333, 800), (10, 200), 4), random_boxes(1000, (1333, 800), (10, 200), 5)
    yield Case("box_iou 10000 x 1000", "box_iou", {}, {"a": a, "b": b}, lambda: box_iou(a, b), 5.0)


def measure(case: Case, peer: Peer, repeats: int) -> str:
    """The line of a case."""
    start = time.perf_counter()
    case.ours()
    first = time.perf_counter() - start
    peer.ask(
        {"op": case.op, "settings": case.settings, "time": True, "threads": THREADS},
        {name: array.numpy() for name, array in case.arrays.items()},
    )
    warm = peer.ask({"repeat": 1})[0]["seconds"]
    calls = max(1, min(50, round(0.02 / warm)))
    pairs = []
    for _ in range(repeats):
        theirs = peer.ask({"repeat": calls})[0]["seconds"]
        start = time.perf_counter()
        for _ in range(calls):
            case.ours()
        pairs.append((theirs, (time.perf_counter() - start) / calls))
    theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    verdict = "yes" if theirs / ours >= case.wanted else "NO"
    return (
        f"{case.name:42} {theirs * 1e3:10.2f} {ours * 1e3:9.2f} {theirs / ours:7.1f} {ratios[0]:7.1f}"
        f" .. {ratios[-1]:<7.1f} {case.wanted:4.0f}  {verdict:4} {first:6.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with Peer("torchvision_ops.py", threads=THREADS) as peer:
        print(
            f"{'operator':42} {'theirs ms':>10} {'ours ms':>9} {'ratio':>7} {'lowest .. highest':>19}"
            f" wanted {'':4} first s"
        )
        for cases in (iou_cases, nms_cases, region_cases):
            for case in cases():
                if options.only in case.name:
                    print(measure(case, peer, options.repeats), flush=True)
        theirs = peer.ask({"repeat": 1})[0]["peak_mb"]
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of the process over all lines: theirs {theirs:.0f} MB, ours {ours:.0f} MB")


if __name__ == "__main__":
    main()
