"""Peer of the task cifar: the ResNet-20 of He et al. 2016 (sec. 4.2) by a plain one-cycle script.

SGD with Nesterov momentum, weight decay 5e-4, batch 128, mirror and pad-4 crop, bf16 as in one_cycle.py, channels last,
no label smoothing; images at their own size, kept in memory. Runs in the peers' environment; `same_minutes.py` starts
it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from one_cycle import autocast, fit
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, PEAK, WARM, DECAY, PAD = 128, 0.2, 0.2, 5e-4, 4


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(y + short)


class ResNet20(nn.Module):
    """[b, 3, 32, 32] normalised to [b, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths, blocks = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64], []
        for before, width in itertools.pairwise(widths):
            blocks.append(Block(before, width, 1 if before == width else 2))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def read(rows: list[dict[str, str]]) -> Tensor:
    """All images of one side of the split: [n, 3, 32, 32] in [0, 1]."""
    pixels = np.stack([np.asarray(Image.open(row["image"]).convert("RGB")) for row in rows])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def batches(images: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, mirrored with probability 1/2, padded by 4 pixels and cropped back; the last short batch is dropped."""
    generator = torch.Generator().manual_seed(seed)
    side = images.shape[-1]
    padded = F.pad(images, (PAD,) * 4)
    while True:
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) < BATCH:
                continue
            corners = torch.randint(0, 2 * PAD + 1, (BATCH, 2), generator=generator)
            mirrored = (torch.rand(BATCH, generator=generator) < 0.5).tolist()
            crops = []
            for row, (top, left), mirror in zip(rows.tolist(), corners.tolist(), mirrored, strict=True):
                crop = padded[row, :, top : top + side, left : left + side]
                crops.append(crop.flip(2) if mirror else crop)
            yield torch.stack(crops), labels[rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    manifest = json.loads(arguments.manifest.read_text(encoding="utf-8"))
    train, val = read(manifest["train"]), read(manifest["val"])
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    train, val = (train - mean) / std, (val - mean) / std
    labels = torch.tensor([row["label"] for row in manifest["train"]])
    truth = torch.tensor([row["label"] for row in manifest["val"]])
    model: nn.Module = ResNet20(len(manifest["classes"]))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), PEAK, momentum=0.9, nesterov=True, weight_decay=DECAY)

    def logits_of(model: nn.Module) -> Tensor:
        parts = [model(part.to(memory_format=torch.channels_last)) for part in val.split(250)]
        return torch.cat(parts).float()

    def score_of(model: nn.Module) -> float:
        return float((logits_of(model).argmax(1) == truth).float().mean())

    stream = batches(train, labels, arguments.seed)
    facts = fit(model, optimizer, stream, F.cross_entropy, score_of, arguments.minutes, PEAK, WARM)
    with torch.inference_mode(), autocast():
        scores = logits_of(model).softmax(1)
    np.savez(arguments.out / "predictions.npz", scores=scores.numpy())
    facts |= {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}
    facts |= {"settings": {"batch": BATCH, "lr": PEAK, "warmup": WARM, "weight_decay": DECAY}}
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
