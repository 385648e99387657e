"""Videos: frames/s from the file to boxes, Saccade beside Ultralytics' PyTorch path, and where Saccade's time goes.

    python benchmarks/peers/video.py [--pairs atss_small:yolov8n] [--rounds 5] [--threads 2] [--run RUN]

Question: how many frames a second does a user get on a processor, decoding and suppression included, from a network of
about equal multiply-adds at 416 px? Both sides read the same MJPEG file of square frames (so that neither computes a
smaller rectangle) and give every frame's boxes; Ultralytics by `predict(clip, stream=True)`, Saccade by
`predict_video(clip)` a frame at a time, at its default precision and in float32. The three take turns; the table gives
medians, and the median of the ratios of the rounds with the least and the greatest. Both look for boxes of a score of
0.25 or more, Ultralytics' own default (`saccade predict` for 0.3). Networks are untrained, with the biases of their
heads, so that few boxes reach it, unless `--run` names a trained one of ours.

The second table is of Saccade alone, without overlap: the share of each part of a frame's time. "Boxes" is all between
the maps of the network and the answer: decoding of boxes, scores, choice, NMS, and the way to pixels of the frame.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from saccade.cli_start import SPINS

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # before torch is loaded, as the command `saccade` does

import cv2
import numpy as np
import torch
from environment import Peer

from saccade.data.loader import collate
from saccade.data.pipelines import Preprocessing
from saccade.data.video import Footage
from saccade.inference.predictor import Predictor
from saccade.inference.trained import open_run
from saccade.machine.device import autocast
from saccade.models import model_config, model_module
from saccade.models.make_catalogue import multiply_adds

PAIRS = "atss_small:yolov8n,yolo3_small:yolov8n,yolo3_small:yolo11n"
PRECISIONS = ("auto", "fp32")
LEAST = 0.25  # score of a box
CLASSES = 80  # as many as Ultralytics' files state


def main() -> None:
    """Compare the pairs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default=PAIRS, help="OURS:THEIRS, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side, the whole clip each")
    parser.add_argument("--frames", type=int, default=48, help="of the clip")
    parser.add_argument("--side", type=int, default=640, help="pixels of a frame")
    parser.add_argument("--size", type=int, default=416, help="pixels of the input")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--clip", type=Path, help="a video of your own, in place of drifting clouds")
    parser.add_argument("--run", help="a trained detector of ours, in place of an untrained one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or write_clip(Path(folder) / "clip.avi", options.frames, options.side)
        for pair in options.pairs.split(","):
            ours, theirs = pair.split(":")
            compare(ours, theirs, clip, options)


def compare(ours: str, theirs: str, clip: Path, options: argparse.Namespace) -> None:
    """One pair: its line of ratios, then the shares."""
    network, classes = network_of(ours, options.run)
    macs = multiply_adds(network, torch.zeros(1, 3, options.size, options.size))
    preprocessing = Preprocessing(size=(options.size, options.size), resize="letterbox", scale=1.0)
    sides = {p: Predictor(network, "detect", classes, preprocessing, "cpu", p) for p in PRECISIONS}
    for side in sides.values():
        side.least_score = LEAST
    rates: dict[str, list[float]] = {"peer": [], **{p: [] for p in PRECISIONS}}
    with Peer("ultralytics_video.py", options.threads) as peer:
        request = {"network": theirs, "size": options.size, "threads": options.threads, "clip": str(clip)}
        facts = peer.ask({**request, "do": "make"})[0]
        for turn in range(-1, options.rounds):  # the first wakes threads and packs weights
            answer = peer.ask({**request, "do": "run"})[0]
            found = {"peer": answer["frames"] / answer["seconds"]}
            found |= {p: pass_over(side, clip) for p, side in sides.items()}
            for name, rate in found.items() if turn >= 0 else ():
                rates[name].append(rate)
    versions = f"Ultralytics {facts['version']}, {answer['threads']} threads, input {answer['size']}"
    print(f"\n{ours} {macs / 1e9:.2f} GMAC beside {theirs} {facts['macs'] / 1e9:.2f} GMAC; {versions}")
    stated = ", ".join(f"{name} {value:.1f}" for name, value in answer["speed"].items())
    rate = statistics.median(rates["peer"])
    print(f"Ultralytics: {rate:.2f} frames/s; {answer['boxes']} boxes; its own ms a frame: {stated}")
    for p, side in sides.items():
        ratios = [a / b for a, b in zip(rates[p], rates["peer"], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"Saccade {side.precision} ({p}): {statistics.median(rates[p]):.2f} frames/s, ratio {ratio}")
        print(f"    {shares(side, clip)}", flush=True)


def network_of(name: str, run: str | None) -> tuple[Any, list[str]]:
    """A network of ours with the names of its classes."""
    if run is not None:
        trained = open_run(run)
        return trained.network, trained.classes
    torch.manual_seed(0)
    return model_module(name).Model(model_config(name, classes=CLASSES)).eval(), [str(i) for i in range(CLASSES)]


def write_clip(path: Path, frames: int, side: int) -> Path:
    """Coloured clouds that drift, as MJPEG."""
    rng = np.random.default_rng(0)
    sky = cv2.resize(rng.integers(0, 256, (24, 48, 3), np.uint8), (2 * side, side), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (side, side))
    for i in range(frames):
        left = round(side * i / frames)
        writer.write(np.ascontiguousarray(sky[:, left : left + side]))
    writer.release()
    return path


def pass_over(predictor: Predictor, clip: Path) -> float:
    """Frames/s of one pass."""
    begun = time.perf_counter()
    count = sum(1 for _ in predictor.predict_video(clip))
    return count / (time.perf_counter() - begun)


def shares(predictor: Predictor, clip: Path) -> str:
    """The parts of a frame's time, one after another in one thread, each the median over the frames. The network's is
    that of its `forward` alone, which is called once more for it; that of boxes is what `predict` takes beyond it."""
    spent: dict[str, list[float]] = {}
    clock = [time.perf_counter()]

    def lap(part: str) -> None:
        now = time.perf_counter()
        spent.setdefault(part, []).append(now - clock[0])
        clock[0] = now

    frames = boxes = 0
    clock[0] = time.perf_counter()
    for still in Footage(clip).stills():
        lap("decode")
        batch = collate([predictor.see(still.pixels)])
        lap("resize")
        ready = batch.to("cpu")
        lap("to floats")
        with torch.inference_mode(), autocast(predictor.device, predictor.precision):
            predictor.network(ready.images)
        lap("network")
        for _, answer in predictor.predict_batches([ready]):
            boxes += 0 if answer.objects is None else len(answer.objects)
        lap("boxes")
        frames += 1
    middle = {part: statistics.median(seconds) for part, seconds in spent.items()}
    middle["boxes"] = max(0.0, middle["boxes"] - middle["network"])
    whole = sum(middle.values())
    text = ", ".join(f"{part} {seconds / whole:.1%}" for part, seconds in middle.items())
    return f"{1000 * whole:.1f} ms a frame alone: {text}; {boxes / frames:.1f} boxes a frame"


if __name__ == "__main__":
    main()
