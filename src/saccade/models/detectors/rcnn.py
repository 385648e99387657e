"""R-CNN (Girshick et al. 2014): every proposed region is warped to one size and goes through a network by itself.

Three objectives are trained one after the other (section 2.3 and appendix C). The network, trained on whole images
elsewhere, is fine-tuned to name regions by a softmax over the classes and background; then its features are frozen, and
a linear SVM for each class is fitted to them, with one pass that looks for hard negatives; last, a ridge regression for
each class learns to correct boxes. Proposals are given (selective search): the model reads `Batch.given`.

Letters: b images, r regions an image, n regions in all, s the side of a warped region, C classes, d features before the
last layer, p those of the last map. Inside this file class 0 is the background; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.layers.box_coding import encode_boxes
from saccade.layers.matching import IGNORED
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.regions import (
    RegionRules,
    TwoLayerHead,
    decode_answers,
    draw_regions,
    given_regions,
    scored_predictions,
)
from saccade.layers.solved_head import SolvedHead
from saccade.layers.stages import BoxStage, SecondStage, given_stage
from saccade.layers.targets import detection_targets, learnable
from saccade.losses.across import mean_over_processes
from saccade.models.backbones import Extractor, create_extractor, create_trunk
from saccade.models.paper import Paper
from saccade.models.stage import Fit, Given, Solve
from saccade.ops.boxes import box_iof, box_iou, valid_boxes
from saccade.ops.region_warp import grow, warp_regions
from saccade.ranges import Count, Natural, NonNegative, Positive, Share
from saccade.solvers.linear import MinedSVM, SVMRules, ridge

PAPER = Paper(
    title="Rich feature hierarchies for accurate object detection and semantic segmentation",
    authors="Girshick, Donahue, Darrell, Malik",
    year=2014,
    where="CVPR 2014, arXiv 1311.2524",
)
TASKS = ("detect",)
TAKES_PROPOSALS = True

FEATURE_NORM = 20.0  # mean norm to which features are scaled for the SVMs and regressions (released code)
NORM_REGIONS = 32  # regions an image from which it is measured
PAIRS = 20_000  # regions a class that its box regression is fitted to, at most; drawn by chance
PAIR_NUMBERS = 40_000_000  # numbers of their features, at most: 160 MB a class
NEVER = -20.0  # bias of the SVM of a class without examples: a score of 2e-9


@dataclass(frozen=True)
class Config:
    """The network; defaults are rcnn_alexnet's."""

    classes: Count = 20
    trunk: str = "caffenet"  # any classification network
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # for networks that end in a mean, which does not know where in a region an object lies: units of two fresh fully
    # connected layers on the last map in its place; none: the mean. Of others the own layers are taken (fc6 and fc7)
    hidden: Count | None = None
    # regions
    side: Count = 227  # s: pixels of a warped region, as the trunk's classifier wants them
    context: Natural = 16  # pixels of it on each side that surround the box (appendix A)
    samples: Count = 1  # points along each side of its pixels; more lessen the noise of regions that are made smaller
    most_proposals: Count = 2000  # an image, at most: the first of those that are given
    regions: Count = 64  # of them in one forward pass; an exported network takes so many boxes a call
    # fine-tuning
    sample: Count = 128  # regions a step, drawn from its images (section 2.3)
    positive: Share = 0.25  # largest share of them that is positive
    positive_iou: Share = 0.5
    # SVMs and box regressions
    svm_iou: Share = 0.3  # overlap with all objects of a class below which a region is its negative (section 2.3)
    svm_strength: Positive = 1e-3  # C (released code)
    svm_positive_weight: NonNegative = 2.0  # of positives in the loss (released code)
    box_iou: Share = 0.6  # overlap above which a region learns to become the object (appendix C)
    box_strength: Positive = 1000.0  # lambda of the ridge (appendix C)
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "rcnn_alexnet": Config(),
    "rcnn_vgg16": Config(trunk="vgg16", side=224, regions=16),
    # Ours: a ResNet-20 and two layers on regions of 32 pixels, which learn from scratch on a CPU.
    "rcnn_small": Config(trunk="resnet20", hidden=256, side=32, context=2, samples=2, most_proposals=1000, regions=256),
}
SIZE: dict[str, int] = {"rcnn_alexnet": 500, "rcnn_vgg16": 500, "rcnn_small": 320}  # of images; `regions` are counted

