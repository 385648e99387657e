"""`saccade compare`: finished runs beside each other, on the validation images that all of them have.

Read `compare` top to bottom. Every run predicts these images once, with its best checkpoint; scores are differences on
the same images, resampled together.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from saccade.data.dataset import DataSet, Record
from saccade.data.packing import Spool
from saccade.data.types import Annotation
from saccade.experiments.pairs import Judged, Vectors, most_different_pairs
from saccade.experiments.runs import (
    Finished,
    difference_in_words,
    differing,
    open_runs,
    share_images,
    units_of,
    warnings_of,
)
from saccade.inference.predictor import Predictor, load
from saccade.inference.score import Pass, predictions, score
from saccade.machine.device import describe_hardware
from saccade.machine.files import results_folder, write_whole
from saccade.machine.paths import at_home
from saccade.machine.terminal import printable
from saccade.metrics import Result
from saccade.metrics.bootstrap import difference
from saccade.models.contract import example_inputs
from saccade.models.dry_run import model_of_shapes
from saccade.models.make_catalogue import multiply_adds
from saccade.reports.comparison import Pictures, write_comparison_report
from saccade.reports.gallery import shown_from
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.training.plan import Plan

SHOWN = 8  # pictures, or pairs of them, on which the runs differ most


def compare(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    bootstrap: int = 1000,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Compare finished runs of one task and the same classes: settings, curves, scores, cost, pictures.

    Args:
        runs: two run folders or more; the first is the one that the others are compared with.
        out: folder for report.html, compare.json and plots.
        bootstrap: resamples of the images for the 95 % intervals; 0 for none.
        workers, device, precision: as in `evaluate`.

    Returns:
        `{task, metric, images, images_of_runs, settings: [{name, values}], runs: [{run, name, model, metrics:
        {name: {value, low, high}}, difference: {value, low, high} or None, parameters, macs, seconds_per_image, ...}],
        findings, warnings, differ_most: [{id, badness}], seconds}`; of vectors `differ_most` holds pairs of images
        ([{id, pair: [id, id], same, badness, similarity, thresholds}]).

    Raises:
        UsageError, DataError, ModelFileError: as `experiments.runs.open_runs` and `load` say; no common image.
    """
    start = time.monotonic()
    folder = None if out is None else results_folder(Path(at_home(out)))
    opened = open_runs([Path(at_home(run)) for run in ([runs] if isinstance(runs, str | Path) else runs)])
    shared, task = share_images(opened), opened[0].plan.task
    metric = TASKS[task].metric
    console = Console(stderr=True, quiet=not progress, soft_wrap=True)
    measured: list[_Measured] = []
    with Spool() as answers:
        for number, run in enumerate(opened):
            console.print(printable(f"{run.name}: {len(shared.records[0])} images"), highlight=False, markup=False)
            predictor = load(run.folder, device, precision)
            judge = _Judge(predictor, number, None if folder is None else answers)
            how = Pass(workers=workers, progress=progress)
            measured.append(_measure(run, judge, shared.datasets[number], shared.records[number], how, bootstrap))
        summary: dict[str, Any] = {
            "task": task,
            "metric": metric,
            "images": len(shared.records[0]),
            "images_of_runs": shared.of,
            "findings": _against_the_first(measured, metric, units_of(task, shared.records[0])),
            "runs": [each.row for each in measured],
            "settings": differing(opened),
            "warnings": warnings_of(opened, shared, [each.result for each in measured]),
            "differ_most": _most_different(measured),
            "hardware": describe_hardware(predictor.device),
            "seconds": round(time.monotonic() - start, 3),
        }
        if folder is not None:
            command = ["saccade", "compare", *(str(run.folder) for run in opened), "--out", str(folder)]
            write_whole(folder / "compare.json", json.dumps(summary, indent=2, allow_nan=False))
            pictures = Pictures(shared.datasets[0], {record.id: record for record in shared.records[0]}, answers)
            write_comparison_report(folder, opened, summary, pictures, shlex.join(command))
    return summary


