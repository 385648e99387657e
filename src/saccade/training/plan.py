"""What a run will do, settled before the first step: data, classes, task, settings and where each came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from saccade.checkpoint import Checkpoint
from saccade.config import Settings, read_settings_file, resolve
from saccade.data.balance import class_images, label_weights, tag_weights
from saccade.data.dataset import DataSet, Record
from saccade.data.joined import absolute
from saccade.data.pipelines import Preprocessing, preprocessing_of
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Sample
from saccade.data.views import inference_view
from saccade.errors import UsageError
from saccade.losses.classification import Objective
from saccade.models import model_config, model_module
from saccade.models.configs import config_from_json, free_fields
from saccade.models.contract import (
    Room,
    adapt,
    adapts,
    one_person,
    proposals_of,
    recipe_of,
    with_weights,
)
from saccade.models.own_file import digest_of
from saccade.models.published import Published
from saccade.models.recipes import PROBE
from saccade.models.standing import trunk_of
from saccade.models.weights import recognise
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.training.buildable import check_buildable
from saccade.training.divide import divide
from saccade.training.joint import Joint, Sources, sources_of
from saccade.training.mixup import refuse_mixing
from saccade.training.priors import poor_priors
from saccade.training.reading import read_for
from saccade.training.resume import changed_settings, kept_origins, plain_setting, refuse_changes, start_of
from saccade.training.run_folder import how_to_go_on
from saccade.version import __version__

FITTED = "fitted to the training images"  # origin of a value that a model's `adapt` chose
FIT_IMAGES = 1000  # labels of this many training images are shown to a model that fits its anchors to the data


def of_room(origin: str) -> bool:
    """Whether a value comes from the model's recipe or published weights, not from a person."""
    return origin.startswith(("recipe ", "weights "))


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run has decided before its first step; `to_json` is the run's config.json."""

    model: str
    module: Room
    config: Any  # the model's Config for this data
    task: str
    data: str  # the data set as a person named it, from where they stood
    dataset: DataSet
    training: list[Record]
    validation: list[Record]
    testing: list[Record]  # scored once, at the end; empty where the data set has no test part with labels
    settings: Settings
    origins: dict[str, str]
    preprocessing: Preprocessing
    recipe: str
    given: dict[str, str | None]  # split of each image id as the files state it, before the rest was assigned
    weights: str | None = None  # where the run started from, if not at random
    proposals: str | None = None  # file or run whose boxes the images are given; None: those of the preprocessing
    joint: Joint = field(default_factory=Joint)  # where the tree of the classes and images with a class alone come from
    asked: Mapping[str, Any] = field(default_factory=dict)  # by file and flags, before batch and rate were found
    usual_batch: int | None = None  # of the recipe, where that of a new run was lowered for few images

    @property
    def ends_by_epochs(self) -> bool:
        """Whether the number of epochs ends the run: alone, or given beside minutes, where the first of both does."""
        origin = self.origins["epochs"]
        given = origin != "default" and not of_room(origin)
        return self.settings.minutes is None or given

    def how_to_go_on(self, run: Path) -> str:
        """The command that goes on with a stopped run."""
        return how_to_go_on(self.model, self.data, run)

    def to_json(self) -> dict[str, Any]:
        """What `config.json` of the run holds."""
        return {
            "model": self.model,
            "file_sha256": digest_of(self.module),
            "config": dataclasses.asdict(self.config),
            "task": self.task,
            "data": absolute(self.data),
            "join": self.joint.join,
            "tree": self.joint.tree,
            "format": self.dataset.format,
            "classes": self.dataset.classes,
            "images": {"train": len(self.training), "val": len(self.validation)}
            | ({"test": len(self.testing)} if self.testing else {}),
            "fingerprint": fingerprint(self.training + self.validation),
            "settings": dataclasses.asdict(self.settings),
            "origins": self.origins,
            "recipe": self.recipe,
            "weights": self.weights,
            "asked": dict(self.asked),
            "proposals": self.proposals,
            "preprocessing": self.preprocessing.to_json(),
            "saccade": __version__,
        }

    def checkpoint(self, model: nn.Module, metrics: Mapping[str, Any], thresholds: Sequence[float] = ()) -> Checkpoint:
        """A network of this plan as it is written to a file; `thresholds` are one a class, or none."""
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
            digest_of(self.module),
        )


