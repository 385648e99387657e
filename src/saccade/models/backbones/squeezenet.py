"""SqueezeNet (Iandola et al. 2016): AlexNet's accuracy with a fiftieth of its parameters, by fire modules.

A fire module squeezes to few channels by 1x1 convolutions and expands again by 1x1 and 3x3 side by side (figure 1);
there is no fully connected layer, the class scores are the means of 1x1 convolution maps (table 1). Version 1.1 of the
authors' repository pools earlier: 2.4 times less work for the same accuracy. State dicts have the keys of the public
torchvision checkpoints. `squeezenet1_0_caffe` takes the weights that the authors published for Caffe: the same layers,
another treatment of the colours; the compressed file of Deep Compression (Han et al. 2016), 0.66 MB, is read too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import ModelFileError, UsageError
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool, join
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.ranges import Natural, Positive, Share

PAPER = Paper(
    title="SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    authors="Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer",
    year=2016,
    where="arXiv 1602.07360",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are squeezenet1_0's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    version: Literal["1.0", "1.1"] = "1.0"
    width: Positive = 1.0  # share of the channels kept in every layer
    dropout: Share = 0.5  # before the classifier
    last_relu: bool = True  # classify: ReLU behind the class maps, as published; without it logits have any sign
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD
    bgr: bool = False  # the first convolution expects blue, green, red, as Caffe's do


VARIANTS: dict[str, Config] = {
    "squeezenet1_0": Config(),
    "squeezenet1_1": Config(version="1.1"),
    # Caffe: BGR in 0..255 minus (104, 117, 123)
    "squeezenet1_0_caffe": Config(mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3, bgr=True),
}
SIZE: dict[str, int] = {"squeezenet1_0": 224, "squeezenet1_1": 224, "squeezenet1_0_caffe": 227}

_DEFAULT: dict[str, Any] = {
    "size": 224,
    "batch": 32,
    "epochs": 60,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 2e-4,
    "schedule": "cosine",
    "warmup": 0.1,
    "clip_norm": 5.0,  # no norms: without it the first steps can throw the network off
    "label_smoothing": 0.1,
    "resize": "crop",
}
_PAPER: dict[str, Any] = {  # section 3.3 and the solver file released with it
    "size": 227,
    "batch": 512,
    "epochs": 68,  # 170,000 steps of 512 over 1.28 million images
    "optimizer": "sgd",
    "lr": 0.04,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "schedule": "poly",
    "power": 1.0,
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "color": 0.0,
}
_CAFFE: dict[str, Any] = {"size": 227, "view": 256 / 227, "lr": 0.001}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "squeezenet1_0_caffe": {**_DEFAULT, **_CAFFE}},
    "paper": {"*": _PAPER},
}

# Table 1: kernel and channels of the first convolution; then the fire modules between pools: (squeeze, each expand)
_STEMS = {"1.0": (7, 96), "1.1": (3, 64)}
_FIRES: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "1.0": (
        ((16, 64), (16, 64), (32, 128)),
        ((32, 128), (48, 192), (48, 192), (64, 256)),
        ((64, 256),),
    ),
    "1.1": (
        ((16, 64), (16, 64)),
        ((32, 128), (32, 128)),
        ((48, 192), (48, 192), (64, 256), (64, 256)),
    ),
}
_SMALLEST = {"1.0": 21, "1.1": 17}  # pixels: below this the last pool has nothing left


class Fire(nn.Module):
    """relu(1x1 to `squeeze`), then relu(1x1) and relu(3x3), `expand` channels each, concatenated (figure 1).

    [b, c_in, H, W] -> [b, 2 * expand, H, W].
    """

    def __init__(self, channels_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(join([self.expand1x1(x), self.expand3x3(x)]))


class Stages(nn.Module):
    """Convolution and fire modules: images [b, 3, H, W] in [0, 1] -> maps at strides 4, 8, 16.

    Children are named by their number in the public flat list, which gives the keys `features.3.squeeze.weight`, ...
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bgr, self.smallest = config.bgr, _SMALLEST[config.version]
        self.normalize = Normalize(config.mean, config.std)
        kernel, stem = _STEMS[config.version]
        channels = int(stem * config.width)
        layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, 2), nn.ReLU(inplace=True)]
        self.channels: list[int] = []
        for fires in _FIRES[config.version]:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeeze, expand in fires:
                layers.append(Fire(channels, int(squeeze * config.width), int(expand * config.width)))
                channels = 2 * int(expand * config.width)
            self.channels.append(channels)
        self.length = len(layers)
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)

    def forward(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[-2:]) < self.smallest:
            height, width = images.shape[-2:]
            raise UsageError(
                f"an image of {width}x{height} pixels is too small for SqueezeNet: at least "
                f"{self.smallest}x{self.smallest}; use a larger size"
            )
        x = self.normalize(images)
        if self.bgr:
            x = x.flip(1)
        maps = []
        for i in range(self.length):
            layer = self.get_submodule(str(i))
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps[1:], x]


