"""The samples that a loader makes batches of: read, decoded, transformed one by one, wherever a worker runs.

Workers share the memory of their parent until one of them writes to it, and Python writes to whatever it touches (the
reference counts), so a list of a million records would slowly be copied into every worker. The records therefore lie as
JSON in one numpy array, which has one reference count.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saccade.data.cache import ImageCache, Kept
from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.geometry import Size
from saccade.data.packing import Packed
from saccade.data.pipelines import Transform
from saccade.data.proposals import given_for, objects_of
from saccade.data.truth import read_sample
from saccade.data.types import Sample
from saccade.data.views import View, give
from saccade.errors import SaccadeError
from saccade.tasks.table import find_task


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
        view: View,
        seed: int,
        cache_bytes: int,
    ) -> None:
        self.dataset = replace(dataset, records=[], ledger=Ledger())
        self.records = Packed([json.dumps(record.to_json()).encode() for record in records])
        # What other images a transform may ask for: those with a class alone have no boxes to compose.
        partners = [i for i, record in enumerate(records) if not (record.label_alone and find_task(task).objects)]
        self.partners = np.array(partners or range(len(records)))
        self.task, self.view, self.seed = task, view, seed
        self.fixed = _count_fixed(view.transforms) if not find_task(task).objects else 0
        whole = [record.size for record in records]
        sizes = [_size_behind(view.transforms[: self.fixed], size) for size in whole]
        if sum(h * w for h, w in sizes) > sum(h * w for h, w in whole):  # enlarged: that is done again each time
            self.fixed, sizes = 0, whole
        self.cache = ImageCache.for_sizes(sizes, cache_bytes, maps=find_task(task).semantic)

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[int, SaccadeError]:
        epoch, place = key
        rng = np.random.default_rng([1, self.seed, epoch, place])
        index = place % len(self.records)
        try:
            return self._transformed(index, rng, len(self.view.transforms))
        except SaccadeError as error:
            return index, error

    def name(self, index: int) -> str:
        return Record.from_json(json.loads(self.records[index])).id

    def _transformed(self, index: int, rng: np.random.Generator, until: int) -> Sample:
        """The sample behind the first `until` transforms."""
        sample = self._read(index, rng)
        for position, transform in enumerate(self.view.transforms[self.fixed : until], self.fixed):
            if getattr(transform, "needs_others", False):
                sample = transform(sample, rng, functools.partial(self._another, rng, position))
            else:
                sample = transform(sample, rng)
        return sample

    def _another(self, rng: np.random.Generator, until: int) -> Sample:
        return self._transformed(int(self.partners[rng.integers(len(self.partners))]), rng, until)

    def _read(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample behind the fixed transforms."""
        record = Record.from_json(json.loads(self.records[index]))
        known = self.cache.get(index) if self.cache else None
        side = self.view.min_side if self.cache else self.view.side_of_draw(record.size, rng)
        sample = read_sample(record, self.dataset, self.task, side, known)
        given = given_for(self.dataset, record)
        path = self.dataset.root / record.path
        if given is None and self.view.proposals == "objects":
            sample = replace(sample, given=objects_of(sample.truth))
        else:
            sample = give(sample, self.view.propose(path, record.region) if given is None else given)
        if known is not None:
            return sample
        for transform in self.view.transforms[: self.fixed]:
            sample = transform(sample, rng)
        if self.cache:
            semantic = None if sample.truth.semantic is None else sample.truth.semantic.numpy()
            x, y = np.diag(sample.to_original)[:2].tolist()
            self.cache.put(index, Kept(sample.image, semantic, (x, y)))
        return sample


def _count_fixed(transforms: Sequence[Transform]) -> int:
    """How many of the first transforms are the same every time."""
    return len(list(itertools.takewhile(lambda transform: hasattr(transform, "fixed_size"), transforms)))


def _size_behind(transforms: Sequence[Any], size: Size) -> Size:
    """What images of this size have become behind transforms that are the same every time."""
    for transform in transforms:
        size = transform.fixed_size(size)
    return size


class Paths:
    """Reads and transforms image files for prediction; as `Records`, without truth and without chance."""

    def __init__(self, paths: Sequence[str], view: View) -> None:
        self.paths = Packed([path.encode("utf-8", "surrogateescape") for path in paths])
        self.view = view

    def __getitem__(self, key: tuple[int, int]) -> Sample | tuple[int, SaccadeError]:
        _, index = key
        try:
            return self.view.read(Path(self.name(index)))
        except SaccadeError as error:
            return index, error

    def name(self, index: int) -> str:
        return self.paths[index].decode("utf-8", "surrogateescape")