def make_plan(
    model: str,
    data: str | Path | Sources,
    *,
    task: str | None = None,
    recipe: str = "default",
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> Plan:
    """Read the data, choose the task, merge the settings, fit the model's Config to the data.

    Args:
        config, flags: settings in a YAML or JSON file, and as the user gives them, also fields of the model's Config.
        weights: run, checkpoint, public weights file or word for published weights to start from.

    Raises:
        UsageError: unknown model, setting or task.
        DataError: the data cannot be used for this task.
    """
    module = model_module(model)
    fields, free = {f.name for f in dataclasses.fields(module.VARIANTS[model])}, free_fields(module.VARIANTS[model])
    in_file = {} if config is None else read_settings_file(config)
    of_weights, published = _of_weights(module, model, recipe, weights, asked_trunk(model, config, flags or {}))
    layers = [_recipe(module, model, recipe, weights), *of_weights, (str(config), in_file), ("flag", flags or {})]
    settings, changes, origins = resolve(layers, free)
    task, dataset, joint = read_for(module, model, data, task, border=settings.border_class)
    _refuse_contradictions(task, settings)
    parts = divide(dataset, task, settings, one_person(module))
    shape = _preprocessing(module, task, settings, dataset)
    known: dict[str, Any] = {"classes": len(dataset.classes), "task": task, "size": shape.size} | _of_joints(shape)
    values = {k: v for k, v in known.items() if k in fields and v is not None}
    built = joint.grown(model_config(model, **values | changes))
    _check_joints(built, shape, dataset)
    own = [name for name in changes if name in fields and not of_room(origins[name])]
    check_buildable(module, model, built, own, settings, shape.size)
    if "objective" in fields:
        built = dataclasses.replace(built, objective=_balanced(built, task, parts.training))
    if adapts(module) and published is None:  # whose anchors are those of their training
        built, fitted = _fit_to_data(module, built, dataset, parts.training, task, shape, set(changes))
        origins |= dict.fromkeys(fitted, FITTED)
    return Plan(
        model=model,
        module=module,
        config=built,
        task=task,
        data=str(sources_of(data).data),
        dataset=dataset,
        training=joint.added(dataset, parts.training, settings),
        validation=parts.validation,
        testing=parts.testing,
        settings=settings,
        origins=origins,
        preprocessing=shape,
        recipe=recipe,
        given=parts.given,
        weights=None if weights is None else str(weights),
        joint=dataclasses.replace(joint, other=None),
        asked={name: plain_setting(name, value, free) for name, value in (in_file | dict(flags or {})).items()},
    )


def asked_trunk(
    model: str, config: Path | None, flags: Mapping[str, Any], stored: Mapping[str, Any] | None = None
) -> str | None:
    """The classification network that a run's model will stand on, or does by its `config.json`; None of a model that
    stands on none."""
    if stored is not None:
        return cast("str | None", stored["config"].get("trunk"))
    return trunk_of(model_module(model).VARIANTS[model], {} if config is None else read_settings_file(config), flags)


def resume_plan(
    model: str,
    data: str | Path | Sources,
    stored: Mapping[str, Any],
    *,
    recipe: str = "default",
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> Plan:
    """The plan of a run that goes on: what it began with, and of what is asked for now that which may change.

    Args:
        stored: `config.json` of the run; the others are those of `make_plan`, and must be as they were or not given.

    Raises:
        UsageError: a change that a resumed run cannot take.
        DataError: the data cannot be used any more.
    """
    module = model_module(model)
    border = stored["settings"].get("border_class", 0)
    task, dataset, joint = read_for(module, model, data, stored["task"], stored, border)
    free = free_fields(module.VARIANTS[model])
    now = ({} if config is None else read_settings_file(config)) | dict(flags or {})
    settings, _, origins = resolve(
        [("resumed", stored["settings"]), ("flag", changed_settings(stored, now, free))], free
    )
    start, recipe = start_of(stored, weights, recipe)
    origins = kept_origins(origins, stored["origins"], free)
    asked = stored.get("asked", {}) | {name: plain_setting(name, value, free) for name, value in now.items()}
    _refuse_contradictions(task, settings)
    parts = divide(dataset, task, settings, one_person(module))
    shape = _preprocessing(module, task, settings, dataset)
    built = config_from_json(module, model, stored["config"])
    plan = Plan(
        model=model,
        module=module,
        config=built,
        task=task,
        data=str(sources_of(data).data),
        dataset=dataset,
        training=joint.added(dataset, parts.training, settings),
        validation=parts.validation,
        testing=parts.testing,
        settings=settings,
        origins=origins,
        preprocessing=shape,
        recipe=recipe,
        given=parts.given,
        weights=start,
        joint=dataclasses.replace(joint, other=None),
        asked=asked,
    )
    refuse_changes(plan.to_json(), stored)
    return plan


def _preprocessing(module: Room, task: str, settings: Settings, dataset: DataSet) -> Preprocessing:
    """How images come to the network at test time, with proposals and named joints where the model has some."""
    shape = dataclasses.replace(preprocessing_of(task, settings), border=dataset.border)
    if TASKS[task].keypoints:
        shape = dataclasses.replace(shape, joints=dataset.joints, one_person=one_person(module))
    return dataclasses.replace(shape, proposals=proposals_of(module))


def _of_joints(shape: Preprocessing) -> dict[str, Any]:
    """The fields of Config that follow from the joints of the data."""
    return {} if shape.joints is None else {"joints": len(shape.joints), "pairs": shape.joints.pairs}


def _check_joints(config: Any, shape: Preprocessing, dataset: DataSet) -> None:
    """Raises UsageError where a person asked for another number of joints than the data have."""
    if shape.joints is not None and config.joints != len(shape.joints):
        names = ", ".join(shape.joints.names[:5])
        raise UsageError(f"joints={config.joints}: objects of {dataset.root} have {len(shape.joints)} ({names}, ...)")


def _fit_to_data(
    module: Room,
    config: Any,
    dataset: DataSet,
    training: list[Record],
    task: str,
    shape: Preprocessing,
    given: set[str],
) -> tuple[Any, list[str]]:
    """A Config fitted to the training images, and the fields that changed; what a person or recipe gave stays.

    Raises:
        UsageError: a person's priors fit not one object.
    """
    examples = _examples(dataset, training, task, shape)
    adapted = adapt(module, config, examples, given)
    dataset.ledger.warnings += poor_priors(module, adapted, examples, dataset.root, shape, given)
    names = [field.name for field in dataclasses.fields(config)]
    return adapted, [name for name in names if getattr(adapted, name) != getattr(config, name)]


def fingerprint(records: list[Record]) -> str:
    """SHA-256 over ids, sizes and labels: a resumed run must see the same data."""
    total = hashlib.sha256()
    for record in sorted(records, key=lambda r: r.id):
        state = record.to_json()
        if record.label_alone and Path(record.path).is_absolute():  # joined: wherever it lies now
            del state["path"]
        total.update(json.dumps(state, sort_keys=True).encode())
    return total.hexdigest()


def _recipe(module: Room, model: str, recipe: str, weights: str | Path | None) -> tuple[str, Mapping[str, Any]]:
    if recipe == PROBE and weights is None:
        raise UsageError(f"recipe {PROBE} fits the output layer to features of given weights: add --weights")
    return f"recipe {recipe}", recipe_of(module, model, recipe)


def _of_weights(
    module: Room, model: str, recipe: str, weights: str | Path | None, trunk: str | None
) -> tuple[list[tuple[str, Mapping[str, Any]]], Published | None]:
    """What follows from starting from weights, with its origin, and their entry where they are published for the
    model: parts that the recipe then freezes, settings that go with what is published."""
    if not weights:
        return [], None
    word, published = recognise(model, weights, trunk)
    found: list[tuple[str, Mapping[str, Any]]] = [
        (f"recipe {recipe}, with weights", with_weights(module, model, recipe, trunk))
    ]
    return found + ([] if published is None else [(f"weights {word}", published.settings)]), published


def _refuse_contradictions(task: str, settings: Settings) -> None:
    kind = TASKS[task]
    if settings.multi_scale and kind.masks:
        raise UsageError("multi_scale does not resize masks of instances; train at one size (multi_scale=0)")
    refuse_mixing(kind, settings)
    if settings.repeat_threshold and kind.embedding:
        raise UsageError("steps show all identities alike often: not with repeat_threshold (repeat_threshold=0)")
    if settings.mosaic and kind.one_object:
        raise UsageError(
            "mosaic composes four images into one: not for localize, where an image has one object (mosaic=0)"
        )


def _balanced(config: Any, task: str, training: list[Record]) -> Objective:
    """The objective of a Config, with weights from the counts of labels or tags in the training images.

    Raises:
        UsageError: its loss is not for the task.
    """
    objective: Objective = config.objective
    losses = task_of(task).LOSSES
    if objective.loss not in losses:
        raise UsageError(f"loss={objective.loss} is not for {task}; allowed: {', '.join(losses)}")
    weights: tuple[float, ...] = ()
    if objective.class_balance != "none":
        counts, beta = class_images(training, config.classes), objective.effective_beta
        if TASKS[task].tags:
            weights = tag_weights(counts, len(training), objective.class_balance, beta)
        else:
            weights = label_weights(counts, objective.class_balance, beta)
    return dataclasses.replace(objective, class_weights=weights)


def _examples(dataset: DataSet, records: list[Record], task: str, preprocessing: Preprocessing) -> list[Annotation]:
    """Truth of training images in network pixels; the images themselves stay on the disk."""
    view = inference_view(task, preprocessing)
    examples = []
    for record in records[:: max(1, len(records) // FIT_IMAGES)]:
        blank = np.zeros((*record.size, 3), np.uint8)
        sample = Sample(blank, read_truth(record, dataset, task), record.id, record.size)
        examples.append(view.apply(sample).truth)
    return examples
