"""Peer of the tasks camvid and isbi: segmentation_models_pytorch's U-Net with a ResNet-18 encoder, from scratch.

AdamW (1e-3, weight decay 0.01) in one cycle, cross entropy that leaves void out, mirror, random scale and crop (with
--turn also quarter turns and upside-down mirrors, for pictures that have no up), bf16 as in one_cycle.py, channels
last; images in memory. Predictions are class maps of the original size, taken to it by nearest neighbour. Runs in the
peers' environment; `same_minutes.py` starts it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from one_cycle import autocast, fit
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

PEAK, WARM, DECAY, IGNORE, STRIDE = 1e-3, 0.1, 0.01, 255, 32
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32) * 255

Pair = tuple[np.ndarray, np.ndarray]  # image [H, W, 3] uint8 RGB, class map [H, W] uint8


def read(row: dict[str, str], scale: float) -> Pair:
    """Image and class map, both by the factor `scale`: area average and nearest."""
    image, mask = np.asarray(Image.open(row["image"]).convert("RGB")), np.asarray(Image.open(row["mask"]))
    if scale == 1:
        return image, mask
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def augment(pair: Pair, crop: tuple[int, int], zoom: tuple[float, float], turn: bool, rng: np.random.Generator) -> Pair:
    """Scaled by a factor uniform in `zoom`, padded below and right to the crop at least, cropped, mirrored."""
    image, mask = pair
    factor = rng.uniform(*zoom)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    image, mask = pad(image, mask, (max(0, crop[0] - size[1]), max(0, crop[1] - size[0])))
    top = rng.integers(0, image.shape[0] - crop[0] + 1)
    left = rng.integers(0, image.shape[1] - crop[1] + 1)
    image, mask = (a[top : top + crop[0], left : left + crop[1]] for a in (image, mask))
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if turn:
        quarters = int(rng.integers(0, 4))
        image, mask = np.rot90(image, quarters), np.rot90(mask, quarters)
    return image, mask


def pad(image: np.ndarray, mask: np.ndarray, more: tuple[int, int]) -> Pair:
    """Mean colour and void below and to the right."""
    rows, columns = more
    image = cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_CONSTANT, value=[float(v) for v in MEAN])
    return image, cv2.copyMakeBorder(mask, 0, rows, 0, columns, cv2.BORDER_CONSTANT, value=IGNORE)


def normalised(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float32) - MEAN) / STD


def batches(
    pairs: list[Pair], batch: int, crop: tuple[int, int], zoom: tuple[float, float], turn: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images [b, 3, *crop] and class maps [b, *crop] in a shuffled order, without end."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(pairs))
        for start in range(0, len(pairs) - batch + 1, batch):
            made = [augment(pairs[i], crop, zoom, turn, rng) for i in order[start : start + batch]]
            images = torch.from_numpy(np.stack([normalised(image) for image, _ in made])).permute(0, 3, 1, 2)
            yield images, torch.from_numpy(np.stack([mask for _, mask in made])).long()


def predict(model: nn.Module, image: np.ndarray) -> np.ndarray:
    """Class map [H, W] uint8 of one image, which is padded to whole strides for the network."""
    height, width = image.shape[:2]
    padded, _ = pad(image, np.zeros((height, width), np.uint8), (-height % STRIDE, -width % STRIDE))
    inputs = torch.from_numpy(normalised(padded)).permute(2, 0, 1)[None].to(memory_format=torch.channels_last)
    return model(inputs)[0, :, :height, :width].float().argmax(0).to(torch.uint8).numpy()


def mean_iou(model: nn.Module, pairs: list[Pair], classes: int) -> float:
    """For the choice among checkpoints, at the network's own resolution; Saccade's evaluator gives the final score."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for image, mask in pairs:
        counted = mask != IGNORE
        both = mask[counted].astype(np.int64) * classes + predict(model, image)[counted]
        counts += np.bincount(both, minlength=classes**2).reshape(classes, classes)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((counts.diagonal()[union > 0] / union[union > 0]).mean())


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every image before all else")
    parser.add_argument("--crop", type=int, nargs=2, required=True, help="height and width of the training crop")
    parser.add_argument("--zoom", type=float, nargs=2, default=(0.75, 1.5), help="random scale of the augmentation")
    parser.add_argument("--turn", action="store_true", help="random quarter turns")
    parser.add_argument("--batch", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    torch.manual_seed(arguments.seed)
    manifest = json.loads(arguments.manifest.read_text(encoding="utf-8"))
    classes = len(manifest["classes"])
    train = [read(row, arguments.scale) for row in manifest["train"]]
    val = [read(row, arguments.scale) for row in manifest["val"]]
    model: nn.Module = smp.Unet("resnet18", encoder_weights=None, classes=classes)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=DECAY)
    stream = batches(
        train, arguments.batch, tuple(arguments.crop), tuple(arguments.zoom), arguments.turn, arguments.seed
    )
    loss_of = partial(F.cross_entropy, ignore_index=IGNORE)
    score_of = partial(mean_iou, pairs=val, classes=classes)
    facts = fit(model, optimizer, stream, loss_of, score_of, arguments.minutes, PEAK, WARM)
    folder = arguments.out / "predictions"
    folder.mkdir(exist_ok=True)
    with torch.inference_mode(), autocast():
        for number, (row, (image, _)) in enumerate(zip(manifest["val"], val, strict=True)):
            size = (row["size"][1], row["size"][0])
            answer = cv2.resize(predict(model, image), size, interpolation=cv2.INTER_NEAREST_EXACT)
            cv2.imwrite(str(folder / f"{number:05d}.png"), answer)
    facts |= {"torch": torch.__version__, "segmentation_models_pytorch": smp.__version__}
    facts |= {"parameters": sum(p.numel() for p in model.parameters())}
    named = ("scale", "crop", "zoom", "turn", "batch")
    facts["settings"] = {name: getattr(arguments, name) for name in named} | {"lr": PEAK, "weight_decay": DECAY}
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
