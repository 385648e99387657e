"""Fully convolutional networks (Long, Shelhamer, Darrell 2015): a classifier that names every pixel.

The fully connected layers of a classification network become convolutions, so that it scores every window of a larger
image at once; the coarse map of scores is enlarged by a transposed convolution that begins as bilinear interpolation.
FCN-32s enlarges the last map by 32; FCN-16s adds scores read from pool4 to the map enlarged by 2, and enlarges the sum
by 16; FCN-8s adds pool3's. Each begins as the one before, whose scores the new ones, zero at first, refine: recipe
`paper`, or `staged` with the settings of the default recipe. Follows the released Caffe networks: 100 pixels around the
image, poolings that round up, crops by fixed offsets, loss summed over pixels; the small forms pad each convolution.

`fcn_resnet50` and `fcn_resnet101` are another network of that name, torchvision's: a dilated residual network with one
3x3 convolution on its last map and an auxiliary one on the third (keys of the public checkpoints).

Letters: b images, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.normalize import mean_colour
from saccade.layers.upsampling import bilinear_kernel
from saccade.losses.segmentation import IGNORE, balanced_weights, pixel_cross_entropy, stack_targets
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.backbones.resnet import dilate
from saccade.models.paper import Paper
from saccade.models.stage import Fit
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    year=2015,
    where="CVPR 2015, arXiv 1411.4038",
)
TASKS = ("segment",)
STRIDES = (32, 16, 8)  # of the maps that are scored, from the coarse to the fine
AUXILIARY = 0.5  # weight of the auxiliary loss of the dilated form (torchvision's reference training)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are fcn32s's."""

    classes: Count = 21
    form: Literal["skips", "dilated"] = "skips"  # the paper's, or torchvision's on a dilated residual network
    trunk: str = "vgg16"  # any classification network with maps at strides 8, 16 and 32, or VGG; dilated: a ResNet
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    finest: Literal[32, 16, 8] = 32  # skips: stride of the finest map whose scores count
    hidden: Count = 4096  # skips: channels of fc6 and fc7; dilated: a quarter of the last map's, whatever stands here
    window: Count = 7  # skips: side of fc6
    dropout: Share = 0.5  # on fc6 and fc7; dilated: 0.1, whatever stands here
    # skips: pixels around the image, as in the release, in place of padding fc6; 0: every map lies over the image
    pad: Literal[0, 100] = 100
    auxiliary: bool = True  # dilated: a second answer from the third stage, in training alone
    pixels: Literal["sum", "mean"] = "mean"  # whether the loss is summed over the pixels (paper) or averaged
    balance: NonNegative = 0.0  # power of the inverse class frequency in `adapt`'s class weights; 0 for none
    class_weights: tuple[NonNegative, ...] | None = None  # one a class; `adapt` fills it


_SMALL = Config(
    trunk="resnet18", trunk_width=32, trunk_depths=(1, 2, 2, 2), hidden=256, window=3, dropout=0.1, pad=0, balance=0.25
)
_DILATED = Config(form="dilated", trunk="resnet50")
VARIANTS: dict[str, Config] = {
    "fcn32s": Config(),
    "fcn16s": Config(finest=16),
    "fcn8s": Config(finest=8),
    "fcn_resnet50": _DILATED,
    "fcn_resnet101": dataclasses.replace(_DILATED, trunk="resnet101"),
    # Ours, for small data and CPUs: on a narrow ResNet.
    "fcn32s_small": _SMALL,
    "fcn16s_small": dataclasses.replace(_SMALL, finest=16),
    "fcn8s_small": dataclasses.replace(_SMALL, finest=8),
}
SIZE: dict[str, int] = {name: 256 if name.endswith("_small") else 520 if "resnet" in name else 500 for name in VARIANTS}

_DEFAULT: dict[str, Any] = {
    "size": 256,
    "batch": 8,
    "epochs": 100,
    "optimizer": "adamw",
    "lr": 0.002,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 5.0,
    "ema": 0.99,
    "jitter": 0.25,
    "flip": 0.5,
    "color": 0.3,
}
_LARGE: dict[str, Any] = _DEFAULT | {"size": 320, "batch": 4, "lr": 1e-4}
_PAPER: dict[str, Any] = {  # section 4 and the release: one image a step, 100k steps a stage, from ImageNet's VGG
    "size": 500,
    "batch": 1,
    "epochs": 9,
    "optimizer": "sgd",
    "lr": 1e-10,
    "momentum": 0.99,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "warmup": 0.0,
    "clip_norm": 0.0,
    "flip": 0.0,
    "jitter": 0.0,
    "color": 0.0,
    "pixels": "sum",
}
_DILATED_PAPER: dict[str, Any] = {  # torchvision's reference training: crops of 480, 30 epochs
    "size": 480,
    "batch": 32,
    "epochs": 30,
    "optimizer": "sgd",
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "warmup": 0.0,
    "clip_norm": 0.0,
    "jitter": 0.5,
    "flip": 0.5,
    "color": 0.0,
}
_DEFAULTS = {"*": _LARGE} | {name: _DEFAULT for name in VARIANTS if name.endswith("_small")}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": _DEFAULTS,
    "staged": _DEFAULTS,
    "paper": {"*": _PAPER, "fcn_resnet50": _DILATED_PAPER, "fcn_resnet101": _DILATED_PAPER},
}


