"""A sliding window (Sermanet et al. 2014, section 3): a classifier asked of every place, at every size and shape.

The oldest way to detect (Rowley et al. 1998; Dalal & Triggs 2005): a network that names what fills its window, or says
that nothing does, is asked of windows at a regular distance, over a pyramid of scales; neighbours that name the same
object are thinned out by non-maximum suppression. The image is resized so that a window of each size and shape becomes
the square that the network takes.

Windows can be cut out and classified one by one (`by="crops"`). But neighbours share most of their pixels, and a fully
connected layer on a map of k x k cells is a convolution by kernels of k x k (section 3.5): the same network computes
all windows of a resized image at once (`by="convolution"`). With `padding="none"` no layer adds zeros around its
input, and both ways give the same numbers. Where a trunk pads, a cut window ends in zeros and a window in the image in
its neighbourhood: the two are alike, not equal.

Letters: b images, A windows an image, C classes, n windows, k side of a window's map, m windows drawn an image.
Inside this file class 0 is the background; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import fit_anchors, sides_of_boxes
from saccade.layers.matching import IGNORED
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.regions import RegionOutputs, RegionRules, region_predictions, scored_answers
from saccade.layers.sampling import sample_anchors
from saccade.layers.stages import BoxStage, SecondStage, windows_stage
from saccade.layers.targets import RegionTargets, Targets, detection_targets
from saccade.losses.across import mean_over_processes
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.paper import Paper
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.roi_align import roi_align, to_rois
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks",
    authors="Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun",
    year=2014,
    where="ICLR 2014, arXiv 1312.6229; the idea: Rowley, Baluja, Kanade, PAMI 1998; Dalal, Triggs, CVPR 2005",
)
TASKS = ("detect",)


@dataclass(frozen=True)
class Config:
    """The network; defaults are sliding_window_vgg16's."""

    classes: Count = 20
    by: Literal["crops", "convolution"] = "convolution"  # how windows are answered for; training always cuts them out
    # classifier
    trunk: str = "vgg16"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    trunk_norm: Literal["batch", "frozen"] | None = None  # frozen: batch norms of the trunk with fixed statistics
    # none: no zeros around the inputs of the trunk's layers, for networks that are one chain (VGG, AlexNet, NiN)
    padding: Literal["zeros", "none"] = "zeros"
    stride: Count | None = None  # of the trunk's map that is read; none: the last
    pool: Count = 2  # side of the max-pool behind that map; 1: none
    window: Count = 224  # pixels of a window's side as the network sees it
    hidden: tuple[Count, ...] = (4096, 4096)  # units of the hidden fully connected layers
    dropout: Share = 0.5  # on each of them
    # windows
    shapes: tuple[tuple[float, float], ...] = tuple(  # (width, height) of the windows in pixels of the image, about
        (s * r, s / r) for s in (128.0, 256.0, 512.0) for r in (2**-0.5, 1.0, 2**0.5)
    )
    high: Share = 0.5  # IoU from which on a window holds an object
    low: Share = 0.3  # IoU below which it is background
    sample: Count = 64  # windows an image in the loss
    positive: Share = 0.25  # largest share of them that holds an object
    shaken: Natural = 8  # windows near each object that join those of the grid in training
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    # Ours: a VGG of four narrow stages without padding, whose window of 48 pixels ends in a map of 2 x 2.
    "sliding_window_small": Config(
        trunk="vgg11_bn",
        trunk_width=16,
        trunk_depths=(1, 1, 1, 1, 0),
        padding="none",
        stride=8,
        pool=1,
        window=48,
        hidden=(128,),
        dropout=0.0,
        shapes=tuple((s * r, s / r) for s in (32.0, 56.0, 96.0) for r in (2**-0.5, 1.0, 2**0.5)),
        high=0.6,
        score_threshold=0.02,
    ),
    "sliding_window_vgg16": Config(),
}
SIZE: dict[str, int] = {"sliding_window_small": 320, "sliding_window_vgg16": 600}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {
            "size": 320,
            "batch": 8,
            "epochs": 60,
            "optimizer": "adamw",
            "lr": 2e-3,
            "momentum": 0.9,
            "weight_decay": 0.02,
            "schedule": "cosine",
            "warmup": 0.05,
            "ema": 0.99,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.3,
            "color": 0.3,
        },
        "sliding_window_vgg16": {
            "size": 600,
            "batch": 4,
            "epochs": 30,
            "optimizer": "sgd",
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "warmup": 0.1,
            "clip_norm": 5.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.3,
            "color": 0.3,
        },
    },
    "paper": {  # section 3.2, of the classifier that slides
        "*": {
            "size": 600,
            "batch": 2,  # of 64 windows each: 128
            "epochs": 90,
            "optimizer": "sgd",
            "lr": 0.05,
            "momentum": 0.6,
            "weight_decay": 1e-5,
            "schedule": "step",
            "milestones": (0.333, 0.556, 0.667, 0.778, 0.889),  # epochs 30, 50, 60, 70, 80
            "gamma": 0.5,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "color": 0.0,
        },
    },
}


