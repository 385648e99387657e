"""The images that `evaluate` scores: a data set with the classes of the model, split as its run split it, and the
boxes that the model is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saccade.data.borders import as_class_maps
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.errors import UsageError
from saccade.inference.pixels import PixelObjects
from saccade.inference.predictor import Predictor
from saccade.inference.regions import check_has_boxes, computed_by, give_proposals, wanted_classes
from saccade.inference.score import align_classes, records_of
from saccade.metrics.coco_results import category_ids, holds_poses
from saccade.tasks.table import find_task
from saccade.tasks.words import TRUTH
from saccade.training.own_data import split_of_run


@dataclass(frozen=True, slots=True)
class Images:
    """What is evaluated."""

    dataset: DataSet
    ids: dict[str, int | str]  # of each class in results files
    source: str | None  # where the boxes come from that the model is given
    split: str
    records: list[Record]
    task: str
    of_pixels: bool = False  # objects in class maps

    @property
    def of_objects(self) -> bool:
        """Whether answers are objects."""
        return find_task(self.task).many_objects


def images_to_score(
    predictor: Predictor | None,
    run: str | Path,
    data: str | Path,
    split: str | None,
    seed: int | None,
    proposals: str | Path | None,
) -> Images:
    """The images that are evaluated, with the labels that the model, or the results file, is held against.

    Args:
        predictor: the model; None of a results file.
        run, data, split, seed, proposals: as in `evaluate`.

    Raises:
        DataError, UsageError, ModelFileError: as `data.formats.read`, `records_of` and `split_of_run`; boxes for a
            model that takes none; no masks of objects where those in class maps are asked for.
    """
    if predictor is not None and isinstance(predictor.pixels, PixelObjects):
        return _images_of_objects(predictor, run, data, split or "val", seed)
    dataset, ids = _data_for(predictor, run, data)
    source = _proposals(str(run), predictor, dataset, proposals)
    split = split or ("val" if predictor else next((each for each in ("val", "test") if each in dataset.splits), "all"))
    records = _records(Path(run), dataset, split, seed, of_model=predictor is not None)
    return Images(dataset, ids, source, split, records, predictor.task if predictor else dataset.task)


def _images_of_objects(predictor: Predictor, run: str | Path, data: str | Path, split: str, seed: int | None) -> Images:
    """The images with objects for a segmenter, split as class maps were when it was trained.

    Raises:
        UsageError: the data set has no objects with masks.
    """
    dataset = read(data)
    if not find_task(dataset.task).masks:
        raise UsageError(f"--instances: {data} holds labels to {dataset.task}, and no masks of objects to compare with")
    align_classes(dataset, predictor.classes)
    border = predictor.preprocessing.border
    maps = as_class_maps(dataset, border) if border else read(data, "segment")
    chosen = {record.id for record in _records(Path(run), maps, split, seed, of_model=True)}
    records = sorted((record for record in dataset.records if record.id in chosen), key=lambda record: record.id)
    ids = dict(zip(dataset.classes, category_ids(dataset), strict=True))
    return Images(dataset, ids, None, split, records, predictor.task, of_pixels=True)


def _data_for(predictor: Predictor | None, run: str | Path, data: str | Path) -> tuple[DataSet, dict[str, int | str]]:
    """The data set with the labels that the model, or the results file, is held against; classes in its order. And the
    id that each class of the data has in results files."""
    if predictor is not None and predictor.preprocessing.border:
        objects = read(data)
        if find_task(objects.task).masks:
            align_classes(objects, predictor.classes[1:-1])
        return as_class_maps(objects, predictor.preprocessing.border), {}
    dataset = read(data, predictor.task if predictor else "pose" if holds_poses(run) else None)
    ids = dict(zip(dataset.classes, category_ids(dataset), strict=True))
    if predictor:
        align_classes(dataset, predictor.classes)
    return dataset, ids


def _proposals(run: str, predictor: Predictor | None, dataset: DataSet, proposals: str | Path | None) -> str | None:
    """Give the data set the boxes of `proposals`; where the model's boxes come from, None for one that takes none.

    Raises:
        UsageError: boxes for a model that takes none, or none for one whose training had those of a file.
    """
    alone = predictor is not None and predictor.preprocessing.one_person
    takes = predictor is not None and (alone or predictor.preprocessing.proposals is not None)
    if proposals is not None and not takes:
        raise UsageError(f"{run} takes no boxes; --proposals is for models that are trained on proposals")
    if predictor is None or not takes:
        return None
    check_has_boxes(predictor.preprocessing, proposals, run)
    if proposals is None and wanted_classes(predictor):
        dataset.ledger.warnings.append(
            f"{'people are' if alone else 'each object is'} found in the boxes of the truth; --proposals RUN takes "
            "those of a detector, which misses some"
        )
        return TRUTH
    if proposals is None or computed_by(predictor, proposals):
        return predictor.preprocessing.proposals
    boxes = give_proposals(dataset, Path(proposals), predictor.device, predictor.precision, wanted_classes(predictor))
    lines = boxes.lines(str(proposals))
    dataset.ledger.warnings += lines[1:]
    return str(proposals)


def _records(run: Path, dataset: DataSet, split: str, seed: int | None, of_model: bool) -> list[Record]:
    """The images of a split, drawn as the run drew it where the data set gives none."""
    drawn = split_of_run(run, dataset, split) if of_model else {}
    return records_of(dataset, split, **drawn | ({} if seed is None else {"seed": seed}))
