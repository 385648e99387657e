"""FaceNet (Schroff et al. 2015): a vector of length 1 for each face, learned from triplets.

Squared distances of the vectors tell who is who: an anchor must be nearer to every picture of its person than to those
of others, by a margin. A step takes P identities with K images each; which of its triplets count is the `mining`. The
network is one of the paper's two, NN1 (after Zeiler & Fergus, with 1x1 convolutions) or NN2 (Inception), or any network
of the zoo. In place of triplets the vectors can be learned by a softmax over the identities of training, plain or with
ArcFace's margin (Deng et al. 2019). Recipe "frozen" trains nothing: given weights' features, standardised by their mean
and deviation over the training images, are the vectors.

Letters: b images of H x W pixels, d numbers of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.conv import ConvNormRelu, scaled
from saccade.layers.embedding import embedding_answers
from saccade.layers.layout import adaptive_pool, join
from saccade.layers.normalize import Normalize
from saccade.layers.response_norm import LocalResponseNorm
from saccade.losses.classification import label_tensor
from saccade.losses.embedding import Mining, angular_margin, products, triplet_loss
from saccade.models.backbones import Extractor, create_extractor, create_trunk
from saccade.models.faces.siamese import Averaged
from saccade.models.paper import Paper
from saccade.models.recipes import FACES
from saccade.models.stage import Fit, Given, Solve
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="FaceNet: A Unified Embedding for Face Recognition and Clustering",
    authors="Schroff, Kalenichenko, Philbin",
    year=2015,
    where="CVPR 2015, arXiv 1503.03832",
)
TASKS = ("embed",)
FROZEN = "frozen"  # the recipe that takes features as they are


@dataclass(frozen=True)
class Config:
    """The network; defaults are facenet_small's."""

    classes: Count = 1000  # identities of training: outputs of arcface and softmax
    form: Literal["nn1", "nn2"] | None = None  # of the paper; none: the trunk
    width: Positive = 1.0  # factor on the channels of nn1 and nn2, a multiple of 1/8
    trunk: str | None = "resnet18"  # any classification network that gives feature maps
    trunk_width: Positive | None = 32  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    grid: Count = 1  # cells a side to which the trunk's last map is averaged; more keep where things are
    whole: bool = False  # all of the trunk but its layer of classes, in place of its averaged last map
    embedding: Natural = 128  # numbers of a vector; 0: as many as come before it, as they are
    norm: bool = False  # batch norm of the vector before its length becomes 1
    loss: Literal["triplet", "arcface", "softmax"] = "triplet"
    # triplet: which of a step count (losses/embedding.py: triplet_loss)
    mining: Mining = "semi_hard"
    margin: NonNegative = 0.2  # triplet: alpha, of squared distances
    angle: NonNegative = 0.5  # arcface: the margin in radians
    scale: Positive = 32.0  # arcface: factor on the cosines (paper: 64, for many thousands of identities)
    per_identity: Count = 4  # images of each identity in a step; batch / per_identity identities
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # nn1, nn2: RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


VARIANTS: dict[str, Config] = {
    "facenet_nn1": Config(form="nn1", trunk=None, trunk_width=None),
    "facenet_nn2": Config(form="nn2", trunk=None, trunk_width=None),
    # the network of facenet-pytorch, whose own last layers give 512 numbers
    "facenet_inception_resnet": Config(
        trunk="inception_resnet_v1_face", trunk_width=None, whole=True, embedding=0, loss="arcface"
    ),
    "facenet_small": Config(grid=3),  # for few people, on CPUs
}
SIZE = {"facenet_nn1": 220, "facenet_nn2": 224, "facenet_inception_resnet": 160, "facenet_small": 96}

_PAPER: dict[str, Any] = {  # section 3.4; 1000 to 2000 hours on a cluster of CPUs
    "size": 224,
    "batch": 1800,
    "per_identity": 40,
    "optimizer": "sgd",  # the paper: with AdaGrad
    "lr": 0.05,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "clip_norm": 0.0,
    "flip": 0.0,
    "color": 0.0,
}
_FROZEN: dict[str, Any] = {**FACES, "embedding": 0, "grid": 1, "norm": True, "loss": "triplet"}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {**FACES, "size": 96},
        "facenet_nn1": {**FACES, "size": 220, "batch": 32},
        "facenet_nn2": {**FACES, "size": 224, "batch": 32},
        "facenet_inception_resnet": {**FACES, "size": 160, "batch": 32},
    },
    "paper": {
        "*": _PAPER,
        "facenet_nn1": {**_PAPER, "size": 220},
        "facenet_inception_resnet": {**_PAPER, "size": 160},
        "facenet_small": {**_PAPER, "size": 96},
    },
    FROZEN: {"*": {**_FROZEN, "size": 224}, "facenet_inception_resnet": {**_FROZEN, "size": 160, "norm": False}},
}


