"""YOLO9000 (Redmon & Farhadi 2017, section 4): YOLOv2 whose classes are a tree, and which learns from images with boxes
and from images with nothing but a class.

Classes are the nodes of a WordTree: a softmax among the children of each node, so that a box may be surely a dog and
unsure of which. An image with boxes teaches as ever. An image with a class alone teaches the class at the box that
believes in it most, by confidence times P(class) as in the released code, since the confidence is the probability that
the tree has at its root; and asks this box for a confidence of 0.3, as if it met the object by that much. Of where the
object is, it says nothing.

Letters: b images, A boxes of an image, T the most objects of an image, C classes (nodes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.cells import CellOutputs, at_places, confident_detections
from saccade.layers.stages import BoxStage, found_targets, prior_stage, suppression_stages
from saccade.layers.targets import detection_targets
from saccade.layers.wordtree import WordTree
from saccade.models.detectors import yolo2
from saccade.models.detectors.yolo2 import Sizes, location_losses
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Range, Share

PAPER = Paper(
    title="YOLO9000: Better, Faster, Stronger",
    authors="Redmon, Farhadi",
    year=2017,
    where="CVPR 2017, arXiv 1612.08242",
)
TASKS = ("detect",)
TAKES_LABELS = True
PRIORS = yolo2.in_pixels(0.77871, 1.14074, 3.00525, 4.31277, 9.22725, 9.61974)  # yolo9000.cfg
ASSUMED = 0.3  # IoU that the box of an image without boxes is taken to have (section 4, "Joint classification ...")


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are yolo9000's. Fields without a comment are those of yolo2."""

    classes: Count = 9418
    # of each class the number of its parent, -1 at the top; none: a flat tree. `--tree FILE` fills it by names.
    tree: tuple[Count, ...] = ()
    trunk: str = "darknet19"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    trunk_norm: Literal["batch", "frozen", "none"] | None = None  # see yolo2
    convs: tuple[Count, ...] = ()  # channels of the 3x3 convolutions on the trunk's last map
    passthrough: Literal["reduced", "whole", "none"] = "none"  # see yolo2
    joined: Natural = 0  # channels of the 3x3 convolution behind the passthrough
    priors: Sizes = PRIORS
    fit_priors: bool = True  # fit `priors` to the training boxes
    coordinates: NonNegative = 1.0
    objects: NonNegative = 5.0
    background: NonNegative = 1.0
    ignore: Share = 0.6  # boxes that overlap an object by a larger IoU are not punished for their confidence
    prior_images: Natural = 12_800  # images for which boxes without an object learn to be their priors; 0: none
    # joint training: images with a class alone for each image with boxes in an epoch, at most; the latter are repeated
    labelled_images: Annotated[float, Range(0.01, 1e6)] = 4.0
    sure: Share = 0.5  # probability from which a class answers in place of the one above it
    score_threshold: Share = 0.001
    nms_iou: Share = 0.45
    candidates: Count = 400  # best boxes of each class that enter NMS
    keep: Count = 200  # boxes an image after NMS


VARIANTS: dict[str, Config] = {
    "yolo9000": Config(),
    # Ours: yolo2_small with a tree.
    "yolo9000_small": Config(
        classes=20,
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(1, 2, 3),
        convs=(256,),
        passthrough="reduced",
        joined=256,
        priors=yolo2.VOC,
        background=0.1,
    ),
}
SIZE: dict[str, int] = {"yolo9000": 544, "yolo9000_small": 320}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": yolo2.RECIPES["default"]["*"],
        "yolo9000_small": yolo2.RECIPES["default"]["yolo2_small"],
    },
    "paper": {"*": yolo2.RECIPES["paper"]["*"] | {"size": 544, "multi_scale": 0.0}},
}


class Model(nn.Module):
    """YOLO9000.

    Raises:
        UsageError: a tree of another number of classes, or one that is none.
    """

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.tree and len(config.tree) != config.classes:
            raise UsageError(f"the tree has {len(config.tree)} classes, the data {config.classes}")
        self.config = config
        shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(yolo2.Config) if hasattr(config, f.name)}
        self.network = yolo2.Model(yolo2.Config(**shared))
        self.tree = WordTree(config.tree or (-1,) * config.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [b, 3, H, W] in [0, 1] -> [b, k (5 + C), h, w], as those of yolo2; the classes are a tree's."""
        out: Tensor = self.network(images)
        return out

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable.

        A score is confidence times P(class), 0 for a class of which a child is surer than `sure`.
        """
        return self._scored(self.network.cells(images))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Those of yolo2, where `class` is -ln P(class) along its path; and `label`, of the images with a class and no
        boxes. All are sums as means over the images."""
        config, network = self.config, self.network
        assert batch.truth is not None
        device = batch.images.device
        stated = [-1 if truth.label is None else truth.label for truth in batch.truth]
        label = torch.tensor(stated).to(device, non_blocking=True)
        boxed = label < 0
        cells = network.cells(batch.images)
        targets = detection_targets(batch, config.classes)
        losses, places, counts = location_losses(targets, cells, [network.get_buffer("priors")], config)
        logs = self.tree(cells.values[..., 5:])
        named = at_places(logs, places).gather(2, targets.labels[..., None])[..., 0]
        losses["class"] = -named * counts
        losses["background"] = losses["background"] * boxed[:, None]
        losses["prior"] = losses["prior"] * boxed[:, None] * (network.seen < config.prior_images)
        believed = logs.gather(2, label.clamp(min=0)[:, None, None].expand(-1, logs.shape[1], 1))[..., 0]  # [b, A]
        certain = functional.logsigmoid(cells.values[..., 4].float())
        best = (believed + certain).detach().argmax(1, keepdim=True)
        sure = cells.values[..., 4].gather(1, best)[:, 0].sigmoid()
        confidence = config.objects / 2 * (ASSUMED - sure).clamp(min=0).square()
        losses["label"] = (confidence - believed.gather(1, best)[:, 0]) * ~boxed
        if self.training:
            network.seen += len(batch)
        return {name: value.sum() / len(batch) for name, value in losses.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        return confident_detections(self.network.cells(batch.images), self._scored, batch.sizes, self.config)

    def _scored(self, cells: CellOutputs) -> tuple[Tensor, Tensor]:
        """Scores [b, A, C] in [0, 1] and boxes [b, A, 4] in pixels of what cells state."""
        probabilities = self.tree.deepest(self.tree(cells.values[..., 5:]).exp(), self.config.sure)
        return cells.values[..., 4:5].sigmoid() * probabilities, cells.boxes()

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The priors that would answer for what is found, boxes before suppression and after."""
        config, (scores, boxes), answer = self.config, self.scored_boxes(batch.images), self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        mine = prior_stage(self.network.cells(batch.images), [self.network.get_buffer("priors")], targets)
        threshold, nms = config.score_threshold, config.nms_iou
        return [mine, *suppression_stages(boxes[0], scores[0], answer.size, threshold, nms, answer, 0.0)]


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Fit the priors to the boxes of `examples`, as yolo2's."""
    fitted: Config = yolo2.adapt(config, examples)
    return fitted


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {
    ".weights": lambda path, model: {
        f"network.{name}": value
        for name, value in yolo2.FILES[".weights"](path, model.get_submodule("network")).items()
    }
}
