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
from saccade.data.loader import Loader
from saccade.data.pipelines import inference_side, inference_transforms
from saccade.data.split import split
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.errors import DataError, UsageError
from saccade.machine.files import make_folder
from saccade.solvers.features import Features, Frozen
from saccade.solvers.linear import FOLDS, Probe, probabilities
from saccade.tasks.contract import task_of
from saccade.training.plan import Plan

FINE_TUNE_EPOCHS = 15  # where the user names none: the network starts from a fitted classifier
FINE_TUNE_RATE = 0.1  # of the recipe's lr, which is meant for a random start
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


def targets_of(dataset: DataSet, records: Sequence[Record], task: str) -> np.ndarray:
    """What holds of each image, [images, classes] bool; for classify one a row. Raises DataError."""
    rows = np.zeros((len(records), len(dataset.classes)), bool)
    for row, record in zip(rows, records, strict=True):
        truth = read_truth(record, dataset, task)
        if task == "classify":
            row[truth.label] = True
        elif truth.tags is not None:
            row[:] = truth.tags.numpy()
    return rows


def check_enough(dataset: DataSet, targets: np.ndarray, task: str) -> None:
    """Raises UsageError where there is nothing to tell apart, DataError for too little to choose on a part of it."""
    counts = targets.sum(0)
    if task == "classify" and (counts > 0).sum() < 2:
        only = ", ".join(name for name, n in zip(dataset.classes, counts, strict=True) if n) or "none"
        raise UsageError(f"{dataset.root}: the training images are of one class only ({only}); two are needed")
    few = [f"{name} ({n})" for name, n in zip(dataset.classes, counts, strict=True) if 0 < n < FOLDS]
    if few and (task == "classify" or len(few) == (counts > 0).sum()):
        raise DataError(
            f"{dataset.root}: too few training images to choose on a part of them: at least {FOLDS} a class are "
            f"needed; too few have {', '.join(few[:10])}"
        )


def scored(
    dataset: DataSet, records: Sequence[Record], task: str, scores: np.ndarray, thresholds: Sequence[float]
) -> dict[str, float | None]:
    """The metrics of logits [images, classes] of these records, as `saccade evaluate` counts them."""
    metric = task_of(task).make_metric(dataset.classes, thresholds=thresholds or 0.5)
    chances = torch.from_numpy(probabilities(scores, task)).float()
    for record, row in zip(records, chances, strict=True):
        metric.add(record.id, read_truth(record, dataset, task), Annotation(record.size, scores=row))
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


@torch.inference_mode()
def check_linear(plan: Plan, model: nn.Module, probe: Probe, features: Features) -> None:
    """Raises UsageError where the network's answer is not the probe's: it does not end with its output layer."""
    records = sorted(plan.dataset.records, key=lambda record: record.id)[:4]
    side = inference_side(plan.preprocessing)
    transforms = inference_transforms(plan.task, plan.preprocessing)
    loader = Loader(plan.dataset, records, plan.task, transforms, len(records), shuffle=False, min_side=side)
    device = next(model.parameters()).device
    given = model.eval()(next(iter(loader.epoch(0))).to(device).images).double().cpu().numpy()
    rows = [features.ids.index(record.id) for record in records]
    wanted = probe.scores(features.top[rows])
    off = given - wanted
    if plan.task == "classify":
        off -= off.mean(1, keepdims=True)  # a softmax does not see it
    gap = float(np.abs(off).max())
    if gap > 1e-2 * (1 + float(np.abs(wanted).max())):
        raise UsageError(
            f"{plan.model} changes what its output layer says (by up to {gap:.3g}), so that a linear classifier on its "
            "features is no network of this kind; use another --model"
        )


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