class Maxout(nn.Module):
    """[b, n] -> [b, m], each the larger of two linear functions. Source: Goodfellow et al. 2013, "Maxout networks"."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, 2)).amax(2)


class NN1(nn.Module):
    """The first network (table 1): images [b, 3, H, W] in [0, 1] -> what fc7128 takes, [b, 4096] at width 1.

    At 220 pixels its maps are 110, 55, 28, 14 and 7 a side; of other sizes the last is averaged to 7 x 7.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvNormRelu:
            inputs = channels_in if channels_in == 3 else scaled(channels_in, config.width)
            outputs = scaled(channels_out, config.width)
            return ConvNormRelu(inputs, outputs, kernel, stride, kernel // 2, norm=False)

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(3, 2, padding=1)

        def response_norm() -> LocalResponseNorm:
            return LocalResponseNorm(alpha=1e-4, beta=0.75, k=1.0)  # the paper gives no numbers; these are Caffe's

        self.normalize = Normalize(config.mean, config.std)
        self.layers = nn.Sequential(
            *(conv(3, 64, 7, 2), pool(), response_norm()),
            *(conv(64, 64, 1), conv(64, 192, 3), response_norm(), pool()),
            *(conv(192, 192, 1), conv(192, 384, 3), pool()),
            *(conv(384, 384, 1), conv(384, 256, 3)),
            *(conv(256, 256, 1), conv(256, 256, 3)),
            *(conv(256, 256, 1), conv(256, 256, 3), pool()),
        )
        units = scaled(4096, config.width)
        self.fc1 = Maxout(49 * scaled(256, config.width), units)
        self.fc2 = Maxout(units, units)
        self.outputs = units
        for layer in self.layers.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = adaptive_pool(self.layers(self.normalize(images)), 7)
        return self.fc2(self.fc1(maps.flatten(1)))


class L2Pool(nn.Module):
    """The root of the sum of the squares in each 3x3 window, the size stays.

    Source: FaceNet, table 2, after Sermanet et al. 2012, "Convolutional neural networks applied to house numbers digit
    classification".
    """

    def forward(self, x: Tensor) -> Tensor:
        return (9 * F.avg_pool2d(x.float().square(), 3, 1, padding=1) + 1e-12).sqrt().type_as(x)


@dataclass(frozen=True)
class Module:
    """A row of table 2: channels of its branches, 0 for a branch that is not there, stride 2 where the map shrinks."""

    one: int  # 1x1
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int  # of the 1x1 convolution behind the pooling; 0: the pooled map as it is
    l2: bool = False  # pooling by L2 norm, else by maximum
    stride: int = 1

    def outputs(self, inputs: int) -> int:
        return self.one + self.three + self.five + (self.pool or inputs)


NN2_MODULES = (  # inception 3a to 5b
    Module(64, 96, 128, 16, 32, 32),
    Module(64, 96, 128, 32, 64, 64, l2=True),
    Module(0, 128, 256, 32, 64, 0, stride=2),
    Module(256, 96, 192, 32, 64, 128, l2=True),
    Module(224, 112, 224, 32, 64, 128, l2=True),
    Module(192, 128, 256, 32, 64, 128, l2=True),
    Module(160, 144, 288, 32, 64, 128, l2=True),
    Module(0, 160, 256, 64, 128, 0, stride=2),
    Module(384, 192, 384, 48, 128, 128, l2=True),
    Module(384, 192, 384, 48, 128, 128),
)


class Inception(nn.Module):
    """One module of NN2: 1x1, 3x3, 5x5 and pooled branches, joined. [b, c, H, W] -> [b, c', H / stride, W / stride]."""

    def __init__(self, inputs: int, plan: Module, width: float) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> ConvNormRelu:
            return ConvNormRelu(scaled(channels_in, width), scaled(channels_out, width), kernel, stride, kernel // 2)

        branches: list[nn.Module] = [] if not plan.one else [conv(inputs, plan.one)]
        for reduce, outputs, kernel in ((plan.reduce3, plan.three, 3), (plan.reduce5, plan.five, 5)):
            branches.append(nn.Sequential(conv(inputs, reduce), conv(reduce, outputs, kernel, plan.stride)))
        pooling: nn.Module = L2Pool() if plan.l2 else nn.MaxPool2d(3, plan.stride, padding=1)
        branches.append(nn.Sequential(pooling, conv(inputs, plan.pool)) if plan.pool else pooling)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return join(branch(x) for branch in self.branches)


class NN2(nn.Module):
    """The second network (table 2): images [b, 3, H, W] in [0, 1] -> means [b, 1024] at width 1.

    Batch norm follows each convolution, in place of the response norms that the paper's has before and behind its first
    module: it trains from scratch without them on a single machine.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvNormRelu:
            inputs = channels_in if channels_in == 3 else scaled(channels_in, config.width)
            return ConvNormRelu(inputs, scaled(channels_out, config.width), kernel, stride, kernel // 2)

        self.normalize = Normalize(config.mean, config.std)
        layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, padding=1), conv(64, 64, 1), conv(64, 192, 3)]
        layers.append(nn.MaxPool2d(3, 2, padding=1))
        channels = 192
        for plan in NN2_MODULES:
            layers.append(Inception(channels, plan, config.width))
            channels = plan.outputs(channels)
        self.layers = nn.Sequential(*layers)
        self.outputs = scaled(channels, config.width)

    def forward(self, images: Tensor) -> Tensor:
        return adaptive_pool(self.layers(self.normalize(images)), 1).flatten(1)


class Whole(nn.Module):
    """A network of the zoo up to its layer of classes: images [b, 3, H, W] in [0, 1] -> what that layer takes."""

    def __init__(self, network: Extractor) -> None:
        super().__init__()
        self.network = network
        self.outputs = network.hidden

    def forward(self, images: Tensor) -> Tensor:
        numbers: Tensor = self.network(images)[1]
        return numbers


def make_body(config: Config) -> NN1 | NN2 | Averaged | Whole:
    """What stands before the vector. Raises UsageError for fields that do not go together."""
    if config.form is not None:
        return NN1(config) if config.form == "nn1" else NN2(config)
    if config.trunk is None:
        raise UsageError("neither a form of the paper nor a trunk is given: set trunk or form")
    if config.whole:
        if config.trunk_norm is not None:
            raise UsageError("whole=true takes a network as it is, without trunk_norm")
        return Whole(create_extractor(config.trunk, config.trunk_width, config.trunk_depths))
    trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
    return Averaged(trunk, config.grid)


class Model(nn.Module):
    """A network whose answer to an image is a vector of length 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.body = make_body(config)
        length = config.embedding or self.body.outputs
        self.project = nn.Linear(self.body.outputs, length, bias=not config.norm) if config.embedding else None
        # without a layer before it the norm standardises features and learns nothing itself
        self.norm = nn.BatchNorm1d(length, eps=1e-3, affine=bool(config.embedding)) if config.norm else None
        self.identities: nn.Parameter | None = None
        if config.loss != "triplet":
            self.identities = nn.Parameter(0.01 * torch.randn(config.classes, length))

    def numbers(self, images: Tensor) -> Tensor:
        """[b, d] of any length, float32."""
        x = self.body(images)
        x = x if self.project is None else self.project(x)
        return (x if self.norm is None else self.norm(x)).float()

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, d] of length 1 of images [b, 3, H, W] in [0, 1], float32."""
        return F.normalize(self.numbers(images))

    def forward(self, images: Tensor) -> Tensor:
        """`embed`."""
        return self.embed(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`triplet`, or `softmax` over the identities of training.

        Raises:
            ValueError: no truth, or an image without an identity.
        """
        config, numbers = self.config, self.numbers(batch.images)
        labels = label_tensor(batch.truth or [], numbers.device)
        if self.identities is None:
            return {"triplet": triplet_loss(F.normalize(numbers), labels, config.margin, config.mining)}
        if config.loss == "softmax":
            logits = numbers @ self.identities.float().T
        else:
            cosines = products(F.normalize(numbers), F.normalize(self.identities.float()))
            logits = angular_margin(cosines, labels, config.angle, config.scale)
        return {"softmax": F.cross_entropy(logits, labels)}

    def predict(self, batch: Batch) -> list[Annotation]:
        return embedding_answers(self.embed(batch.images), batch.sizes)


def standardise(given: Given) -> dict[str, Tensor]:
    """Mean and variance of each number of the vector over the training images, as the statistics of its batch norm;
    nothing of a network without one, whose vectors are those of the given weights.

    Source: LeCun et al. 1998, "Efficient backprop", section 4.3 (inputs of zero mean and equal variance).

    Raises:
        UsageError: the features have random weights.
    """
    if any(name.startswith("body.") for name in given.fresh):
        raise UsageError(f"recipe {FROZEN} takes the features of given weights as they are: add --weights")
    rows: list[Tensor] = []
    body: Any = given.network.body
    if given.network.norm is None:
        return {}
    with torch.inference_mode():
        for batch in given.batches():
            rows.append(body(batch.to(given.device).images).float().cpu())
    features = torch.cat(rows)
    given.show(f"{features.shape[1]} features standardised over {len(features)} training images")
    return {"norm.running_mean": features.mean(0), "norm.running_var": features.var(0, correction=0)}


def stages(name: str, recipe: str) -> list[Fit | Solve]:
    """One fit; of recipe "frozen" a solve alone."""
    return [Solve("standardise", standardise)] if recipe == FROZEN else [Fit(name, name)]
