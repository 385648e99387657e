"""Batches for training, evaluation and prediction, prepared by worker processes and the same for any number of them.

The order of an epoch follows from (seed, epoch) alone (`data/orders.py`), what is random in a sample from (seed, epoch,
index) alone. So a run can go on at any step, and 0, 1 or 4 workers give the same batches bit for bit.
"""

from __future__ import annotations

import gc
import itertools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from saccade.data.dataset import DataSet, Record
from saccade.data.orders import Order
from saccade.data.packing import pack, unpack
from saccade.data.sources import Paths, Records, Source
from saccade.data.types import Annotation, Batch, Objects, Sample
from saccade.data.views import View
from saccade.errors import DataError, ResourceError, SaccadeError, UsageError

TIMEOUT = 300.0  # seconds that a batch may take before the workers are given up
_POLL = 5.0  # seconds between looks at whether the workers live
_ROOM = "use a smaller --batch or fewer --workers; --workers 0 reads in the main process"


@dataclass(frozen=True)
class Work:
    """Who reads and transforms, and what of it is kept.

    Args:
        workers: processes that read and transform; 0 does it in this process. They live until `Loader.close`.
        cache_bytes: keep decoded images (and class maps) in memory, shared by the workers, if all fit into this many
            bytes; without objects in the truth, as they leave the first transforms that never change (`fixed_size`).
        processes, rank: this process takes the rank-th of `processes` contiguous parts of every step; parts of an
            incomplete step differ by one image at most, and processes without a part of it have one step less.

    Raises:
        UsageError: workers, processes or rank out of range.
    """

    workers: int = 0
    cache_bytes: int = 0
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0 or not 0 <= self.rank < self.processes:
            raise UsageError(
                f"workers {self.workers}, process {self.rank} of {self.processes}: needs workers >= 0 and 0 <= rank < "
                "processes"
            )