class WindowNet(nn.Module):
    """The classifier of windows: trunk, max-pool, and fully connected layers held as convolutions, the first k x k.

    Of one window it is a classifier, of a larger image [b, 3, window + i step, window + j step] it gives logits
    [b, C + 1, i + 1, j + 1] of all windows at every `step` pixels.

    Attributes:
        step: pixels between neighbouring windows: the stride of the map, times the pool.
        side: k.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.trunk = _trunk(config)
        self.place = _place(config, self.trunk.strides)
        self.pool, self.step = config.pool, self.trunk.strides[self.place] * config.pool
        self.side = _map_side(config, self.place)
        widths = [self.trunk.channels[self.place], *config.hidden, config.classes + 1]
        kernels = [self.side] + [1] * len(config.hidden)
        self.fully = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel)
            for inputs, outputs, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)
        )
        self.dropout = nn.Dropout(config.dropout)
        for layer in self.fully[:-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.normal_(self.fully[-1].weight, std=0.01)  # type: ignore[arg-type]
        for layer in self.fully:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        x = self.map(images)
        for layer in self.fully[:-1]:
            x = self.dropout(F.relu(layer(x)))
        logits: Tensor = self.fully[-1](x)
        return logits.float()

    def map(self, images: Tensor) -> Tensor:
        """What the fully connected layers see: [b, c, k + i, k + j] of images [b, 3, window + i step, ...]."""
        return _read(self.trunk, self.place, self.pool, images)


def _read(trunk: nn.Module, place: int, pool: int, images: Tensor) -> Tensor:
    x: Tensor = trunk.features(images)[place]  # type: ignore[operator]
    return F.max_pool2d(x, pool) if pool > 1 else x


def _map_side(config: Config, place: int) -> int:
    """k, from shapes alone. Raises UsageError where the trunk takes no such window."""
    with torch.no_grad(), torch.device("meta"):
        try:
            window = torch.empty(1, 3, config.window, config.window)
            return int(_read(_trunk(config).eval(), place, config.pool, window).shape[-1])
        except RuntimeError as error:
            raise UsageError(
                f"the trunk {config.trunk} with padding={config.padding} takes no window of {config.window} pixels: "
                f"{error}"
            ) from error


def _trunk(config: Config) -> Any:
    trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
    if config.padding == "none":
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
                module.padding = (0, 0)
    return trunk


def _place(config: Config, strides: Sequence[int]) -> int:
    if config.stride is None:
        return len(strides) - 1
    if config.stride not in strides:
        raise refuse_strides(config.trunk, strides, f"one at {config.stride}", config.stride)
    return list(strides).index(config.stride)


class Model(nn.Module):
    """A sliding-window detector."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = WindowNet(config)
        self.register_buffer("colour", mean_colour(self.net.trunk), persistent=False)
        self.rules = RegionRules(score_threshold=config.score_threshold, nms=config.nms, detections=config.detections)

    def counts(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """How many windows of each shape lie above and beside each other in an image of `size` (height, width)."""
        window, step = self.config.window, self.net.step
        each = [(size[0] * window / h, size[1] * window / w) for w, h in self.config.shapes]
        return [tuple(max(0, round((s - window) / step)) + 1 for s in sides) for sides in each]

    def windows(self, images: Tensor) -> Tensor:
        """All windows [A, 4] of images [b, 3, H, W] in their pixels, in the order shape, row, column.

        They reach from border to border; their sides are those of `shapes`, but for what makes their number whole.
        """
        height, width = images.shape[-2:]
        boxes = []
        for rows, columns in self.counts((height, width)):
            y, x = (self._edges(n, side, images.device) for n, side in ((rows, height), (columns, width)))
            corners = (x[None, :, 0], y[:, None, 0], x[None, :, 1], y[:, None, 1])
            boxes.append(torch.stack([c.expand(rows, columns) for c in corners], -1).reshape(-1, 4))
        return torch.cat(boxes)

    def _edges(self, n: int, side: int, device: torch.device) -> Tensor:
        """First and last edge [n, 2] of n windows along a side of the image."""
        window, step = self.config.window, self.net.step
        start = torch.arange(n, device=device, dtype=torch.float32) * step
        return torch.stack((start, start + window), 1) * (side / (window + (n - 1) * step))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [b, A, C + 1] of all windows of images [b, 3, H, W] in [0, 1], background first."""
        whole = images.new_tensor([0.0, 0.0, images.shape[3], images.shape[2]]).expand(images.shape[0], 1, 4)
        logits = []
        for counts in self.counts(images.shape[-2:]):
            sides = [self.config.window + (n - 1) * self.net.step for n in counts]
            level = cut(images, whole, (sides[0], sides[1]))
            answer = self.net(level) if self.config.by == "convolution" else self._one_by_one(level)
            logits.append(answer.flatten(2).transpose(1, 2))
        return torch.cat(logits, 1)

    def _one_by_one(self, level: Tensor) -> Tensor:
        """What `net` says of images, [b, C + 1, i, j], by cutting every window out; a row of them at a time."""
        window, step = self.config.window, self.net.step
        cuts = level.unfold(2, window, step).unfold(3, window, step).permute(0, 2, 3, 1, 4, 5)  # [b, i, j, 3, ...]
        rows = [torch.stack([self.net(row).flatten(1) for row in image]) for image in cuts]
        return torch.stack(rows).permute(0, 3, 1, 2)

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [b, A, C] of all windows and these, [b, A, 4] in pixels; exportable."""
        return self(images).softmax(2)[..., 1:], self.windows(images).expand(images.shape[0], -1, -1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class`: the softmax loss of drawn windows, divided by their number."""
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        wanted = self._draw(self.windows(images), targets, sizes)
        crops = cut(images, wanted.regions, (self.config.window, self.config.window))
        whole = mean_over_processes(wanted.drawn.sum()).clamp(min=1)
        logits = self.net(crops).flatten(1)
        loss = F.cross_entropy(logits, wanted.classes.flatten(), reduction="sum", ignore_index=IGNORED)
        return {"class": loss / whole}

    @torch.no_grad()
    def _draw(self, windows: Tensor, targets: Targets, sizes: Tensor) -> RegionTargets:
        """Windows of the grid, true boxes and windows near them, from which `sample` are drawn for each image."""
        config, b = self.config, len(sizes)
        near = shake(targets.boxes, config.shaken)
        regions = torch.cat((self._inside(windows, sizes), targets.boxes, clip_boxes(near, sizes[:, None])), 1)
        matches = targets.match(regions, config.high, config.low, usable=valid_boxes(regions, 1.0))
        return targets.of(regions.view(b, -1, 4), matches, sample_anchors(matches, config.sample, config.positive))

    def _inside(self, windows: Tensor, sizes: Tensor) -> Tensor:
        """[b, A, 4]: the windows [A, 4] of each image; zeros for one whose centre lies in the padding."""
        centre = (windows[:, :2] + windows[:, 2:]) / 2
        inside = (centre < sizes.flip(1)[:, None]).all(2, keepdim=True)
        return torch.where(inside, windows, 0)

    def scored_regions(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        regions = self._inside(self.windows(images), sizes)
        return scored_answers(RegionOutputs(self(images), torch.zeros_like(regions)), regions, sizes, self.rules)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        regions = self._inside(self.windows(images), sizes)
        outputs = RegionOutputs(self(images), torch.zeros_like(regions))  # a window is the box
        return region_predictions(outputs, regions, batch.sizes, self.rules)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The windows by what is likeliest in them, those above the threshold, and what suppression leaves."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        regions = self._inside(self.windows(images), sizes)
        outputs = RegionOutputs(self(images), torch.zeros_like(regions))
        second = SecondStage.of(outputs, regions, batch.sizes[0], self.rules)
        return [windows_stage(regions[0], second.scores), *second.to_answer(self.predict(batch)[0])]


def cut(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts of images resized: [b, 3, H, W] and boxes [b, n, 4] -> [b n, 3, height, width] of `size`.

    Four bilinear samples a pixel, so that a part of a part is the same pixels as a part cut out at once.
    """
    return roi_align(images, to_rois(boxes), size, 1.0, 2, True)


def shake(boxes: Tensor, times: int) -> Tensor:
    """Boxes [b, T, 4] moved by up to a tenth of their sides and resized by up to a sixth: [b, T times, 4]."""
    centre, side = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    chance = torch.rand(*boxes.shape[:2], times, 2, 2, device=boxes.device) * 2 - 1
    centre = centre[:, :, None] + chance[..., 0, :] * 0.1 * side[:, :, None]
    half = side[:, :, None] * (chance[..., 1, :] / 6).exp() / 2
    return torch.cat((centre - half, centre + half), -1).flatten(1, 2)


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """As many shapes as before, for the boxes at hand (`fit_anchors`). Fewer than 10 boxes change nothing.

    Args:
        examples: training images in pixels of the network's input.
    """
    sides = sides_of_boxes(examples, least=4.0)
    if len(sides) < 10:
        return config
    fitted = fit_anchors(sides, len(config.shapes)).tolist()
    return dataclasses.replace(config, shapes=tuple((round(w, 1), round(h, 1)) for w, h in fitted))
