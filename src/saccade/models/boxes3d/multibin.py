"""Deep3DBox (Mousavian et al. 2017): a box in three dimensions for every box in pixels that something else has found.

A network looks at each box by itself, stretched to a square, and says what pixels of one object can tell: how long,
wide and high it is, as metres more or less than the mean of its class, and its orientation as it is seen, by bins that
overlap, of which each has a likelihood and a residual angle (MultiBin, section 4). Where it stands then follows from
geometry: the picture of the box must touch all four sides of the box in pixels (section 3).

Boxes with their classes are given (`TAKES_OBJECTS`, `Batch.given`): those of a detector or a file, in training those of
the truth, moved a little. The camera of each image is known.

Letters: b images, r boxes an image, n boxes in all, s the side of a stretched box, B bins.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.losses.across import mean_over_processes
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.ops.boxes import valid_boxes
from saccade.ops.cuboids import NEAR, offsets, ray_angles, wrap
from saccade.ops.region_warp import warp_regions
from saccade.ranges import Count, Natural, NonNegative, Positive

PAPER = Paper(
    title="3D Bounding Box Estimation Using Deep Learning and Geometry",
    authors="Mousavian, Anguelov, Flynn, Košecká",
    year=2017,
    where="CVPR 2017, arXiv 1612.00496",
)
TASKS = ("boxes3d",)
TAKES_OBJECTS = True

USUAL = (1.6, 1.6, 3.6)  # metres: height, width and length of a class of which no object was seen
BORDER = 1.0  # pixels: a side of a box that is nearer to the border of the image may have been cut off by it
CUT = 0.01  # weight of such a side where the place is solved for


@dataclass(frozen=True)
class Config:
    """The network; defaults are multibin_vgg19's."""

    classes: Count = 3
    trunk: str = "vgg19"  # any classification network that gives maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    side: Count = 224  # s: pixels of a stretched box
    samples: Count = 1  # points along each side of its pixels; more lessen the noise of boxes that are made smaller
    grid: Count = 7  # cells of a side to which the last map is pooled
    hidden: Count = 256  # units of the two layers of bins and of angles; of sizes twice as many (figure 5)
    bins: Count = 2  # B
    overlap: NonNegative = 0.1  # radians by which a bin reaches into its neighbours on each side
    angle_weight: NonNegative = 1.0  # w, of the residual angles in the loss; the paper leaves it open
    size_weight: NonNegative = 1.0  # alpha, of the sizes; the paper leaves it open
    jitter: NonNegative = 0.1  # largest move of each side of a training box, as a share of that side (section 5.1)
    learnt: Count = 16  # boxes of an image that one step learns from, at most, drawn by chance
    boxes: Count = 16  # in one forward pass; an exported network takes so many an image
    # metres: mean height, width and length of each class; fitted to the training data
    sizes: tuple[tuple[Positive, Positive, Positive], ...] = ()


VARIANTS: dict[str, Config] = {
    "multibin_vgg19": Config(),
    # Ours: a ResNet-20 on boxes of 64 pixels, which learns from scratch on a CPU.
    "multibin_small": Config(trunk="resnet20", side=64, samples=2, grid=4, hidden=64),
}
SIZE: dict[str, int] = {"multibin_vgg19": 384, "multibin_small": 384}  # of images; `boxes` are counted

_USUAL: dict[str, Any] = {
    "size": (384, 1280),  # KITTI's pictures as they are
    "batch": 4,
    "epochs": 60,
    "optimizer": "adamw",
    "lr": 1e-4,
    "momentum": 0.9,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "letterbox",
    "flip": 0.5,
    "color": 0.3,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _USUAL, "multibin_small": _USUAL | {"lr": 1e-3}},
    # Section 5.1: SGD at a fixed rate of 1e-4, 20,000 steps of 8 boxes, from ImageNet. Two images hold about as many;
    # the epochs are those of KITTI's 3,712 pictures of the usual training part.
    "paper": {
        "*": _USUAL
        | {"batch": 2, "epochs": 11, "optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "weight_decay": 5e-4},
    },
}


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """The mean size of each class over the training images; of a class without an object that of all others."""
    found = [each.objects for each in examples if each.objects is not None and each.objects.cuboids is not None]
    sizes = torch.cat([torch.zeros(0, 3), *(o.cuboids[:, :3] for o in found if o.cuboids is not None)])
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(each.labels for each in found)])
    known = sizes.isfinite().all(1)
    if not known.any():
        return config
    whole = sizes[known].double().mean(0)
    means = []
    for label in range(config.classes):
        own = sizes[known & (labels == label)].double()
        height, width, length = (own.mean(0) if len(own) else whole).tolist()
        means.append((round(height, 4), round(width, 4), round(length, 4)))
    return dataclasses.replace(config, sizes=tuple(means))


