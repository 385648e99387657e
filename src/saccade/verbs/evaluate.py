"""`saccade evaluate`: score a trained model, or any tool's COCO results file, on a data set."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from saccade import checkpoint
from saccade.data.borders import as_class_maps
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.split import HOLDOUT
from saccade.errors import ModelFileError, UsageError
from saccade.inference.crops import check_crops
from saccade.inference.factors import factorised, saving_in_words
from saccade.inference.pixels import PixelObjects
from saccade.inference.predictor import Predictor, predictor_of
from saccade.inference.regions import check_has_boxes, computed_by, give_proposals, wanted_classes
from saccade.inference.score import Pass, Watcher, align_classes, records_of, score, score_file
from saccade.inference.tiles import check_tiles, tiling_of
from saccade.inference.trained import open_run
from saccade.machine.device import describe_hardware
from saccade.machine.files import make_folder, report_folder, write_whole
from saccade.machine.paths import at_home
from saccade.machine.terminal import printable
from saccade.metrics import Result
from saccade.metrics.coco_results import ResultRows, category_ids, holds_poses
from saccade.metrics.kitti_results import KittiLines
from saccade.metrics.partitions import Partitions
from saccade.ops.suppression import NmsRule, rule_of
from saccade.reports.gallery import Gallery
from saccade.tasks.table import find_task
from saccade.training.state import read_config

TRUTH = "truth"  # whose boxes a model that answers for one person or for objects is given, unless there are others


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    batch: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    bootstrap: int = 1000,
    seed: int | None = None,
    crops: int = 1,
    tile: int | None = None,
    overlap: int | None = None,
    corners: str = "coco",
    nms: NmsRule | str = "hard",
    rect: bool = False,
    proposals: str | Path | None = None,
    svd: str | tuple[int, int] | None = None,
    instances: bool = False,
    regions: str | None = None,
    weights: str | Path | None = None,
    names: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score predictions on one split of a data set.

    Args:
        run: run folder, checkpoint, the `.cfg` of a detector of Darknet, or a COCO results file (`.json`) of any tool.
        split: "train", "val", "test" or "all"; by default "val", for a results file the first of val, test, all given.
        bootstrap: resamples of the images for the 95 % intervals; 0 for none. svd: as in `export`, and what it saves.
        seed: of a split that the data set does not give; by default (with `holdout` and `group`) the run's, else 0.
        crops: classify, tag: 1 view of every image, or the mean over 2, 10 or 144 (inference/crops.py).
        tile, overlap, instances, nms, rect, weights, names: as in `predict`. regions: segment: also parts of a class.
        corners: "coco", or "voc" for a results file whose boxes count pixels from 1, as VOC does (`read_results`).
        proposals: boxes, not those of training or (one person, objects) truth: file, run, "selective_search".
        out: folder for report.html, metrics.json, plots and, of found objects, coco_results.json, kitti_results/.

    Returns:
        `{data, split, images, metrics: {name: {value, low, high}}, per_class, refused: [{where, why}], warnings, ...}`.

    Raises:
        DataError, UsageError, ModelFileError: as the parts say.
    """
    start, run, data, rule = time.monotonic(), at_home(run), at_home(data), rule_of(nms)
    folder = None if out is None else report_folder(Path(at_home(out)))
    predictor, saved = _opened(run, svd, device, precision, rule, (weights, names), instances)
    how = Pass(batch, workers, crops, progress, tiling_of(tile, overlap), rect)
    _check_words(str(run), predictor, how, corners, rule, proposals, instances)
    images = _images(predictor, run, data, split, seed, at_home(proposals))
    gallery = None if folder is None else _gallery(images, predictor)
    rows = _rows(images) if folder and predictor else (None, None)
    watchers = gallery, *rows, _partitions(regions, predictor)
    result = _scored(predictor or Path(run), images, how, watchers, bootstrap, corners)
    summary = _asked(str(data), images, how, corners, rule, saved) | {"regions": regions} | _given(run, weights, names)
    summary |= result.to_json() | _tell(images.dataset, progress) | {"seconds": round(time.monotonic() - start, 3)}
    if folder and gallery:
        _write_report(folder, Path(run), str(data), summary, gallery, predictor, rows)
    return summary


def _opened(
    run: str | Path,
    svd: str | tuple[int, int] | None,
    device: str | None,
    precision: str,
    rule: NmsRule,
    files: tuple[str | Path | None, str | Path | None],
    instances: bool,
) -> tuple[Predictor | None, dict[str, Any] | None]:
    """The model, none of a results file, and what was saved by compressing it to the ranks `svd`.

    Args:
        files: weights and names of a `.cfg`.
    """
    if Path(run).suffix == ".json":
        if svd is not None:
            raise UsageError(f"{run}: a results file has no network that svd could compress")
        return None, None
    trained = open_run(run, device, *files)
    if svd is None:
        return predictor_of(trained, precision, rule, instances), None
    small, saved = factorised(trained, svd)
    return predictor_of(small, precision, rule, instances), saved


