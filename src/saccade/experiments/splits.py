"""What the experiment makes: probes kept as ordinary checkpoints, and plans of the runs that train."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from saccade import checkpoint
from saccade.data.dataset import DataSet, Record
from saccade.data.split import split
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.machine.files import make_folder
from saccade.models.recipes import FINE_TUNE_EPOCHS, FINE_TUNE_RATE
from saccade.solvers.choice import probabilities
from saccade.solvers.features import Frozen
from saccade.solvers.linear import Probe
from saccade.tasks.contract import task_of
from saccade.training.plan import Plan

LAYER_DECAY = 0.7  # `layers`: from each part of the network to the one before


@dataclasses.dataclass(frozen=True, slots=True)
class Division:
    """One split of the data: what a method may see, and what it is scored on."""

    seed: int
    training: list[Record]
    held: list[Record]

    @property
    def ratio(self) -> float:
        return len(self.held) / len(self.training)


def divide(plan: Plan, seeds: int) -> list[Division]:
    """As many splits as seeds: the val of the data set where it gives one, else a val drawn anew for each.

    A test part takes no part in the comparison.

    Raises:
        DataError: nothing is held back.
    """
    dataset, given, settings = plan.dataset, plan.given, plan.settings
    fixed = "val" in given.values()
    divisions = []
    for seed in range(seeds):
        if not fixed:
            for record in dataset.records:
                record.split = given[record.id]
            split(dataset, seed, settings.holdout, settings.group)
        divisions.append(Division(seed, dataset.of("train"), dataset.of("val")))
        if not divisions[-1].held:
            raise DataError(f"{dataset.root}: no image is held back to compare on (splits: {dataset.splits})")
    return divisions


def scored(
    dataset: DataSet, records: Sequence[Record], task: str, scores: np.ndarray, thresholds: Sequence[float]
) -> dict[str, float | None]:
    """The metrics of logits [images, classes] of these records, as `saccade evaluate` counts them."""
    metric = task_of(task).make_metric(dataset.classes, thresholds=thresholds or 0.5)
    chances = torch.from_numpy(probabilities(scores, task)).float()
    for record, row in zip(records, chances, strict=True):
        metric.add(record.id, read_truth(record, dataset, task), Annotation(record.size, probabilities=row))
    return {name: value.value for name, value in metric.result(bootstrap=0).metrics.items()}


def keep_probe(
    plan: Plan,
    frozen: Frozen,
    probe: Probe,
    thresholds: Sequence[float],
    metrics: Mapping[str, Any],
    path: Path,
) -> nn.Module:
    """Write the frozen network with the probe as its output layer: a checkpoint like any other. Returns the network."""
    model = copy.deepcopy(frozen.model)
    probe.put_into(model.get_submodule(frozen.head))
    make_folder(path.parent)
    checkpoint.save(plan.checkpoint(model, metrics, thresholds), path)
    return model


def training_plan(
    plan: Plan, method: str, seed: int, training: list[Record], validation: list[Record], start: Path, parts: int
) -> Plan:
    """The plan of a run that trains: last_block, layers (both from `start`) or scratch.

    Args:
        start: checkpoint whose output layer is fitted already ("linear probing then fine-tuning", Kumar et al. 2022).
        parts: of the network (`training.depth.find_parts`).
    """
    settings = dataclasses.replace(plan.settings, seed=seed)
    weights: str | None = None
    if method != "scratch":
        epochs = settings.epochs if plan.origins["epochs"] == "flag" else FINE_TUNE_EPOCHS
        settings = dataclasses.replace(settings, lr=settings.lr * FINE_TUNE_RATE, epochs=epochs)
        weights = str(start)
    if method == "last_block":
        settings = dataclasses.replace(settings, freeze=max(0, parts - 2))
    if method == "layers":
        settings = dataclasses.replace(settings, layer_decay=LAYER_DECAY)
    origins = plan.origins | {"seed": "transfer"}
    for name in ("lr", "epochs", "freeze", "layer_decay"):
        if getattr(settings, name) != getattr(plan.settings, name):
            origins[name] = "transfer"
    return dataclasses.replace(
        plan, settings=settings, origins=origins, training=training, validation=validation, weights=weights
    )
