"""`saccade evaluate`: score a trained model, or any tool's COCO results file, on a data set."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from saccade import checkpoint
from saccade.crops import check_crops, predictions_by_crops
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.loader import Loader
from saccade.data.pipelines import inference_side
from saccade.data.split import HOLDOUT
from saccade.data.split import split as assign_splits
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.device import describe_hardware, loader_workers
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.files import report_folder, write_whole
from saccade.gallery import Gallery
from saccade.metrics import Metric, Result, make_metric
from saccade.metrics.coco_results import ResultRows, read_results
from saccade.paths import at_home
from saccade.predictor import Predictor, load
from saccade.terminal import printable
from saccade.training.processes import from_all, place_among_processes
from saccade.training.state import read_config

LARGEST_BATCH = 256  # images a forward pass


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
    corners: str = "coco",
    out: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score predictions on one split of a data set.

    Args:
        run: run folder, checkpoint, or a COCO results file (`.json`) of any tool.
        split: "train", "val", "test" or "all"; by default "val", for a results file the first of val, test, all given.
        bootstrap: resamples of the images for the 95 % intervals; 0 for none.
        seed: of the split, where the data set gives none; by default that of the run, whose training images must not
            be scored as its val: read, with `holdout` and `group`, from config.json beside the checkpoint; else 0.
        crops: classify, tag: 1 view of every image, or the mean over 2, 10 or 144 (crops.py).
        corners: "coco", or "voc" for a results file whose boxes count pixels from 1, as VOC does (`read_results`).
        out: folder for report.html, metrics.json, plots and, where a model finds objects, coco_results.json.

    Returns:
        `{data, split, images, metrics: {name: {value, low, high}}, per_class, seconds, refused: [{where, why}],
        warnings}`; the last two tell what of the data set, all its splits together, could not be used.

    Raises:
        DataError, UsageError, ModelFileError: as the parts say.
    """
    start, run, data = time.monotonic(), at_home(run), at_home(data)
    folder = None if out is None else report_folder(Path(at_home(out)))
    predictor = None if Path(run).suffix == ".json" else load(run, device, precision)
    _check_words(str(run), predictor, crops, corners)
    dataset = read(data, None if predictor is None else predictor.task)
    task = dataset.task if predictor is None else predictor.task
    if predictor is not None:
        align_classes(dataset, predictor.classes)
    if split is None:
        split = "val" if predictor else next((name for name in ("val", "test") if name in dataset.splits), "all")
    how = _split_of_run(Path(run), dataset, split) if predictor else {}
    records = records_of(dataset, split, **how | ({} if seed is None else {"seed": seed}))
    gallery = None if folder is None else Gallery(task, dataset, records)
    rows = ResultRows(dataset) if folder and predictor and task in ("detect", "instances") else None
    if predictor is None:
        result = score_file(Path(run), dataset, records, bootstrap, gallery, corners)
    else:
        result = score(predictor, dataset, records, batch, workers, bootstrap, progress, gallery, crops, rows)
    summary = {"data": str(data), "split": split, "crops": crops, "corners": corners, "images": len(records)}
    summary |= result.to_json() | _tell(dataset, progress)
    summary["seconds"] = round(time.monotonic() - start, 3)
    if folder is not None and gallery is not None:
        _write_report(folder, Path(run), str(data), summary, gallery, predictor, rows)
    return summary


def _check_words(run: str, predictor: Predictor | None, crops: int, corners: str) -> None:
    """Raises UsageError for a word that a model, or a results file, has no use for."""
    if crops != 1:
        if predictor is None:
            raise UsageError(f"{run}: a results file has no model that could look at {crops} crops; use crops=1")
        check_crops(crops, predictor.task, predictor.preprocessing)
    if corners != "coco" and predictor is not None:
        raise UsageError(f"{run}: corners={corners} is how a results file counts; boxes of a model need no such word")


