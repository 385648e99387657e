"""Fast R-CNN (Girshick 2015): one map an image, from which every given region is pooled, named and corrected.

The network sees the image once. A RoI pooling layer cuts each region out of its last map (section 2.1); two fully
connected layers, pretrained with the trunk where it has them (section 2.2), lead to softmax scores and to a box for
each class, trained together by two losses (section 2.3). Regions come with the image (`Batch.given`), such as those of
selective search. As most of the time goes to the fully connected layers when there are thousands of regions,
`compress` factorises them by a truncated SVD (section 3.1).

Letters: b images, r regions an image, n = b r, s side of a pooled region, C classes.
Inside this file class 0 is the background; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.layout import global_pool
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.regions import (
    BoxPredictor,
    RegionOutputs,
    RegionRules,
    TwoLayerHead,
    draw_regions,
    given_regions,
    region_losses,
    region_predictions,
    scored_answers,
)
from saccade.layers.stages import BoxStage, SecondStage, aligned_bins, given_stage, pooled_bins
from saccade.layers.targets import detection_targets
from saccade.models.backbones import create_trunk
from saccade.models.contract import has_tail
from saccade.models.paper import Paper
from saccade.ops.roi_align import roi_align, to_rois
from saccade.ops.roi_pool import roi_pool
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(title="Fast R-CNN", authors="Girshick", year=2015, where="ICCV 2015, arXiv 1504.08083")
TASKS = ("detect",)
TAKES_PROPOSALS = True

Pooling = Literal["pool", "align"]


@dataclass(frozen=True)
class Config:
    """The network; defaults are fast_rcnn_vgg16's."""

    classes: Count = 20
    trunk: str = "vgg16"  # any classification network that gives feature maps; regions are pooled from the last one
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    trunk_hidden: Count | None = None  # units of the trunk's fc6 and fc7, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    trunk_norm_eps: NonNegative | None = None  # of the trunk's batch norms
    # regions go on through what the trunk has behind that map (fc6 and fc7 of VGG, the last stage of ResNet); without,
    # or where it has nothing, through two fresh layers of head_width units
    tail: bool = True
    head_width: Count = 1024
    pooling: Pooling = "pool"  # pool: RoIPool of the paper; align: RoIAlign, without rounding (He et al. 2017)
    pooled: Count | None = None  # side of a pooled region; none: what the trunk's tail takes, else 7
    # regions
    most_proposals: Count = 2000  # of those given for an image the first so many are read
    head_iou: Share = 0.5  # IoU of a positive region (section 2.3)
    background_iou: Share = 0.1  # least IoU of a background region: what overlaps less is easy (section 2.3)
    head_sample: Count = 64  # regions an image in the loss
    head_positive: Share = 0.25
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100
    # ranks of fc6 and fc7 in a network made by `compress`; the paper's 1024, 256
    svd: tuple[Count, Count] | None = None


VARIANTS: dict[str, Config] = {
    "fast_rcnn_vgg16": Config(),
    # Ours: three stages of half as wide a ResNet-18 (stride 16), batch norm, two layers of 256 units.
    "fast_rcnn_small": Config(
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(2, 2, 2),
        tail=False,
        head_width=256,
        pooling="align",
        background_iou=0.0,
        score_threshold=0.01,
        nms=0.5,
    ),
}
SIZE: dict[str, int] = {"fast_rcnn_vgg16": 600, "fast_rcnn_small": 320}

DEFAULT: dict[str, dict[str, Any]] = {
    "*": {
        "size": 600,
        "batch": 4,
        "epochs": 40,
        "optimizer": "sgd",
        "lr": 0.002,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup": 0.1,
        "clip_norm": 10.0,
        "resize": "letterbox",
        "flip": 0.5,
        "jitter": 0.3,
        "color": 0.3,
    },
    "fast_rcnn_small": {
        "size": 320,
        "batch": 8,
        "epochs": 60,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.02,
        "warmup": 0.05,
        "ema": 0.995,
    },
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": DEFAULT,
    "paper": {  # section 2.3: 30k + 10k steps of 2 images over the 5,011 of VOC 2007, shorter side 600 (section 5.2)
        "*": {
            "size": (600, 1000),
            "batch": 2,
            "epochs": 16,
            "optimizer": "sgd",
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.75,),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.0,
            "color": 0.0,
        },
    },
}
# Section 4.5: with given weights "conv3_1 and up" are learned. These are the four convolutions before it.
FREEZES: dict[str, dict[str, int]] = {"paper": {"fast_rcnn_vgg16": 4}}