@dataclass(frozen=True, slots=True)
class _Images:
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


def _images(
    predictor: Predictor | None,
    run: str | Path,
    data: str | Path,
    split: str | None,
    seed: int | None,
    proposals: str | Path | None,
) -> _Images:
    """The images that are evaluated; arguments and errors are those of `evaluate`."""
    if predictor is not None and isinstance(predictor.pixels, PixelObjects):
        return _images_of_objects(predictor, run, data, split or "val", seed)
    dataset, ids = _data_for(predictor, run, data)
    source = _proposals(str(run), predictor, dataset, proposals)
    split = split or ("val" if predictor else next((each for each in ("val", "test") if each in dataset.splits), "all"))
    records = _records(Path(run), dataset, split, seed, of_model=predictor is not None)
    return _Images(dataset, ids, source, split, records, predictor.task if predictor else dataset.task)


def _images_of_objects(
    predictor: Predictor, run: str | Path, data: str | Path, split: str, seed: int | None
) -> _Images:
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
    return _Images(dataset, ids, None, split, records, predictor.task, of_pixels=True)


Rows = tuple[ResultRows | None, KittiLines | None]


def _gallery(images: _Images, predictor: Predictor | None) -> Gallery:
    """The pictures of a report, whose objects are those that the model would show."""
    return Gallery(images.task, images.dataset, images.records, () if predictor is None else predictor.thresholds)


def _rows(images: _Images) -> Rows:
    """What collects found objects for files of results: in COCO's form, and of boxes in space also in KITTI's."""
    coco = ResultRows(images.dataset, images.ids) if images.of_objects else None
    return coco, KittiLines(images.dataset.classes) if find_task(images.task).cuboids else None


def _scored(
    source: Predictor | Path,
    images: _Images,
    how: Pass,
    asked: Sequence[Watcher | None],
    bootstrap: int,
    corners: str,
) -> Result:
    """The scores of a model or a results file."""
    watchers = [watcher for watcher in asked if watcher is not None]
    if isinstance(source, Path):
        return score_file(source, images.dataset, images.records, watchers, bootstrap, corners)
    result = score(source, images.dataset, images.records, how, watchers, bootstrap)
    for watcher in watchers:
        if isinstance(watcher, Partitions):
            result.metrics |= watcher.result(bootstrap)
    return result


def _partitions(regions: str | None, predictor: Predictor | None) -> Partitions | None:
    """What measures the parts of the class `regions`. Raises UsageError where answers are no class maps."""
    if regions is None:
        return None
    if predictor is None or not find_task(predictor.task).semantic:
        what = "a results file" if predictor is None else f"a model to {predictor.task}"
        raise UsageError(f"--regions {regions}: parts of a class are those of class maps; this is {what}")
    return Partitions(predictor.classes, regions)


def _asked(
    data: str, images: _Images, how: Pass, corners: str, rule: NmsRule, saved: dict[str, Any] | None
) -> dict[str, Any]:
    """What was evaluated and how, for the summary."""
    tiling = how.tiling
    return {
        "data": data,
        "split": images.split,
        "crops": how.crops,
        "tile": None if tiling is None else tiling.side,
        "overlap": None if tiling is None else tiling.overlap,
        "rect": how.rect,
        "corners": corners,
        "nms": rule.to_json(),
        "proposals": images.source,
        "instances": images.of_pixels,
        "svd": saved,
        "images": len(images.records),
    }


def _given(run: str | Path, weights: str | Path | None, names: str | Path | None) -> dict[str, str]:
    """The files of a `.cfg` that a person named. Raises UsageError where a results file has no use for them."""
    given = {name: str(file) for name, file in (("weights", weights), ("names", names)) if file is not None}
    if given and Path(run).suffix == ".json":
        raise UsageError(f"{run}: a results file has no network that could take {' and '.join(given)}")
    return given


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


