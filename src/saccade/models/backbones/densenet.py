"""DenseNet (Huang et al. 2017): every layer sees the maps of all layers before it in its block.

Layer l of a block takes k0 + k (l - 1) channels, where k0 enter the block and k is the growth rate, and adds k of its
own (section 3). `B` puts a 1x1 convolution to 4k channels before the 3x3; `C` lets the transitions between blocks keep
a share theta of the channels. ImageNet form (table 1): 7x7/2 stem and max-pool, four blocks at strides 4, 8, 16, 32.
CIFAR form (section 4.2): 3x3 stem, three blocks at strides 1, 2, 4. State dicts have the keys of the public torchvision
checkpoints; `from_public` also takes the older spelling of the released files.

Memory: the joined maps that a block's layers norm and convolve grow with the square of its depth. With
`checkpointing` they are not kept for the backward pass but made again (Pleiss et al. 2017, arXiv 1707.06990): same
gradients and statistics, memory that grows linearly, one more pass through norm and first convolution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool, join
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="Densely Connected Convolutional Networks",
    authors="Huang, Liu, van der Maaten, Weinberger",
    year=2017,
    where="CVPR 2017, arXiv 1608.06993",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are densenet121's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    depths: tuple[Natural, ...] = (6, 12, 24, 16)  # layers of each block
    growth: Count = 32  # k: channels that each layer adds
    stem_channels: Count = 64  # k0 of the first block
    bottleneck: bool = True  # B: a 1x1 convolution to 4k channels before each 3x3
    theta: Share = 0.5  # C: share of the channels that a transition keeps, in (0, 1]
    stem: Literal["imagenet", "cifar"] = "imagenet"  # 7x7/2 and max-pool, or 3x3
    dropout: Share = 0.0  # after each convolution of a block; the paper: 0.2 where the data are not augmented
    checkpointing: bool = False  # training: make the joined maps again in the backward pass instead of keeping them
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


def _cifar(depth: int, growth: int, compressed: bool) -> Config:
    """L layers in all: one in the stem, two transitions and the classifier; a bottleneck counts as two."""
    layers = (depth - 4) // (6 if compressed else 3)
    return Config(
        classes=10,
        depths=(layers,) * 3,
        growth=growth,
        stem_channels=2 * growth if compressed else 16,
        bottleneck=compressed,
        theta=0.5 if compressed else 1.0,
        stem="cifar",
    )


VARIANTS: dict[str, Config] = {
    "densenet121": Config(),
    "densenet161": Config(depths=(6, 12, 36, 24), growth=48, stem_channels=96),
    "densenet169": Config(depths=(6, 12, 32, 32)),
    "densenet201": Config(depths=(6, 12, 48, 32)),
    "densenet40_k12": _cifar(40, 12, compressed=False),
    "densenet100_k12": _cifar(100, 12, compressed=False),
    "densenet100_k24": _cifar(100, 24, compressed=False),
    "densenet_bc100_k12": _cifar(100, 12, compressed=True),
    "densenet_bc250_k24": _cifar(250, 24, compressed=True),
    "densenet_bc190_k40": _cifar(190, 40, compressed=True),
}
SIZE: dict[str, int] = {name: 32 if config.stem == "cifar" else 224 for name, config in VARIANTS.items()}

_SMALL: dict[str, Any] = resnet.RECIPES["default"]["resnet20"]
_PAPER: dict[str, Any] = {  # section 4.2, ImageNet: the rate falls after 30 and 60 epochs
    "size": 224,
    "batch": 256,
    "epochs": 90,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.333, 0.667),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "crop_min": 0.08,
}
_SMALL_PAPER: dict[str, Any] = {  # section 4.2, CIFAR: the rate falls at 50 and 75 %
    "size": 32,
    "batch": 64,
    "epochs": 300,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.5, 0.75),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "pad": 4,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": resnet.RECIPES["default"]["*"],
        **{name: _SMALL for name, config in VARIANTS.items() if config.stem == "cifar"},
    },
    "paper": {
        "*": _PAPER,
        **{name: _SMALL_PAPER for name, config in VARIANTS.items() if config.stem == "cifar"},
    },
}


@contextmanager
def _still(norm: nn.BatchNorm2d) -> Iterator[None]:
    """Norm by the statistics of the batch without counting the batch into the running ones a second time.

    A weight of zero and not `track_running_stats`: the second run has to keep as many tensors as the first did.
    """
    momentum, counter = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, counter


class Layer(nn.Module):
    """H of section 3: norm, ReLU, 3x3 convolution; with bottleneck norm, ReLU, 1x1 to 4k before it.

    A list of maps [b, *, H, W], `channels` in all -> [b, growth, H, W].
    """

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.dropout, self.checkpointing = config.dropout, config.checkpointing
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2: nn.Module | None = None
        self.conv2: nn.Module | None = None
        if config.bottleneck:
            self.conv1 = nn.Conv2d(channels, 4 * config.growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * config.growth)
            self.conv2 = nn.Conv2d(4 * config.growth, config.growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, config.growth, 3, padding=1, bias=False)

    def first(self, *maps: Tensor) -> Tensor:
        """Join, norm, ReLU, first convolution: what `checkpointing` does twice, since its inputs are needed anyway."""
        return self.conv1(F.relu(self.norm1(join(maps)), inplace=True))

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first and the second run of `first`."""
        return nullcontext(), _still(self.norm1) if isinstance(self.norm1, nn.BatchNorm2d) else nullcontext()

    def forward(self, maps: list[Tensor]) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            y = checkpoint(self.first, *maps, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts)
        else:
            y = self.first(*maps)
        if self.norm2 is not None and self.conv2 is not None:
            y = F.dropout(y, self.dropout, self.training)
            y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return F.dropout(y, self.dropout, self.training)


