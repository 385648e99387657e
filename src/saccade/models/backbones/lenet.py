"""The digit networks of LeCun et al.: LeNet-5 as printed in 1998, the form that is taught today, and the one of 1990.

lenet5 (1998, section II.B): trainable subsampling, a sparse table between S2 and C3, scaled tanh everywhere, and ten
Euclidean RBF units with fixed bitmaps, trained with the MAP criterion of eq. 9; 60,000 trainable parameters.
lenet5_modern: dense C3, max-pools, ReLU, a softmax; 61,706. lenet_1990 ("Handwritten digit recognition with a
back-propagation network", NIPS 2): four maps, twelve maps, ten outputs trained by squared error; 2,578.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.classification import classification_predictions
from saccade.layers.layout import adaptive_pool
from saccade.layers.normalize import Normalize
from saccade.losses.classification import (
    CROSS_ENTROPY,
    Objective,
    classification_loss,
    label_tensor,
    mean_of_parts,
    parts_of,
)
from saccade.models.paper import Paper
from saccade.ranges import Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Gradient-Based Learning Applied to Document Recognition",
    authors="LeCun, Bottou, Bengio, Haffner",
    year=1998,
    where="Proceedings of the IEEE 86(11)",
)
TASKS = ("classify",)


@dataclass(frozen=True)
class Config:
    """The network; defaults are lenet5's."""

    classes: Natural = 10
    form: Literal["1998", "modern", "1990"] = "1998"
    # 1998: j of eq. 9, which the paper leaves open; a wrong class pushes only while its distance is not far above j
    rubbish: NonNegative = 10.0
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.1 / 1.275,)  # gray in [0, 1]: paper -0.1, ink 1.175 (section III.A), ink being bright
    std: tuple[Positive, ...] = (1 / 1.275,)


VARIANTS: dict[str, Config] = {
    "lenet5": Config(),
    "lenet5_modern": Config(form="modern"),
    "lenet_1990": Config(form="1990"),
}
SIZE = {"lenet5": 32, "lenet5_modern": 32, "lenet_1990": 28}

_DEFAULT: dict[str, Any] = {
    "size": 32,
    "batch": 32,
    "epochs": 30,
    "optimizer": "sgd",
    "lr": 0.005,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "stretch",
    "flip": 0.0,  # a mirrored digit is none
    "color": 0.0,
    "rotate": 8.0,  # section III.C: distortions
    "jitter": 0.1,
}
_PAPER: dict[str, Any] = {  # section III.B
    "size": 32,
    "batch": 1,
    "epochs": 20,
    "optimizer": "sgd",  # plain, where the paper scales each weight's step by its curvature (appendix C)
    "lr": 0.002,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": (0.1, 0.25, 0.4, 0.6),  # 5, 2, 1, 0.5, 0.1 times 1e-4 for 2, 3, 3, 4, 8 passes: about x 0.4 each
    "gamma": 0.4,
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "stretch",
    "flip": 0.0,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _DEFAULT,
        "lenet5_modern": _DEFAULT | {"lr": 0.02, "weight_decay": 5e-4},
        "lenet_1990": _DEFAULT | {"size": 28, "lr": 0.05},
    },
    "paper": {"*": _PAPER, "lenet_1990": _PAPER | {"size": 28, "lr": 0.01}},
}

# Table I of 1998: the maps of S2 that each of the 16 maps of C3 sees.
C3_TABLE = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 3) % 6, (i + 4) % 6) for i in range(3)),
    (0, 1, 2, 3, 4, 5),
)
# Table 1 of 1990: the maps of H2 that each of the 12 maps of H3 sees; the two halves share nothing.
H3_TABLE = (
    *((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1)),
    *((2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3)),
)

# The codes of the ten output units: digits on 12 rows of 7 pixels (as in figure 3), ink +1 and paper -1.
_DIGITS = """
.#####. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..###.. ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## ##..##. ######. ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. ##..##. .....## ######. ...##.. .#####. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
.#####. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
"""


def codes(classes: int) -> Tensor:
    """Targets [classes, 84] of F6, of +1 and -1: the drawn digits for ten classes, else random codes, always the same.

    Section II.B: parameters could be "chosen at random with equal probabilities for -1 and +1", or drawn.
    """
    if classes == 10:
        rows = [row.split() for row in _DIGITS.split("\n") if row]
        drawn = ["".join(row[digit] for row in rows) for digit in range(10)]
        return torch.tensor([[1.0 if pixel == "#" else -1.0 for pixel in digit] for digit in drawn])
    coin = random.Random(0)
    return torch.tensor([[coin.choice((-1.0, 1.0)) for _ in range(84)] for _ in range(classes)]).reshape(-1, 84)


