"""`saccade faces evaluate RUN DATA --pairs FILE`: an embedder on given pairs of pictures, by folds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.formats import read
from saccade.data.formats.pairs import read_pairs
from saccade.errors import DataError, UsageError
from saccade.inference.predictor import load
from saccade.inference.score import Pass, predictions
from saccade.machine.files import make_folder, results_folder, write_whole
from saccade.machine.paths import at_home
from saccade.metrics.identification import pair_scores, score_pairs, unit
from saccade.tasks.table import find_task


def evaluate_pairs(
    run: str | Path,
    data: str | Path,
    pairs: str | Path,
    *,
    batch: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    bootstrap: int = 1000,
    out: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score a model to embed on the pairs of a file, as Labeled Faces in the Wild prescribes.

    Args:
        run: run folder or checkpoint.
        data: a folder of people that holds the pictures of the pairs.
        pairs: pairs.txt of LFW, or a CSV file (`data.formats.pairs`).
        bootstrap: resamples of the people for the intervals; 0 for none but that of the accuracy.
        out: folder for metrics.json, which is made.

    Returns:
        `{data, pairs, images, metrics: {name: {value, low, high}}, per_class, curves, seconds, refused, warnings}`, the
        rows of per_class one a fold.

    Raises:
        UsageError: the model does not embed.
        DataError: pairs that cannot be read, or pictures without a name.
    """
    start, data, pairs = time.monotonic(), at_home(data), at_home(pairs)
    folder = None if out is None else results_folder(Path(at_home(out)))
    predictor = load(at_home(run), device, precision)
    if not find_task(predictor.task).embedding:
        raise UsageError(f"--pairs: for models that embed; {run} is one to {predictor.task}")
    how = Pass(batch, workers, progress=progress)
    dataset = read(data, predictor.task)
    listed = read_pairs(Path(pairs), dataset)
    wanted = set(listed.first) | set(listed.second)
    records = sorted((record for record in dataset.records if record.id in wanted), key=lambda record: record.id)
    unnamed = [record.id for record in records if record.label is None]
    if unnamed:
        raise DataError(f"{data}: it does not say whom {unnamed[0]} shows")
    place = {record.id: number for number, record in enumerate(records)}
    rows = unit(np.stack([_embedding(answer) for _, answer in predictions(predictor, dataset, records, how)]))
    at = np.array([[place[first], place[second]] for first, second in zip(listed.first, listed.second, strict=True)])
    people = np.array([record.label for record in records])[at]
    scores = pair_scores(rows, at, predictor.similarity)
    result = score_pairs(scores, np.array(listed.same), people, np.array(listed.folds), bootstrap)
    ledger = dataset.ledger.to_json()
    summary = {"data": str(data), "pairs": str(pairs)} | result.to_json()
    summary |= {"images": len(records), "seconds": round(time.monotonic() - start, 3)}
    summary |= {name: ledger[name] for name in ("refused", "warnings")}
    if folder is not None:
        write_whole(make_folder(folder) / "metrics.json", json.dumps(summary, indent=2, allow_nan=False))
    return summary


def _embedding(answer: Any) -> np.ndarray:
    return np.asarray(answer.embedding.double().cpu().numpy())
