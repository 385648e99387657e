"""Residual networks with pre-activation (He et al. 2016b): norm and ReLU come before each convolution.

The path from block to block is then a pure identity, x[l+1] = x[l] + F(x[l]) (equation 4 without f), so that signal
and gradient pass unchanged between any two blocks (equations 4 and 5), and a thousand layers train.

Special blocks (appendix): the first ReLU of the network stands right after the stem, before the paths of the first
block part, so that this block has no norm of its own; one more norm and ReLU follow the last sum. Where the shape
changes, the shortcut is a 1x1 convolution of the *activated* input, shared with the first convolution of the block.

ImageNet form: 7x7/2 stem, max-pool, four stages at strides 4, 8, 16, 32. CIFAR form: 3x3 stem, three stages at strides
1, 2, 4; depth 6n + 2 with basic blocks, 9n + 2 with bottlenecks. No public checkpoints of this form in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="Identity Mappings in Deep Residual Networks",
    authors="He, Zhang, Ren, Sun",
    year=2016,
    where="ECCV 2016, arXiv 1603.05027",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are preact_resnet18's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[Natural, ...] = (2, 2, 2, 2)  # blocks of each stage
    width: Count = 64  # channels of the stem; stage i has width * 2**i (times 4 after a bottleneck)
    stem: Literal["imagenet", "cifar"] = "imagenet"  # 7x7/2 and max-pool, or 3x3
    shortcut: Literal["A", "B"] = "B"  # where the shape changes: A zero-padded identity, B projection
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {
    "preact_resnet18": Config(),
    "preact_resnet50": Config(block="bottleneck", depths=(3, 4, 6, 3)),
    "preact_resnet101": Config(block="bottleneck", depths=(3, 4, 23, 3)),
    "preact_resnet152": Config(block="bottleneck", depths=(3, 8, 36, 3)),
    "preact_resnet200": Config(block="bottleneck", depths=(3, 24, 36, 3)),  # section 5, table 5
    # Section 3.1: 54 units of two 3x3 convolutions. As in the first paper, without parameters in the shortcuts.
    "preact_resnet110": Config(classes=10, depths=(18,) * 3, width=16, stem="cifar", shortcut="A"),
    "preact_resnet164": Config(classes=10, block="bottleneck", depths=(18,) * 3, width=16, stem="cifar"),
    "preact_resnet1001": Config(classes=10, block="bottleneck", depths=(111,) * 3, width=16, stem="cifar"),
}
SIZE: dict[str, int] = {name: 32 if config.stem == "cifar" else 224 for name, config in VARIANTS.items()}

_SMALL_PAPER: dict[str, Any] = {  # appendix
    **resnet.RECIPES["paper"]["resnet20"],  # 64k steps of 128, the rate falls at 32k and 48k
    "warmup": 0.00625,  # 400 steps; the paper holds 0.01 in them, here the rate rises linearly
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": resnet.RECIPES["default"]["*"],
        **{name: resnet.RECIPES["default"]["resnet20"] for name, c in VARIANTS.items() if c.stem == "cifar"},
    },
    "paper": {
        "*": {  # appendix: the rate falls after 30 and 60 of 90 epochs
            **resnet.RECIPES["paper"]["*"],
            "epochs": 90,
            "milestones": (0.333, 0.667),
        },
        **{name: _SMALL_PAPER for name, c in VARIANTS.items() if c.stem == "cifar"},
    },
}


class Block(nn.Module):
    """x + F(relu(norm(x))) with F of two 3x3 convolutions, or of 1x1, 3x3 and 1x1 (figure 1b).

    [b, channels_in, H, W] -> [b, width * expansion, ceil(H / stride), ceil(W / stride)]. The stride is that of the
    first 3x3 convolution. `first`: the block follows the stem, which has normed and rectified its input already.
    """

    def __init__(self, config: Config, channels_in: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        bottleneck = config.block == "bottleneck"
        channels_out = width * (4 if bottleneck else 1)
        self.bn1 = None if first else nn.BatchNorm2d(channels_in)
        self.bn3: nn.Module | None = None
        self.conv3: nn.Module | None = None
        if bottleneck:
            self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn3 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels_in, width, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = (
                resnet.PaddedShortcut(channels_in, channels_out, stride)
                if config.shortcut == "A"
                else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            )

    def activate(self, x: Tensor) -> Tensor:
        """relu(norm(x)), what both convolutions of a changing block see; x itself right after the stem."""
        return x if self.bn1 is None else F.relu(self.bn1(x))

    def add(self, x: Tensor, activated: Tensor) -> Tensor:
        """The block's output from its input and `activate` of it."""
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        if self.bn3 is not None and self.conv3 is not None:
            y = self.conv3(F.relu(self.bn3(y)))
        return y + (x if self.downsample is None else self.downsample(activated))

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.activate(x))


class Model(nn.Module):
    """A pre-activation ResNet; with `classes=0` a trunk whose `forward` gives the maps of all stages.

    Attributes:
        channels: channels of each map of `features`.
        strides: input pixels between neighbours of each map (4, 8, 16, 32, or 1, 2, 4 in the CIFAR form).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        imagenet = config.stem == "imagenet"
        expansion = 4 if config.block == "bottleneck" else 1
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(
            3, config.width, 7 if imagenet else 3, 2 if imagenet else 1, 3 if imagenet else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(config.width)
        self.channels = [config.width * 2**i * expansion for i in range(len(config.depths))]
        self.strides = [(4 if imagenet else 1) * 2**i for i in range(len(config.depths))]
        channels = config.width
        for i, depth in enumerate(config.depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(config, channels, config.width * 2**i, stride, first=i == j == 0))
                channels = self.channels[i]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, config.classes) if config.classes else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1].

        A map is the stage's sum after the norm and ReLU that follow it: those of the next stage's first block, or the
        last ones of the network.
        """
        x = F.relu(self.bn1(self.conv1(self.normalize(images))))
        if self.config.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, padding=1)
        maps = []
        for i in range(len(self.config.depths)):
            for j, block in enumerate(self.get_submodule(f"layer{i + 1}").children()):
                assert isinstance(block, Block)
                activated = block.activate(x)
                if i > 0 and j == 0:
                    maps.append(activated)
                x = block.add(x, activated)
        maps.append(F.relu(self.norm(x)))
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.fc is None:
            return tuple(maps)
        return self.fc(global_pool(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """{"classification": scalar} of a batch with truth."""
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        """One annotation an image: label (or tags) and the scores of all classes."""
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
