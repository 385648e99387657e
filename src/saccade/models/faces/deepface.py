"""DeepFace (Taigman et al. 2014): faces in a fixed place, seen by layers with weights of their own at every place.

The network learns to name the people of training by a softmax; what it says of anyone else is its last hidden layer:
each number divided by the largest that it has over the training images, then all brought to length 1. Two such vectors
are compared by their inner product, or by a similarity that is fitted to pairs of training images while the network
stays as it is: a weighted chi-square distance, or the weighted sum of absolute differences of the siamese form.

Letters: b images of H x W pixels, d numbers of a vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError, UsageError
from saccade.layers.embedding import LearnedSimilarity, embedding_answers, parts_apart
from saccade.layers.locally_connected import LocallyConnected2d
from saccade.losses.classification import label_tensor
from saccade.models.paper import Paper
from saccade.models.recipes import FACES
from saccade.models.stage import Fit, Given, Solve
from saccade.ranges import Count, Share

PAPER = Paper(
    title="DeepFace: Closing the Gap to Human-Level Performance in Face Verification",
    authors="Taigman, Yang, Ranzato, Wolf",
    year=2014,
    where="CVPR 2014",
)
TASKS = ("embed",)
PAIRS = 20_000  # of each kind, to which a similarity is fitted, at most; drawn by chance
STEPS = 400  # of the fit of a similarity


@dataclass(frozen=True)
class Local:
    """A locally connected layer: its channels, the side of its kernel, its stride."""

    channels: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class Config:
    """The network; defaults are those of the paper (section 3.1 and figure 2)."""

    classes: Count = 4030  # identities of training
    size: tuple[Count, Count] = (152, 152)  # (height, width) of the images, from which the places of the weights follow
    first: Count = 32  # channels of C1, an 11x11 convolution in the paper
    first_kernel: Count = 11
    first_stride: Count = 1
    second: Count = 16  # channels of C3
    second_kernel: Count = 9
    # L4 to L6: channels, kernel, stride
    local: tuple[tuple[Count, Count, Count], ...] = ((16, 9, 1), (16, 7, 2), (16, 5, 1))
    hidden: Count = 4096  # units of F7
    dropout: Share = 0.5  # on F7
    # cosine: the inner product; weighted_l1, chi_square: fitted to pairs of training images when the network is trained
    similarity_kind: Literal["cosine", "weighted_l1", "chi_square"] = "cosine"


VARIANTS: dict[str, Config] = {
    "deepface": Config(),
    "deepface_small": Config(  # for few people, on CPUs
        size=(96, 96),
        first=24,
        first_kernel=5,
        first_stride=2,
        second_kernel=5,
        local=((16, 3, 1), (16, 3, 2), (16, 3, 1)),
        hidden=256,
    ),
}
SIZE = {"deepface": 152, "deepface_small": 96}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "deepface": {**FACES, "size": 152, "batch": 32, "lr": 3e-4},
        "deepface_small": {**FACES, "size": 96, "batch": 32, "epochs": 150},
    },
    "paper": {
        "*": {  # sections 3.2 and 5.1; the faces are aligned in three dimensions first
            "size": 152,
            "batch": 128,
            "epochs": 15,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "schedule": "step",  # to 1e-4 at the end, "once the error stops falling"
            "milestones": (0.5, 0.8),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "flip": 0.0,
            "color": 0.0,
        },
        "deepface_small": {"size": 96},
    },
}


class Model(nn.Module):
    """C1, M2, C3, L4, L5, L6, F7 and F8 of figure 2.

    Attributes:
        largest: [d] by which each number of F7 is divided; 1 until a solve has looked at the training images.
    """

    largest: Tensor

    def __init__(self, config: Config) -> None:
        """Raises UsageError where images are so small that a layer finds no place in them."""
        super().__init__()
        self.config = config
        _check_size(config)
        self.layers = nn.Sequential(
            nn.Conv2d(3, config.first, config.first_kernel, config.first_stride),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(config.first, config.second, config.second_kernel),
            nn.ReLU(inplace=True),
        )
        channels, sides = config.second, map_sides(config)
        self.side, side = sides[0], sides[-1]
        self.local = nn.Sequential()
        for seen, plan in zip(sides, (Local(*row) for row in config.local), strict=False):
            self.local.append(LocallyConnected2d(channels, plan.channels, seen, plan.kernel, plan.stride))
            self.local.append(nn.ReLU(inplace=True))
            channels = plan.channels
        self.f7 = nn.Linear(channels * side[0] * side[1], config.hidden)
        self.f8 = nn.Linear(config.hidden, config.classes)
        self.register_buffer("largest", torch.ones(config.hidden))
        kind = config.similarity_kind
        self.compare = None if kind == "cosine" else LearnedSimilarity(config.hidden, kind).requires_grad_(False)
        for layer in (*self.layers, self.f7):  # the local layers do the same by themselves
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def hidden(self, images: Tensor) -> Tensor:
        """F7: [b, d] of at least 0, of images [b, 3, H, W] in [0, 1]. Of images of another size than that of the Config
        the map is averaged to the places for which there are weights."""
        maps = self.layers(2 * images - 1)
        if tuple(maps.shape[-2:]) != self.side:
            maps = F.adaptive_avg_pool2d(maps, self.side)
        return F.relu(self.f7(self.local(maps).flatten(1)))

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, d] of length 1 and numbers of at least 0, float32 (section 3.3); of an image to which no unit
        answers all numbers are alike."""
        return F.normalize(self.hidden(images).float() / self.largest + 1e-6)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """How alike vectors [n, d] and [m, d] are, [n, m]: the fitted probability that they are of one identity, or
        the inner product."""
        return a @ b.T if self.compare is None else self.compare(a, b).sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        """`embed`."""
        return self.embed(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`softmax` over the identities of training.

        Raises:
            ValueError: no truth, or an image without an identity.
        """
        hidden = F.dropout(self.hidden(batch.images), self.config.dropout, self.training)
        logits = self.f8(hidden).float()
        return {"softmax": F.cross_entropy(logits, label_tensor(batch.truth or [], logits.device))}

    def predict(self, batch: Batch) -> list[Annotation]:
        return embedding_answers(self.embed(batch.images), batch.sizes)


def map_sides(config: Config) -> list[tuple[int, int]]:
    """(height, width) of the map of C3, and of those behind each local layer: 152 -> C1 142 -> M2 71 -> C3 63, 55, 25,
    21. Below 1 where a layer finds no place."""
    sides = []
    for side in config.size:
        side = (side - config.first_kernel) // config.first_stride + 1
        line = [-(-(side - 3) // 2) + 1 - config.second_kernel + 1]
        for plan in (Local(*row) for row in config.local):
            line.append((line[-1] - plan.kernel) // plan.stride + 1)
        sides.append(line)
    return list(zip(*sides, strict=True))


def _check_size(config: Config) -> None:
    def fits(size: tuple[int, int]) -> bool:
        return min(min(sides) for sides in map_sides(replace(config, size=size))) >= 1

    if not fits(config.size):
        least = next(side for side in itertools.count(1) if fits((side, side)))
        raise UsageError(
            f"size {config.size[0]} x {config.size[1]} leaves the local layers no place; {least} pixels a side are "
            "needed (--size)"
        )


def solve_vectors(given: Given) -> dict[str, Tensor]:
    """The largest value of each number of F7 over the training images (section 3.3), 1 of one that is always 0; and the
    similarity, where the network has one to fit."""
    network: Any = given.network
    largest = torch.zeros(network.config.hidden)
    with torch.inference_mode():
        for batch in given.batches():
            found = network.hidden(batch.to(given.device).images).float().amax(0).cpu()
            largest = torch.maximum(largest, found)
    given.show(f"{int((largest > 0).sum())} of {len(largest)} hidden units answer to some training image")
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    network.largest.copy_(largest)
    return {"largest": largest} | ({} if network.compare is None else fit_similarity(given))


def fit_similarity(given: Given) -> dict[str, Tensor]:
    """Weights and bias of the similarity, by logistic regression on pairs of training images, both kinds alike often.

    The paper fits the chi-square weights by a linear SVM (section 4.1), those of the siamese form by the cross-entropy
    (section 4.2); here both are fitted by the latter, which gives a probability. Weights stay at 0 or above: what
    differs never makes two pictures more alike.

    Raises:
        DataError: there are no pairs of one of the two kinds.
    """
    network: Any = given.network
    kind = network.config.similarity_kind
    vectors, labels = [], []
    with torch.inference_mode():
        for batch in given.batches():
            vectors.append(network.embed(batch.to(given.device).images).cpu())
            labels += [truth.label for truth in batch.truth or [] if truth.label is not None]
    pairs, same = draw_pairs(labels, given.seed)
    rows, head = torch.cat(vectors).clone(), LearnedSimilarity(network.config.hidden, kind)
    parts = parts_apart(head.root * rows[pairs[:, 0]], head.root * rows[pairs[:, 1]], kind)
    weight = torch.full_like(head.weight, 2 / max(1e-6, float(parts.sum(1).mean()))).requires_grad_()
    bias = torch.full((1,), 2.0).requires_grad_()  # logits begin around 0
    rates = [{"params": [weight], "lr": 0.02 * float(weight[0].detach())}, {"params": [bias], "lr": 0.02}]
    optimizer = torch.optim.Adam(rates)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(bias - parts @ weight, same.float()).backward()
        optimizer.step()
        weight.data.clamp_(min=0)
    share = float(((bias - parts @ weight > 0) == same).float().mean())
    given.show(
        f"{kind} fitted to {len(pairs)} pairs of training images, of which it judges {100 * share:.1f} % rightly"
    )
    return {"compare.weight": weight.detach(), "compare.bias": bias.detach()}


def draw_pairs(labels: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """As many pairs of one identity as of different ones, PAIRS at most of each: [n, 2] and whether each is of one.

    Raises:
        DataError: there are no pairs of one of the two kinds.
    """
    rng, people = np.random.default_rng(seed), np.asarray(labels)
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    count = min(PAIRS, int(same.sum()), int((~same).sum()))
    if not count:
        raise DataError("a similarity is fitted to pairs of one identity and of different ones; one kind is not there")
    chosen = np.concatenate([rng.choice(np.flatnonzero(kind), count, replace=False) for kind in (same, ~same)])
    return torch.from_numpy(np.stack([first[chosen], second[chosen]], 1)), torch.from_numpy(same[chosen])


def stages(name: str, recipe: str) -> list[Fit | Solve]:
    """The softmax, then what makes vectors of its hidden layer, and compares them."""
    return [Fit("softmax", name), Solve("vectors", solve_vectors)]
