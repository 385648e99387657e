"""Darknet's files for tests: .weights written, and networks run as .cfg files state them.

The latter is an oracle for published .weights files; it knows what those of the tests need, and nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.darknet_weights import file_layers
from saccade.ops.nms import batched_nms

Section = tuple[str, dict[str, str]]


def write_weights(path: Path, model: nn.Module) -> None:
    """The numbers of a model in the order of its modules, as version 0.2."""
    state = model.state_dict()
    blocks = [state[name].numpy().astype("<f4").tobytes() for layer in file_layers(model) for name, _ in layer.blocks]
    path.write_bytes(struct.pack("<iiiq", 0, 2, 0, 0) + b"".join(blocks))


def read_cfg(path: Path) -> list[Section]:
    """(kind, options) of each section, [net] first."""
    sections: list[Section] = []
    for line in path.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("["):
            sections.append((text.strip("[]"), {}))
        elif text:
            key, _, value = text.partition("=")
            sections[-1][1][key.strip()] = value.strip()
    return sections


def pool(x: Tensor, size: int, stride: int) -> Tensor:
    """Padded by size - 1 in all, the larger half right and below."""
    before = (size - 1) // 2
    after = size - 1 - before
    return F.max_pool2d(F.pad(x, (before, after, before, after), value=float("-inf")), size, stride)


def reorg(x: Tensor, stride: int) -> Tensor:
    """Darknet's loops over [1, c, h, w], number by number: the input is read as maps of `stride` times the side."""
    _, c, h, w = x.shape
    flat, out = x.flatten(), torch.empty(c * h * w)
    own = c // stride**2
    for k, j, i in torch.cartesian_prod(torch.arange(c), torch.arange(h), torch.arange(w)).tolist():
        offset = k // own
        column, row = i * stride + offset % stride, j * stride + offset // stride
        out[i + w * (j + h * k)] = flat[column + w * stride * (row + h * stride * (k % own))]
    return out.view(1, c * stride**2, h // stride, w // stride)


def region(x: Tensor, options: dict[str, str], side: int) -> Tensor:
    """YOLOv2, section 2: [1, k (5 + C), h, w] -> [h w k, 4 + C], centre and size in shares, scores.

    Scores below `thresh` become 0, which the programs that read these files do before any threshold of the user.
    """
    sizes = torch.tensor([float(v) for v in options["anchors"].split(",")]).reshape(-1, 2) / x.shape[-1]
    found = decoded(x, sizes, lambda classes: classes.softmax(-1))
    found[:, 4:] *= found[:, 4:] > float(options["thresh"])
    return found


def yolo(x: Tensor, options: dict[str, str], side: int) -> Tensor:
    """YOLOv3, section 2: as `region`, classes by logistic outputs; anchors in pixels of the input."""
    sizes = torch.tensor([float(v) for v in options["anchors"].split(",")]).reshape(-1, 2) / side
    chosen = [int(v) for v in options["mask"].split(",")]
    return decoded(x, sizes[chosen], torch.sigmoid)


def decoded(x: Tensor, sizes: Tensor, probabilities: Callable[[Tensor], Tensor]) -> Tensor:
    _, _, h, w = x.shape
    x = x[0].reshape(len(sizes), -1, h, w).permute(2, 3, 0, 1)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cells = torch.stack([columns, rows], -1)[:, :, None]
    centres = (x[..., :2].sigmoid() + cells) / torch.tensor([w, h])
    scores = x[..., 4:5].sigmoid() * probabilities(x[..., 5:])
    return torch.cat([centres, x[..., 2:4].exp() * sizes, scores], -1).flatten(0, 2)


class CfgNetwork(nn.Module):
    """Modules stand in the order of the file, so that `read_for_model` reads its weights."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        (_, net), *self.sections = read_cfg(path)
        self.side, before, widths = int(net["width"]), int(net["channels"]), []
        self.layers = nn.ModuleList()
        for i, (kind, options) in enumerate(self.sections):
            layer = nn.Sequential()
            if kind == "convolutional":
                size, normed = int(options["size"]), options.get("batch_normalize") == "1"
                after, groups = int(options["filters"]), int(options.get("groups", 1))
                padding = size // 2 if options.get("pad") == "1" else 0
                layer.append(
                    nn.Conv2d(before, after, size, int(options["stride"]), padding, 1, groups, bias=not normed)
                )
                if normed:
                    layer.append(nn.BatchNorm2d(after))
                if options["activation"] == "leaky":
                    layer.append(nn.LeakyReLU(0.1))
                before = after
            elif kind == "route":
                before = sum(widths[place(i, text)] for text in options["layers"].split(","))
            elif kind == "reorg":
                before *= int(options["stride"]) ** 2
            widths.append(before)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, side, side] in [0, 1] -> [boxes, 4 + C] of all heads."""
        done: list[Tensor] = []
        heads = []
        for i, ((kind, options), layer) in enumerate(zip(self.sections, self.layers, strict=True)):
            if kind == "convolutional":
                x = layer(x)
            elif kind == "maxpool":
                x = pool(x, int(options["size"]), int(options["stride"]))
            elif kind == "reorg":
                x = reorg(x, int(options["stride"]))
            elif kind == "upsample":
                x = F.interpolate(x, scale_factor=int(options["stride"]))
            elif kind == "shortcut":
                x = x + done[place(i, options["from"])]
            elif kind == "route":
                x = torch.cat([done[place(i, text)] for text in options["layers"].split(",")], 1)
            elif kind in ("region", "yolo"):
                heads.append({"region": region, "yolo": yolo}[kind](x, options, self.side))
            elif kind != "dropout":
                raise ValueError(kind)
            done.append(x)
        return torch.cat(heads)

    @torch.no_grad()
    def detect(self, image: np.ndarray, threshold: float, overlap: float) -> list[tuple[int, float, list[float]]]:
        """[side, side, 3] uint8 RGB -> (class, score, box in shares of the image) by falling score."""
        found = self(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        scores, labels = found[:, 4:].max(1)
        keep = scores > threshold
        scores, labels, centres, sizes = scores[keep], labels[keep], found[keep, :2], found[keep, 2:4]
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
        rows = batched_nms(boxes, scores, labels, overlap)
        return [(int(labels[i]), float(scores[i]), boxes[i].tolist()) for i in rows.tolist()]


def cfg_text(side: int, *layers: str) -> str:
    """A .cfg for square images: "c 3 1024" is a convolution of 1,024 filters 3 x 3 with batch norm and leaky ReLU, with
    the stride where a third number stands; "h 75" the linear 1x1 one of a head; "p 2 1" a max-pool and its stride; any
    other line the name of a section and its options."""
    lines = ["[net]", f"width={side}", f"height={side}", "channels=3"]
    for layer in layers:
        word, *rest = layer.split()
        if word == "c":
            size, filters, stride = (*rest, "1")[:3]
            lines += ["[convolutional]", "batch_normalize=1", f"filters={filters}", f"size={size}"]
            lines += [f"stride={stride}", "pad=1", "activation=leaky"]
        elif word == "h":
            lines += ["[convolutional]", f"filters={rest[0]}", "size=1", "stride=1", "pad=1", "activation=linear"]
        elif word == "p":
            lines += ["[maxpool]", f"size={rest[0]}", f"stride={rest[1]}"]
        else:
            lines += [f"[{word}]", *rest]
    return "\n".join(lines)


def place(section: int, text: str) -> int:
    """The number of a layer that a section refers to: absolute, or backwards from itself."""
    number = int(text)
    return number if number >= 0 else section + number