class DenseBlock(nn.Module):
    """[b, channels, H, W] -> [b, channels + depth * growth, H, W]: the input and what each layer adds, joined."""

    def __init__(self, config: Config, channels: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", Layer(config, channels + i * config.growth))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return join(maps)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution, 2x2 mean: [b, channels, H, W] -> [b, channels_out, H // 2, W // 2].

    Returns the rectified map at the full side too, which is what trunks hand out.
    """

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        activated = F.relu(self.norm(x))
        return activated, F.avg_pool2d(self.conv(activated), 2)


class Blocks(nn.Module):
    """Stem, blocks and transitions: images [b, 3, H, W] in [0, 1] -> the map of each block after its norm and ReLU.

    Map i is [b, channels[i], H', W'] with H' = ceil(H / 4) >> i in the ImageNet form (H at least 29 pixels), H >> i in
    the CIFAR form (at least 4). Children carry the public names, `features.denseblock1.denselayer1.norm1`, ...
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.depth = len(config.depths)
        self.normalize = Normalize(config.mean, config.std)
        channels = config.stem_channels
        self.norm0: nn.Module | None = None
        if config.stem == "imagenet":
            self.conv0 = nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
            self.norm0 = nn.BatchNorm2d(channels)
        else:
            self.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.channels: list[int] = []
        for i, depth in enumerate(config.depths):
            self.add_module(f"denseblock{i + 1}", DenseBlock(config, channels, depth))
            channels += depth * config.growth
            self.channels.append(channels)
            if i + 1 < self.depth:
                kept = int(config.theta * channels)
                self.add_module(f"transition{i + 1}", Transition(channels, kept))
                channels = kept
        self.add_module(f"norm{self.depth + 1}", nn.BatchNorm2d(channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.conv0(self.normalize(images))
        if self.norm0 is not None:
            x = F.max_pool2d(F.relu(self.norm0(x), inplace=True), 3, 2, padding=1)
        maps = []
        for i in range(self.depth):
            x = self.get_submodule(f"denseblock{i + 1}")(x)
            if i + 1 < self.depth:
                activated, x = self.get_submodule(f"transition{i + 1}")(x)
                maps.append(activated)
        maps.append(F.relu(self.get_submodule(f"norm{self.depth + 1}")(x)))
        return maps


class Model(nn.Module):
    """A DenseNet; with `classes=0` a trunk whose `forward` gives the maps of all blocks.

    The public layout calls the convolutions `features`, and so does the trunk contract: here it is a module, called
    like the method that other trunks have.

    Attributes:
        channels: channels of each map of `features`.
        strides: input pixels between neighbours of each map (4, 8, 16, 32, or 1, 2, 4 in the CIFAR form).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.features = Blocks(config)
        self.channels = self.features.channels
        self.strides = [(4 if config.stem == "imagenet" else 1) * 2**i for i in range(len(config.depths))]
        self.classifier = nn.Linear(self.channels[-1], config.classes) if config.classes else None
        for module in self.modules():  # He initialisation, section 4.2
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.classifier is None:
            return tuple(maps)
        return self.classifier(global_pool(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """{"classification": scalar} of a batch with truth."""
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        """One annotation an image: label (or tags) and the scores of all classes."""
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict of torchvision.

    The released files spell the layers of a block `denselayer1.norm.1.weight` and `denselayer1.conv.1.weight`; today's
    code has `norm1` and `conv1`. `module.` of DataParallel in front is taken off.
    """
    spelled = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    return {spelled.sub(r"\1\2.", key.removeprefix("module.")): value for key, value in state_dict.items()}
