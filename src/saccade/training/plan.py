"""What a run will do, settled before the first step: data, classes, task, settings and where each came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from saccade import __version__
from saccade.checkpoint import Checkpoint
from saccade.config import Settings, height_width, read_settings_file, resolve
from saccade.data.balance import class_images, label_weights, tag_weights
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.main_object import keep_main_objects
from saccade.data.pipelines import Preprocessing, inference_transforms, preprocessing_of
from saccade.data.split import split
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Sample
from saccade.errors import DataError, UsageError
from saccade.losses.classification import CLASSIFY, TAG, Objective
from saccade.models import model_config, model_module
from saccade.tasks import TASKS
from saccade.training.weights import recognise

CHANGEABLE = {"epochs", "minutes", "patience", "workers", "save_every", "cache"}  # on --resume
FIT_IMAGES = 1000  # labels of this many training images are shown to a model that fits its anchors to the data


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run has decided before its first step; `to_json` is the run's config.json."""

    model: str
    module: ModuleType
    config: Any  # the model's Config for this data
    task: str
    dataset: DataSet
    training: list[Record]
    validation: list[Record]
    settings: Settings
    origins: dict[str, str]
    preprocessing: Preprocessing
    recipe: str
    given: dict[str, str | None]  # split of each image id as the files state it, before the rest was assigned
    weights: str | None = None  # where the run started from, if not at random
    asked: Mapping[str, Any] = field(default_factory=dict)  # by file and flags, before batch and rate were found

    def to_json(self) -> dict[str, Any]:
        """What `config.json` of the run holds."""
        return {
            "model": self.model,
            "config": dataclasses.asdict(self.config),
            "task": self.task,
            "data": str(self.dataset.root),
            "format": self.dataset.format,
            "classes": self.dataset.classes,
            "images": {"train": len(self.training), "val": len(self.validation)},
            "fingerprint": fingerprint(self.training + self.validation),
            "settings": dataclasses.asdict(self.settings),
            "origins": self.origins,
            "recipe": self.recipe,
            "weights": self.weights,
            "asked": dict(self.asked),
            "preprocessing": self.preprocessing.to_json(),
            "saccade": __version__,
        }

    def checkpoint(self, model: nn.Module, metrics: Mapping[str, Any], thresholds: Sequence[float] = ()) -> Checkpoint:
        """A network of this plan as it is written to a file; `thresholds` are those of tags, one a class."""
        return Checkpoint(
            self.model,
            dataclasses.asdict(self.config),
            self.dataset.classes,
            self.task,
            self.preprocessing.to_json(),
            model.state_dict(),
            dict(metrics),
            {"saccade": __version__, "torch": str(torch.__version__)},
            list(thresholds),
        )


def make_plan(
    model: str,
    data: str | Path,
    *,
    task: str | None = None,
    recipe: str = "default",
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    stored: Mapping[str, Any] | None = None,
) -> Plan:
    """Read the data, choose the task, merge the settings, fit the model's Config to the data.

    Args:
        flags: settings given by the user, also fields of the model's Config.
        weights: run, checkpoint, public weights file or word for published weights to start from.
        stored: `config.json` of the run that is resumed; its settings take the place of recipe and file.

    Raises:
        UsageError: unknown model, setting or task; a change that a resumed run cannot take.
        DataError: the data cannot be used for this task.
    """
    module = model_module(model)
    task, dataset = _read_for(module, model, data, task if stored is None else stored["task"])
    fields = {f.name for f in dataclasses.fields(module.VARIANTS[model])}
    free = fields - {"objective"}  # it follows from settings
    word, published = recognise(model, weights) if weights is not None and stored is None else ("", None)
    of_weights = [] if published is None else [(f"weights {word}", published.settings)]
    in_file = {} if config is None else read_settings_file(config)
    if stored is None:
        layers = [*_recipe(module, model, recipe), *of_weights, (str(config), in_file), ("flag", flags or {})]
    else:
        layers = [("resumed", stored["settings"]), ("flag", _changes(stored, in_file | dict(flags or {}), free))]
    settings, changes, origins = resolve(layers, free)
    asked = {name: _plain(name, value, free) for name, value in (in_file | dict(flags or {})).items()}
    if stored is not None:
        asked = stored.get("asked", {}) | asked
        weights, recipe = _same_start(stored, weights, recipe)
        origins = {name: stored["origins"].get(name, o) if o == "resumed" else o for name, o in origins.items()}
    _refuse_contradictions(task, settings)
    given = {record.id: record.split for record in dataset.records}
    split(dataset, seed=settings.seed)
    _refuse_bad_data(dataset, settings)
    training, validation = _training_images(dataset, task), dataset.of("val")
    shape = preprocessing_of(task, settings, getattr(module, "STRIDE", 1))
    if stored is None:
        known: dict[str, Any] = {"classes": len(dataset.classes), "task": task, "size": shape.size}
        known["objective"] = _objective(task, settings, training, len(dataset.classes))
        changes = {k: v for k, v in known.items() if k in fields and v is not None} | changes
        built = model_config(model, **changes)
        if hasattr(module, "adapt") and published is None:  # their anchors are those they were trained with
            built = module.adapt(built, _examples(dataset, training, task, shape))
    else:
        built = config_from_json(module, model, stored["config"])
    about = settings, origins, shape, recipe, given, None if weights is None else str(weights), asked
    plan = Plan(model, module, built, task, dataset, training, validation, *about)
    if stored is not None:
        _refuse_changes(plan, stored)
    return plan


