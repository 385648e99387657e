"""Prediction in process: Saccade beside torchvision, timm, segmentation-models-pytorch and plain torch (SegNet).

    python benchmarks/peers/predict.py --networks resnet18,vgg16 --batches 1,8

Both sides have the same weights (a random state dict of the peer's; for U-Net the same design, weights of their own)
and get the same uint8 images of the network's own size. What is timed is images in, answers out: conversion,
normalisation, network, softmax or box selection. Peers run as their pages say (eager, fp32); Saccade runs at its
default precision and at `--precision fp32`. The three take turns; the table gives the median, the spread (half the
distance of the quartiles, in per cent of the median), ratios of medians, the peak of resident memory above that before
the network was loaded from its file, and the largest difference of the answers in fp32 (scores: of their logarithms;
class maps: the share of the pixels whose class is another).
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from environment import Peer

from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch
from saccade.inference.predictor import Predictor, load
from saccade.models import model_config, model_module

PRECISIONS = ("auto", "fp32")
TIMED = 2  # calls a turn, after one that wakes threads and caches


class Network(NamedTuple):
    """One comparison."""

    ours: str
    peer: str  # torchvision, timm or smp; plain: a script of this folder
    theirs: str
    task: str
    size: int
    goals: tuple[float, float]  # ratios to reach at the default precision, batch 1 and 8


NETWORKS = {
    n.ours: n
    for n in (
        Network("resnet18", "torchvision", "resnet18", "classify", 224, (2.0, 2.5)),
        Network("resnet50", "torchvision", "resnet50", "classify", 224, (2.0, 2.5)),
        Network("resnext50_32x4d", "torchvision", "resnext50_32x4d", "classify", 224, (2.5, 2.5)),
        Network("vgg16", "torchvision", "vgg16", "classify", 224, (2.0, 2.5)),
        Network("googlenet", "torchvision", "googlenet", "classify", 224, (3.0, 3.0)),
        Network("inception_v3", "torchvision", "inception_v3", "classify", 299, (2.5, 2.5)),
        Network("densenet121", "torchvision", "densenet121", "classify", 224, (3.0, 3.0)),
        Network("mobilenet_v2", "torchvision", "mobilenet_v2", "classify", 224, (3.0, 3.0)),
        Network("shufflenet_v2_x1_0", "torchvision", "shufflenet_v2_x1_0", "classify", 224, (2.5, 2.5)),
        Network("squeezenet1_1", "torchvision", "squeezenet1_1", "classify", 224, (2.5, 2.5)),
        Network("xception", "timm", "legacy_xception", "classify", 299, (2.5, 2.5)),
        Network("ssd300_coco", "torchvision", "ssd300_vgg16", "detect", 300, (2.0, 2.0)),
        Network("faster_rcnn_r50_fpn", "torchvision", "fasterrcnn_resnet50_fpn", "detect", 512, (2.0, 2.0)),
        Network("mask_rcnn_r50_fpn", "torchvision", "maskrcnn_resnet50_fpn", "instances", 800, (2.0, 2.0)),
        Network("unet_resnet18", "smp", "unet_resnet18", "segment", 256, (2.0, 2.0)),
        Network("fcn_resnet50", "torchvision", "fcn_resnet50", "segment", 520, (2.0, 2.0)),
        Network("segnet", "plain", "segnet", "segment", 256, (2.0, 2.0)),
    )
}


def main() -> None:
    """Compare the networks that are asked for, one line a network and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated; all by default")
    parser.add_argument("--batches", default="1,8", help="images a call")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--rounds", type=int, default=4, help=f"turns of each side, {TIMED} timed calls each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batches = [int(b) for b in options.batches.split(",")]
    columns = "network             batch   peer ms            ours ms            ratio (goal)  fp32 ms            ratio"
    print(f"{columns}   MB: peer, ours, fp32   difference", flush=True)
    with Peer("torchvision_predict.py", options.threads) as maker, tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            compare(NETWORKS[name], maker, Path(folder), batches, options)


def compare(network: Network, maker: Peer, folder: Path, batches: list[int], options: argparse.Namespace) -> None:
    """Time one network on both sides, in a process of the peer that has seen no other, and print its lines."""
    file = folder / "peer.pth"
    request = {"peer": network.peer, "network": network.theirs, "task": network.task, "size": network.size}
    request["file"] = str(file)
    maker.ask({**request, "do": "make"})
    run = write_run(network, file, folder)
    ours = {precision: load(run, "cpu", precision) for precision in PRECISIONS}
    with Peer("torchvision_predict.py", options.threads) as peer:
        peer.ask({**request, "do": "load"})
        same = network.peer != "smp"
        for batch in batches:
            answer, times, worst = take_turns(peer, ours, images_of(network, batch), options.rounds, same)
            peaks = {"peer": answer["peak"]} if batch == batches[-1] else {}
            peaks |= {precision: measure_peak(run, network, batch, precision) for precision in PRECISIONS if peaks}
            report(network, batch, times, peaks, worst)


