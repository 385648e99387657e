"""Training steps: images/s of forward, backward and optimiser, Saccade against torchvision.

    python benchmarks/peers/train_step.py [--only resnet18 vgg16] [--limit 38] [--seconds 2]

Question: with loading left out, how many images does each side train on in a second, and in how much memory? Both
sides hold one batch of random pixels and labels of 1000 classes. The peer is torchvision's network, eager in float32,
with SGD and momentum, on a float batch that is normalised already. Saccade runs its own step as `saccade train` does
(train_step_saccade.py): uint8 batch, default recipe but for the learning rate, default precision (bf16 where the
processor multiplies it natively and the first loss agrees). The auxiliary classifiers of GoogLeNet and Inception v3 are
trained on both sides, as is FCN's; the numbers of parameters must be equal. Mask R-CNN learns ten discs an image of 800
pixels, segmenters a class for every pixel; SegNet's peer is plain torch (plain_segnet.py).

The sides are two processes that take turns, one stopped while the other works (see train_speed.py), until the time of a
network is over, starting included; there are two turns of each at least. The ratio is the median of those of the turns,
with the least and the greatest. Memory: the peak of each process in MB, and how much of it came after the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time

from environment import peers_python
from predict import NETWORKS
from train_speed import HERE, Side, ended

WANTED = {"instances": (1.5, 1.1), "segment": (2.0, 1.2)}  # ratio that is asked for, and that in fp32; of the others
USUAL = (2.0, 2.0)
BATCHES = {  # images a step: a few seconds of the peer's on two cores at most
    "resnet18": 16,
    "resnet50": 8,
    "vgg16": 16,
    "googlenet": 16,
    "densenet121": 8,
    "mobilenet_v2": 16,
    "shufflenet_v2_x1_0": 16,
    "squeezenet1_1": 16,
    "resnext50_32x4d": 8,
    "inception_v3": 4,
    "mask_rcnn_r50_fpn": 1,
    "fcn_resnet50": 1,
    "segnet": 4,
}
HEADS = (
    "network",
    "size",
    "batch",
    "Saccade images/s",
    "peer images/s",
    "ratio (turns)",
    "asked",
    "MB",
    "MB of it own",
)


def main() -> None:
    signal.signal(signal.SIGTERM, ended)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BATCHES, default=list(BATCHES), metavar="NETWORK")
    parser.add_argument("--limit", type=float, default=38, help="seconds for a network, starting included")
    parser.add_argument("--seconds", type=float, default=2, help="of one turn, and two whole steps at least")
    parser.add_argument("--batch", type=int, help="images a step, instead of each network's own")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--precision", default="auto", help="of Saccade")
    options = parser.parse_args()
    peers_python()  # built before anything is timed
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    for name in options.only:
        print(f"| {' | '.join(measure(name, options))} |", flush=True)


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    until = time.monotonic() + options.limit
    network = NETWORKS[name]
    batch = BATCHES[name] if options.batch is None else options.batch
    task = {"size": network.size, "batch": batch, "kind": network.task, "precision": options.precision}
    scripts = (
        ([sys.executable, str(HERE / "train_step_saccade.py"), json.dumps(task | {"model": network.ours})], False),
        (
            [
                str(peers_python()),
                str(HERE / "train_step_peer.py"),
                json.dumps(task | {"model": network.theirs, "peer": network.peer}),
            ],
            True,
        ),
    )
    sides: list[Side] = []
    try:
        for command, peer in scripts:
            sides.append(Side(command, options.threads, peer))
        counts = [side.facts["parameters"] for side in sides]
        if counts[0] != counts[1]:
            raise SystemExit(f"{name}: {counts[0]} parameters here, {counts[1]} at the peer; not the same network")
        rates: list[list[float]] = []
        turn = 0.0
        while len(rates) < 2 or time.monotonic() + turn < until:
            began = time.monotonic()
            rates.append([side.rate(options.seconds) for side in sides])
            turn = time.monotonic() - began
        peaks = [1000 * side.memory() for side in sides]
    finally:
        for side in sides:
            side.end()
    ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = [a / b for a, b in rates]
    own = [peak - side.facts["imports_mb"] for peak, side in zip(peaks, sides, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)})"
    wanted = WANTED.get(network.task, USUAL)[sides[0].facts["precision"] == "fp32"]
    cells = [f"{name} ({sides[0].facts['precision']})", str(network.size), str(batch), f"{ours:.2f}", f"{theirs:.2f}"]
    return [*cells, ratio, f"{wanted}", *(f"{a:.0f} against {b:.0f}" for a, b in (peaks, own))]


if __name__ == "__main__":
    main()
