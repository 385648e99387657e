"""The orders in which a loader goes through its images, epoch by epoch; each follows from (seed, epoch) alone.

An order gives *places*: the index of an image plus the number of images times the copy (0, 1, ...). Randomness of a
sample follows from its place, so that copies of one image in an epoch differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from saccade.errors import DataError, UsageError


class Order(Protocol):
    """Which images make the steps of an epoch. `seed` is what all randomness of the samples follows from."""

    @property
    def seed(self) -> int: ...

    def steps(self, images: int, epoch: int, batch: int, processes: int = 1) -> list[np.ndarray]:
        """Places of the images, step by step, over all processes; never empty.

        Args:
            images: how many there are, n > 0.
            batch: images a step.
            processes: among which a step is divided.
        """


@dataclass(frozen=True)
class InOrder:
    """The images as they are listed, the last step as long as what is left."""

    seed: int = 0

    def steps(self, images: int, epoch: int, batch: int, processes: int = 1) -> list[np.ndarray]:
        return _cut(np.arange(images), batch, smallest=1)


@dataclass(frozen=True)
class Shuffled:
    """Every image once an epoch, each epoch in another order.

    Args:
        drop_last: leave out a last step of fewer than `batch` images, unless it is the only one. A last step of fewer
            images than processes is always left out.
    """

    seed: int = 0
    drop_last: bool = False

    def steps(self, images: int, epoch: int, batch: int, processes: int = 1) -> list[np.ndarray]:
        rng = np.random.default_rng([0, self.seed, epoch])
        return _cut(rng.permutation(np.arange(images)), batch, batch if self.drop_last else processes)


@dataclass(frozen=True, eq=False)
class Repeated:
    """Every image its factor times an epoch, rounded up or down by chance; otherwise as `Shuffled`.

    Every epoch has the same length, ceil(sum of the factors), and no image is left out. Source: Gupta, Dollar &
    Girshick 2019, "LVIS", appendix, for `balance.repeat_factors`.

    Args:
        factors: [n], how often each image is to be seen, at least 1.
    """

    factors: np.ndarray
    seed: int = 0
    drop_last: bool = False

    def steps(self, images: int, epoch: int, batch: int, processes: int = 1) -> list[np.ndarray]:
        rng = np.random.default_rng([0, self.seed, epoch])
        return _cut(rng.permutation(self._places(rng)), batch, batch if self.drop_last else processes)

    def _places(self, rng: np.random.Generator) -> np.ndarray:
        """Systematic sampling: equal steps along the line on which every image lies as long as its factor."""
        total = int(np.ceil(self.factors.sum() - 1e-9))
        ends = np.cumsum(self.factors) * (total / self.factors.sum())
        images = np.searchsorted(ends, rng.random() + np.arange(total), side="right")
        images = np.minimum(images, len(self.factors) - 1)
        copies = np.arange(total) - np.searchsorted(images, images)
        return images + len(self.factors) * copies


@dataclass(frozen=True, eq=False)
class Identities:
    """Steps of p identities with k images each, as losses on pairs and triplets want them.

    An epoch visits every identity once a round, in an order of its own; identities that no longer fill a step wait for
    another round. The k images of a visit are drawn without repetition; an identity of fewer than k shows all of them,
    as often as each other but for one. A step lists its images identity by identity.

    Source: Hermans, Beyer & Leibe 2017, "In defense of the triplet loss", section 2 (batches of P K images).

    Args:
        p, k: identities of a step, images of each; the loader's `batch` is p * k.
        identities: [n] int, whose picture each image is.
        rounds: of an epoch.

    Raises:
        UsageError: p, k or rounds below 1.
        DataError: fewer than p identities.
    """

    p: int
    k: int
    identities: np.ndarray
    seed: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.p < 1 or self.k < 1 or self.rounds < 1:
            raise UsageError(
                f"{self.rounds} rounds in steps of {self.p} identities with {self.k} images each: all must be at least "
                "1"
            )
        there = len(np.unique(self.identities))
        if there < self.p:
            raise DataError(f"a step takes {self.p} identities, the images show {there}: use fewer a step")

    def steps(self, images: int, epoch: int, batch: int, processes: int = 1) -> list[np.ndarray]:
        if batch != self.p * self.k:
            raise UsageError(f"batch {batch}: {self.p} identities with {self.k} images each are {self.p * self.k}")
        rng = np.random.default_rng([0, self.seed, epoch])
        names, members = np.unique(self.identities, return_inverse=True)
        own = [np.flatnonzero(members == i) for i in range(len(names))]
        whole = len(own) - len(own) % self.p
        found = []
        for number in range(self.rounds):
            drawn = [self._draw(own[i], rng, number) for i in rng.permutation(len(own))]
            found += [np.concatenate(drawn[i : i + self.p]) for i in range(0, whole, self.p)]
        return found

    def _draw(self, own: np.ndarray, rng: np.random.Generator, number: int) -> np.ndarray:
        """[k] places of images of one identity, of which no other round (by `number`) has one."""
        times = range(number * self.k, number * self.k - (-self.k // len(own)))
        return np.concatenate([rng.permutation(own) + copy * len(self.identities) for copy in times])[: self.k]


def identities_of_steps(identities: np.ndarray, batch: int, k: int, seed: int) -> Identities:
    """Steps of about `batch` images, k of each of two identities or more, as many an epoch as show as many images as
    there are.

    Args:
        identities: [n] int, whose picture each image is.
    """
    there = len(np.unique(identities))
    p = min(max(2, batch // k), there)
    steps = there // p
    return Identities(p, k, identities, seed, max(1, round(len(identities) / (steps * p * k))))


def _cut(places: np.ndarray, batch: int, smallest: int) -> list[np.ndarray]:
    """Steps of `batch` places. An incomplete last one of fewer than `smallest` is left out, unless it is the only
    one."""
    steps = [places[i : i + batch] for i in range(0, len(places), batch)]
    if len(steps) > 1 and len(steps[-1]) < min(smallest, batch):
        steps.pop()
    return steps
