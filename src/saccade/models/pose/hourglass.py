"""Stacked hourglass networks (Newell, Yang, Deng 2016): the joints of one person in the middle of the picture.

A convolution of 7x7 and residual modules bring the picture to a quarter of its size. Each hourglass then halves the
maps four times and doubles them again, with a branch beside each step that keeps what was fine (section 2.1). Behind
each hourglass stands a heat map a joint; all of them learn the same target (intermediate supervision, section 2.3), and
what a stack found goes back into the features that the next one begins with. The answer is that of the last stack.

A network of this kind cannot tell people apart: its picture is the surroundings of one person, cut out by a box
(`ONE_PERSON`; `data/people.py`).

Letters: b images, K joints, h x w = H/4 x W/4 cells of a heat map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.normalize import IMAGENET_MEAN, Normalize
from saccade.losses.heatmap import gaussians, heatmap_loss, highest_cells, stack_joints
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive

PAPER = Paper(
    title="Stacked Hourglass Networks for Human Pose Estimation",
    authors="Newell, Yang, Deng",
    year=2016,
    where="ECCV 2016, arXiv 1603.06937",
)
TASKS = ("pose",)
ONE_PERSON = True
STRIDE = 4  # pixels a cell of a heat map


@dataclass(frozen=True)
class Config:
    """The network; defaults are hourglass2's, for the joints of MPII."""

    classes: Count = 1  # all objects are of one kind: the network finds joints, and no class
    joints: Count = 16  # K, of every object
    # joints of left and right, by their numbers, which trade places in the mirrored image of the flip test
    pairs: tuple[tuple[Natural, Natural], ...] = ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))
    stacks: Count = 2  # hourglasses one behind the other
    width: Count = 256  # channels of all residual modules behind the stem
    depth: Natural = 4  # halvings of each hourglass
    sigma: Positive = 1.0  # of the targets, in cells of the heat map
    flip_test: bool = True  # answers are the mean over the image and its mirror image (section 3.2)


VARIANTS: dict[str, Config] = {
    "hourglass2": Config(),
    "hourglass8": Config(stacks=8),
    "hourglass_small": Config(stacks=1, width=96),  # ours, for small data and CPUs
}
SIZE: dict[str, int] = {"hourglass2": 256, "hourglass8": 256, "hourglass_small": 128}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {
            "size": 256,
            "batch": 16,
            "epochs": 100,
            "optimizer": "adamw",
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup": 0.05,
            "resize": "letterbox",
            "flip": 0.5,
            "rotate": 30.0,
            "jitter": 0.25,
            "color": 0.3,
        },
        "hourglass_small": {"size": 128, "batch": 8, "lr": 2e-3, "ema": 0.995},
    },
    # Section 3.1: rmsprop at 2.5e-4, a fifth of it once the validation stands still; about three days on one GPU.
    # Batch and the decay of the squares are those of the released code. The number of epochs is ours.
    "paper": {
        "*": {
            "size": 256,
            "batch": 6,
            "epochs": 150,
            "optimizer": "rmsprop",
            "lr": 2.5e-4,
            "momentum": 0.0,
            "rms_decay": 0.99,
            "rms_eps": 1e-8,
            "weight_decay": 0.0,
            "schedule": "step",
            "milestones": (0.8,),
            "gamma": 0.2,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "rotate": 30.0,
            "jitter": 0.25,
            "color": 0.0,
        },
        "hourglass_small": {"size": 128},
    },
}


class Residual(nn.Module):
    """[b, inside, h, w] -> [b, out, h, w]: three convolutions, each behind its batch norm and ReLU, of 1x1, 3x3 and
    1x1, the middle one of half the channels (figure 4); a convolution of 1x1 beside them where the channels change."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, half, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, half, 3, padding=1)
        self.bn3, self.conv3 = nn.BatchNorm2d(half), nn.Conv2d(half, out, 1)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Identity() if inside == out else nn.Conv2d(inside, out, 1)

    def forward(self, maps: Tensor) -> Tensor:
        inner: Tensor = self.conv1(self.relu(self.bn1(maps)))
        inner = self.conv2(self.relu(self.bn2(inner)))
        inner = self.conv3(self.relu(self.bn3(inner)))
        beside: Tensor = self.skip(maps)
        return inner + beside


class Hourglass(nn.Module):
    """[b, width, h, w] -> the same shape (figure 3): three residual modules a level, and one at the bottom.

    Maps of odd sides are halved downwards; what comes up is brought to the side of the branch beside it.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.beside = Residual(width, width)
        self.down = Residual(width, width)
        self.inner: nn.Module = Hourglass(depth - 1, width) if depth > 1 else Residual(width, width)
        self.up = Residual(width, width)
        self.pool = nn.MaxPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        beside: Tensor = self.beside(maps)
        low = self.up(self.inner(self.down(self.pool(maps))))
        return beside + F.interpolate(low, size=maps.shape[-2:], mode="nearest")