def _tell(dataset: DataSet, shown: bool) -> dict[str, Any]:
    """What of the data could not be used: on stderr if `shown`, and for the result."""
    console = Console(stderr=True, quiet=not shown, soft_wrap=True)
    for line in dataset.ledger.told():
        console.print(printable(line), highlight=False, markup=False)
    ledger = dataset.ledger.to_json()
    return {name: ledger[name] for name in ("refused", "warnings")}


def _split_of_run(run: Path, dataset: DataSet, split: str) -> dict[str, Any]:
    """`seed`, `share` and `group` by which the run that wrote a checkpoint split its data; nothing, with a warning if a
    split must be drawn, where that is unknown."""
    folder = checkpoint.find(run).parent
    try:
        settings = read_config(folder)["settings"]
        how = {"seed": int(settings["seed"]), "share": settings.get("holdout", HOLDOUT)}
        group = settings.get("group", "auto")
        if group in ("auto", "none") or any(re.search(group, record.id) for record in dataset.records):
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
    rows: ResultRows | None,
) -> None:
    """metrics.json, report.html and plots of an evaluation; the objects that a model found as a COCO results file."""
    from saccade.report import write_evaluation_report

    facts = [("predictions of" if predictor is None else "model", str(run)), ("task", gallery.task), ("data", data)]
    if predictor is not None:
        facts += [("hardware", describe_hardware(predictor.device)), ("precision", predictor.precision)]
    command = ["saccade", "evaluate", str(run), data, "--split", summary["split"], "--out", str(folder)]
    for name, usual in (("crops", 1), ("corners", "coco")):
        if summary[name] != usual:
            command += [f"--{name}", str(summary[name])]
    write_whole(folder / "metrics.json", json.dumps(summary, indent=2, allow_nan=False))
    if rows is not None:
        write_whole(folder / "coco_results.json", json.dumps(rows.rows, allow_nan=False))
    write_evaluation_report(folder, gallery.dataset, gallery.task, summary, gallery, facts, shlex.join(command))


def score(
    predictor: Predictor,
    dataset: DataSet,
    records: list[Record],
    batch: int | None = None,
    workers: int | None = None,
    bootstrap: int = 0,
    progress: bool = False,
    gallery: Gallery | None = None,
    crops: int = 1,
    rows: ResultRows | None = None,
) -> Result:
    """Predict every record and measure the answers against its truth, in pixels of the originals.

    Without a `batch` the device decides (`batch_for`). A gallery is shown every image as well, and keeps the pictures
    of a report; `rows` takes every answer. With several `crops` the probabilities are means over parts of the image
    (crops.py).
    """
    metric = make_metric(predictor.task, dataset.classes, thresholds=predictor.thresholds or 0.5)
    batch = batch or batch_for(predictor)
    if crops == 1:
        answers = predictions(predictor, dataset, records, batch, workers, progress)
    else:
        answers = predictions_by_crops(predictor, dataset, records, crops, batch, workers, progress)
    for record, prediction in answers:
        truth = read_truth(record, dataset, predictor.task)
        metric.add(record.id, truth, prediction)
        if gallery is not None:
            gallery.add(record, truth, prediction)
        if rows is not None:
            rows.add(record.id, prediction)
    return _result(metric, records, bootstrap)


def score_together(
    predictor: Predictor, dataset: DataSet, records: list[Record], workers: int | None = None
) -> Result | None:
    """`score` by all processes of a run: each predicts its part, the first one measures; the others have None."""
    place, processes = place_among_processes()
    if processes == 1:
        return score(predictor, dataset, records, workers=workers)
    mine = records[place::processes]
    found = predictions(predictor, dataset, mine, batch_for(predictor), workers) if mine else ()
    parts = from_all({record.id: answer for record, answer in found})
    if place:
        return None
    answers = {name: answer for part in parts for name, answer in part.items()}
    metric = make_metric(predictor.task, dataset.classes, thresholds=predictor.thresholds or 0.5)
    for record in records:
        metric.add(record.id, read_truth(record, dataset, predictor.task), answers[record.id])
    return _result(metric, records, bootstrap=0)