def _check_words(
    run: str,
    predictor: Predictor | None,
    how: Pass,
    corners: str,
    rule: NmsRule,
    proposals: object,
    instances: bool,
) -> None:
    """Raises UsageError for a word that a model, or a results file, has no use for."""
    if predictor is None and instances:
        raise UsageError(
            f"{run}: a results file holds objects as it is; --instances finds them in a model's class maps"
        )
    if predictor is None and (how.crops != 1 or how.tiling is not None or how.rect):
        what = "less padding" if how.rect else f"{how.crops} crops" if how.tiling is None else "tiles"
        raise UsageError(f"{run}: a results file has no model that could look at {what}")
    if predictor is not None and how.crops != 1:
        check_crops(how.crops, predictor.task, predictor.preprocessing)
    if predictor is not None:
        check_tiles(predictor, how.tiling, proposals=proposals)
    if rule != NmsRule() and predictor is None:
        raise UsageError(f"{run}: a results file holds boxes after suppression; nms is for models")
    if corners != "coco" and predictor is not None:
        raise UsageError(f"{run}: corners={corners} is how a results file counts; boxes of a model need no such word")


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


def _tell(dataset: DataSet, shown: bool) -> dict[str, Any]:
    """What of the data could not be used: on stderr if `shown`, and for the result."""
    console = Console(stderr=True, quiet=not shown, soft_wrap=True)
    for line in dataset.ledger.lines():
        console.print(printable(line), highlight=False, markup=False)
    ledger = dataset.ledger.to_json()
    return {name: ledger[name] for name in ("refused", "warnings")}


def _records(run: Path, dataset: DataSet, split: str, seed: int | None, of_model: bool) -> list[Record]:
    """The images of a split, drawn as the run drew it where the data set gives none."""
    drawn = _split_of_run(run, dataset, split) if of_model else {}
    return records_of(dataset, split, **drawn | ({} if seed is None else {"seed": seed}))


def _split_of_run(run: Path, dataset: DataSet, split: str) -> dict[str, Any]:
    """`seed`, `share` and `group` by which the run that wrote a checkpoint split its data; nothing, with a warning if a
    split must be drawn, where that is unknown."""
    folder = checkpoint.find(run).parent
    try:
        settings = read_config(folder)["settings"]
        how = {"seed": int(settings["seed"]), "share": settings.get("holdout", HOLDOUT)}
        group = settings.get("group", "auto")
        if group in ("auto", "none") or any(re.search(group, record.path) for record in dataset.records):
            how["group"] = group
        return how
    except (ModelFileError, ValueError, KeyError, TypeError) as error:
        if run.is_dir() and os.path.lexists(folder / "config.json"):  # beside a lone checkpoint it may be anybody's
            raise ModelFileError(f"{folder}: what the run was cannot be read: {error}") from error
        if split in ("train", "val") and "val" not in dataset.splits:
            dataset.ledger.warnings.append(
                f"the data set has no val of its own: {split} is drawn by seed 0. If the model was trained on this "
                "data with another seed, it has seen some of these images: give its run folder, or the seed"
            )
        return {}


def _write_report(
    folder: Path,
    run: Path,
    data: str,
    summary: dict[str, Any],
    gallery: Gallery,
    predictor: Predictor | None,
    rows: Rows,
) -> None:
    """metrics.json, report.html and plots of an evaluation; the objects that a model found as files of results."""
    from saccade.reports.evaluation import write_evaluation_report

    facts = [("predictions of" if predictor is None else "model", str(run)), ("task", gallery.task), ("data", data)]
    if predictor is not None:
        facts += [("hardware", describe_hardware(predictor.device)), ("precision", predictor.precision)]
    saved = summary["svd"]
    facts += [] if saved is None else [("network", saving_in_words(saved))]
    command = ["saccade", "evaluate", str(run), data, "--split", summary["split"], "--out", str(folder)]
    for name, usual in (("crops", 1), ("tile", None), ("overlap", None), ("corners", "coco"), ("proposals", None)):
        if summary.get(name) not in (usual, TRUTH):
            command += [f"--{name}", str(summary[name])]
    command += [f"--{name}" for name in ("instances", "rect") if summary[name]]
    command += ["--regions", summary["regions"]] if summary["regions"] else []
    command += [] if saved is None else ["--svd", ",".join(map(str, saved["ranks"]))]
    command += NmsRule(**summary["nms"]).words()
    command += [word for name in ("weights", "names") if name in summary for word in (f"--{name}", summary[name])]
    write_whole(folder / "metrics.json", json.dumps(summary, indent=2, allow_nan=False))
    coco, kitti = rows
    if coco is not None:
        write_whole(folder / "coco_results.json", json.dumps(coco.rows, allow_nan=False))
    for name, text in kitti.files.items() if kitti is not None else ():
        write_whole(make_folder(folder / "kitti_results") / f"{name}.txt", text)
    write_evaluation_report(folder, gallery.dataset, gallery.task, summary, gallery, facts, shlex.join(command))