class Model(nn.Module):
    """A SqueezeNet; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16: before the next pool.

    As in VGG the public layout's `features` is a module, called like the method that other trunks have. The first
    convolution does not pad, so the maps are up to two pixels smaller than the image over the stride.

    Attributes:
        channels: channels of each map of `features`: 256, 512, 512 (1.0) or 128, 256, 512 (1.1).
        strides: 4, 8, 16.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.features = Stages(config)
        self.channels = self.features.channels
        self.strides = [4, 8, 16]
        self.classifier: nn.Sequential | None = None
        if config.classes:
            last = nn.Conv2d(self.channels[-1], config.classes, 1)
            self.classifier = nn.Sequential(nn.Dropout(config.dropout), last, nn.ReLU(inplace=True))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-in, no bias, a small classifier (the released solver's).

        The classifier's biases start at 1, because the ReLU behind them passes no gradient below 0: a class that starts
        there for all images, as half of them do with biases of 0, never learns.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.classifier is not None:
            nn.init.normal_(self.classifier[1].weight, 0, 0.01)  # type: ignore[arg-type]
            if self.config.task == "classify" and self.config.last_relu:
                nn.init.ones_(self.classifier[1].bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] >= 0 of images [b, 3, H, W] in [0, 1], sides at least 21 (1.1: 17); of a trunk its maps.

        The logits are means of maps after a ReLU, hence never negative: so published, and the paper's figure 2.
        For `tag` the ReLU is left out, since a logistic output of 0 or more could never say no; and with
        `last_relu=False`.
        """
        maps = self.features(images)
        if self.classifier is None:
            return tuple(maps)
        if self.config.task == "tag" or not self.config.last_relu:
            return global_pool(self.classifier[:2](maps[-1]))
        return global_pool(self.classifier(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def read_deep_compression(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The state dict in a file of Deep Compression (pruned, shared weights) as released for SqueezeNet.

    Little-endian: a uint32 per convolution, its stored weights; then for each convolution, in order of the network, a
    codebook of 256 float32, the biases as float32, a byte per stored weight (its row of the codebook), and half a byte
    per stored weight, the low half first: how many weights were skipped before it. Skipped weights are entry 0 of the
    codebook. Runs of more than 15 zeros hold stored zeros.

    Args:
        model: a model whose convolutions the file holds; a trunk cannot be read.

    Raises:
        ModelFileError: the file's length or positions do not agree with the model's convolutions.
    """
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    place = 4 * len(convolutions)
    stored = np.frombuffer(content[: len(content) // 4 * 4], "<u4", min(len(convolutions), len(content) // 4)).tolist()
    biases = [m.out_channels for m in convolutions.values()]
    wanted = place + sum(4 * (256 + bias) + n + (n + 1) // 2 for n, bias in zip(stored, biases, strict=False))
    if len(stored) < len(biases) or wanted != len(content):
        raise ModelFileError(
            f"{path}: {len(content)} bytes, where the {len(biases)} convolutions of the model and the counts at its "
            f"start need {wanted}; truncated, or not the compressed file of this network"
        )
    state = {}
    for (name, convolution), n in zip(convolutions.items(), stored, strict=True):
        codebook = np.frombuffer(content, "<f4", 256, place)
        bias = np.frombuffer(content, "<f4", convolution.out_channels, place + 1024)
        place += 1024 + 4 * convolution.out_channels
        codes = np.frombuffer(content, np.uint8, n, place)
        halves = np.frombuffer(content, np.uint8, (n + 1) // 2, place + n)
        place += n + (n + 1) // 2
        skipped = np.stack([halves % 16, halves // 16], 1).reshape(-1)[:n].astype(np.int64)
        positions = np.cumsum(skipped + 1) - 1
        size = convolution.weight.numel()
        if n and positions[-1] >= size:
            raise ModelFileError(f"{path}: {name} has {size} weights, the file places one at {positions[-1]}; damaged")
        rows = np.zeros(size, np.int64)
        rows[positions] = codes
        state[f"{name}.weight"] = torch.from_numpy(codebook[rows].copy()).view(convolution.weight.shape)
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    return state


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".net": read_deep_compression}