class _Judge:
    """How bad each answer of a run is.

    Args:
        number: of the run.
        kept: where each answer is put as it would be shown, by the number of the run and the image's id.
    """

    def __init__(self, predictor: Predictor, number: int, kept: Spool | None) -> None:
        self.predictor, self.number, self.kept = predictor, number, kept
        self.badness: dict[str, float] = {}
        self.vectors = Vectors() if TASKS[predictor.task].embedding else None

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """One image as it is measured; of objects those that reach the thresholds of the run."""
        if self.vectors is not None:
            self.vectors.add(record, truth, prediction)
            return
        task, predictor = task_of(self.predictor.task), self.predictor
        shown = task.keep(prediction, shown_from(predictor.task, predictor.thresholds))
        self.badness[record.id] = task.judge(truth, shown, predictor.classes).score
        if self.kept is not None:
            self.kept[self.number, record.id] = shown

    def pairs(self) -> Judged | None:
        """What vectors say of pairs of images; None of other answers."""
        threshold = next(iter(self.predictor.thresholds), None)
        return None if self.vectors is None else self.vectors.judged(self.predictor.similarity, threshold)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was found of one run."""

    result: Result
    badness: dict[str, float]  # of the answer for each image, by id
    pairs: Judged | None  # embed
    row: dict[str, Any]  # of the summary


def _measure(
    run: Finished, judge: _Judge, dataset: DataSet, records: list[Record], how: Pass, bootstrap: int
) -> _Measured:
    """Predict the common images once, and count what that takes."""
    for _ in predictions(judge.predictor, dataset, records[:1], Pass(workers=0)):
        pass  # what is compiled at the first image is not counted against the first run
    result = score(judge.predictor, dataset, records, how, [judge], bootstrap)
    last = run.rows[-1] if run.rows else {}
    parameters, macs = _cost(run.plan, records[0])
    row = {
        "run": str(run.folder),
        "name": run.name,
        "model": run.plan.model,
        "epochs": last.get("epoch", 0),
        "minutes": round(last.get("minutes", 0.0), 3),
        "metrics": {name: value.to_json() for name, value in result.metrics.items()},
        "difference": None,
        "parameters": parameters,
        "macs": macs,
        "seconds_per_image": round(result.seconds / len(records), 6),
        "prediction_seconds": round(result.seconds, 3),
        "precision": judge.predictor.precision,
    }
    return _Measured(result, judge.badness, judge.pairs(), row)


def _against_the_first(measured: Sequence[_Measured], metric: str, units: int) -> list[str]:
    """Fill in how each run's score differs from that of the first; the same as sentences. `units` were resampled."""
    first, sentences = measured[0], []
    for each in measured[1:]:
        value = each.result.metrics[metric]
        change = difference(first.result.metrics[metric], value)
        each.row["difference"] = change.to_json()
        sentences.append(difference_in_words(each.row["name"], first.row["name"], metric, value, change, units))
    return sentences


def _cost(plan: Plan, record: Record) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image: of the network's size, or where it has none, of `record`."""
    scale = plan.preprocessing.scale
    height, width = plan.preprocessing.size or (round(side * scale) for side in record.size)
    model = model_of_shapes(plan.module, plan.config)
    with torch.device("meta"):
        inputs = example_inputs(plan.module, plan.config, height, width)
        return sum(p.numel() for p in model.parameters()), multiply_adds(model, *inputs)


def _most_different(measured: Sequence[_Measured]) -> list[dict[str, Any]]:
    """The images, of vectors the pairs of them, on which one run is right and another wrong, those of the largest
    difference first, each with how bad the runs' answers are (0 is perfect)."""
    pairs = [each.pairs for each in measured if each.pairs is not None]
    if pairs:
        return most_different_pairs(pairs, SHOWN)
    badness = {id: [each.badness[id] for each in measured] for id in measured[0].badness}
    spread = {id: max(values) - min(values) for id, values in badness.items()}
    ranked = sorted((id for id in spread if spread[id] > 0), key=lambda id: (-spread[id], id))
    return [{"id": id, "badness": badness[id]} for id in ranked[:SHOWN]]
