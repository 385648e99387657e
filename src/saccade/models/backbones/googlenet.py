"""GoogLeNet, the first Inception network (Szegedy et al. 2015): parallel convolutions of several sizes, joined.

Three forms of one design. `googlenet_paper`: table 1 as printed, true 5x5 branches, local response norm, biases, pools
that round up, auxiliary classifiers. `googlenet_naive`: modules without 1x1 reductions and with the pool passed through
(figure 2a), whose cost the reductions cut. `googlenet`: the network of the public torchvision checkpoint, under its
keys: batch norm, 3x3 in place of 5x5, a 2x2 last pool, pixels in [-1, 1] (its `transform_input`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions
from saccade.layers.conv import ConvNormRelu, refuse_small, scaled
from saccade.layers.layout import adaptive_pool, global_pool, join
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.layers.response_norm import LocalResponseNorm
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Going Deeper with Convolutions",
    authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
    year=2015,
    where="CVPR 2015, arXiv 1409.4842",
)
TASKS = ("classify", "tag")
MINIMUM = {2: 15, 3: 31}  # smallest side in pixels by `last_pool`: below, a pool finds nothing


@dataclass(frozen=True)
class Config:
    """The network; defaults are those of the public checkpoint."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifiers
    task: str = "classify"  # or "tag": independent logistic outputs
    reduce: bool = True  # figure 2b; False: the naive module of figure 2a
    kernel: Literal[3, 5] = 3  # of the third branch: 5 in the paper
    batch_norm: bool = True  # False: local response norm after the first pool and the third convolution, biases
    last_pool: Literal[2, 3] = 2  # side of the pool before 5a: 3 in the paper
    width: Positive = 1.0  # factor on all channels of the convolutions, a multiple of 1/8
    auxiliary: bool = True  # classifiers after 4a and 4d, which only the loss sees
    auxiliary_weight: NonNegative = 0.3  # section 5
    dropout: Share = 0.2  # before the classifier: 0.4 in the paper
    auxiliary_dropout: Share = 0.7  # section 5
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


_PAPER = Config(
    kernel=5, batch_norm=False, last_pool=3, dropout=0.4, mean=IMAGENET_MEAN, std=IMAGENET_STD
)  # table 1, section 5
VARIANTS: dict[str, Config] = {
    "googlenet": Config(),
    "googlenet_paper": _PAPER,
    "googlenet_naive": replace(_PAPER, reduce=False),
}
SIZE = 224

_DEFAULT: dict[str, Any] = PHOTOGRAPHS | {"weight_decay": 2e-4, "clip_norm": 5.0}
_PLAIN: dict[str, Any] = {**_DEFAULT, "lr": 0.01, "warmup": 0.1, "label_smoothing": 0.0}  # no norm to steady it
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "googlenet_paper": _PLAIN, "googlenet_naive": _PLAIN},
    "paper": {
        "*": {  # section 6; batch, rate and length as Ioffe & Szegedy (2015, section 4.2) report them for this network
            "size": 224,
            "batch": 32,
            "epochs": 775,  # 31 million steps of 32 over 1.28 million images
            "optimizer": "sgd",
            "lr": 0.0015,
            "momentum": 0.9,
            "weight_decay": 2e-4,  # not printed; of the authors' Caffe release
            "schedule": "step",
            "milestones": tuple(epoch / 775 for epoch in range(8, 775, 8)),  # "by 4 % every 8 epochs"
            "gamma": 0.96,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "ema": 0.9999,  # stands for Polyak averaging
            "resize": "crop",
            "crop_min": 0.08,
        },
    },
}

