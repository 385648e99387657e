"""Siamese networks: one encoder for two pictures, and a distance or a learned similarity of its two vectors.

The contrastive loss (Hadsell et al. 2006) draws two pictures of one identity together and pushes two of different ones
apart, up to a margin. In place of a distance the similarity itself can be learned, as the probability that two vectors
are of one identity: from the weighted sum of their absolute differences (Koch et al. 2015), or of chi-square distances
of each number. All pairs of a step of P identities with K images each are compared, both kinds with equal weight. The
encoder is that of Koch et al., for letters of 105 pixels, or any network of the zoo.

Letters: b images of H x W pixels, d numbers of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.conv import scaled
from saccade.layers.embedding import LearnedSimilarity, embedding_answers
from saccade.layers.layout import adaptive_pool
from saccade.losses.classification import label_tensor
from saccade.losses.embedding import contrastive_loss, pair_cross_entropy
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.models.recipes import FACES
from saccade.ranges import Count, Natural, NonNegative, Positive

_HADSELL = Paper(
    title="Dimensionality Reduction by Learning an Invariant Mapping",
    authors="Hadsell, Chopra, LeCun",
    year=2006,
    where="CVPR 2006",
)
_KOCH = Paper(
    title="Siamese Neural Networks for One-shot Image Recognition",
    authors="Koch, Zemel, Salakhutdinov",
    year=2015,
    where="ICML Deep Learning Workshop 2015",
)
TASKS = ("embed",)
LUMA = (0.299, 0.587, 0.114)  # red, green and blue in the grey of ITU-R BT.601


@dataclass(frozen=True)
class Config:
    """The network; defaults are siamese_small's."""

    classes: Count = 1000  # identities of training; the network does not depend on them
    trunk: str | None = "resnet18"  # any classification network that gives feature maps; none: the encoder of Koch
    trunk_width: Positive | None = 32  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    width: Positive = 1.0  # factor on the channels of the encoder of Koch, a multiple of 1/8
    grid: Count = 3  # cells a side to which the trunk's last map is averaged; more keep where things are
    embedding: Count = 128  # numbers of a vector
    # cosine: by the contrastive loss; weighted_l1, chi_square: a learned probability that two are the same
    similarity_kind: Literal["cosine", "weighted_l1", "chi_square"] = "cosine"
    margin: NonNegative = 1.0  # cosine: distance to which different ones are pushed apart; the largest there is is 2
    per_identity: Count = 4  # images of each identity in a step; batch / per_identity identities


VARIANTS: dict[str, Config] = {
    "siamese_small": Config(),  # for few identities, on CPUs
    "siamese_koch": Config(trunk=None, trunk_width=None, embedding=4096, similarity_kind="weighted_l1"),
}
PAPER: dict[str, Paper] = {"siamese_small": _HADSELL, "siamese_koch": _KOCH}
SIZE = {"siamese_koch": 105, "siamese_small": 96}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "siamese_koch": {**FACES, "size": 105, "lr": 3e-4},
        "siamese_small": {**FACES, "size": 96},
    },
    "paper": {
        "siamese_koch": {  # sections 3.2 and 3.3; rates, momenta and decays of each layer were searched for
            "size": 105,
            "batch": 128,
            "per_identity": 2,
            "epochs": 200,
            "optimizer": "sgd",
            "lr": 1e-2,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "cosine",  # the paper: 1 % less an epoch
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "stretch",
            "rotate": 10.0,
            "jitter": 0.2,
            "flip": 0.0,  # letters
            "color": 0.0,
        },
        "siamese_small": {  # section 3: plain stochastic descent on pairs
            "size": 96,
            "batch": 64,
            "optimizer": "sgd",
            "lr": 1e-2,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "clip_norm": 0.0,
            "flip": 0.0,
            "color": 0.0,
        },
    },
}


class KochEncoder(nn.Module):
    """The encoder of figure 4: images [b, 3, H, W] in [0, 1] -> maps [b, 256, 6, 6] at width 1, of its grey.

    At 105 pixels the four convolutions, without padding, leave 6 x 6; of other sizes the last map is averaged to that.
    """

    luma: Tensor

    def __init__(self, width: float) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 128, 256))

        def block(inputs: int, outputs: int, kernel: int, pooled: bool = True) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(inplace=True)]
            return [*layers, nn.MaxPool2d(2)] if pooled else layers

        self.layers = nn.Sequential(*block(1, c1, 10), *block(c1, c2, 7), *block(c2, c3, 4), *block(c3, c4, 4, False))
        self.outputs = 36 * c4
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        grey = (images * self.luma).sum(1, keepdim=True)
        return adaptive_pool(self.layers(1 - 2 * grey), 6).flatten(1)


class Averaged(nn.Module):
    """A network of the zoo: images [b, 3, H, W] in [0, 1] -> its last map averaged to a grid of cells, laid flat.

    Args:
        network: of `create_trunk`.
        grid: cells a side.
    """

    def __init__(self, network: Any, grid: int) -> None:
        super().__init__()
        self.network, self.grid = network, grid
        self.outputs = int(network.channels[-1]) * grid**2

    def forward(self, images: Tensor) -> Tensor:
        return adaptive_pool(self.network.features(images)[-1], self.grid).flatten(1)


class Model(nn.Module):
    """An encoder whose answer to an image is a vector of length 1, with the comparison of two."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder: KochEncoder | Averaged = KochEncoder(config.width)
        if config.trunk is not None:
            trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
            self.encoder = Averaged(trunk, config.grid)
        self.project = nn.Linear(self.encoder.outputs, config.embedding)
        kind = config.similarity_kind
        self.compare = None if kind == "cosine" else LearnedSimilarity(config.embedding, kind)

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, d] of length 1 of images [b, 3, H, W] in [0, 1], float32; for a learned similarity of numbers
        of at least 0: a sigmoid of each, as in the paper, comes before."""
        numbers = self.project(self.encoder(images)).float()
        return F.normalize(numbers if self.compare is None else numbers.sigmoid())

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """How alike vectors [n, d] and [m, d] are, [n, m]: the learned probability that they are of one identity, or
        the cosine."""
        return a @ b.T if self.compare is None else self.compare(a, b).sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        """`embed`."""
        return self.embed(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`contrastive`, or the `cross_entropy` of the learned probability, over all pairs of the batch.

        Raises:
            ValueError: no truth, or an image without an identity.
        """
        vectors = self.embed(batch.images)
        labels = label_tensor(batch.truth or [], vectors.device)
        if self.compare is None:
            return {"contrastive": contrastive_loss(vectors, labels, self.config.margin)}
        return {"cross_entropy": pair_cross_entropy(self.compare(vectors, vectors), labels)}

    def predict(self, batch: Batch) -> list[Annotation]:
        return embedding_answers(self.embed(batch.images), batch.sizes)