def trunk_of(config: Any) -> Any:
    """The trunk that a Config with the fields `trunk`, `trunk_width`, ... and `tail` asks for."""
    return create_trunk(
        config.trunk,
        config.trunk_width,
        config.trunk_norm,
        config.trunk_norm_eps,
        config.trunk_depths,
        tail=config.tail and (config.trunk_hidden or True),
    )


class RoIHeads(nn.Module):
    """From regions of the trunk's last map to scores and boxes: pooling, the layers behind it, two outputs.

    What the trunk has behind its last map stays a part of the trunk. `box_head` stands in for it where there is none.

    Args:
        trunk: see `trunk_of`.
        config: has `classes`, `head_width`, `pooling`, `pooled`.
    """

    def __init__(self, trunk: Any, config: Any) -> None:
        super().__init__()
        self.pooling, self.scale = config.pooling, 1 / trunk.strides[-1]
        self.box_head: nn.Module | None = None
        if has_tail(trunk):
            self.side, width = config.pooled or trunk.tail_side, trunk.tail_channels
        else:
            self.side, width = config.pooled or 7, config.head_width
            self.box_head = TwoLayerHead(trunk.channels[-1] * self.side**2, width)
        self.box_predictor = BoxPredictor(width, config.classes)

    def forward(self, level: Tensor, regions: Tensor, trunk: Any) -> RegionOutputs:
        """The map [b, channels, h, w] and regions [b, r, 4] -> logits and offsets for each class."""
        rois = to_rois(regions)
        if self.pooling == "pool":
            pooled = roi_pool(level, rois, self.side, self.scale)
        else:
            pooled = roi_align(level, rois, self.side, self.scale, 2, aligned=True)
        hidden = trunk.tail(pooled) if self.box_head is None else self.box_head(pooled)
        hidden = global_pool(hidden) if hidden.ndim == 4 else hidden
        logits, deltas = self.box_predictor(hidden)
        return RegionOutputs(logits.unflatten(0, regions.shape[:2]), deltas.unflatten(0, regions.shape[:2]))

    def bins(self, level: Tensor, region: Tensor) -> BoxStage:
        """The bins of one region [4] on the CPU."""
        if self.pooling == "pool":
            return pooled_bins(region, self.side, self.scale, level)
        return aligned_bins(region, self.side)


