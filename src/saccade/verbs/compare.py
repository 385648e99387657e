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
from saccade.data.types import Annotation
from saccade.experiments.runs import Finished, Shared, difference_in_words, differing, open_runs, share_images
from saccade.inference.predictor import Predictor, load
from saccade.inference.score import Pass, predictions, score
from saccade.machine.device import describe_hardware
from saccade.machine.files import report_folder, write_whole
from saccade.machine.paths import at_home
from saccade.machine.terminal import printable
from saccade.metrics import Result
from saccade.metrics.bootstrap import difference
from saccade.models.contract import example_inputs
from saccade.models.dry_run import model_of_shapes
from saccade.models.make_catalogue import multiply_adds
from saccade.reports.comparison import Answered, write_comparison_report
from saccade.reports.gallery import shown_from
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.training.plan import Plan

SHOWN = 8  # pictures on which the runs differ most


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
        findings, warnings, differ_most: [{id, badness}], seconds}`.

    Raises:
        UsageError, DataError, ModelFileError: as `experiments.runs.open_runs` and `load` say; no common image.
    """
    start = time.monotonic()
    folder = None if out is None else report_folder(Path(at_home(out)))
    opened = open_runs([Path(at_home(run)) for run in runs])
    shared = share_images(opened)
    metric = TASKS[opened[0].plan.task].metric
    console = Console(stderr=True, quiet=not progress, soft_wrap=True)
    measured: list[_Measured] = []
    for number, run in enumerate(opened):
        console.print(printable(f"{run.name}: {len(shared.records[0])} images"), highlight=False, markup=False)
        predictor = load(run.folder, device, precision)
        how = Pass(workers=workers, progress=progress)
        measured.append(_measure(run, predictor, shared.datasets[number], shared.records[number], how, bootstrap))
    badness = _badness(measured)
    summary: dict[str, Any] = {
        "task": opened[0].plan.task,
        "metric": metric,
        "images": len(shared.records[0]),
        "images_of_runs": shared.of,
        "findings": _against_the_first(measured, metric),
        "runs": [each.row for each in measured],
        "settings": differing(opened),
        "warnings": _warnings(opened, shared),
        "differ_most": [{"id": id, "badness": badness[id]} for id in _most_different(badness)],
        "hardware": describe_hardware(predictor.device),
        "seconds": round(time.monotonic() - start, 3),
    }
    if folder is not None:
        chosen = [row["id"] for row in summary["differ_most"]]
        answered = [_answers(run, i, shared, chosen, device, precision) for i, run in enumerate(opened)]
        command = ["saccade", "compare", *(str(run.folder) for run in opened), "--out", str(folder)]
        write_whole(folder / "compare.json", json.dumps(summary, indent=2, allow_nan=False))
        write_comparison_report(folder, opened, summary, answered, shlex.join(command))
    return summary


class _Judge:
    """How bad each answer of a run is, and when the last of them came."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.badness: dict[str, float] = {}
        self.ended = time.monotonic()

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """One image as it is measured; of objects those that would be shown."""
        judged = task_of(self.predictor.task).judge(truth, _shown(self.predictor, prediction), self.predictor.classes)
        self.badness[record.id] = judged.score
        self.ended = time.monotonic()


def _shown(predictor: Predictor, answer: Annotation) -> Annotation:
    """Of objects those that reach the thresholds of the run; all of other answers."""
    return task_of(predictor.task).keep(answer, shown_from(predictor.task, predictor.thresholds))


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was found of one run."""

    result: Result
    badness: dict[str, float]  # of the answer for each image, by id
    row: dict[str, Any]  # of the summary


def _measure(
    run: Finished, predictor: Predictor, dataset: DataSet, records: list[Record], how: Pass, bootstrap: int
) -> _Measured:
    """Predict the common images once, and count what that takes."""
    judge = _Judge(predictor)
    start = time.monotonic()
    result = score(predictor, dataset, records, how, [judge], bootstrap)
    seconds = judge.ended - start
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
        "seconds_per_image": round(seconds / len(records), 6),
        "prediction_seconds": round(seconds, 3),
        "precision": predictor.precision,
    }
    return _Measured(result, judge.badness, row)


def _against_the_first(measured: Sequence[_Measured], metric: str) -> list[str]:
    """Fill in how each run's score differs from that of the first; the same as sentences."""
    first, sentences = measured[0], []
    for each in measured[1:]:
        value = each.result.metrics[metric]
        change = difference(first.result.metrics[metric], value)
        each.row["difference"] = change.to_json()
        sentences.append(difference_in_words(each.row["name"], first.row["name"], metric, value, change))
    return sentences


def _cost(plan: Plan, record: Record) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image: of the network's size, or where it has none, of `record`."""
    scale = plan.preprocessing.scale
    height, width = plan.preprocessing.size or (round(side * scale) for side in record.size)
    model = model_of_shapes(plan.module, plan.config)
    with torch.device("meta"):
        inputs = example_inputs(plan.module, plan.config, height, width)
        return sum(p.numel() for p in model.parameters()), multiply_adds(model, *inputs)


def _badness(measured: Sequence[_Measured]) -> dict[str, list[float]]:
    """Of each image how bad the answers of the runs are (0 is perfect)."""
    return {id: [each.badness[id] for each in measured] for id in measured[0].badness}


def _most_different(badness: dict[str, list[float]]) -> list[str]:
    """The images on which one run is right and another wrong, those of the largest difference first."""
    spread = {id: max(values) - min(values) for id, values in badness.items()}
    return sorted((id for id in spread if spread[id] > 0), key=lambda id: (-spread[id], id))[:SHOWN]


def _warnings(runs: Sequence[Finished], shared: Shared) -> list[str]:
    """What keeps the numbers from saying more."""
    found, count = [], len(shared.records[0])
    if any(own > count for own in shared.of):
        each = ", ".join(f"{own} of {run.name}" for own, run in zip(shared.of, runs, strict=True))
        found.append(
            f"Only the {count} validation images that all runs have, with the same labels, are compared ({each}): "
            "scores differ from those of the runs' own reports."
        )
    kinds = {frozenset(row["losses"]) for run in runs for row in run.rows[-1:]}
    if len(kinds) > 1:
        found.append("The runs have different losses: their curves of the loss cannot be compared in height.")
    return found


def _answers(
    run: Finished, number: int, shared: Shared, chosen: Sequence[str], device: str | None, precision: str
) -> Answered:
    """What a run says of the images that are shown: these few are predicted again, so that not all answers are kept."""
    dataset, records = shared.datasets[number], {record.id: record for record in shared.records[number]}
    wanted = [records[id] for id in chosen]
    if not wanted:
        return Answered(run.name, dataset, [])
    predictor = load(run.folder, device, precision)
    answers = predictions(predictor, dataset, wanted, Pass(workers=0))
    return Answered(run.name, dataset, [(record, _shown(predictor, answer)) for record, answer in answers])