def squash(x: Tensor) -> Tensor:
    """1.7159 tanh(2x / 3), which takes +-1 to +-1 (eq. 6 and appendix A)."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class Subsampling(nn.Module):
    """The sum of each 2x2, times one trainable number a map, plus a bias: [b, c, H, W] -> [b, c, H // 2, W // 2].

    It starts as the mean. The squash follows outside.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        total = 4 * F.avg_pool2d(x, 2)
        return total * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class TableConv2d(nn.Module):
    """A 5x5 convolution whose output map i sees only the input maps `table[i]`: [b, c, H, W] -> [b, len, H-4, W-4].

    Maps that see equally many run together as one grouped convolution; no weight exists where the table has no link.
    """

    def __init__(self, table: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        order: list[int] = []
        for seen in sorted({len(row) for row in table}):
            rows = [i for i, row in enumerate(table) if len(row) == seen]
            inputs = torch.tensor([channel for i in rows for channel in table[i]])
            self.register_buffer(f"inputs{len(self.convs)}", inputs, persistent=False)
            self.convs.append(nn.Conv2d(seen * len(rows), len(rows), 5, groups=len(rows)))
            order += rows
        places = [order.index(i) for i in range(len(table))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x.index_select(1, self.get_buffer(f"inputs{i}"))) for i, conv in enumerate(self.convs)]
        return torch.cat(maps, 1).index_select(1, self.get_buffer("places"))


class LeNet5(nn.Module):
    """The network of 1998: gray [b, 1, H, W] -> squared distances [b, classes] of F6 from the codes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = TableConv2d(C3_TABLE)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.register_buffer("codes", codes(classes))

    def forward(self, x: Tensor) -> Tensor:
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.c5(adaptive_pool(x, 5)))  # the pool is the identity at 32
        x = squash(self.f6(x.flatten(1)))
        return (x[:, None] - self.get_buffer("codes")).square().sum(2)


class ModernLeNet5(nn.Module):
    """The form that is taught: gray [b, 1, H, W] -> logits [b, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.out = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(F.relu(self.c3(x)), 2)
        x = F.relu(self.c5(adaptive_pool(x, 5)))
        return self.out(F.relu(self.f6(x.flatten(1))))


class Net1990(nn.Module):
    """The network of 1990: gray [b, 1, H, W] -> outputs [b, classes] in +-1.7159, of which the right one shall be 1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.h1 = nn.Conv2d(1, 4, 5)
        self.h2 = Subsampling(4)
        self.h3 = TableConv2d(H3_TABLE)
        self.h4 = Subsampling(12)
        self.out = nn.Linear(12 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = squash(self.h2(squash(self.h1(x))))
        x = squash(self.h4(squash(self.h3(x))))
        return squash(self.out(adaptive_pool(x, 4).flatten(1)))  # the pool is the identity at 28


_FORMS: dict[str, type[LeNet5] | type[ModernLeNet5] | type[Net1990]] = {
    "1998": LeNet5,
    "modern": ModernLeNet5,
    "1990": Net1990,
}


class Model(nn.Module):
    """A digit network; colour images are averaged to gray. Too coarse to serve as a trunk."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.form != "modern" and (config.objective.loss != "cross_entropy" or config.objective.class_weights):
            raise UsageError(
                "this LeNet has its paper's own criterion, which takes no other loss and no class weights; use "
                "lenet5_modern, or loss=cross_entropy and class_balance=none"
            )
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.net = _FORMS[config.form](config.classes)
        self._initialise()

    def _initialise(self) -> None:
        """Variance 1 / inputs (LeCun et al., Efficient BackProp, 4.6), twice that before a ReLU.

        The paper's +-2.4 / inputs leaves the deep layers almost silent; its second-order steps make up for that,
        first-order ones do not.
        """
        gain = 2.0 if self.config.form == "modern" else 1.0
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                inputs = module.weight[0].numel() if len(module.weight) else 1
                nn.init.normal_(module.weight, 0, math.sqrt(gain / inputs))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def outputs(self, images: Tensor) -> Tensor:
        """What the output units say: distances (1998), logits (modern) or activations (1990), [b, classes]."""
        return self.net(self.normalize(images.mean(1, keepdim=True)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1], H and W at least 16 (made for 32; 1990: 28).

        1998: the negated distances, so that their softmax is the posterior of eq. 9 without its rubbish class. 1990:
        four times the outputs, the posterior if these were Gaussian about their targets +-1 with variance 1/2.
        """
        outputs = self.outputs(images)
        return outputs * {"1998": -1.0, "modern": 1.0, "1990": 4.0}[self.config.form]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """1998: eq. 9; modern: softmax cross-entropy; 1990: half the squared error against targets of +1 and -1."""
        outputs = self.outputs(batch.images).float()
        if self.config.form == "modern":
            return classification_loss(outputs, batch.truth, "classify", self.config.objective)
        losses = []
        for part in parts_of(batch.truth):
            labels = label_tensor(part, outputs.device)
            if self.config.form == "1998":
                losses.append(map_loss(outputs, labels, self.config.rubbish))
            else:
                target = 2.0 * F.one_hot(labels, outputs.shape[1]) - 1
                losses.append(0.5 * (outputs - target).square().sum(1))
        return {"classification": mean_of_parts(losses, batch.truth)}

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self(batch.images), batch.sizes, "classify")


def map_loss(distances: Tensor, labels: Tensor, rubbish: float) -> Tensor:
    """Eq. 9 for every image, [b]: y_D + log(exp(-j) + sum_i exp(-y_i)); the paper's loss is its mean.

    Args:
        distances: y, [b, classes], squared distances from the codes.
        labels: D, [b].
        rubbish: j, the distance at which an image belongs to no class.
    """
    of_truth = distances.gather(1, labels[:, None])[:, 0]
    garbage = torch.full_like(of_truth, -rubbish)[:, None]
    return of_truth + torch.cat((garbage, -distances), 1).logsumexp(1)
