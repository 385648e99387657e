"""Any detector of Darknet: the network that a `.cfg` states, with a head of YOLO v1, v2 or v3.

The text of the file is a field of Config (`--set cfg=FILE`), so that a checkpoint holds all of it. For other classes
than the file's the layer before each head is made anew. What is answered, and what is learned, is what the rooms
`yolo1.py`, `yolo2.py` and `yolo3.py` say of `[detection]`, `[region]` and `[yolo]`; the weights of the parts of the
loss are the file's. Its other words on training (learning rate, jitter, ...) are not read: recipes are Saccade's.

Letters: b images, A boxes of an image, C classes, T the most objects of an image, k priors of a map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import fit_anchors, sides_of_boxes
from saccade.layers.cells import CellOutputs, at_places, confident_detections, read_cells
from saccade.layers.detections import detections
from saccade.layers.stages import BoxStage, found_targets, prior_stage, suppression_stages
from saccade.layers.targets import detection_targets
from saccade.models.darknet_network import Convolution, FixedSide, Head, Network, network_of_shapes
from saccade.models.darknet_sections import read_cfg, read_sections
from saccade.models.darknet_weights import read_for_model
from saccade.models.detectors.yolo1 import Outputs, cell_stage, read_grid, scored, square_losses
from saccade.models.detectors.yolo2 import SQUARED_START, location_losses, start_head
from saccade.models.detectors.yolo3 import LOGISTIC_START, logistic_losses
from saccade.models.paper import Paper
from saccade.ranges import Count, Share

PAPER = Paper(
    title="YOLOv3: An Incremental Improvement",
    authors="Redmon, Farhadi",
    year=2018,
    where="arXiv 1804.02767",
)
TASKS = ("detect",)
Sizes = tuple[tuple[float, float], ...]


def _text(side: int, *layers: str) -> str:
    """A `.cfg` of short words: "c3 32" a 3x3 convolution of 32 maps, "c3/2 32" of stride 2, "head 3,4,5" the last
    convolution and a [yolo] of these anchors, "route -4" any other section with its one option."""
    options = {"route": "layers", "shortcut": "from", "upsample": "stride"}
    lines = ["[net]", f"width={side}", f"height={side}", "channels=3"]
    for layer in layers:
        word, value = layer.split()
        if word == "head":
            lines += ["[convolutional]", f"filters={25 * len(value.split(','))}", "size=1", "activation=linear"]
            lines += ["[yolo]", f"mask={value}", "anchors=8,8, 16,24, 32,24, 48,64, 96,72, 160,160", "num=6"]
            lines += ["classes=20", "ignore_thresh=.5"]
        elif word in options:
            lines += [f"[{word}]", f"{options[word]}={value}"]
        else:
            size, _, stride = word.removeprefix("c").partition("/")
            lines += ["[convolutional]", "batch_normalize=1", f"filters={value}", f"size={size}"]
            lines += [f"stride={stride or 1}", "pad=1", "activation=leaky"]
    return "\n".join(lines) + "\n"


# Ours: residual, two maps of strides 16 and 8, which learns from scratch on a CPU; an example of the form.
SMALL = _text(
    320,
    *("c3/2 16", "c3/2 32", "c1 16", "c3 32", "shortcut -3", "c3/2 64", "c1 32", "c3 64", "shortcut -3"),
    *("c1 32", "c3 64", "shortcut -3", "c3/2 128", "c1 64", "c3 128", "shortcut -3", "c1 64", "c3 128", "shortcut -3"),
    *("c1 64", "c3 128", "head 3,4,5", "route -4", "c1 32", "upsample 2", "route -1,11", "c1 48", "c3 96"),
    "head 0,1,2",
)


@dataclass(frozen=True)
class Config:
    """The network and how it answers; how it learns is said in the file."""

    classes: Count = 20
    # a Darknet .cfg, by name; its text is kept
    cfg: str = field(default=SMALL, metadata={"read": read_cfg})
    # of each [region] or [yolo] in the order of the file: (width, height) in pixels of the input; none: the file's
    priors: tuple[Sizes, ...] = ()
    fit_priors: bool = True  # fit `priors` to the training boxes by k-means under 1 - IoU
    score_threshold: Share = 0.005
    nms_iou: Share = 0.45
    candidates: Count = 400  # best boxes of each class that enter NMS
    keep: Count = 200  # boxes an image after NMS


VARIANTS: dict[str, Config] = {"darknet_cfg": Config()}
SIZE: dict[str, int] = {"darknet_cfg": 320}
_DEFAULT: dict[str, Any] = {
    "size": 320,
    "batch": 8,
    "epochs": 60,
    "optimizer": "adamw",
    "lr": 1.5e-3,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 10.0,
    "ema": 0.995,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.25,
    "color": 0.3,
}
_PAPER: dict[str, Any] = {  # YOLOv3, section 2.3 and yolov3.cfg
    "size": 416,
    "batch": 64,
    "epochs": 270,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.8, 0.9),
    "warmup": 0.002,
    "clip_norm": 0.0,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.3,
    "color": 0.5,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {"default": {"*": _DEFAULT}, "paper": {"*": _PAPER}}
PRIOR_IMAGES = 12_800  # images for which idle boxes of a [region] learn to be their priors (Darknet's release)


@dataclass(frozen=True, slots=True)
class Weights:
    """What the file says of the loss, by the names of the rooms whose losses these are."""

    coordinates: float
    objects: float
    background: float
    named: float  # of the classes
    ignore: float
    rescored: bool  # [region]: confidence learns the IoU; else 1
    centre: Literal["logistic"] = "logistic"

    @classmethod
    def of(cls, head: Head) -> Weights:
        section = head.section
        box, objects, background, named = (
            section.number(f"{part}_scale", 1.0) for part in ("coord", "object", "noobject", "class")
        )
        ignore = section.number("ignore_thresh" if section.kind == "yolo" else "thresh", 0.5)
        return cls(box, objects, background, named, ignore, section.whole("rescore", 0, 0) > 0)


class Model(nn.Module):
    """A detector of Darknet.

    Raises:
        UsageError: layers that do not fit each other, heads of several kinds, priors that are not as many as the boxes.
    """

    seen: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = Network(read_sections(config.cfg), config.classes)
        heads = self.network.heads
        self.kind = _one_kind(heads)
        self.weights = Weights.of(heads[0])
        if config.priors and [len(own) for own in config.priors] != [head.boxes for head in heads if head.priors]:
            raise UsageError(
                f"priors of {[len(own) for own in config.priors]} shapes; this cfg has heads of "
                f"{[head.boxes for head in heads if head.priors]}"
            )
        for i, head in enumerate(heads):
            last = self.network.layers[head.number]
            if isinstance(last, Convolution):
                start_head(last.conv, head.boxes, LOGISTIC_START if self.kind == "yolo" else SQUARED_START)
                priors = config.priors[i] if config.priors else head.priors
                self.register_buffer(f"priors{i}", torch.tensor(priors), persistent=False)
            elif isinstance(last, FixedSide) and isinstance(last.layer, nn.Linear):
                nn.init.normal_(last.layer.weight, std=0.01)
                nn.init.zeros_(last.layer.bias)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # images of training so far
        if not any(isinstance(layer, FixedSide) for layer in self.network.layers):
            self.side_step = max(32, self.network.step)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [b, 3, H, W] in [0, 1] -> what each head reads, in the order of the file: [b, k (5 + C), h, w], or of
        [detection] [b, S S (C + 5 B), 1, 1].

        Raises:
            UsageError: sides that the file's joined maps cannot have.
        """
        step = self.network.step
        if images.shape[-2] % step or images.shape[-1] % step:
            raise UsageError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels: this cfg joins maps of several strides and "
                f"needs sides that are multiples of {step}; use another --size"
            )
        answers: tuple[Tensor, ...] = self.network(images)
        return answers

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        if self.kind == "detection":
            return scored(self._squares(images), images)
        return self._scored(self._cells(images))

    def _scored(self, cells: CellOutputs) -> tuple[Tensor, Tensor]:
        """Scores [b, A, C] in [0, 1] and boxes [b, A, 4] in pixels of what cells state."""
        logits = cells.values[..., 5:]
        named = logits.softmax(-1) if self.kind == "region" else logits.sigmoid()
        return cells.values[..., 4:5].sigmoid() * named, cells.boxes()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss of yolo1, yolo2 or yolo3, each a sum as a mean over the images."""
        targets, weights = detection_targets(batch, self.config.classes), self.weights
        if self.kind == "detection":
            losses = square_losses(targets, self._squares(batch.images), batch.images, weights)
            losses["object"] = weights.objects * losses["object"]
            losses["class"] = weights.named * losses["class"]
        elif self.kind == "yolo":
            losses = logistic_losses(targets, self._cells(batch.images), self._priors(), weights)
        else:
            cells = self._cells(batch.images)
            losses, places, counts = location_losses(targets, cells, self._priors(), weights)
            if not weights.rescored:
                sure = cells.values[..., 4].sigmoid().gather(1, places)
                losses["object"] = weights.objects / 2 * (1 - sure).square() * counts
            named = at_places(cells.values[..., 5:], places).transpose(1, 2)
            losses["class"] = weights.named * F.cross_entropy(named, targets.labels, reduction="none") * counts
            losses["prior"] = losses["prior"] * (self.seen < PRIOR_IMAGES)
        if self.training:
            self.seen += len(batch)
        return {name: value.sum() / len(batch) for name, value in losses.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        config = self.config
        if self.kind != "detection":
            return confident_detections(self._cells(batch.images), self._scored, batch.sizes, config)
        limits = config.score_threshold, config.candidates, config.nms_iou, config.keep
        return detections(*self.scored_boxes(batch.images), batch.sizes, *limits)

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """What would answer for what is found, boxes before suppression and after."""
        config, (scores, boxes), answer = self.config, self.scored_boxes(batch.images), self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        if self.kind == "detection":
            mine = cell_stage(self._squares(batch.images)[3], batch.images, targets)
        else:
            mine = prior_stage(self._cells(batch.images), self._priors(), targets)
        threshold, nms = config.score_threshold, config.nms_iou
        return [mine, *suppression_stages(boxes[0], scores[0], answer.size, threshold, nms, answer, 0.0)]

    def _squares(self, images: Tensor) -> Outputs:
        """What the cells of [detection] state."""
        head, [x] = self.network.heads[0], self(images)
        return read_grid(x.float().flatten(1), head.cells, self.config.classes, head.boxes)

    def _priors(self) -> list[Tensor]:
        return [self.get_buffer(f"priors{i}") for i in range(len(self.network.heads))]

    def _cells(self, images: Tensor) -> CellOutputs:
        height, width = images.shape[-2:]
        return read_cells(self(images), self._priors(), (height, width), direct=True)


def _one_kind(heads: Sequence[Head]) -> str:
    """The kind of all heads. Raises UsageError where there are several, or more of one than it can have."""
    first = heads[0]
    for head in heads[1:]:
        if head.section.kind != first.section.kind or head.section.kind != "yolo" or head.classes != first.classes:
            raise head.section.fault(
                f"a second head, of {head.classes} classes, beside [{first.section.kind}] in line "
                f"{first.section.line} of {first.classes}; only [yolo] may come again, with the same classes"
            )
    return first.section.kind


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Fit the priors of [region] and [yolo] to the boxes of `examples`, in pixels of the network's input, and deal them
    out by size, the largest to the map of the largest cells. Fewer boxes than ten for each leave them as they are."""
    heads = [head for head in network_of_shapes(read_sections(config.cfg)).heads if head.priors]
    sides, number = sides_of_boxes(examples), sum(head.boxes for head in heads)
    if not config.fit_priors or not heads or len(sides) < 10 * number:
        return config
    fitted = [(float(w), float(h)) for w, h in fit_anchors(sides, number).tolist()]
    priors: dict[int, Sizes] = {}
    for i in sorted(range(len(heads)), key=lambda i: -heads[i].cells[0]):  # from the finest
        priors[i], fitted = tuple(fitted[: heads[i].boxes]), fitted[heads[i].boxes :]
    return dataclasses.replace(config, priors=tuple(priors[i] for i in range(len(heads))))


def priors_of(config: Config) -> tuple[Sizes, ...]:
    """The priors of each head that has some, in pixels of the network's input: those of the Config, else the file's."""
    heads = network_of_shapes(read_sections(config.cfg)).heads
    return config.priors or tuple(head.priors for head in heads if head.priors)


def _read(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the `.weights` that belong to the model's file, heads of the file's own classes included.

    Raises:
        ModelFileError: unreadable, damaged.
        UsageError: shorter or longer than the file's layers need.
    """
    network = network_of_shapes(read_sections(model.config.cfg))  # type: ignore[union-attr, arg-type]
    state = read_for_model(path, network, exact=True)
    return {f"network.{name}": value for name, value in state.items()} | {"seen": torch.tensor(PRIOR_IMAGES)}


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".weights": _read}
