"""The samples that a loader makes batches of: read, decoded, transformed one by one, wherever a worker runs.

Workers share the memory of their parent until one of them writes to it, and Python writes to whatever it touches (the
reference counts), so a list of a million records would slowly be copied into every worker. The records therefore lie as
JSON in one numpy array, which has one reference count.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saccade.data.cache import ImageCache, Kept
from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.geometry import scaling
from saccade.data.image import probe_and_decode
from saccade.data.packing import Packed
from saccade.data.transforms import RandomResizedCrop
from saccade.data.truth import read_sample
from saccade.data.types import Annotation, Sample
from saccade.errors import SaccadeError

Transform = Callable[..., Sample]
"""transform(sample, rng) -> Sample; one with the attribute `needs_others = True` is called as transform(sample, rng,
fetch), where fetch() -> Sample gives a random other image as it stands in front of that transform."""


class Source(Protocol):
    """What the batches of a loader are made of: samples by key (epoch, place)."""

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[int, SaccadeError]: ...
    def name(self, index: int) -> str: ...


class Records:
    """Reads and transforms the sample of a key (epoch, place). A failure is returned, not raised: torch would bury it
    in a traceback of the worker."""

    def __init__(
        self,
        dataset: DataSet,
        records: Sequence[Record],
        task: str,
        transforms: Sequence[Transform],
        seed: int,
        min_side: int | None,
        cache_bytes: int,
    ) -> None:
        self.dataset = replace(dataset, records=[], ledger=Ledger())
        self.records = Packed([json.dumps(record.to_json()).encode() for record in records])
        self.task, self.transforms, self.seed, self.min_side = task, list(transforms), seed, min_side
        self.fixed = _count_fixed(self.transforms) if task in ("classify", "tag", "segment") else 0
        whole = [record.size for record in records]
        fixed: list[Any] = self.transforms[: self.fixed]
        sizes = [functools.reduce(lambda size, t: t.fixed_size(size), fixed, size) for size in whole]
        if sum(h * w for h, w in sizes) > sum(h * w for h, w in whole):  # enlarged: that is done again each time
            self.fixed, sizes = 0, whole
        self.cache = ImageCache.for_sizes(sizes, cache_bytes, maps=task == "segment")

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[int, SaccadeError]:
        epoch, place = key
        rng = np.random.default_rng([1, self.seed, epoch, place])
        index = place % len(self.records)
        try:
            return self._transformed(index, rng, len(self.transforms))
        except SaccadeError as error:
            return index, error

    def name(self, index: int) -> str:
        return Record.from_json(json.loads(self.records[index])).id

    def _transformed(self, index: int, rng: np.random.Generator, until: int) -> Sample:
        """The sample behind the first `until` transforms."""
        sample = self._read(index, rng)
        for position, transform in enumerate(self.transforms[self.fixed : until], self.fixed):
            if getattr(transform, "needs_others", False):
                sample = transform(sample, rng, functools.partial(self._another, rng, position))
            else:
                sample = transform(sample, rng)
        return sample

    def _another(self, rng: np.random.Generator, until: int) -> Sample:
        return self._transformed(int(rng.integers(len(self.records))), rng, until)

    def _read(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample behind the fixed transforms."""
        record = Record.from_json(json.loads(self.records[index]))
        known = self.cache.get(index) if self.cache else None
        sample = read_sample(record, self.dataset, self.task, self._side(record, rng), known)
        if known is not None:
            return sample
        for transform in self.transforms[: self.fixed]:
            sample = transform(sample, rng)
        if self.cache:
            semantic = None if sample.truth.semantic is None else sample.truth.semantic.numpy()
            x, y = np.diag(sample.to_original)[:2].tolist()
            self.cache.put(index, Kept(sample.image, semantic, (x, y)))
        return sample

    def _side(self, record: Record, rng: np.random.Generator) -> int | None:
        """What an image may be decoded to for all draws of the transforms; for the draw to come, where it is known."""
        crop = self.transforms[0] if self.transforms and not self.cache else None
        if self.min_side is None or not isinstance(crop, RandomResizedCrop):
            return self.min_side
        before = rng.bit_generator.state
        side = crop.shorter_side(record.size, rng)
        rng.bit_generator.state = before
        return side


def _count_fixed(transforms: Sequence[Transform]) -> int:
    """How many of the first transforms are the same every time."""
    return len(list(itertools.takewhile(lambda transform: hasattr(transform, "fixed_size"), transforms)))


class Paths:
    """Reads and transforms image files for prediction; as `Records`, without truth and without chance."""

    def __init__(self, paths: Sequence[str], transforms: Sequence[Transform], min_side: int | None) -> None:
        self.paths = Packed([path.encode("utf-8", "surrogateescape") for path in paths])
        self.transforms, self.min_side = list(transforms), min_side

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[int, SaccadeError]:
        _, index = key
        name = self.name(index)
        try:
            sample = read_image(Path(name), self.min_side)
        except SaccadeError as error:
            return index, error
        sample.id = name
        rng = np.random.default_rng(0)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample

    def name(self, index: int) -> str:
        return self.paths[index].decode("utf-8", "surrogateescape")


def read_image(path: Path, min_side: int | None = None) -> Sample:
    """An image file as a sample without truth; large JPEGs at reduced size (`data.image.decode`). Raises DataError."""
    found, image = probe_and_decode(path, min_side)
    s = float(found.reduction(min_side))
    truth = Annotation((image.shape[0], image.shape[1]))
    return Sample(image, truth, str(path), found.size, scaling(s, s))
