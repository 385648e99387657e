"""A model, or a file of answers, measured on a data set: one pass over the images, which any number may watch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from saccade.data.dataset import DataSet, Record
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder
from saccade.data.people import people_to_find
from saccade.data.pictures import decode_picture
from saccade.data.split import HOLDOUT
from saccade.data.split import split as assign_splits
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.inference.crops import predictions_by_crops
from saccade.inference.predictor import Predictor
from saccade.inference.tiles import Tiling, predict_in_tiles
from saccade.layers.wordtree import lifted, nearest_known
from saccade.machine.device import loader_workers
from saccade.machine.processes import from_all, place_among_processes
from saccade.machine.terminal import bar
from saccade.metrics import Metric, Result
from saccade.metrics.coco_results import read_results
from saccade.metrics.embedding import Embedding
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS, find_task

LARGEST_BATCH = 256  # images a forward pass


class Watcher(Protocol):
    """Who sees every image of a pass as it is measured: a report's gallery, the rows of a results file."""

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """One image, its truth and the model's answer, both in pixels of the original."""


@dataclass(frozen=True, slots=True)
class Pass:
    """How the images of a data set go through a model."""

    batch: int | None = None  # images a forward pass; by default the device decides (`batch_for`)
    workers: int | None = None  # loader processes; by default as many as help
    crops: int = 1  # classify, tag: the mean over so many parts of an image (inference/crops.py)
    progress: bool = False  # a bar on stderr
    tiling: Tiling | None = None  # in which tiles images are looked at, if in any
    rect: bool = False  # without most of the padding of images (`Predictor.set_rect`)

    def __post_init__(self) -> None:
        """Raises UsageError for a batch that cannot be."""
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch is {self.batch}, allowed: at least 1")


def score(
    predictor: Predictor,
    dataset: DataSet,
    records: list[Record],
    how: Pass = Pass(),
    watchers: Sequence[Watcher] = (),
    bootstrap: int = 0,
) -> Result:
    """Predict every record and measure the answers against its truth, in pixels of the originals.

    Args:
        watchers: each is shown every image as well.
        bootstrap: resamples for the intervals; 0 for none.
    """
    answers = by_known_classes(predictor, records, predictions(predictor, dataset, records, how))
    return _measure(answers, dataset, predictor.task, _metric(predictor, dataset), watchers, bootstrap)


def score_together(
    predictor: Predictor, dataset: DataSet, records: list[Record], workers: int | None = None
) -> Result | None:
    """`score` by all processes of a run: each predicts its part, the first one measures; the others have None."""
    place, processes = place_among_processes()
    if processes == 1:
        return score(predictor, dataset, records, Pass(workers=workers))
    mine = records[place::processes]
    found = predictions(predictor, dataset, mine, Pass(workers=workers)) if mine else ()
    parts = from_all({record.id: answer for record, answer in found})
    if place:
        return None
    answers = {name: answer for part in parts for name, answer in part.items()}
    in_order = by_known_classes(predictor, records, ((record, answers[record.id]) for record in records))
    return _measure(in_order, dataset, predictor.task, _metric(predictor, dataset))


def score_file(
    path: Path,
    dataset: DataSet,
    records: list[Record],
    watchers: Sequence[Watcher] = (),
    bootstrap: int = 0,
    corners: str = "coco",
) -> Result:
    """Measure a COCO results file of any tool; `corners` as in `read_results`. Raises DataError with the number of a
    bad entry."""
    kind = find_task(dataset.task)
    if not kind.many_objects:
        raise UsageError(
            f"{path}: a results file holds boxes, masks or joints, {dataset.root} holds labels to {dataset.task}"
        )
    answers = read_results(path, dataset, corners)
    foreign = set(answers.named) - {record.id for record in records}
    if foreign:
        raise DataError(
            f"{path}: holds predictions of {len(foreign)} images outside this split, such as {min(foreign)}; "
            "choose another --split (all takes every image)"
        )
    task = "instances" if kind.masks and answers.masks else "pose" if kind.keypoints else "detect"
    in_order = ((record, answers[record.id]) for record in records)
    return _measure(in_order, dataset, task, task_of(task).make_metric(dataset.classes), watchers, bootstrap)


def predictions(
    predictor: Predictor, dataset: DataSet, records: list[Record], how: Pass = Pass()
) -> Iterator[tuple[Record, Annotation]]:
    """Every record of a data set with what the model says of it, in order."""
    if how.rect:
        predictor.set_rect()
    batch = how.batch or batch_for(predictor)
    if how.crops > 1:
        yield from predictions_by_crops(predictor, dataset, records, how.crops, batch, how.workers, how.progress)
        return
    answers = _answers_for_people if predictor.preprocessing.one_person else _answers
    if how.tiling is None:
        found = zip(records, answers(predictor, dataset, records, batch, how.workers), strict=True)
    else:
        pictures = (decode_picture(record, dataset.root)[0] for record in records)
        tiled = (predict_in_tiles(predictor, picture, how.tiling) for picture in pictures)
        found = zip(records, tiled, strict=True)
    with bar(how.progress) as shown:
        yield from shown.track(found, len(records), description="evaluating")