def take_turns(
    peer: Peer, ours: dict[str, Predictor], images: np.ndarray, rounds: int, same: bool
) -> tuple[dict[str, Any], dict[str, list[float]], str]:
    """The peer's last answer, milliseconds of every side's calls, and how far the answers are apart."""
    times: dict[str, list[float]] = {"peer": [], **{precision: [] for precision in PRECISIONS}}
    answers: list[Annotation] = []
    for precision in PRECISIONS:  # weights are packed at the second call of a shape
        time_ours(ours[precision], images, 2)
    for _ in range(rounds):
        answer, found = peer.ask({"do": "time", "calls": 1 + TIMED}, {"images": images})
        times["peer"] += answer["times"][1:]
        for precision in PRECISIONS:
            spent, answers = time_ours(ours[precision], images, 1 + TIMED)
            times[precision] += spent[1:]
    return answer, times, difference(found, answers[0], same)


def report(network: Network, batch: int, times: dict[str, list[float]], peaks: dict[str, float], worst: str) -> None:
    """One line of the table."""
    middle = {side: statistics.median(values) for side, values in times.items()}
    spread = {}
    for side, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        spread[side] = f"{middle[side]:8.1f} +-{50 * (high - low) / middle[side]:3.0f} %"
    goal = network.goals[0 if batch == 1 else 1]
    print(
        f"{network.ours:20s}{batch:5d}  {spread['peer']}  {spread['auto']}"
        f"  {middle['peer'] / middle['auto']:5.2f} ({goal})  {spread['fp32']}  {middle['peer'] / middle['fp32']:5.2f}"
        f"   {' '.join(f'{peak:5.0f}' for peak in peaks.values()) or 17 * ' '}   {worst}",
        flush=True,
    )


def difference(theirs: dict[str, np.ndarray], ours: Annotation, same: bool) -> str:
    """How far the answers to the first image are apart, ours in fp32; "-" for weights that are not the same."""
    if not same:
        return "-"
    if ours.objects is not None and ours.objects.scores is not None:
        count, scores = len(theirs["scores"]), ours.objects.scores.numpy()
        if count != len(scores):
            return f"{count} boxes, ours {len(scores)}"
        if count == 0:
            return "no boxes"
        # Ties in the score may come in another order: each of theirs is compared with the nearest of ours.
        distance = np.abs(theirs["boxes"][:, None] - ours.objects.boxes.numpy()).max(2)
        distance += 1e6 * (theirs["labels"][:, None] - 1 != ours.objects.labels.numpy())
        worst = distance.min(1).max()
        return f"{count} boxes: {worst:.1g} px, scores {np.abs(theirs['scores'] - scores).max():.1g}"
    if ours.probabilities is not None:
        logarithms = (np.log(np.maximum(p, 1e-12)) for p in (theirs["scores"][0], ours.probabilities.numpy()))
        return f"{np.abs(np.subtract(*logarithms)).max():.1g}"
    if ours.semantic is not None and theirs["classes"].shape[1:] == ours.semantic.shape:
        return f"{(theirs['classes'][0] != ours.semantic.numpy()).mean():.1g} of the pixels"
    return "-"


def measure_peak(run: Path, network: Network, batch: int, precision: str) -> float:
    """MB by which a fresh process of ours grows from its imports to its peak: loading and three calls."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(peak_of, run, network, batch, precision, torch.get_num_threads()).result()


def peak_of(run: Path, network: Network, batch: int, precision: str, threads: int) -> float:
    """See `measure_peak`; runs in the fresh process."""
    torch.set_num_threads(threads)
    model_module(network.ours)
    base = memory("VmRSS")
    time_ours(load(run, "cpu", precision), images_of(network, batch), 3)
    return memory("VmHWM") - base


def write_run(network: Network, file: Path, folder: Path) -> Path:
    """A checkpoint of ours with the peer's weights, or (U-Net) with weights of its own."""
    module, config = model_module(network.ours), model_config(network.ours)
    model: Any = module.Model(config)
    if network.peer != "smp":
        weights = torch.load(file, weights_only=True)
        model.load_state_dict(getattr(module, "from_public", dict)(weights))
    classes = [str(i) for i in range(config.classes)]
    size = (network.size, network.size)
    preprocessing = Preprocessing(size=size, resize="stretch", scale=1.0)
    state = checkpoint.Checkpoint(
        network.ours, dataclasses.asdict(config), classes, network.task, preprocessing.to_json(), model.state_dict()
    )
    path = folder / "best.safetensors"
    checkpoint.save(state, path)
    return path


def images_of(network: Network, batch: int) -> np.ndarray:
    """[b, 3, size, size] uint8: coloured clouds, different for each image."""
    rng = np.random.default_rng(0)
    clouds = [
        cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (network.size, network.size)) for _ in range(batch)
    ]
    return np.ascontiguousarray(np.stack(clouds).transpose(0, 3, 1, 2))


def time_ours(predictor: Predictor, images: np.ndarray, repetitions: int) -> tuple[list[float], list[Annotation]]:
    """Milliseconds of each call, and the last answers."""
    size = (images.shape[2], images.shape[3])
    count = len(images)
    times, answers = [], []
    pixels = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)  # as the loader makes them
    for _ in range(repetitions):
        batch = Batch(pixels, [size] * count, None, [""] * count, [size] * count, [np.eye(3)] * count)
        start = time.perf_counter()
        answers = [answer for _, answer in predictor.predict_batches([batch])]
        times.append(1000 * (time.perf_counter() - start))
    return times, answers


def memory(field: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    main()