class Stack(nn.Module):
    """An hourglass with its heat maps: features [b, width, h, w] -> (features for the next stack, maps [b, K, h, w]).

    A residual module and a 1x1 convolution with batch norm and ReLU stand behind the hourglass, heat maps are a 1x1
    convolution of them. The next stack is given the sum of what this one was given, of these features and of the heat
    maps, the last two through 1x1 convolutions (section 2.3); the last stack gives its heat maps alone.

    Heat maps begin near zero, by weights drawn as Xiao et al. ("Simple Baselines for Human Pose Estimation and
    Tracking", ECCV 2018) drew theirs in the released code. Maps are zero nearly everywhere: from random maps the first
    errors are a hundred times those that come after, and Adam's mean of squared gradients remembers them for a thousand
    steps, in which nothing else is learned.
    """

    def __init__(self, config: Config, last: bool) -> None:
        super().__init__()
        width = config.width
        self.hourglass = Hourglass(config.depth, width)
        self.residual = Residual(width, width)
        self.conv, self.bn, self.relu = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.heat = nn.Conv2d(width, config.joints, 1)
        nn.init.normal_(self.heat.weight, std=0.001)
        self.heat.bias = nn.Parameter(torch.zeros(config.joints))
        self.from_features = None if last else nn.Conv2d(width, width, 1)
        self.from_heat = None if last else nn.Conv2d(config.joints, width, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        found: Tensor = self.relu(self.bn(self.conv(self.residual(self.hourglass(features)))))
        heat: Tensor = self.heat(found)
        if self.from_features is None or self.from_heat is None:
            return features, heat
        return features + self.from_features(found) + self.from_heat(heat), heat


class Model(nn.Module):
    """Stacked hourglasses."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError where a number of the pairs is that of no joint, or a size is below 1."""
        super().__init__()
        if min(config.stacks, config.depth, config.width // 4) < 1 or config.width % 4:
            raise ValueError("stacks and depth are at least 1, width is a multiple of 4")
        if any(len(pair) != 2 or not all(0 <= i < config.joints for i in pair) for pair in config.pairs):
            raise ValueError(f"pairs {config.pairs} are not all pairs of {config.joints} joints, counted from 0")
        self.config = config
        quarter, half = config.width // 4, config.width // 2
        self.normalize = Normalize(IMAGENET_MEAN, (1.0, 1.0, 1.0))
        self.conv, self.bn, self.relu = (
            nn.Conv2d(3, quarter, 7, stride=2, padding=3),
            nn.BatchNorm2d(quarter),
            nn.ReLU(inplace=True),
        )
        self.stem = nn.Sequential(
            Residual(quarter, half), nn.MaxPool2d(2), Residual(half, half), Residual(half, config.width)
        )
        self.stacks = nn.ModuleList(Stack(config, i == config.stacks - 1) for i in range(config.stacks))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Heat maps [b, K, h, w] of every stack for images [b, 3, H, W] in [0, 1], the last one the answer."""
        features: Tensor = self.stem(self.relu(self.bn(self.conv(self.normalize(images)))))
        found = []
        for stack in self.stacks:
            features, heat = stack(features)
            found.append(heat)
        return tuple(found)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`joints`: the squared error of the heat maps, over all stacks."""
        maps = self(batch.images)
        joints = stack_joints(batch.truth, self.config.joints).to(batch.images.device, non_blocking=True)
        height, width = maps[-1].shape[-2:]
        target = gaussians(joints, height, width, STRIDE, self.config.sigma)
        return {"joints": heatmap_loss(maps, target)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """One person an image, whose box is all of it: K joints of x, y and the height of their heat maps; the score is
        the mean over these. On the CPU."""
        points = self._joints(batch.images).cpu()
        return [Annotation(size, objects=_one_person(points[i : i + 1], size)) for i, size in enumerate(batch.sizes)]

    def answers(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`predict` in fixed shapes (`contract.NetworkOffers`): one person an image."""
        points = self._joints(images)[:, None]
        boxes = torch.cat((torch.zeros_like(sizes), sizes.flip(1)), 1).to(points.dtype)[:, None]
        labels = torch.zeros_like(sizes[:, :1])
        return {"boxes": boxes, "labels": labels, "scores": points[..., 2].mean(2), "keypoints": points}

    def _joints(self, images: Tensor) -> Tensor:
        """[b, K, 3] of x, y and the height of its heat map."""
        maps = self(images)[-1].float()
        if self.config.flip_test:
            mirrored = self(images.flip(-1))[-1].float().flip(-1)
            maps = (maps + self._exchanged(mirrored)) / 2
        return highest_cells(maps) * maps.new_tensor([STRIDE, STRIDE, 1.0])

    def _exchanged(self, maps: Tensor) -> Tensor:
        """Maps [b, K, h, w] of which those of left and right have changed places."""
        order = list(maps.unbind(1))
        for a, b in self.config.pairs:
            order[a], order[b] = order[b], order[a]
        return torch.stack(order, 1)


def _one_person(points: Tensor, size: Sequence[int]) -> Objects:
    """The person of an image of (height, width): joints [1, K, 3] of x, y and confidence."""
    box = torch.tensor([[0.0, 0.0, float(size[1]), float(size[0])]])
    return Objects(box, torch.zeros(1, dtype=torch.int64), points[..., 2].mean(1), keypoints=points)