def example_inputs(config: Config, height: int, width: int, images: int = 1) -> tuple[Tensor, Tensor]:
    """Images and as many boxes of each as go through at once."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(images, config.boxes, 2, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat((corners[:, :, 0], corners[:, :, 0] + corners[:, :, 1] + 1), -1)
    return torch.rand(images, 3, height, width, generator=generator), boxes.to(torch.get_default_device())


def _head(inside: int, hidden: int, out: int) -> nn.Sequential:
    """Two hidden layers and what they say (figure 5): [n, inside] -> [n, out]."""
    layers: list[nn.Module] = []
    for units in (inside, hidden):
        layers += [nn.Linear(units, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(hidden, out))


class Model(nn.Module):
    """Deep3DBox: a trunk on stretched boxes with three heads."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError where there is no bin."""
        super().__init__()
        if config.bins < 1:
            raise ValueError(f"bins={config.bins}: at least 1 is needed")
        self.config = config
        self.trunk = create_trunk(config.trunk, config.trunk_width, depths=config.trunk_depths)
        with torch.device("meta"), torch.no_grad():
            shadow = create_trunk(config.trunk, config.trunk_width, depths=config.trunk_depths).eval()
            height, width = shadow.features(torch.empty(1, 3, config.side, config.side))[-1].shape[-2:]
        self.pool = nn.MaxPool2d(max(1, height // config.grid))
        cells = (height // self.pool.kernel_size) * (width // self.pool.kernel_size)
        inside = self.trunk.channels[-1] * cells
        self.sizes = _head(inside, 2 * config.hidden, 3)
        self.angles = _head(inside, config.hidden, 2 * config.bins)
        self.confidences = _head(inside, config.hidden, config.bins)
        self.register_buffer("colour", mean_colour(self.trunk), persistent=False)

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] and boxes [b, r, 4] in their pixels -> likelihoods of the bins before the
        softmax [b, r, B], cosine and sine of the angle from the middle of each bin [b, r, B, 2], and metres by which
        height, width and length exceed the mean of the class [b, r, 3]."""
        config = self.config
        warped = warp_regions(images, boxes, config.side, 0, config.samples, self.get_buffer("colour")).flatten(0, 1)
        maps = self.trunk.features(warped.contiguous(memory_format=torch.channels_last))[-1]
        seen = self.pool(maps).flatten(1)
        turned = self.angles(seen).float().unflatten(1, (config.bins, 2))
        shape = boxes.shape[:2]
        return (
            self.confidences(seen).float().unflatten(0, shape),
            F.normalize(turned, dim=-1).unflatten(0, shape),
            self.sizes(seen).float().unflatten(0, shape),
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`bins`: cross-entropy to the bin whose middle is nearest; `angle`: 1 - cos of what is left, mean over the
        bins that cover the true angle; `size`: squared metres (equations 3 to 6)."""
        boxes, target = self._targets(batch)
        device = batch.images.device
        # One copy of all that is needed, whose shape is known on the CPU.
        table = torch.cat([boxes, target], -1).to(device, non_blocking=True)
        boxes, angles, sizes, counts = table[..., :4], table[..., 4], table[..., 5:8], table[..., 8]
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        logits, turned, residuals = self(images, boxes)
        middles = torch.tensor(self._middles()).to(device, non_blocking=True)
        away = angles[..., None] - middles  # [b, r, B]
        distance = torch.atan2(away.sin(), away.cos()).abs()
        covering = (distance <= math.pi / self.config.bins + self.config.overlap).float()
        cosine = away.cos() * turned[..., 0] + away.sin() * turned[..., 1]
        angle = ((1 - cosine) * covering).sum(-1) / covering.sum(-1).clamp(min=1)
        bins = F.cross_entropy(logits.flatten(0, 1), distance.argmin(-1).flatten(), reduction="none").view_as(counts)
        size = (residuals - sizes).square().mean(-1)
        total = mean_over_processes(counts.sum()).clamp(min=1)
        weights = {"bins": 1.0, "angle": self.config.angle_weight, "size": self.config.size_weight}
        each = {"bins": bins, "angle": angle, "size": size}
        return {name: weights[name] * (value * counts).sum() / total for name, value in each.items()}

    def _middles(self) -> list[float]:
        """Radians: the middle of each bin."""
        bins = self.config.bins
        return [2 * math.pi * (i + 0.5) / bins for i in range(bins)]

    def _mean_sizes(self) -> np.ndarray:
        """[C, 3] metres."""
        unknown = [USUAL] * (self.config.classes - len(self.config.sizes))
        return np.array([*self.config.sizes, *unknown], np.float64)

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """On the CPU: boxes [b, r, 4], and what they ask for [b, r, 5]: the angle under which the object is seen, its
        size over the mean, and 1 where there is an object. An image without any has one box, of all of it, that does
        not count."""
        if batch.truth is None:
            raise DataError("this batch has no truth to learn from")
        found = [self._learnt(truth, name) for truth, name in itertools.zip_longest(batch.truth, batch.ids)]
        most = max(1, *(len(rows) for rows in found))
        table = torch.zeros(len(found), most, 9)
        for own, rows, (height, width) in zip(table, found, batch.sizes, strict=True):
            own[:, :4] = torch.tensor([0.0, 0.0, width, height])
            own[: len(rows)] = rows
        return table[..., :4], table[..., 4:]

    def _learnt(self, truth: Annotation, name: str | None) -> Tensor:
        """[t, 9]: rows of `_targets` for the objects of an image whose cuboid is known."""
        objects = truth.objects
        if objects is None or objects.cuboids is None or truth.camera is None:
            raise DataError(f"{name or 'an image'}: cuboids and a camera are needed to learn boxes in three dimensions")
        use = objects.cuboids.isfinite().all(1) & valid_boxes(objects.boxes)
        if objects.crowd is not None:
            use &= ~objects.crowd
        own = objects[use]
        if len(own) > self.config.learnt:
            own = own[torch.randperm(len(own))[: self.config.learnt]]
        if not len(own) or own.cuboids is None:
            return torch.zeros(0, 9)
        sides = (own.boxes[:, 2:] - own.boxes[:, :2]).repeat(1, 2)
        boxes = own.boxes + (2 * torch.rand(len(own), 4) - 1) * self.config.jitter * sides
        cuboids = own.cuboids.double().numpy()
        seen = wrap(cuboids[:, 6] - ray_angles(_middle(boxes), truth.camera))
        sizes = cuboids[:, :3] - self._mean_sizes()[own.labels.numpy()]
        rows = np.concatenate([seen[:, None], sizes, np.ones((len(own), 1))], axis=1)
        return torch.cat([boxes, torch.from_numpy(rows.astype(np.float32))], 1)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """A cuboid for every box of `Batch.given` that has an area, with its class and score (1 where it has none), by
        falling score; on the CPU. Raises DataError where the batch has no boxes, or an image no camera."""
        if batch.given is None:
            raise DataError("this batch has no boxes: the model answers for those of Batch.given")
        given = [_sorted(each, size) for each, size in zip(batch.given, batch.sizes, strict=True)]
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        outputs = [torch.zeros(0, 3 * self.config.bins + 3, device=images.device)]
        for i, own in enumerate(given):
            boxes = own.boxes.to(images.device, non_blocking=True)
            for part in boxes.split(self.config.boxes) if len(own) else ():
                logits, turned, residuals = self(images[i : i + 1], part[None])
                outputs.append(torch.cat((logits[0], turned[0].flatten(1), residuals[0]), 1))
        found = torch.cat(outputs).cpu().double().split([len(own) for own in given])  # one wait for all images
        return [
            self._answer(own, rows.numpy(), batch, i) for i, (own, rows) in enumerate(zip(given, found, strict=True))
        ]

    def _answer(self, given: Objects, outputs: np.ndarray, batch: Batch, i: int) -> Annotation:
        """What the outputs [n, 3 B + 3] for the boxes of image i mean."""
        camera = batch.cameras[i] if i < len(batch.cameras) else None
        name = batch.ids[i] if i < len(batch.ids) else "an image"
        if camera is None:
            raise DataError(f"{name}: its camera is not known, which places in metres need")
        if len(given) and not 0 <= int(given.labels.min()) <= int(given.labels.max()) < self.config.classes:
            raise DataError(
                f"{name}: boxes of the classes {sorted(set(given.labels.tolist()))} are given; the model knows 0 to "
                f"{self.config.classes - 1}"
            )
        bins, rows = self.config.bins, np.arange(len(given))
        best = outputs[:, :bins].argmax(1)
        turned = outputs[:, bins : 3 * bins].reshape(-1, bins, 2)[rows, best]
        seen = np.array(self._middles())[best] + np.arctan2(turned[:, 1], turned[:, 0])
        rotations = wrap(seen + ray_angles(_middle(given.boxes), camera))
        sizes = np.maximum(self._mean_sizes()[given.labels.numpy()] + outputs[:, 3 * bins :], 0.1)
        places = solve_places(given.boxes.double().numpy(), sizes, rotations, camera, batch.sizes[i])
        cuboids = np.concatenate([sizes, places, rotations[:, None]], 1).astype(np.float32)
        objects = replace(given, cuboids=torch.from_numpy(cuboids))
        return Annotation(batch.sizes[i], objects=objects, camera=camera)


def _sorted(given: Objects, size: tuple[int, int]) -> Objects:
    """Boxes, classes and scores alone, on the CPU, clipped to an image of `size`; without those of no area, by
    falling score."""
    height, width = size
    boxes = given.boxes.cpu().float().clamp(min=0).minimum(torch.tensor([width, height, width, height]).float())
    scores = torch.ones(len(given)) if given.scores is None else given.scores.cpu().float()
    order = scores.argsort(descending=True, stable=True)
    order = order[valid_boxes(boxes[order])]
    return Objects(boxes[order], given.labels.cpu()[order], scores[order])


def _middle(boxes: Tensor) -> np.ndarray:
    """[n, 2] of boxes [n, 4]."""
    corners = boxes.double().numpy()
    return np.asarray((corners[:, :2] + corners[:, 2:]) / 2)


def solve_places(
    boxes: np.ndarray, sizes: np.ndarray, rotations: np.ndarray, camera: np.ndarray, image: tuple[int, int]
) -> np.ndarray:
    """Where cuboids must stand so that their pictures fit boxes in pixels: [n, 3] metres, the middle of the lower face.

    Each side of a box touches the picture of one corner: left and right one of the four upright edges, top one of the
    upper and bottom one of the lower corners, which makes 256 ways. Each way is four linear equations in three unknown
    numbers, solved by least squares; of all the one is taken whose picture, cut at the borders of the image, is nearest
    to the box by the sum over its sides. A side at the border of the image weighs next to nothing, as it may have been
    cut off there. A box that no way fits in front of the camera is placed at the depth at which its height fits.

    Args:
        boxes: [n, 4] x1 y1 x2 y2 in pixels; sizes: [n, 3] height, width, length; rotations: [n]; camera: [3, 4].
        image: (height, width) in pixels.

    Source: Mousavian et al. 2017, section 3.2 and the supplementary material (translation as least squares).
    """
    corners = offsets(sizes, rotations)  # [n, 8, 3]
    ways = np.array(list(itertools.product(range(4), range(4), range(4, 8), range(4))))[:, [0, 2, 1, 3]]  # as the sides
    touched = corners[:, ways]  # [n, 256, 4, 3]
    axis = np.array([0, 1, 0, 1])  # of x1 y1 x2 y2
    rows = camera[axis][None] - boxes[:, :, None] * camera[2]  # [n, 4, 4]
    limit = np.array([0, 0, image[1], image[0]], np.float64)
    cut = np.abs(boxes - limit) < BORDER
    rows = rows * np.where(cut, CUT, 1.0)[..., None]
    known = -(np.einsum("nwsk,nsk->nws", touched, rows[..., :3]) + rows[:, None, :, 3])
    inverse = np.linalg.pinv(rows[..., :3])  # the same for all ways
    places = np.einsum("nks,nws->nwk", inverse, known)
    seen = (corners[:, None] + places[:, :, None]) @ camera[:, :3].T + camera[:, 3]  # [n, 256, 8, 3]
    depth = seen[..., 2]
    pixels = np.clip(seen[..., :2] / np.maximum(depth, NEAR)[..., None], 0, limit[2:])
    hulls = np.concatenate([pixels.min(axis=2), pixels.max(axis=2)], axis=-1)
    apart = np.abs(hulls - np.clip(boxes, 0, np.tile(limit[2:], 2))[:, None]).sum(-1)
    apart[(depth < NEAR).any(axis=2)] = np.inf
    best = apart.argmin(axis=1)
    rows_of = np.arange(len(boxes))
    out = places[rows_of, best]
    lost = ~np.isfinite(apart[rows_of, best])
    return np.where(lost[:, None], _by_height(boxes, sizes, camera), out)


def _by_height(boxes: np.ndarray, sizes: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """[n, 3]: the place at which a thing of that height, seen in the middle of its box, has the height of the box."""
    depth = camera[1, 1] * sizes[:, 0] / np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
    bottom = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3], np.ones(len(boxes))], axis=1)
    seen = bottom * depth[:, None] - camera[:, 3]
    return np.asarray(np.linalg.solve(camera[:, :3], seen.T).T)
