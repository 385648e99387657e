"""Xception (Chollet 2017): a residual stack of depthwise separable convolutions.

A depthwise separable convolution filters each channel on its own (3x3) and then mixes channels (1x1), with nothing
between (section 4.7); against a full 3x3 convolution it costs 1 / channels_out + 1 / 9. Figure 5: entry flow of two
plain convolutions and three strided blocks, middle flow of eight blocks, exit flow. State dicts have the keys of timm's
`legacy_xception` (the Keras weights ported by Cadene), whose two first convolutions are unpadded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="Xception: Deep Learning with Depthwise Separable Convolutions",
    authors="Chollet",
    year=2017,
    where="CVPR 2017, arXiv 1610.02357",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are xception's, channels as in figure 5."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    stem: tuple[Count, Count] = (32, 64)  # channels of the two plain convolutions
    entry: tuple[Count, Count, Count] = (128, 256, 728)  # channels of the three strided blocks
    middle: Natural = 8  # blocks of the middle flow
    exit: tuple[Count, Count, Count] = (1024, 1536, 2048)  # channels of the last strided block and of the two after it
    dropout: Share = 0.5  # before the classifier (section 4.3)
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


VARIANTS: dict[str, Config] = {"xception": Config()}
SIZE = 299

_EPOCHS = 90  # the paper trains for three days and does not say how many epochs that was
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": resnet.RECIPES["default"]["*"]},
    "paper": {
        "*": {  # section 4.3; the batch is that of one of the 60 GPUs, as for Inception v3, and not stated
            "size": 299,
            "batch": 32,
            "epochs": _EPOCHS,
            "optimizer": "sgd",
            "lr": 0.045,
            "momentum": 0.9,
            "weight_decay": 1e-5,
            "schedule": "step",
            "milestones": tuple(round(epoch / _EPOCHS, 4) for epoch in range(2, _EPOCHS, 2)),
            "gamma": 0.94,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "ema": 0.9999,  # averaged weights are evaluated; the decay is not stated
            "resize": "crop",
            "crop_min": 0.08,
        },
    },
}


class SeparableConv(nn.Module):
    """3x3 within each channel, then 1x1 across channels: [b, c_in, H, W] -> [b, c_out, H, W]. No biases."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """x + separable convolutions, each after a ReLU and before a norm; strided blocks end in a 3x3/2 max-pool.

    [b, channels[0], H, W] -> [b, channels[-1], ceil(H / stride), ceil(W / stride)]; `channels` before, between and
    after the convolutions. Where channels or stride change, the shortcut is a strided 1x1 convolution with norm.
    `rectify`: whether a ReLU comes first; not so right after the stem, which has one.
    """

    def __init__(self, channels: tuple[int, ...], stride: int, rectify: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(1, len(channels)):
            if rectify or i > 1:
                layers.append(nn.ReLU())  # not in place at the start: the shortcut takes the same input unrectified
            layers += [SeparableConv(channels[i - 1], channels[i]), nn.BatchNorm2d(channels[i])]
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, padding=1))
        self.rep = nn.Sequential(*layers)
        self.skip: nn.Module | None = None
        if stride > 1 or channels[0] != channels[-1]:
            self.skip = nn.Conv2d(channels[0], channels[-1], 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + (x if self.skip is None else self.skipbn(self.skip(x)))


class Model(nn.Module):
    """Xception; with `classes=0` a trunk whose `forward` gives the maps of four depths.

    Attributes:
        channels: channels of each map of `features`: 128, 256, 728, 2048.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = [config.entry[0], config.entry[1], config.entry[2], config.exit[2]]
        self.strides = [4, 8, 16, 32]
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(3, config.stem[0], 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem[0])
        self.conv2 = nn.Conv2d(config.stem[0], config.stem[1], 3, bias=False)
        self.bn2 = nn.BatchNorm2d(config.stem[1])
        before = config.stem[1]
        for i, after in enumerate(config.entry):
            self.add_module(f"block{i + 1}", Block((before, after, after), 2, rectify=i > 0))
            before = after
        for i in range(config.middle):
            self.add_module(f"block{i + 4}", Block((before,) * 4, 1))
        self.add_module(f"block{config.middle + 4}", Block((before, before, config.exit[0]), 2))
        self.conv3 = SeparableConv(config.exit[0], config.exit[1])
        self.bn3 = nn.BatchNorm2d(config.exit[1])
        self.conv4 = SeparableConv(config.exit[1], config.exit[2])
        self.bn4 = nn.BatchNorm2d(config.exit[2])
        self.fc = nn.Linear(config.exit[2], config.classes) if config.classes else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], H', W'] of images [b, 3, H, W] in [0, 1], H and W at least 7 pixels.

        The unpadded stem cuts a border: with S = (H - 3) // 2 - 1, H' = ceil(S / 2), ceil(S / 4), ceil(S / 8) and
        ceil(S / 16): 74, 37, 19, 10 of 299 pixels. The first three are sums of blocks 1, 2 and the last of the middle
        flow after the ReLU that follows them.
        """
        x = F.relu(self.bn1(self.conv1(self.normalize(images))))
        x = F.relu(self.bn2(self.conv2(x)))
        maps = []
        for i in range(1, self.config.middle + 5):
            x = self.get_submodule(f"block{i}")(x)
            if i in (1, 2, self.config.middle + 3):
                maps.append(F.relu(x))
        x = F.relu(self.bn3(self.conv3(x)))
        maps.append(F.relu(self.bn4(self.conv4(x))))
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.fc is None:
            return tuple(maps)
        return self.fc(F.dropout(global_pool(maps[-1]), self.config.dropout, self.training))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """{"classification": scalar} of a batch with truth."""
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        """One annotation an image: label (or tags) and the scores of all classes."""
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict: timm's `legacy_xception` and the Cadene file that it came from.

    `module.` of DataParallel in front is taken off; the classifier of the Cadene file is called `last_linear`, and
    its pointwise weights may lack the two trailing sides of 1.
    """
    repaired = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        if key.startswith("last_linear."):
            key = "fc." + key.removeprefix("last_linear.")
        if "pointwise" in key and value.ndim == 2:
            value = value[:, :, None, None]
        repaired[key] = value
    return repaired