def _answers(
    predictor: Predictor, dataset: DataSet, records: list[Record], batch: int, workers: int | None
) -> Iterator[Annotation]:
    work = Work(min(loader_workers(workers, predictor.device), len(records) // batch))
    loader = Loader(dataset, records, predictor.task, predictor.view, InOrder(), batch, work)
    return (answer for _, answer in predictor.predict_batches(loader.epoch(0)))


def _answers_for_people(
    predictor: Predictor, dataset: DataSet, records: list[Record], batch: int, workers: int | None
) -> Iterator[Annotation]:
    """The people of each picture, each in a box by itself: one that the data set is given, else of its truth."""
    people = people_to_find(dataset, records)
    found = _answers(predictor, people.dataset, people.records, batch, workers) if people.records else iter(())
    for record, boxes in zip(records, people.boxes, strict=True):
        yield predictor.join_people(list(itertools.islice(found, len(boxes))), boxes, record.size)


def by_known_classes(
    predictor: Predictor, records: Sequence[Record], answers: Iterable[tuple[Record, Annotation]]
) -> Iterable[tuple[Record, Annotation]]:
    """The answers of a model whose classes are a tree in the classes that the truth of `records` has
    (`layers.wordtree.lifted`); of other models as they are."""
    config: Any = getattr(predictor.network, "config", None)
    if not getattr(config, "tree", ()):
        return answers
    above = nearest_known(config.tree, {thing.label for record in records for thing in record.things or ()})

    def lift(answer: Annotation) -> Annotation:
        objects = answer.objects
        return answer if objects is None else replace(answer, objects=lifted(objects, above, config.nms_iou))

    return ((record, lift(answer)) for record, answer in answers)


def batch_for(predictor: Predictor) -> int:
    """Images a forward pass: 8, or on a GPU, which small ones leave idle, the pixels of 8 images of 512 x 512."""
    size = predictor.preprocessing.size
    if predictor.device.type == "cpu" or size is None:
        return 8
    return min(LARGEST_BATCH, max(8, 8 * 512 * 512 // (size[0] * size[1])))


def records_of(
    dataset: DataSet, split: str, seed: int = 0, share: float = HOLDOUT, group: str = "auto"
) -> list[Record]:
    """The records of a split, or of "all"; see `data.split.split`. Raises DataError with the splits that there are."""
    assign_splits(dataset, seed, share, group)
    if split == "all":
        return sorted(dataset.records, key=lambda r: r.id)
    if split not in dataset.splits:
        raise DataError(f"{dataset.root} has no split {split!r}; it has {', '.join(dataset.splits)} (or use all)")
    return dataset.of(split)


def _metric(predictor: Predictor, dataset: DataSet) -> Metric:
    """The metric of the model's task, with its thresholds and, of vectors, with its way to compare them."""
    metric = task_of(predictor.task).make_metric(dataset.classes, thresholds=predictor.thresholds or 0.5)
    if isinstance(metric, Embedding):
        metric.similarity = predictor.similarity
    return metric


def _measure(
    answers: Iterable[tuple[Record, Annotation]],
    dataset: DataSet,
    task: str,
    metric: Metric,
    watchers: Sequence[Watcher] = (),
    bootstrap: int = 0,
) -> Result:
    """What the metric of a task finds in these answers, which the watchers see too.

    Intervals resample recordings, and files, where pictures share them.
    """
    recordings: dict[str, str] = {}
    files: dict[str, str] = {}
    seconds, asked = 0.0, time.monotonic()
    for record, answer in answers:
        seconds += time.monotonic() - asked
        check_finite(record.id, answer)
        truth = read_truth(record, dataset, task)
        metric.add(record.id, truth, answer)
        for watcher in watchers:
            watcher.add(record, truth, answer)
        if record.group is not None:
            recordings[record.id] = record.group
        elif record.region is not None:
            files[record.id] = record.path
        asked = time.monotonic()
    result = metric.result(bootstrap=bootstrap, groups=files | recordings)
    result.recordings, result.seconds = len(set(recordings.values())), seconds
    return result


def check_finite(id: str, answer: Annotation) -> None:
    """Raises ModelFileError for an answer with a number that is not finite: no image is at fault where a network has
    diverged, or overflows."""
    objects = answer.objects
    found = {"probability": answer.probabilities, "vector": answer.embedding}
    if objects is not None:
        found |= {"box": objects.boxes, "score": objects.scores, "joint": objects.keypoints, "cuboid": objects.cuboids}
    for what, values in found.items():
        if values is not None and not bool(torch.isfinite(values).all()):
            raise ModelFileError(
                f"{id}: the network answers with a {what} that is no finite number: its weights have diverged, or it "
                "overflows (--precision fp32)"
            )


def align_classes(dataset: DataSet, classes: list[str]) -> None:
    """Give the data the model's class order; names are the key. Identities keep their own: those of training and those
    of the data need not be the same.

    Raises:
        DataError: the data holds a class that the model does not know.
    """
    if dataset.classes == classes or TASKS[dataset.task].embedding:
        return
    extra = [name for name in dataset.classes if name not in classes]
    if extra:
        raise DataError(
            f"{dataset.root} has classes that the model was not trained on: {', '.join(extra[:10])}; "
            f"the model knows {', '.join(classes[:20])}. A new output layer for them: saccade train ... --weights RUN"
        )
    dataset.take_classes(classes)