_LARGE: dict[str, Any] = {
    "size": 500,
    "batch": 2,
    "epochs": 20,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "letterbox",
    "flip": 0.5,
    "color": 0.3,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _LARGE,
        "rcnn_small": _LARGE | {"size": 320, "batch": 4, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.02},
    },
    "paper": {  # section 2.3 and released code: 70k steps of 128 regions, a tenth of the rate every 20k; from ImageNet
        "*": _LARGE
        | {
            "epochs": 28,  # of the 5,011 images of VOC 2007 trainval
            "schedule": "step",
            "milestones": (0.286, 0.571, 0.857),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "color": 0.0,
        },
    },
}


class Model(nn.Module):
    """R-CNN."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.extractor = _extractor(config)
        self.head = SolvedHead(self.extractor.hidden, self.extractor.pooled, config.classes)
        self.register_buffer("colour", mean_colour(self.extractor), persistent=False)
        self.rules = RegionRules(
            positive_iou=config.positive_iou,
            sample=config.sample,
            positive=config.positive,
            weights=(1.0, 1.0, 1.0, 1.0),
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )

    def look(self, images: Tensor) -> list[Tensor]:
        """What is computed once an image before its regions are looked at: here nothing."""
        return [images]

    def describe(self, seen: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, p] and [n, d] of regions [b, r, 4] of what `look` gave; n = b r."""
        config = self.config
        warped = warp_regions(
            seen[0], regions, config.side, config.context, config.samples, self.get_buffer("colour")
        ).flatten(0, 1)
        pooled, hidden = self.extractor(warped.contiguous(memory_format=torch.channels_last))
        return pooled, hidden

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] and boxes [b, r, 4] in their pixels -> scores [b, r, C] in [0, 1] and offsets
        [b, r, C, 4] from the boxes (`decode_boxes`)."""
        return answers(self, self.look(images), boxes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The softmax loss of fine-tuning over regions drawn from the images, `sample` in all."""
        return {"class": fine_tuning_loss(self, batch)}

    def scored_regions(self, images: Tensor, sizes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        scores, offsets = self(images, boxes)
        places, scores = decode_answers(scores, offsets, boxes, sizes, self.rules)
        return scores, places

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        return predict_regions(self, batch)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The given regions, the warped pixels of the surest, boxes before suppression and after."""
        second, regions = surest(self, batch)
        grown = grow(second.region, self.config.side, self.config.context)
        words = (
            f"The region of the surest answer (inner box), and what of the image is warped to {self.config.side} x "
            f"{self.config.side} pixels for the network: {self.config.context} of them on each side surround it."
        )
        warped = BoxStage("warped region", words, torch.stack((grown, second.region)), bins=True)
        return [given_stage(regions), warped, *second.to_answer(self.predict(batch)[0])]


def surest(model: Any, batch: Batch) -> tuple[SecondStage, Tensor]:
    """What a model says of the regions of one image before suppression, and these, [r, 4]."""
    scores, offsets, regions = scored_regions(model, batch)
    return SecondStage.decoded(scores, offsets, regions, batch.sizes[0], model.rules), regions[0]


class MapExtractor(nn.Module):
    """A trunk's last map of regions of one size, and two fully connected layers: in place of a `backbones.Extractor`.

    Attributes:
        pooled: numbers of the map.
        hidden: units of each layer.
    """

    def __init__(self, config: Config, hidden: int) -> None:
        super().__init__()
        self.trunk = create_trunk(config.trunk, config.trunk_width, depths=config.trunk_depths)
        with torch.device("meta"), torch.no_grad():
            shadow = create_trunk(config.trunk, config.trunk_width, depths=config.trunk_depths).eval()
            self.pooled = int(shadow.features(torch.empty(1, 3, config.side, config.side))[-1].numel())
        self.hidden = hidden
        self.tail = TwoLayerHead(self.pooled, hidden)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 3, s, s] -> [n, pooled] and [n, hidden]."""
        pooled = self.trunk.features(images)[-1].flatten(1)
        return pooled, self.tail(pooled)


def _extractor(config: Config) -> Extractor | MapExtractor:
    own = create_extractor(config.trunk, config.trunk_width, config.trunk_depths)
    if config.hidden is None or not isinstance(own.tail, nn.Identity):
        return own
    return MapExtractor(config, config.hidden)


def answers(model: Any, seen: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, r, C] and offsets [b, r, C, 4] of boxes [b, r, 4] by a model with `describe` and `head`."""
    pooled, hidden = model.describe(seen, boxes)
    scores, deltas = model.head(hidden, pooled)
    shape = boxes.shape[:2]
    return scores.unflatten(0, shape), deltas.unflatten(0, shape).unflatten(2, (-1, 4))


def view(model: Any, batch: Batch) -> list[Tensor]:
    """What a model looks at once an image, of a batch without what stands in its padding."""
    seen: list[Tensor] = model.look(fill_padding(batch.images, batch.sizes, model.get_buffer("colour")))
    return seen


def proposed(model: Any, batch: Batch) -> list[Tensor]:
    """The first `most_proposals` boxes [r_i, 4] that each image is given, on the CPU. Raises DataError where the
    batch has none."""
    if batch.given is None:
        raise DataError("this batch has no proposals: the model reads the boxes of Batch.given")
    return [each.boxes[: model.config.most_proposals] for each in batch.given]


def fine_tuning_loss(model: Any, batch: Batch) -> Tensor:
    """Softmax loss over the classes and background, mean over the regions drawn (section 2.3)."""
    targets = detection_targets(batch, model.config.classes)
    regions = given_regions(proposed(model, batch), batch.images.device)
    rules = dataclasses.replace(model.rules, sample=max(4, model.config.sample // len(batch)))
    wanted = draw_regions(regions, targets, rules)
    _, hidden = model.describe(view(model, batch), wanted.regions)
    logits = model.head.cls_score(hidden).float()
    loss = F.cross_entropy(logits, wanted.classes.flatten(), reduction="sum", ignore_index=IGNORED)
    return loss / mean_over_processes(wanted.drawn.sum()).clamp(min=1)


def predict_regions(model: Any, batch: Batch) -> list[Annotation]:
    """Objects of each image after NMS by class."""
    return scored_predictions(*scored_regions(model, batch), batch.sizes, model.rules)


def scored_regions(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [b, r, C], offsets [b, r, C, 4] and the given regions [b, r, 4], from `regions` boxes a forward pass."""
    own = [boxes if len(boxes) else torch.zeros(1, 4) for boxes in proposed(model, batch)]
    regions = given_regions(own, batch.images.device)
    seen = view(model, batch)
    scores, deltas = [], []
    for i, boxes in enumerate(own):
        maps = [each[i : i + 1] for each in seen]
        parts = regions[i : i + 1, : len(boxes)].split(model.config.regions, 1)
        found = [answers(model, maps, part) for part in parts]
        scores.append(torch.cat([score[0] for score, _ in found]))
        deltas.append(torch.cat([delta[0] for _, delta in found]))
    return pad_sequence(scores, batch_first=True), pad_sequence(deltas, batch_first=True), regions


@dataclass(slots=True)
class Seen:
    """One training image: its objects and the regions that are looked at, with all of them as truth on the CPU."""

    boxes: Tensor  # [t, 4]
    labels: Tensor  # [t]
    proposals: Tensor  # [r, 4]: those with an area that no crowd region covers
    maps: list[Tensor]  # what the model looks at


def _each(given: Given) -> Iterator[Seen]:
    """The training images one by one, as predictions see them."""
    model: Any = given.network
    for batch in given.batches():
        proposals, seen = proposed(model, batch), view(model, batch.to(given.device))
        names = batch.ids or [""] * len(batch)
        for i, truth in enumerate(batch.truth or ()):
            found = learnable(truth, len(given.classes), names[i])
            own = proposals[i][valid_boxes(proposals[i])]
            if len(found.crowds):
                own = own[box_iof(own, found.crowds).amax(1) <= 0.5]
            yield Seen(found.boxes, found.labels, own, [each[i : i + 1] for each in seen])


def _features(given: Given, seen: Seen, boxes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """[n, p] and [n, d] float32 of boxes [n, 4] on the CPU; n may be 0."""
    model: Any = given.network
    parts = [
        [each.float().cpu().numpy() for each in model.describe(seen.maps, part[None].to(given.device))]
        for part in boxes.split(model.config.regions)
        if len(part)
    ]
    if not parts:
        return np.zeros((0, model.head.box_weight.shape[1]), np.float32), np.zeros(
            (0, model.head.svm_weight.shape[1]), np.float32
        )
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@torch.inference_mode()
def solve_svms(given: Given) -> dict[str, Tensor]:
    """A linear SVM for each class on the features of the fine-tuned network (section 2.3 and appendix B).

    Positives are the objects themselves; negatives are regions that overlap all objects of the class by less than
    `svm_iou`; the images are gone through once for the hard ones. Features are scaled to a mean norm of FEATURE_NORM;
    this, and what makes a probability of a margin, are then part of the weights. A class without an object in the
    training images never answers.
    """
    model: Any = given.network
    config = model.config
    positives, norm = _objects(given)
    scale = FEATURE_NORM / max(norm, 1e-12)
    rules = SVMRules(strength=config.svm_strength, positive_weight=config.svm_positive_weight)
    svms = {c: MinedSVM(scale * rows, rules, given.seed) for c, rows in positives.items()}
    for seen in _each(given):
        _, hidden = _features(given, seen, seen.proposals)
        for c, svm in svms.items():
            svm.offer(scale * hidden[_apart(seen, c, config.svm_iou)])
    weight, bias = torch.zeros_like(model.head.svm_weight), torch.full_like(model.head.svm_bias, NEVER)
    for c, svm in svms.items():
        svm.fit()
        slope, offset = svm.calibrate()
        weight[c], bias[c] = torch.from_numpy(slope * scale * svm.weight), slope * svm.bias + offset
    _say_who_is_missing(given, svms, "no object in the training images, and are never found")
    held, kept = (sum(len(getattr(svm, kind)) for svm in svms.values()) for kind in ("positives", "negatives"))
    given.show(f"{len(svms)} SVMs on {weight.shape[1]} features of {held} objects and {kept} hard negatives")
    return {"head.svm_weight": weight, "head.svm_bias": bias, "head.solved": torch.ones(())}


def _objects(given: Given) -> tuple[dict[int, np.ndarray], float]:
    """Features [n, d] of the objects of each class that has some, and the mean norm of those of regions."""
    rng = np.random.default_rng(given.seed)
    norms: list[np.ndarray] = []
    found: dict[int, list[np.ndarray]] = {}
    for seen in _each(given):
        some = torch.from_numpy(rng.permutation(len(seen.proposals))[:NORM_REGIONS])
        _, hidden = _features(given, seen, torch.cat((seen.boxes, seen.proposals[some])))
        norms.append(np.linalg.norm(hidden, axis=1))
        for row, label in zip(hidden, seen.labels.tolist(), strict=False):
            found.setdefault(label, []).append(row)
    every = np.concatenate(norms)
    return {c: np.stack(rows) for c, rows in sorted(found.items())}, float(every.mean()) if len(every) else 0.0


def _apart(seen: Seen, label: int, iou: float) -> np.ndarray:
    """Which proposals [r] overlap all objects of a class by less."""
    own = seen.boxes[seen.labels == label]
    apart = torch.ones(len(seen.proposals), dtype=torch.bool)
    return (box_iou(seen.proposals, own).amax(1) < iou if len(own) else apart).numpy()


@torch.inference_mode()
def solve_boxes(given: Given) -> dict[str, Tensor]:
    """A ridge regression for each class from the pooled features of a region to the offsets of the object that it
    overlaps most, by more than `box_iou` (appendix C). A class without such regions keeps its boxes as they are."""
    model: Any = given.network
    config = model.config
    rng = np.random.default_rng(given.seed)
    pairs: dict[int, Pairs] = {}
    for seen in _each(given):
        if not len(seen.boxes) or not len(seen.proposals):
            continue
        overlap, object_ = box_iou(seen.proposals, seen.boxes).max(1)
        near = overlap > config.box_iou
        regions, objects = seen.proposals[near], seen.boxes[object_[near]]
        pooled, _ = _features(given, seen, regions)
        targets, labels = encode_boxes(objects, regions).numpy(), seen.labels[object_[near]].numpy()
        for c in np.unique(labels).tolist():
            own = labels == c
            pairs.setdefault(c, Pairs()).add(pooled[own], targets[own], rng)
    weight, bias = torch.zeros_like(model.head.box_weight), torch.zeros_like(model.head.box_bias)
    norms = [np.linalg.norm(each.features, axis=1) for each in pairs.values()]
    scale = FEATURE_NORM / max(float(np.concatenate(norms).mean()), 1e-12) if norms else 1.0
    for c, each in pairs.items():
        solved = ridge(scale * each.features, each.targets, config.box_strength)
        rows = slice(4 * c, 4 * c + 4)
        weight[rows], bias[rows] = torch.from_numpy(scale * solved.weight), torch.from_numpy(solved.bias)
    _say_who_is_missing(given, pairs, f"no proposal that overlaps an object by {config.box_iou:g}; boxes stay as given")
    total = sum(len(each.features) for each in pairs.values())
    given.show(f"{len(pairs)} box regressions on {weight.shape[1]} features of {total} regions")
    return {"head.box_weight": weight, "head.box_bias": bias}


class Pairs:
    """Regions and what each must become, for one class: of all that are added at most PAIRS, and fewer where features
    are so long that these would not fit into PAIR_NUMBERS, drawn by chance."""

    def __init__(self) -> None:
        self.features, self.targets = np.zeros((0, 0), np.float32), np.zeros((0, 4), np.float32)
        self._lots = np.zeros(0)

    def add(self, features: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> None:
        """Features [n, p] and offsets [n, 4]; those with the highest lots stay."""
        lots = np.concatenate([self._lots, rng.random(len(features))])
        most = min(PAIRS, max(1, PAIR_NUMBERS // features.shape[1]))
        kept = np.sort(lots.argsort()[-most:])
        self._lots = lots[kept]
        self.features = np.concatenate([self.features.reshape(-1, features.shape[1]), features])[kept]
        self.targets = np.concatenate([self.targets, targets])[kept]


def _say_who_is_missing(given: Given, found: Mapping[int, object], what: str) -> None:
    missing = [name for c, name in enumerate(given.classes) if c not in found]
    if missing:
        given.show(f"warning: {len(missing)} of {len(given.classes)} classes have {what}: {', '.join(missing[:10])}")


def stages(name: str, recipe: str) -> list[Fit | Solve]:
    """Fine-tuning, SVMs, box regressions. What fine-tuning gives is not measured: its softmax is not the answer."""
    return [Fit("finetune", name, measured=False), Solve("svm", solve_svms), Solve("boxes", solve_boxes)]


def example_inputs(config: Config, height: int, width: int, images: int) -> tuple[Tensor, ...]:
    """Images, and `regions` boxes of many sizes in each."""
    return example_images(height, width, images), example_boxes(height, width, images, config.regions)


def example_images(height: int, width: int, images: int) -> Tensor:
    """[images, 3, height, width] in [0, 1), always the same."""
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(0))


def example_boxes(height: int, width: int, images: int, count: int) -> Tensor:
    """[images, count, 4] boxes inside, always the same."""
    corners = torch.rand(images, count, 2, 2, generator=torch.Generator().manual_seed(1))
    low, high = corners.amin(2) * 0.8, corners.amax(2) * 0.8 + 0.2
    return torch.cat((low, high), 2) * torch.tensor([width, height, width, height])
