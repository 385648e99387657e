"""Peer of the tasks penn_fudan and nuclei: torchvision's Mask R-CNN on a feature pyramid, from scratch.

SGD (momentum 0.9, weight decay 5e-4) in one cycle, mirrored images, float32, as in torchvision's own tutorial and
reference scripts; images in memory. No minute goes to validation: the weights that are judged are the last ones, after
the learning rate has fallen to zero. `resnet50` is torchvision's `maskrcnn_resnet50_fpn` as it stands, `resnet18` the
same with a smaller trunk, which sees several times as many images in the same minutes. Runs in the peers' environment;
`same_minutes.py` starts it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from one_cycle import one_cycle
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

WARM, MOMENTUM, DECAY, SCORE = 0.1, 0.9, 5e-4, 0.01

Sample = tuple[Tensor, dict[str, Tensor]]


def build(trunk: str, classes: int, size: int) -> nn.Module:
    """The network for images whose longer side is `size`."""
    sizes = {"min_size": size, "max_size": size, "box_score_thresh": SCORE}
    if trunk == "resnet50":
        return detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes + 1, trainable_backbone_layers=5, **sizes
        )
    backbone = resnet_fpn_backbone(backbone_name=trunk, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    return detection.MaskRCNN(backbone, classes + 1, **sizes)


def read(row: dict[str, Any]) -> Sample:
    """An image [3, H, W] in [0, 1] and its objects; the map of a row numbers them from 1."""
    image = torch.from_numpy(np.array(Image.open(row["image"]).convert("RGB"))).permute(2, 0, 1).float() / 255
    numbers = torch.from_numpy(np.array(Image.open(row["mask"])).astype(np.int64))
    masks = [numbers == i + 1 for i in range(len(row["labels"]))]
    shown = [i for i, mask in enumerate(masks) if mask.any()]
    boxes = torch.zeros(len(shown), 4)
    for box, i in zip(boxes, shown, strict=True):
        y, x = masks[i].nonzero().unbind(1)
        box[:] = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
    stacked = torch.stack([masks[i] for i in shown]) if shown else torch.zeros(0, *numbers.shape)
    labels = torch.tensor([row["labels"][i] + 1 for i in shown], dtype=torch.int64)
    return image, {"boxes": boxes, "labels": labels, "masks": stacked.to(torch.uint8)}


def mirrored(sample: Sample) -> Sample:
    image, target = sample
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    boxes = torch.stack((width - x2, y1, width - x1, y2), 1)
    return image.flip(2), target | {"boxes": boxes, "masks": target["masks"].flip(2)}


def batches(samples: list[Sample], batch: int, seed: int) -> Iterator[list[Sample]]:
    """Half of the images mirrored, in a shuffled order, without end."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(samples))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = [samples[i] for i in order[start : start + batch]]
            yield [mirrored(sample) if rng.random() < 0.5 else sample for sample in chosen]


def fit(model: nn.Module, stream: Iterator[list[Sample]], minutes: float, peak: float) -> dict[str, Any]:
    """Train for `minutes` of wall clock."""
    optimizer = torch.optim.SGD(model.parameters(), peak, momentum=MOMENTUM, weight_decay=DECAY)
    start, steps, images, shown = time.monotonic(), 0, 0, 0
    model.train()
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(share, peak, WARM)
        inputs, targets = zip(*next(stream), strict=True)
        losses = model(list(inputs), list(targets))
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps, images = steps + 1, images + len(inputs)
        if not loss.isfinite():
            raise SystemExit(f"the loss is no longer finite after {steps} steps")
        if share * 10 >= shown:
            shown += 1
            parts = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"{share:.2f} of the run, step {steps}: {parts}", flush=True)
    seconds = time.monotonic() - start
    return {"seconds": round(seconds, 1), "steps": steps, "images": images, "images_per_second": images / seconds}


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """[H, W] bool -> COCO's uncompressed run lengths: down the columns, beginning with zeros."""
    line = np.concatenate(([0], mask.T.ravel().astype(np.int8), [2]))
    turns = np.flatnonzero(np.diff(line))
    counts = np.diff(turns, prepend=0).tolist()
    return {"size": list(mask.shape), "counts": counts}


@torch.inference_mode()
def predict(model: nn.Module, rows: list[dict[str, Any]], samples: list[Sample]) -> list[dict[str, Any]]:
    """Rows of a COCO results file with masks; a category id is the class index + 1, which is torchvision's label."""
    model.eval()
    found = []
    for row, (image, _) in zip(rows, samples, strict=True):
        answer = {key: value.numpy() for key, value in model([image])[0].items()}
        for (x1, y1, x2, y2), label, score, mask in zip(
            *(answer[key].tolist() for key in ("boxes", "labels", "scores")), answer["masks"][:, 0], strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"image_id": row["id"], "category_id": label, "bbox": box, "score": score}
            found.append(entry | {"segmentation": run_lengths(mask > 0.5)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=320, help="longer side of the network's input")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--trunk", choices=("resnet18", "resnet50"), default="resnet50")
    parser.add_argument("--lr", type=float, default=0.01, help="peak of the cycle")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    manifest = json.loads(arguments.manifest.read_text(encoding="utf-8"))
    train, val = ([read(row) for row in manifest[split]] for split in ("train", "val"))
    model = build(arguments.trunk, len(manifest["classes"]), arguments.size)
    facts = fit(model, batches(train, arguments.batch, arguments.seed), arguments.minutes, arguments.lr)
    (arguments.out / "predictions.json").write_text(json.dumps(predict(model, manifest["val"], val)), encoding="utf-8")
    facts |= {"torch": torch.__version__, "torchvision": torchvision.__version__}
    facts |= {"parameters": sum(p.numel() for p in model.parameters())}
    facts["settings"] = {name: getattr(arguments, name) for name in ("size", "batch", "trunk", "lr")}
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