class Model(nn.Module):
    """Fast R-CNN."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk_of(config)
        self.register_buffer("colour", mean_colour(self.trunk), persistent=False)
        self.roi_heads = RoIHeads(self.trunk, config)
        self.rules = RegionRules(
            positive_iou=config.head_iou,
            background_iou=config.background_iou,
            sample=config.head_sample,
            positive=config.head_positive,
            weights=config.box_weights,
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )
        if config.svd is not None:
            for (parent, name), rank in zip(_fully_connected(self), config.svd, strict=True):
                layer = parent.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                setattr(parent, name, nn.Sequential(*_two_layers(layer, rank)))

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Raw outputs for images [b, 3, H, W] in [0, 1] and regions [b, r, 4] in their pixels.

        Returns:
            (class logits [b, r, C + 1], offsets for each class [b, r, (C + 1) * 4]).
        """
        outputs = self.roi_heads(self.trunk.features(images)[-1], boxes, self.trunk)
        return outputs.logits, outputs.deltas

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class` and `box` (equation 1).

        Raises:
            UsageError: the batch has no regions.
        """
        targets = detection_targets(batch, self.config.classes)
        wanted = draw_regions(self._given(batch), targets, self.rules)
        return region_losses(self._outputs(batch, wanted.regions), wanted, self.rules)

    def scored_regions(self, images: Tensor, sizes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        return scored_answers(RegionOutputs(*self(images, boxes)), boxes, sizes, self.rules)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU. Raises UsageError as `loss`."""
        regions = self._given(batch)
        return region_predictions(self._outputs(batch, regions), regions, batch.sizes, self.rules)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The given regions, the bins of the surest, boxes before suppression and after."""
        regions = self._given(batch)
        level = self._level(batch)
        outputs = self.roi_heads(level, regions, self.trunk)
        second = SecondStage.of(outputs, regions, batch.sizes[0], self.rules)
        bins = self.roi_heads.bins(level, second.region)
        return [given_stage(regions[0]), bins, *second.to_answer(self.predict(batch)[0])]

    def _level(self, batch: Batch) -> Tensor:
        """The map [b, c, h, w] that regions are pooled from."""
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        maps: list[Tensor] = self.trunk.features(images)
        return maps[-1]

    def _outputs(self, batch: Batch, regions: Tensor) -> RegionOutputs:
        outputs: RegionOutputs = self.roi_heads(self._level(batch), regions, self.trunk)
        return outputs

    def _given(self, batch: Batch) -> Tensor:
        if batch.given is None:
            raise UsageError(
                "Fast R-CNN names regions that come with the images, and this batch has none: give the boxes of each "
                "image as Batch.given, from selective search, from a file or from another model (data/proposals.py)"
            )
        first = [given.boxes[: self.config.most_proposals] for given in batch.given]
        return given_regions(first, batch.images.device)


def example_inputs(config: Config, height: int, width: int, images: int) -> tuple[Tensor, ...]:
    """Images [images, 3, height, width] in [0, 1) and `most_proposals` regions [images, r, 4]; always the same."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(images, 3, height, width, generator=generator)
    ends = torch.rand(images, config.most_proposals, 2, 2, generator=generator)
    corners = torch.cat((ends.amin(2), ends.amax(2)), 2)
    return pictures, corners * corners.new_tensor([width, height, width, height])


def compress(model: Model, ranks: tuple[int, int]) -> Model:
    """The same network with both fully connected layers factorised: W [u, v] ~ U S V' of rank t, computed as two
    layers, S V' [t, v] without bias and U [u, t] with the bias of the layer: t (u + v) multiply-adds instead of u v.

    Args:
        model: any with such layers, fc6 and fc7; not changed.
        ranks: t of each, the paper's 1024 and 256; at the full rank min(u, v) outputs are equal.

    Raises:
        UsageError: no such layers, a rank above the full one, or a model that is compressed already.

    Source: section 3.1, "Truncated SVD for faster detection".
    """
    if model.config.svd is not None:
        raise UsageError(f"this network is compressed already, to ranks {model.config.svd}")
    small = Model(dataclasses.replace(model.config, svd=ranks)).to(next(model.parameters()))
    layers = [parent.get_submodule(name) for parent, name in _fully_connected(model)]
    factored: dict[int, nn.Module] = {}
    for layer, rank in zip(layers, ranks, strict=True):
        assert isinstance(layer, nn.Linear)
        u, s, v = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
        first, second = _two_layers(layer, rank)
        first.weight.data.copy_(s[:rank, None] * v[:rank])
        second.weight.data.copy_(u[:, :rank])
        second.bias.data.copy_(layer.bias.detach())
        factored[id(layer)] = nn.Sequential(first, second)
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if id(module) in factored:
            del state[f"{name}.weight"], state[f"{name}.bias"]
            state |= {f"{name}.{key}": value for key, value in factored[id(module)].state_dict().items()}
    small.load_state_dict(state)
    return small.train(model.training)


def _fully_connected(model: Model) -> list[tuple[nn.Module, str]]:
    """fc6 and fc7, each as the module that holds it and its name there."""
    behind = model.trunk.tail if model.roi_heads.box_head is None else model.roi_heads.box_head
    found = [(behind, name) for name, layer in behind.named_children() if isinstance(layer, nn.Linear)]
    if len(found) != 2:
        raise UsageError(
            f"svd factorises two fully connected layers, and regions pass none behind the trunk {model.config.trunk}; "
            "tail=false puts two there"
        )
    return found


def _two_layers(layer: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """Two layers in place of one, of any weights."""
    outputs, inputs = layer.weight.shape
    if not 0 < rank <= min(inputs, outputs):
        raise UsageError(
            f"rank {rank} of svd, allowed: 1 to {min(inputs, outputs)} for {inputs} inputs, {outputs} units"
        )
    first, second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)
    return first.to(layer.weight), second.to(layer.weight)
