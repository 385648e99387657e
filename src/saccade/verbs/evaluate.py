"""`saccade evaluate`: score a trained model, or any tool's COCO results file, on a data set."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet
from saccade.errors import UsageError
from saccade.experiments.scored_images import Images, images_to_score
from saccade.inference.crops import check_crops
from saccade.inference.factors import factorised, saving_in_words
from saccade.inference.predictor import Predictor, predictor_of
from saccade.inference.score import Pass, Watcher, score, score_file
from saccade.inference.tiles import check_tiles, tiling_of
from saccade.inference.trained import open_run
from saccade.machine.device import describe_hardware
from saccade.machine.files import make_folder, results_folder, write_whole
from saccade.machine.paths import at_home
from saccade.machine.terminal import note
from saccade.metrics import Result
from saccade.metrics.coco_results import ResultRows
from saccade.metrics.kitti_results import KittiLines
from saccade.metrics.partitions import Partitions
from saccade.ops.suppression import NmsRule, rule_of
from saccade.reports.gallery import Gallery
from saccade.tasks.table import find_task
from saccade.tasks.words import TRUTH
from saccade.training.own_data import own_data


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
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
        run: run folder, checkpoint, Darknet's `.cfg`, or any tool's COCO results (`.json`). data: by default the run's.
        split: "train", "val", "test" or "all"; by default "val", for a results file the first of val, test, all given.
        bootstrap: resamples of the images for the 95 % intervals; 0 for none. svd: as in `export`, and what it saves.
        seed: of a split that the data set does not give; by default (with `holdout` and `group`) the run's, else 0.
        crops: classify, tag: mean over 1, 2, 10 or 144 views of every image. corners: of a results file "coco", or
            "voc" where its boxes count pixels from 1, as VOC does (`read_results`).
        tile, overlap, instances, nms, rect, weights, names: as in `predict`. regions: segment: also parts of a class.
        proposals: boxes, not those of training or (one person, objects) truth: file, run, "selective_search".
        out: folder for report.html, metrics.json, plots and, of found objects, coco_results.json, kitti_results/.

    Returns `{data, split, images, metrics: {name: {value, low, high}}, per_class, refused: [{where, why}], ...}`.

    Raises:
        DataError, UsageError, ModelFileError: as the parts say; no data, and the run's own are gone or unknown.
    """
    start, run, rule = time.monotonic(), at_home(run), rule_of(nms)
    folder = None if out is None else results_folder(Path(at_home(out)))
    predictor, saved = _opened(run, svd, device, precision, rule, (weights, names), instances)
    data, proposals = _or_own(run, at_home(data), at_home(proposals), progress)
    how = Pass(batch, workers, crops, progress, tiling_of(tile, overlap), rect)
    _check_words(str(run), predictor, how, corners, rule, proposals, instances)
    images = images_to_score(predictor, run, data, split, seed, proposals)
    gallery = None if folder is None else _gallery(images, predictor)
    rows = _rows(images) if folder and predictor else (None, None)
    parts = _partitions(regions, predictor)
    result = _scored(predictor or Path(run), images, how, (gallery, *rows, parts), bootstrap, corners)
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


def _or_own(
    run: str | Path, data: str | Path | None, proposals: str | Path | None, shown: bool
) -> tuple[str | Path, str | Path | None]:
    """Data and boxes; where no data are given, those that the run was trained on, said on stderr if `shown`."""
    if data is not None:
        return data, proposals
    own = own_data(run, "evaluate")
    note(f"data: {own.data}, which the run was trained on", shown)
    return own.data, own.proposals if proposals is None else proposals


Rows = tuple[ResultRows | None, KittiLines | None]


def _gallery(images: Images, predictor: Predictor | None) -> Gallery:
    """The pictures of a report, whose objects are those that the model would show."""
    return Gallery(images.task, images.dataset, images.records, () if predictor is None else predictor.thresholds)


def _rows(images: Images) -> Rows:
    """What collects found objects for files of results: in COCO's form, and of boxes in space also in KITTI's."""
    coco = ResultRows(images.dataset, images.ids) if images.of_objects else None
    return coco, KittiLines(images.dataset.classes) if find_task(images.task).cuboids else None


def _scored(
    source: Predictor | Path,
    images: Images,
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
    data: str, images: Images, how: Pass, corners: str, rule: NmsRule, saved: dict[str, Any] | None
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


def _tell(dataset: DataSet, shown: bool) -> dict[str, Any]:
    """What of the data could not be used: on stderr if `shown`, and for the result."""
    for line in dataset.ledger.lines():
        note(line, shown)
    ledger = dataset.ledger.to_json()
    return {name: ledger[name] for name in ("refused", "warnings")}


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
