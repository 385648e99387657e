"""Losses by which vectors of one identity come near each other and those of different ones move apart.

A batch holds P identities with K images each (`data/orders.py: Identities`), b = P K; every two of its images are a
pair. Letters: b images, d numbers of a vector; [b, b] tables hold a value for each ordered pair of images. A batch
without a pair of one of the two kinds, or without a triplet, has a loss of 0 that still reaches the network.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mining = Literal["all", "random", "hard", "semi_hard"]


def products(a: Tensor, b: Tensor) -> Tensor:
    """a_i . b_j of vectors [n, d] and [m, d], [n, m], in their own type whatever the autocast type: rounded to
    bfloat16 the cosine of two near vectors is off by as much as they are apart."""
    kind = a.device.type
    lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if lowered else nullcontext():
        return a @ b.T


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of vectors [n, d] and [m, d], [n, m], at least 0."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
    return (lengths - 2 * products(a, b)).clamp(min=0)


def same_identity(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of labels [b] two tables [b, b] of bool: pairs of one identity (no image with itself), and of different ones."""
    equal = labels[:, None] == labels[None, :]
    return equal & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~equal


def _mean_where(values: Tensor, wanted: Tensor) -> Tensor:
    """The mean of some values; 0 where none is wanted."""
    return (values * wanted).sum() / wanted.sum().clamp(min=1)


def mean_over_kinds(losses: Tensor, labels: Tensor) -> Tensor:
    """The mean over pairs of one identity plus that over pairs of different ones, of losses [b, b]; a scalar.

    The two kinds weigh the same, though a batch has many more of the second.
    """
    same, different = same_identity(labels)
    return _mean_where(losses, same) + _mean_where(losses, different)


def contrastive(distances: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """d^2 / 2 of a pair of one identity, max(0, margin - d)^2 / 2 of a pair of different ones, [...].

    Source: Hadsell, Chopra & LeCun 2006, "Dimensionality reduction by learning an invariant mapping", equation 4 (whose
    Y is 0 for a similar pair).

    Args:
        distances: d [...], not squared.
        same: [...] bool.
    """
    apart = (margin - distances).clamp(min=0).square()
    return torch.where(same, distances.square(), apart) / 2


def contrastive_loss(vectors: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """`contrastive` (Hadsell et al. 2006) of all pairs of a batch, `mean_over_kinds`; vectors [b, d], labels [b]."""
    distances = (squared_distances(vectors, vectors) + 1e-12).sqrt()  # the root has a slope at 0
    return mean_over_kinds(contrastive(distances, same_identity(labels)[0], margin), labels)


def pair_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Logistic cross-entropy of "these two are the same", logits [b, b], `mean_over_kinds`.

    Source: Koch, Zemel & Salakhutdinov 2015, "Siamese neural networks for one-shot image recognition", section 3.2.
    """
    same, _ = same_identity(labels)
    losses = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
    return mean_over_kinds(losses, labels)


def triplet(positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """max(d_ap - d_an + margin, 0) of squared distances [...] from an anchor to one of its identity and to another's.

    Source: Schroff, Kalenichenko & Philbin 2015, "FaceNet", equation 3. (Lecture notes that print min(., 0) would
    reward the opposite.)
    """
    return (positive - negative + margin).clamp(min=0)


def triplet_loss(vectors: Tensor, labels: Tensor, margin: float = 0.2, mining: Mining = "semi_hard") -> Tensor:
    """The mean of `triplet` over the mined triplets of a batch that are not 0; vectors [b, d], labels [b].

    - all: every triplet. Their mean is over those within the margin (Hermans et al. 2017, section 2, "batch all");
    - random: for every anchor and positive any negative, drawn by torch's generator;
    - hard: for every anchor the farthest positive and the nearest negative (Hermans et al. 2017, equation 5). On
      vectors of length 1 from a random start this ends with all vectors in one place, where the loss is the margin;
    - semi_hard: for every anchor and positive the nearest negative that is farther than the positive, and where there
      is none, the farthest of all (Schroff et al. 2015, section 3.2, which avoids that end).
    """
    distances = squared_distances(vectors, vectors)
    same, different = same_identity(labels)
    if mining == "all":
        losses = triplet(distances[:, :, None], distances[:, None, :], margin)
        valid = same[:, :, None] & different[:, None, :]
        return _mean_where(losses, valid & (losses.detach() > 0))
    if mining == "hard":
        positive = distances.masked_fill(~same, -torch.inf).amax(1)
        negative = distances.masked_fill(~different, torch.inf).amin(1)
        valid = same.any(1) & different.any(1)
    else:
        valid = same & different.any(1)[:, None]
        positive, negative = distances, _chosen_negatives(distances, different, mining)
    losses = torch.where(valid, triplet(positive, negative, margin), torch.zeros_like(positive))
    return _mean_where(losses, losses.detach() > 0)


def _chosen_negatives(distances: Tensor, different: Tensor, mining: Mining) -> Tensor:
    """[b, b]: the distance from anchor i to the negative that goes with its positive j. Memory grows with b^2: steps
    of the paper have 1,800 images."""
    with torch.no_grad():
        ordered, order = distances.masked_fill(~different, torch.inf).sort(1)  # each row: the negatives, the rest
        count = different.sum(1, keepdim=True)
        if mining == "random":
            place = (torch.rand_like(distances) * count).long()
        else:
            place = torch.searchsorted(ordered, distances.contiguous(), right=True)  # the first that is farther
        place = torch.minimum(place, count - 1).clamp(min=0)  # none is: the farthest of all
        chosen = order.gather(1, place)
    return distances.gather(1, chosen)


def angular_margin(cosines: Tensor, labels: Tensor, margin: float = 0.5, scale: float = 64.0) -> Tensor:
    """Logits [b, classes] of a softmax over cosines, the angle of the true class widened by `margin` radians.

    scale * cos(theta + margin) at the true class, scale * cos(theta) elsewhere. Past theta = pi - margin, where that
    would rise again, cos(theta) - margin sin(margin) goes on instead. A margin of 0 is the softmax over cosines.

    Source: Deng et al. 2019, "ArcFace", equation 3; what holds past pi - margin is of the authors' code.
    """
    true = cosines.gather(1, labels[:, None]).float()
    sine = (1 - true.square()).clamp(min=1e-12).sqrt()
    cos_m, sin_m = torch.cos(torch.tensor(margin)).item(), torch.sin(torch.tensor(margin)).item()
    widened = torch.where(true > -cos_m, true * cos_m - sine * sin_m, true - margin * sin_m)
    return scale * cosines.scatter(1, labels[:, None], widened.to(cosines.dtype))