def batch_for(predictor: Predictor) -> int:
    """Images a forward pass: 8, or on a GPU, which small ones leave idle, the pixels of 8 images of 512 x 512."""
    size = predictor.preprocessing.size
    if predictor.device.type == "cpu" or size is None:
        return 8
    return min(LARGEST_BATCH, max(8, 8 * 512 * 512 // (size[0] * size[1])))


def predictions(
    predictor: Predictor,
    dataset: DataSet,
    records: list[Record],
    batch: int = 8,
    workers: int | None = None,
    progress: bool = False,
) -> Iterator[tuple[Record, Annotation]]:
    """Every record of a data set with what the model says of it, in order."""
    processes = min(loader_workers(workers, predictor.device), len(records) // batch)
    loader = Loader(
        dataset,
        records,
        predictor.task,
        predictor.transforms,
        batch,
        workers=processes,
        shuffle=False,
        min_side=inference_side(predictor.preprocessing),
    )
    answers = zip(records, predictor.predict_batches(loader.epoch(0)), strict=True)
    console = Console(stderr=True)
    shown = track(answers, "evaluating", total=len(records), console=console, disable=not progress, transient=True)
    for record, (_, answer) in shown:
        yield record, answer


def score_file(
    path: Path,
    dataset: DataSet,
    records: list[Record],
    bootstrap: int,
    gallery: Gallery | None = None,
    corners: str = "coco",
) -> Result:
    """Measure a COCO results file of any tool; `corners` as in `read_results`. Raises DataError with the number of a
    bad entry."""
    if dataset.task not in ("detect", "instances"):
        raise UsageError(f"{path}: a results file holds boxes or masks, {dataset.root} holds labels to {dataset.task}")
    answers = read_results(path, dataset, corners)
    foreign = set(answers.named) - {record.id for record in records}
    if foreign:
        raise DataError(
            f"{path}: holds predictions of {len(foreign)} images outside this split, such as {min(foreign)}; "
            "choose another --split (all takes every image)"
        )
    task = "instances" if dataset.task == "instances" and answers.masks else "detect"
    metric = make_metric(task, dataset.classes)
    for record in records:
        truth = read_truth(record, dataset, task)
        metric.add(record.id, truth, answers[record.id])
        if gallery is not None:
            gallery.add(record, truth, answers[record.id])
    return _result(metric, records, bootstrap)


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


def _result(metric: Metric, records: Sequence[Record], bootstrap: int) -> Result:
    """What a metric found in these records; its intervals resample recordings where they are known."""
    groups = {record.id: record.group for record in records if record.group is not None}
    result = metric.result(bootstrap=bootstrap, groups=groups)
    result.recordings = len(set(groups.values()))
    return result


def align_classes(dataset: DataSet, classes: list[str]) -> None:
    """Give the data the model's class order; names are the key.

    Raises:
        DataError: the data holds a class that the model does not know.
    """
    if dataset.classes == classes:
        return
    extra = [name for name in dataset.classes if name not in classes]
    if extra:
        raise DataError(
            f"{dataset.root} has classes that the model was not trained on: {', '.join(extra[:10])}; "
            f"the model knows {', '.join(classes[:20])}. A new output layer for them: saccade train ... --weights RUN"
        )
    new = [classes.index(name) for name in dataset.classes]
    for record in dataset.records:
        if record.label is not None:
            record.label = new[record.label]
        if record.tags is not None:
            record.tags = sorted(new[tag] for tag in record.tags)
        for thing in record.things or ():
            thing.label = new[thing.label]
    if dataset.mask_values is not None:
        dataset.mask_values = {
            value: index if index == 255 else new[index] for value, index in dataset.mask_values.items()
        }
    dataset.classes = list(classes)