Widths = tuple[int, int, int, int, int, int]  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
MODULES: dict[str, Widths] = {  # table 1
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _conv(config: Config, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvNormRelu:
    return ConvNormRelu(channels_in, channels_out, kernel, stride, kernel // 2, norm=config.batch_norm)


class Inception(nn.Module):
    """1x1, 3x3, 5x5 convolutions and a 3x3 max-pool side by side, their maps joined (figure 2).

    [b, channels_in, H, W] -> [b, channels, H, W]. Reduced: a 1x1 convolution before the 3x3 and the 5x5 and after the
    pool; naive: none, so that the module's output holds its whole input once more.
    """

    def __init__(self, config: Config, channels_in: int, widths: Widths) -> None:
        super().__init__()
        one, reduce_three, three, reduce_five, five, pool = (scaled(w, config.width) for w in widths)
        self.branch1 = _conv(config, channels_in, one, 1)
        self.branch2: nn.Module
        self.branch3: nn.Module
        self.branch4: nn.Module
        if config.reduce:
            self.branch2 = nn.Sequential(
                _conv(config, channels_in, reduce_three, 1), _conv(config, reduce_three, three, 3)
            )
            self.branch3 = nn.Sequential(
                _conv(config, channels_in, reduce_five, 1), _conv(config, reduce_five, five, config.kernel)
            )
            self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _conv(config, channels_in, pool, 1))
            self.channels = one + three + five + pool
        else:
            self.branch2 = _conv(config, channels_in, three, 3)
            self.branch3 = _conv(config, channels_in, five, config.kernel)
            self.branch4 = nn.MaxPool2d(3, 1, padding=1)
            self.channels = one + three + five + channels_in

    def forward(self, x: Tensor) -> Tensor:
        return join([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)])


class Auxiliary(nn.Module):
    """A classifier halfway: [b, channels_in, H, W] -> logits [b, classes] (section 5).

    The paper's 5x5/3 average makes 4x4 of 14x14; other maps, and all maps of the public form, are averaged to 4x4
    whatever their size.
    """

    def __init__(self, config: Config, channels_in: int) -> None:
        super().__init__()
        self.strided = not config.batch_norm
        channels, hidden = scaled(128, config.width), scaled(1024, config.width)
        self.conv = _conv(config, channels_in, channels, 1)
        self.fc1 = nn.Linear(channels * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, config.classes)
        self.dropout = config.auxiliary_dropout

    def forward(self, x: Tensor) -> Tensor:
        if self.strided and x.shape[2:] == (14, 14):
            x = F.avg_pool2d(x, 5, 3)
        else:
            x = adaptive_pool(x, 4)
        x = F.relu(self.fc1(self.conv(x).flatten(1)))
        return self.fc2(F.dropout(x, self.dropout, self.training))


class Model(nn.Module):
    """GoogLeNet; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of each map of `features`: after the third convolution, 3b, 4e and 5b.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        stem, wide = scaled(64, config.width), scaled(192, config.width)
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.norm = LocalResponseNorm(1e-4, 0.75, 1.0)
        self.conv1 = _conv(config, 3, stem, 7, 2)
        self.conv2 = _conv(config, stem, stem, 1)
        self.conv3 = _conv(config, stem, wide, 3)
        channels = {"": wide}
        last = wide
        for name, widths in MODULES.items():
            module = Inception(config, last, widths)
            self.add_module(f"inception{name}", module)
            last = channels[name] = module.channels
        self.channels = [wide, channels["3b"], channels["4e"], channels["5b"]]
        self.strides = [4, 8, 16, 32]
        heads = bool(config.classes) and config.auxiliary
        self.aux1 = Auxiliary(config, channels["4a"]) if heads else None
        self.aux2 = Auxiliary(config, channels["4d"]) if heads else None
        self.fc = nn.Linear(last, config.classes) if config.classes else None
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-in: joined branches of unequal width keep one scale, with norms or without."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _local_norm(self, x: Tensor) -> Tensor:
        """Response norm over 5 channels (the paper names none; alpha, beta and k as in the authors' Caffe release)."""
        return x if self.config.batch_norm else self.norm(x)

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        """The output of every module by name, and "" for that of the third convolution. Pools round up (Caffe)."""
        refuse_small(images, MINIMUM[self.config.last_pool])
        x = self.conv1(self.normalize(images))
        x = self.conv2(self._local_norm(F.max_pool2d(x, 3, 2, ceil_mode=True)))
        x = self._local_norm(self.conv3(x))
        maps = {"": x}
        for name in MODULES:
            if name in ("3a", "4a"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            elif name == "5a":
                x = F.max_pool2d(x, self.config.last_pool, 2, ceil_mode=True)
            x = maps[name] = self.get_submodule(f"inception{name}")(x)
        return maps

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], H / strides[i], W / strides[i]] of images [b, 3, H, W] in [0, 1].

        Sides of a multiple of 32 divide exactly; elsewhere a map may be a pixel smaller than the quotient rounded up.

        Raises:
            UsageError: H or W is less than 15 pixels (31 with the paper's last pool).
        """
        maps = self._maps(images)
        return self.maps([maps[name] for name in ("", "3b", "4e", "5b")])

    def _classify(self, top: Tensor) -> Tensor:
        if self.fc is None:
            raise ValueError("a trunk (classes=0) has no classifier")
        return self.fc(F.dropout(global_pool(top), self.config.dropout, self.training))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`.

        The auxiliary classifiers take no part, in training either: `loss` asks them.
        """
        if self.fc is None:
            return tuple(self.features(images))
        return self._classify(self._maps(images)["5b"])

    def logits(self, images: Tensor) -> Tensor:
        """Logits [b, classes]. Raises ValueError for a trunk."""
        return self._classify(self._maps(images)["5b"])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss, and those of both auxiliary classifiers times their weight."""
        maps = self._maps(batch.images)
        task, objective = self.config.task, self.config.objective
        losses = classification_loss(self._classify(maps["5b"]), batch.truth, task, objective)
        if self.aux1 is not None and self.aux2 is not None:
            for name, logits in (("auxiliary1", self.aux1(maps["4a"])), ("auxiliary2", self.aux2(maps["4d"]))):
                extra = classification_loss(logits, batch.truth, task, objective)["classification"]
                losses[name] = self.config.auxiliary_weight * extra
        return losses

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self.logits(batch.images), batch.sizes, self.config.task)