class Loader:
    """The records of a data set as batches of transformed samples, epoch after epoch.

    Args:
        records: which records of `dataset`, in the order that `index` counts.
        view: how each becomes a sample for the network.
        order: which of them make the steps of an epoch (`data/orders.py`); everything random follows from its seed.
        batch: images a step over all processes.

    Raises:
        UsageError: batch out of range.
        DataError: no records.
    """

    def __init__(
        self,
        dataset: DataSet,
        records: Sequence[Record],
        task: str,
        view: View,
        order: Order,
        batch: int,
        work: Work = Work(),
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch {batch}: a step needs at least one image")
        if not records:
            raise DataError(f"{dataset.root}: no images to load")
        self.images, self.order, self.batch, self.work = len(records), order, batch, work
        source = Records(dataset, records, task, view, order.seed, work.cache_bytes)
        self._plan = _Plan()
        self._loader: DataLoader | None = _data_loader(source, self._plan, work.workers, persistent=True)

    def __len__(self) -> int:
        """Steps of an epoch in this process."""
        return len(self._steps(0))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches (uint8) of an epoch from `start_step` on. One epoch at a time: a second call ends the first.

        Raises:
            DataError, ResourceError: an image or mask cannot be read, or a worker died; at the step that needs it.
        """
        if self._loader is None:
            raise ValueError("the loader has been closed")
        self._plan.steps = [[(epoch, int(i)) for i in step] for step in self._steps(epoch)[start_step:]]
        for batch, failures in _drain(self._loader):
            for _, error in failures:
                raise error
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def _steps(self, epoch: int) -> list[np.ndarray]:
        """Places (`data/orders.py`) of this process's images, step by step."""
        steps = self.order.steps(self.images, epoch, self.batch, self.work.processes)
        parts = [np.array_split(step, self.work.processes)[self.work.rank] for step in steps]
        return [part for part in parts if len(part)]


def iter_images(
    paths: Sequence[Path],
    view: View,
    batch: int,
    workers: int = 0,
    on_error: Callable[[Path, DataError], None] | None = None,
) -> Iterator[Batch]:
    """Images as batches for prediction, in the order given; `ids` are the paths as text, `truth` is None.

    Args:
        on_error: called with every image that cannot be read, in order, and the others go on; without it the first
            one is raised.

    Raises:
        DataError: an image cannot be read and there is no `on_error`.
        ResourceError: no permission, disk, memory, or a worker died.
    """
    plan = _Plan()
    plan.steps = [[(0, j) for j in range(i, min(i + batch, len(paths)))] for i in range(0, len(paths), batch)]
    source = Paths([str(path) for path in paths], view)
    for found, failures in _drain(_data_loader(source, plan, workers, persistent=False)):
        for index, error in failures:
            if on_error is None or not isinstance(error, DataError):
                raise error
            on_error(paths[index], error)
        if len(found):
            found.truth = None
            yield found


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch, images [b, 3, H, W] uint8 (channels last in memory), padded with zeros right and below to the largest;
    `sizes` and `truth` keep each image's own size. Without samples the batch has no images."""
    shapes = [(sample.image.shape[0], sample.image.shape[1]) for sample in samples]
    height, width = max((h for h, _ in shapes), default=0), max((w for _, w in shapes), default=0)
    images = torch.zeros(len(samples), height, width, 3, dtype=torch.uint8)
    for i, (sample, (h, w)) in enumerate(zip(samples, shapes, strict=True)):
        images[i, :h, :w] = torch.from_numpy(np.ascontiguousarray(sample.image))
    return Batch(
        images=images.permute(0, 3, 1, 2),
        sizes=[sample.truth.size for sample in samples],  # without what a transform has padded
        truth=[sample.truth for sample in samples],
        ids=[sample.id for sample in samples],
        original_sizes=[sample.original_size for sample in samples],
        to_original=[sample.to_original for sample in samples],
        given=_given(samples),
        cameras=[sample.truth.camera for sample in samples],
    )


def without_padding(batch: Batch, step: int = 1) -> Iterator[Batch]:
    """A batch as neighbours of one size, in order, each without padding: what a network says near the border of an
    image then does not hang on which images it was shown beside.

    Args:
        step: the padding up to the next multiple of so many pixels stays. With more than one also the longer side of
            the padded images does, in shares of which priors may be stated.
    """
    frame, start = (batch.images.shape[-2], batch.images.shape[-1]), 0
    for (height, width), alike in itertools.groupby(batch.sizes, lambda size: _cut(size, frame, step)):
        part = batch[start : start + len(list(alike))]
        start += len(part)
        yield replace(part, images=part.images[:, :, :height, :width])


def _cut(size: tuple[int, int], frame: tuple[int, int], step: int) -> tuple[int, int]:
    """How much of a frame is left of an image of a size at its upper left, in multiples of `step`."""
    kept = [frame[i] if step > 1 and frame[i] == max(frame) > max(size) else size[i] for i in (0, 1)]
    height, width = (min(-(-side // step) * step, whole) for side, whole in zip(kept, frame, strict=True))
    return height, width


def _given(samples: Sequence[Sample]) -> list[Objects] | None:
    """What each sample is given, None where they are given nothing. Raises ValueError where some are and others not."""
    given = [sample.given for sample in samples if sample.given is not None]
    if given and len(given) < len(samples):
        raise ValueError(f"{len(given)} of {len(samples)} images of a batch are given boxes: all of them, or none")
    return given or None


class _Plan:
    """The batch sampler: torch asks it for the steps at the start of every epoch."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, int]]] = []  # (epoch, index) of each image

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _data_loader(source: Source, plan: _Plan, workers: int, persistent: bool) -> DataLoader:
    return _PatientLoader(
        source,  # type: ignore[arg-type]  # torch asks for no more than __getitem__
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_collate_and_pack,
        timeout=_POLL if workers else 0,  # of a look at the workers, see `_Patient`
        worker_init_fn=_start_worker,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_initialized(),  # the network is on a GPU; another one is not woken
        generator=torch.Generator(),  # otherwise every epoch would draw from the run's own random numbers
    )


def _start_worker(worker: int) -> None:
    """One thread each: the workers are the parallelism. Interrupts are the parent's business, and its handlers (which
    save a checkpoint) must not run here."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    gc.freeze()  # a collection would write to every object of the parent, and so copy its memory
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all; Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


_Parcel = tuple[Tensor, Tensor, dict[str, Any], list[tuple[int, SaccadeError]]]


def _collate_and_pack(found: list[Sample | tuple[int, SaccadeError]]) -> _Parcel:
    """Two tensors a batch: torch passes each tensor between processes as an open file, of which there are few.

    A worker moves them to shared memory here. Left to torch, that happens in a thread of its own, which drops a batch
    for which there is no room, and the main process waits for it in vain.
    """
    batch = collate([sample for sample in found if isinstance(sample, Sample)])
    failures = [failure for failure in found if not isinstance(failure, Sample)]
    given = [Annotation(size, objects=each) for size, each in zip(batch.sizes, batch.given or (), strict=False)]
    buffer, layout = pack([*(batch.truth or ()), *given])
    rest = {
        "layout": layout,
        "sizes": batch.sizes,
        "ids": batch.ids,
        "original_sizes": batch.original_sizes,
        "to_original": batch.to_original,
        "cameras": batch.cameras,
    }
    if torch.utils.data.get_worker_info() is not None:
        try:
            batch.images.share_memory_()
            buffer.share_memory_()
        except (RuntimeError, OSError) as error:
            reason = str(error).split("\n")[0]
            return _collate_and_pack([(-1, ResourceError(f"no room in shared memory ({reason}); {_ROOM}"))])
    return batch.images, buffer, rest, failures


class _Patient(_MultiProcessingDataLoaderIter):
    """torch's iterator looks after its workers only when it gives up, `timeout` seconds after it began to wait. This
    one then goes on waiting, up to TIMEOUT. To ask torch's again instead is no way: an epoch that is started a second
    time gets the answers of both starts, and takes one of them for a batch."""

    def _get_data(self) -> Any:
        waited = 0.0
        while True:
            try:
                return super()._get_data()
            except RuntimeError as error:
                waited += self._timeout
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if waited >= TIMEOUT:
                    raise RuntimeError(f"no batch in {waited:g} seconds") from None


class _PatientLoader(DataLoader):
    def _get_iterator(self) -> Any:
        return _Patient(self) if self.num_workers else super()._get_iterator()


def _drain(loader: DataLoader) -> Iterator[tuple[Batch, list[tuple[int, SaccadeError]]]]:
    """Unpacked batches, with the images that failed; a dead or stuck worker becomes a ResourceError."""
    batches: Iterator[_Parcel] | None = None
    number = 0
    while True:
        try:
            batches = _start(loader) if batches is None else batches
            images, buffer, rest, failures = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # the last two: a batch lost with the worker that held it
            reason = str(error).split("\n")[0] or type(error).__name__
            if loader.num_workers == 0 or reason.startswith("Caught "):
                # A fault inside a transform; its message holds the worker's traceback. Torch's own frames form a cycle
                # with the error, which would keep the workers until the garbage collector ends them out of order.
                raise error.with_traceback(None) from None
            for worker in getattr(batches or loader._iterator, "_workers", ()):
                worker.kill()  # torch only asks them to end, which one that is stopped or stuck never hears
            due: Any = loader.batch_sampler
            names = [loader.dataset.name(index) for _, index in due.steps[number][:3]]  # type: ignore[attr-defined]
            raise ResourceError(
                f"a loader process died, hangs or is starved of processor time ({reason}) when {', '.join(names)} and "
                f"others were due; the usual cause is too little memory or shared memory (/dev/shm): {_ROOM}"
            ) from None
        number += 1
        layout = rest.pop("layout")
        truth = unpack(buffer, layout)
        given = [each.objects for each in truth[len(images) :] if each.objects is not None]
        yield Batch(images=images, truth=truth[: len(images)], given=given or None, **rest), failures


def _start(loader: DataLoader) -> Iterator[_Parcel]:
    """An iterator over the batches, without the signal handler that torch installs: it would raise the death of a
    worker wherever the main process happens to be, in the middle of writing a checkpoint perhaps."""
    watched = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if watched else None
    batches = iter(loader)
    if watched and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