def config_from_json(module: ModuleType, model: str, state: Mapping[str, Any]) -> Any:
    """A model's Config from JSON: lists become the tuples, dictionaries the dataclasses that frozen configs hold."""
    return _from_json(module.VARIANTS[model], _renamed(module.VARIANTS[model], state))


def unknown_fields(module: ModuleType, model: str, state: Mapping[str, Any]) -> list[str]:
    """Names in a stored Config that the model's Config does not have, nor had under an older name."""
    made = module.VARIANTS[model]
    return sorted(set(_renamed(made, state)) - {field.name for field in dataclasses.fields(made)})


def _renamed(made: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored Config in today's names: `label_smoothing` of the first classifiers is a part of `objective`."""
    if "label_smoothing" not in state or "objective" in state or not hasattr(made, "objective"):
        return state
    kept = {name: value for name, value in state.items() if name != "label_smoothing"}
    return kept | {"objective": {"label_smoothing": state["label_smoothing"]}}


def _from_json(made: Any, state: Mapping[str, Any]) -> Any:
    values = {}
    for name, value in state.items():
        now = getattr(made, name, None)
        values[name] = _from_json(now, value) if dataclasses.is_dataclass(now) else _tuples(value)
    return dataclasses.replace(made, **values)


def fingerprint(records: list[Record]) -> str:
    """SHA-256 over ids, sizes and labels: a resumed run must see the same data."""
    total = hashlib.sha256()
    for record in sorted(records, key=lambda r: r.id):
        total.update(json.dumps(record.to_json(), sort_keys=True).encode())
    return total.hexdigest()


def _recipe(module: ModuleType, model: str, recipe: str) -> list[tuple[str, Mapping[str, Any]]]:
    recipes = module.RECIPES
    if recipe not in recipes:
        raise UsageError(f"model {model} has no recipe {recipe!r}; it has: {', '.join(sorted(recipes))}")
    return [(f"recipe {recipe}", recipes[recipe].get("*", {}) | recipes[recipe].get(model, {}))]


def _changes(stored: Mapping[str, Any], given: Mapping[str, Any], free: set[str]) -> dict[str, Any]:
    """What of the given settings differs from those of the run, so that the same command goes on with it: queue systems
    start the same line again. A value may equal the one that was asked for, or what came of it.

    Raises:
        UsageError: one of them cannot change.
    """
    has = stored["config"] | stored["settings"] | stored.get("asked", {})
    changed, refused = {}, []
    for name, value in given.items():
        plain = _plain(name, value, free)
        came = stored["config" if name in free else "settings"].get(name)
        if plain in (_plain(name, has.get(name), free), _plain(name, came, free)):
            continue
        changed[name] = value
        if name not in CHANGEABLE:
            refused.append(f"{name} ({has.get(name)} in the run, {value} now)")
    if refused:
        raise UsageError(
            f"--resume cannot change {', '.join(sorted(refused))}; allowed: {', '.join(sorted(CHANGEABLE))}. "
            "Start a new run with another --out instead"
        )
    return changed


def _plain(name: str, value: Any, free: set[str]) -> Any:
    """A setting as `config.json` holds it, however it was written: 32 and "32x32" are one size."""
    if name not in free and value is not None:
        value = getattr(resolve([("flag", {name: value})])[0], name)
        value = height_width(value) if name == "size" else value
    return json.loads(json.dumps(value))


def _same_start(stored: Mapping[str, Any], weights: str | Path | None, recipe: str) -> tuple[str | None, str]:
    """Weights and recipe of the run. Raises UsageError where it is asked to start from others, or to follow another."""
    for name, now, nothing in (("weights", weights, None), ("recipe", recipe, "default")):
        if now is not nothing and now != nothing and str(now) != stored[name]:
            raise UsageError(f"--resume cannot change {name} ({stored[name]} in the run, {now} now)")
    return stored["weights"], stored["recipe"]


def _read_for(module: ModuleType, model: str, data: str | Path, task: str | None) -> tuple[str, DataSet]:
    """Read `data` for a task that both the labels and the model serve."""
    if task is not None and task not in module.TASKS:
        raise UsageError(f"model {model} cannot be trained to {task}; it serves: {', '.join(module.TASKS)}")
    dataset = read(data, task)
    if task is not None:
        return task, dataset
    for candidate in (dataset.task, *TASKS[dataset.task].also):
        if candidate in module.TASKS:
            if candidate == "localize" and candidate != dataset.task:
                keep_main_objects(dataset)
            return candidate, dataset
    raise UsageError(
        f"{data} holds labels to {dataset.task}, model {model} serves {' and '.join(module.TASKS)}; "
        f"`saccade models --task {dataset.task}` lists the models that fit"
    )


def _refuse_contradictions(task: str, settings: Settings) -> None:
    if settings.multi_scale and task == "instances":
        raise UsageError("multi_scale does not resize masks of instances; train at one size (multi_scale=0)")
    for name in ("mixup", "cutmix"):
        if getattr(settings, name) and task not in ("classify", "tag"):
            raise UsageError(f"{name} blends the labels of whole images: for classify and tag, not {task} ({name}=0)")
    if settings.mosaic and task == "localize":
        raise UsageError(
            "mosaic composes four images into one: not for localize, where an image has one object (mosaic=0)"
        )
    losses = {"classify": CLASSIFY, "localize": CLASSIFY, "tag": TAG}.get(task, ("cross_entropy",))
    if settings.loss not in losses:
        raise UsageError(f"loss={settings.loss} is not for {task}; allowed: {', '.join(losses)}")
    if settings.class_balance != "none" and task not in ("classify", "localize", "tag"):
        raise UsageError(f"class_balance weights the labels of whole images, not those of {task} (class_balance=none)")


def _training_images(dataset: DataSet, task: str) -> list[Record]:
    """Raises DataError where there is nothing to learn from: no image, no object or tag; UsageError where all labels or
    tags are alike."""
    training = dataset.of("train")
    if not training:
        raise DataError(f"{dataset.root}: no image to train on (splits: {dataset.splits or 'none'})")
    if task in ("detect", "instances", "tag") and not any(record.things or record.tags for record in training):
        what = "tag" if task == "tag" else "object"
        raise DataError(f"{dataset.root}: no {what} in train (0 of {len(training)} images have one)")
    counts = class_images(training, len(dataset.classes))
    if task in ("classify", "tag") and set(counts) <= {0, len(training)}:
        names = ", ".join(dataset.classes[label] for label in np.flatnonzero(counts))
        what = f"are of one class ({names})" if task == "classify" else f"have the same tags ({names})"
        raise UsageError(
            f"{dataset.root}: all {len(training)} training images {what}, with nothing to tell apart; add images of "
            "another class, such as images without it"
        )
    return training


def _objective(task: str, settings: Settings, training: list[Record], classes: int) -> Objective:
    """The loss of labels or tags, with weights from their counts in the training images."""
    weights: tuple[float, ...] = ()
    if settings.class_balance != "none":
        counts, beta = class_images(training, classes), settings.effective_beta
        if task == "tag":
            weights = tag_weights(counts, len(training), settings.class_balance, beta)
        else:
            weights = label_weights(counts, settings.class_balance, beta)
    return Objective(settings.loss, settings.label_smoothing, settings.focal_gamma, weights)


def _refuse_bad_data(dataset: DataSet, settings: Settings) -> None:
    ledger = dataset.ledger
    for kind, refused, used in (
        ("images", ledger.images_refused, ledger.images_used),
        ("labels", ledger.labels_refused, ledger.labels_used),
    ):
        if refused and refused > settings.max_refused * (refused + used):
            first = "; ".join(f"{e.where}: {e.what}" for e in ledger.refused[:5])
            raise DataError(
                f"{dataset.root}: {refused} of {refused + used} {kind} are refused, more than max_refused = "
                f"{settings.max_refused:g}. `saccade check {dataset.root}` lists all. The first: {first}"
            )


def _refuse_changes(plan: Plan, stored: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(plan.to_json()))
    for name in ("model", "task", "classes", "fingerprint"):
        if now[name] != stored[name]:
            what = "images or labels" if name == "fingerprint" else name
            raise UsageError(
                f"--resume: {what} differ from those of the run"
                + ("" if name == "fingerprint" else f" ({stored[name]} then, {now[name]} now)")
                + "; start a new run with another --out"
            )


def _examples(dataset: DataSet, records: list[Record], task: str, preprocessing: Preprocessing) -> list[Annotation]:
    """Truth of training images in network pixels; the images themselves stay on the disk."""
    transforms = inference_transforms(task, preprocessing)
    examples = []
    for record in records[:: max(1, len(records) // FIT_IMAGES)]:
        blank = np.zeros((*record.size, 3), np.uint8)
        sample = Sample(blank, read_truth(record, dataset, task), record.id, record.size)
        for transform in transforms:
            sample = transform(sample, np.random.default_rng(0))
        examples.append(sample.truth)
    return examples


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
