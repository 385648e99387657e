"""A run, opened: the trained network with all that its checkpoint says of it. Every verb that takes a run goes through
here, by itself or by `predictor.load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.errors import ModelFileError, UsageError
from saccade.inference.darknet import SUFFIX, darknet_checkpoint
from saccade.machine.device import pick_device
from saccade.machine.paths import at_home
from saccade.models import catalogue, model_module
from saccade.models.configs import config_from_json, unknown_fields
from saccade.models.contract import one_person, proposals_of
from saccade.models.dry_run import model_of_shapes
from saccade.models.own_file import confirmed, is_own
from saccade.tasks.table import TASKS
from saccade.version import __version__

ROOM = 2**24  # numbers that a network may hold besides as many as its weights: priors, masks of positions


@dataclass(frozen=True, slots=True)
class Trained:
    """A network as it was trained, in evaluation mode, with gradients; a `Predictor` answers by a faster copy."""

    path: Path  # of the checkpoint
    model: str  # name in the catalogue
    network: Any  # nn.Module with the methods of a model file
    device: torch.device  # where it is
    task: str
    classes: list[str]
    preprocessing: Preprocessing
    thresholds: tuple[float, ...]  # as in `checkpoint.Checkpoint`


def open_run(
    run: str | Path,
    device: str | torch.device | None = "cpu",
    weights: str | Path | None = None,
    names: str | Path | None = None,
) -> Trained:
    """The trained network of a run folder (its best checkpoint), of a checkpoint file, or of Darknet's files.

    Args:
        run: of Darknet's files the `.cfg`.
        device: where the network is put; None: a GPU where there is one.
        weights, names: of a `.cfg` alone: its `.weights` and the names of its classes, where they do not lie beside it
            (`inference.darknet`).

    Raises:
        UsageError: no such device; weights or names for what is no `.cfg`; Darknet's files that cannot be run.
        ModelFileError: no such run; the file is damaged, foreign or of a newer Saccade (`checkpoint.load`); its model
            is unknown here, or a file of the user's own that is changed, gone or not trusted (`models.own_file`); its
            weights do not fit it, or its preprocessing or thresholds are not usable.
    """
    path = checkpoint.find(at_home(run))
    if path.suffix == SUFFIX:
        state = darknet_checkpoint(path, weights, names)
    elif weights is None and names is None:
        state = checkpoint.load(path)
    else:
        raise UsageError(f"{run}: weights and names are for a Darknet .cfg; a run or checkpoint holds its own")
    preprocessing, place = _preprocessing(state, path), pick_device(device)
    if is_own(state.model):
        state.model = confirmed(state.model, state.file_sha256, path)
    network, thresholds = build(state, path).to(place).eval(), tuple(state.thresholds)
    own, usual = preprocessing.proposals, proposals_of(model_module(state.model))
    if (own is None) != (usual is None) or ("objects" in (own, usual) and own != usual):
        raise ModelFileError(
            f"{path}: its preprocessing says {preprocessing.proposals!r} of proposals, which does not fit {state.model}"
        )
    if preprocessing.one_person != one_person(model_module(state.model)):
        raise ModelFileError(f"{path}: its preprocessing does not fit {state.model} (pictures of one person or not)")
    return Trained(path, state.model, network, place, state.task, state.classes, preprocessing, thresholds)


def _preprocessing(state: checkpoint.Checkpoint, path: Path) -> Preprocessing:
    """How a checkpoint wants its images. Raises ModelFileError where it does not say, or thresholds do not fit."""
    try:
        preprocessing = Preprocessing.from_json(state.preprocessing)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    kind = TASKS.get(state.task)
    wanted = 1 if kind is not None and kind.embedding else len(state.classes)
    if state.thresholds and len(state.thresholds) != wanted:
        what = "similarity" if kind is not None and kind.embedding else "classes"
        raise ModelFileError(f"{path}: {len(state.thresholds)} thresholds for {wanted} {what}")
    return preprocessing


def build(state: checkpoint.Checkpoint, path: Path) -> nn.Module:
    """The network of a checkpoint with its weights. Raises ModelFileError."""
    if not is_own(state.model) and state.model not in catalogue():
        raise ModelFileError(f"{path}: made by a model that this Saccade does not know: {state.model!r}")
    module = model_module(state.model)
    maker = f"Saccade {state.versions.get('saccade', 'of unknown version')}"
    unknown = unknown_fields(module, state.model, state.config)
    if unknown:
        raise ModelFileError(
            f"{path}: made by {maker}, whose {state.model} has settings that Saccade {__version__} does not know: "
            f"{', '.join(unknown)}. Use that version or a newer one"
        )
    if state.task not in module.TASKS or state.config.get("classes") != len(state.classes):
        raise ModelFileError(
            f"{path}: a model of {state.config.get('classes')} classes to {state.task!r} with {len(state.classes)} "
            f"class names; {state.model} serves {', '.join(module.TASKS)}, with a name for each class"
        )
    try:
        config = config_from_json(module, state.model, state.config)
        shapes = model_of_shapes(module, config, len(state.weights))
    except Exception as error:  # a configuration that is not ours may raise anything
        raise ModelFileError(f"{path}: {maker}'s configuration of {state.model} does not fit ({error})") from error
    kept, tables = (sum(t.numel() for t in tensors) for tensors in (state.weights.values(), shapes.buffers()))
    try:
        _compare(shapes.state_dict(), state.weights, path)  # before a network that is not this one takes memory
        if tables > kept + ROOM:
            raise UsageError(f"{path}: tables of {tables:,} numbers beside weights of {kept:,}; the file is damaged")
        model: nn.Module = module.Model(config)
        fit_weights(model, state.weights, path)
    except UsageError as error:  # here the file contradicts itself
        raise ModelFileError(str(error)) from error
    return model


def fit_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Give the model weights that must fit exactly. Raises UsageError with the first keys that do not."""
    expected = model.state_dict()
    _compare(expected, weights, path)
    # The tensors themselves become the parameters: large networks are not held twice.
    fitting = {name: value.to(expected[name].dtype) for name, value in weights.items()}
    model.load_state_dict(fitting, assign=True)


def _compare(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], path: Path) -> None:
    """Raises UsageError where names or shapes differ."""
    missing = sorted(set(expected) - set(weights))
    foreign = sorted(set(weights) - set(expected))
    shapes = [
        f"{name} {list(weights[name].shape)}, expected {list(expected[name].shape)}"
        for name in sorted(set(weights) & set(expected))
        if weights[name].shape != expected[name].shape
    ]
    if missing or foreign or shapes:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:10])}"
            for what, names in (("missing", missing), ("unexpected", foreign), ("of another shape", shapes))
            if names
        ]
        raise UsageError(f"{path}: weights of another architecture; " + "; ".join(parts))