class Enlarge(nn.ConvTranspose2d):
    """A transposed convolution by a factor, that begins as bilinear interpolation: [b, C, h, w] -> [b, C, (h + 1) f, (w
    + 1) f], half a cell more on each side than the map covers."""

    def __init__(self, classes: int, factor: int) -> None:
        super().__init__(classes, classes, 2 * factor, factor, bias=False)
        with torch.no_grad():
            self.weight.copy_(bilinear_kernel(classes, 2 * factor))


class Skips(nn.Module):
    """Scores of the paper's form: maps of strides 32, 16 and 8, as far as they are used -> logits that cover the image.

    Args:
        channels: of these maps.
        config: see there.
    """

    def __init__(self, channels: Sequence[int], config: Config) -> None:
        super().__init__()
        self.padded = config.pad > 0
        padding = 0 if self.padded else config.window // 2
        self.fc6 = nn.Conv2d(channels[0], config.hidden, config.window, padding=padding)
        self.fc7 = nn.Conv2d(config.hidden, config.hidden, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.score_fr = nn.Conv2d(config.hidden, config.classes, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.score_fr.weight, std=0.01)
        nn.init.zeros_(self.score_fr.bias)  # type: ignore[arg-type]
        self.offsets = ((5, 9) if self.padded else (1, 1))[: len(channels) - 1]
        for i, width in enumerate(channels[1:]):
            score = nn.Conv2d(width, config.classes, 1)
            nn.init.zeros_(score.weight)  # it begins as the network without this map
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
            self.add_module(f"score_pool{4 - i}", score)
            self.add_module("upscore2" if i == 0 else "upscore_pool4", Enlarge(config.classes, 2))
        self.add_module(f"upscore{config.finest}", Enlarge(config.classes, config.finest))
        self.last = config.finest
        self.offset = {32: 19, 16: 27, 8: 31}[config.finest] if self.padded else config.finest // 2

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        x = self.dropout(F.relu(self.fc6(maps[0])))
        x = self.score_fr(self.dropout(F.relu(self.fc7(x))))
        for i, (finer, offset) in enumerate(zip(maps[1:], self.offsets, strict=True)):
            x = self.get_submodule("upscore2" if i == 0 else "upscore_pool4")(x)
            scores = self.get_submodule(f"score_pool{4 - i}")(finer)
            if self.padded:  # the finer map reaches further than the image and its context
                x = x + scores[:, :, offset : offset + x.shape[2], offset : offset + x.shape[3]]
            else:
                x = x[:, :, offset : offset + scores.shape[2], offset : offset + scores.shape[3]] + scores
        x = self.get_submodule(f"upscore{self.last}")(x)
        return x[:, :, self.offset : self.offset + size[0], self.offset : self.offset + size[1]]


def _head(channels: int, classes: int) -> nn.Sequential:
    """The dilated form's: 3x3 convolution to a quarter of the channels, norm, ReLU, dropout, scores (public keys)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels // 4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(channels // 4, classes, 1),
    )


class Model(nn.Module):
    """A fully convolutional network in any of its forms.

    Raises:
        UsageError: the trunk has not the maps, or is no residual network where the form is dilated.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        self.skips: Skips | None = None
        if config.form == "dilated":
            self._dilate()
            self.classifier = _head(self.backbone.channels[-1], config.classes)
            self.aux_classifier = _head(self.backbone.channels[-2], config.classes) if config.auxiliary else None
        else:
            self.places = self._places()
            self.skips = Skips([self.backbone.channels[place] for place in self.places], config)
            for module in self.backbone.modules():
                if isinstance(module, nn.MaxPool2d):
                    module.ceil_mode = True  # as Caffe's, so that every pixel is covered
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("colour", mean_colour(self.backbone), persistent=False)

    def _dilate(self) -> None:
        third, fourth = (getattr(self.backbone, f"layer{i}", None) for i in (3, 4))
        if not isinstance(third, nn.Module) or not isinstance(fourth, nn.Module):
            raise UsageError(
                f"form=dilated takes the stride out of a ResNet's last two stages; {self.config.trunk} is none"
            )
        dilate(third, 1, 2)
        dilate(fourth, 2, 4)

    def _places(self) -> list[int]:
        """Numbers of the trunk's maps at strides 32, 16, 8 as far as they are used; of VGG those before its pools."""
        strides = self.backbone.strides
        self.pooled = strides[-1] == 16  # the last pool is no part of the trunk
        wanted = [s // 2 if self.pooled else s for s in STRIDES if s >= self.config.finest]
        if any(stride not in strides for stride in wanted):
            listed = ", ".join(map(str, wanted))
            raise refuse_strides(self.config.trunk, strides, f"all of {listed}", wanted[0])
        return [strides.index(stride) for stride in wanted]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, C, H, W] of images [b, 3, H, W] in [0, 1]."""
        return self._answers(images)[0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`cross_entropy` over the labelled pixels, and in the dilated form `auxiliary`; finite (zero) where every
        pixel is ignored."""
        height, width = batch.images.shape[-2:]
        target = stack_targets(batch.truth, height, width, batch.images.device)
        weights = self.class_weights if isinstance(self.class_weights, Tensor) else None
        answers = self._answers(batch.images, auxiliary=True)
        losses = [pixel_cross_entropy(logits, target, weights) for logits in answers]
        if self.config.pixels == "sum":
            losses = [loss * (target != IGNORE).sum() for loss in losses]
        named = {"cross_entropy": losses[0]}
        if len(losses) > 1:
            named["auxiliary"] = AUXILIARY * losses[1]
        return named

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """The most probable class of every pixel, [h, w] uint8 at each image's own size."""
        whole = self(batch.images).argmax(1).to(torch.uint8)
        return [Annotation((h, w), semantic=each[:h, :w]) for each, (h, w) in zip(whole, batch.sizes, strict=True)]

    def _answers(self, images: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """Logits of every pixel, and those of the auxiliary head where there is one."""
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if self.skips is None:
            maps = self.backbone.features(images)
            answers = [self.classifier(maps[-1])]
            if auxiliary and self.aux_classifier is not None:
                answers.append(self.aux_classifier(maps[-2]))
            return [F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False) for x in answers]
        maps = self.backbone.features(self._framed(images))
        used = [maps[place] for place in self.places]
        if self.pooled:
            used = [F.max_pool2d(x, 2, ceil_mode=True) for x in used]
        return [self.skips(used, (height, width))]

    def _framed(self, images: Tensor) -> Tensor:
        """Images with the release's frame, which is zero behind the subtraction of the mean: one pixel of it is the
        first convolution's own padding."""
        if not self.config.pad:
            return images
        frame = self.config.pad - 1
        colour = self.get_buffer("colour").to(images.dtype).view(1, 3, 1, 1)
        return F.pad(images - colour, (frame, frame, frame, frame)) + colour


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Class weights from the class frequencies of the training images; those that the user has set are kept."""
    if config.balance == 0 or config.class_weights is not None:
        return config
    return dataclasses.replace(config, class_weights=balanced_weights(examples, config.classes, config.balance))


_CARRIED = tuple(field.name for field in dataclasses.fields(Config) if field.name != "finest")
RATES = {32: 1e-10, 16: 1e-12, 8: 1e-14}  # of the paper's stages (release)


def stages(name: str, recipe: str) -> list[Fit]:
    """The course: recipes `paper` and `staged` train FCN-32s, and FCN-16s from there, and FCN-8s from there."""
    config = VARIANTS[name]
    if recipe not in ("paper", "staged") or config.form == "dilated":
        return [Fit(name, name)]
    course = []
    for stride in (s for s in STRIDES if s >= config.finest):
        model = name.replace(f"fcn{config.finest}s", f"fcn{stride}s")
        settings = {"lr": RATES[stride]} if recipe == "paper" else {}
        if stride == config.finest:
            course.append(Fit(name, name, settings=settings))
        else:
            course.append(Fit(model, model, settings=settings, carries=_CARRIED, adopt=_without_last, beside=True))
    return course


def _without_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a coarser network hands on: all but the transposed convolution that enlarges its sum."""
    last = ("skips.upscore32.", "skips.upscore16.", "skips.upscore8.")
    return {name: value for name, value in tensors.items() if not name.startswith(last)}


def from_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fully connected layers fc6 and fc7 of VGG as convolutions (section 3.1)."""
    found = {}
    for name, number, side in (("fc6", 0, 7), ("fc7", 3, 1)):
        weight = state_dict.get(f"classifier.{number}.weight")
        if weight is not None and weight.ndim == 2:
            found[f"skips.{name}.weight"] = weight.unflatten(1, (-1, side, side))
            found[f"skips.{name}.bias"] = state_dict[f"classifier.{number}.bias"]
    return found
