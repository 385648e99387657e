"""`saccade weights`: published weights, or a public file that the user has, as a checkpoint that every verb takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade import checkpoint
from saccade.config import resolve
from saccade.data.joints import COCO_PERSON
from saccade.data.pipelines import Preprocessing, preprocessing_of
from saccade.errors import ModelFileError, UsageError
from saccade.inference.darknet import MODEL, SUFFIX, darknet_checkpoint
from saccade.inference.trained import fit_weights
from saccade.machine.files import read_names
from saccade.machine.paths import at_home
from saccade.models import known_model, model_config, model_module
from saccade.models.configs import free_fields
from saccade.models.contract import Room, recipe_of, size_of
from saccade.models.dry_run import class_tensors
from saccade.models.own_file import digest_of, short_name
from saccade.models.published import PUBLISHED, WORDS, Published, class_names
from saccade.models.standing import is_counter
from saccade.models.weights import read_for, recognise, weights_path
from saccade.tasks.table import find_task
from saccade.version import __version__


def weights(
    model: str,
    source: str | Path = "",
    *,
    out: str | Path | None = None,
    classes: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a checkpoint of a model of the catalogue with the weights of a public file.

    Args:
        model: a name of `saccade models`, or the `.cfg` of a detector of Darknet, whose `.weights` then are `source`.
        source: a word of `published.WORDS`, or a file; by default the first word that the model has.
        out: the checkpoint; by default MODEL-WORD.safetensors (MODEL.safetensors for a file, NAME.safetensors for
            NAME.cfg) in this folder.
        classes: for a file: a word of `WORDS` whose names it has, or a text file with a name a line. By default those
            of the published file that it is, else numbers from 0.

    Returns:
        `{checkpoint, model, task, classes, source, owner, licence, score}`; classes is their number.

    Raises:
        UsageError: nothing is published for this model; weights of another network, or of other classes; class names
            that are not as many as the model's classes.
        ModelFileError: the file cannot be read.
        ResourceError: the download failed, or there is no room for the checkpoint.
    """
    source, out, classes = at_home(source), at_home(out), at_home(classes)
    if Path(model).suffix == SUFFIX:
        return _of_darknet(Path(at_home(model)), source, out, classes)
    model = known_model(model)
    module = model_module(model)
    source = str(source) or next(iter(PUBLISHED.get(model, {})), "imagenet")
    path = weights_path(model, source, progress)
    if path.is_dir():
        raise UsageError(f"{path}: a folder; a run is a checkpoint already, give its name to predict or evaluate")
    word, published = recognise(model, source if source in WORDS else path)
    config = model_config(model, **({} if published is None else published.config))
    network = module.Model(config)
    found = read_for(network, module, path)
    found |= {k: v for k, v in network.state_dict().items() if is_counter(k) and k not in found}
    _refuse_other_classes(network.state_dict(), found, class_tensors(module, config), f"{model} DATA --weights {path}")
    fit_weights(network, found, path)
    task = module.TASKS[0]
    names = _names(classes, word, config.classes, task)
    target = Path(out) if out is not None else Path(f"{short_name(model)}{f'-{word}' if word else ''}.safetensors")
    versions = {"saccade": __version__, "torch": str(torch.__version__)}
    preprocessing = preprocessing_of_weights(module, model, task, published).to_json()
    state = checkpoint.Checkpoint(
        model, dataclasses.asdict(config), names, task, preprocessing, network.state_dict(), {}, versions
    )
    state.file_sha256 = digest_of(module)
    checkpoint.save(state, target)
    facts = {name: "" if published is None else getattr(published, name) for name in ("owner", "licence", "score")}
    facts["source"] = str(path) if published is None else published.url
    return {"checkpoint": str(target), "model": model, "task": task, "classes": len(names)} | facts


def _of_darknet(cfg: Path, source: str | Path, out: str | Path | None, classes: str | Path | None) -> dict[str, Any]:
    """A checkpoint of Darknet's files; returns what `weights` does."""
    if not cfg.is_file():
        raise ModelFileError(f"{cfg}: no such file")
    state = darknet_checkpoint(cfg, str(source) or None, classes)
    target = Path(out) if out is not None else Path(f"{cfg.stem}.safetensors")
    checkpoint.save(state, target)
    facts = {"owner": "", "licence": "", "score": "", "source": str(source or cfg)}
    return {"checkpoint": str(target), "model": MODEL, "task": state.task, "classes": len(state.classes)} | facts


def _refuse_other_classes(own: dict[str, Tensor], found: dict[str, Tensor], last: set[str], command: str) -> None:
    """Raises UsageError where all but the output layer fits, which is of other classes; it can be replaced."""
    other = [name for name in own if name in found and found[name].shape != own[name].shape]
    if other and set(found) == set(own) and set(other) <= last:
        raise UsageError(
            f"the output layer in this file is of other classes: {other[0]} is {list(found[other[0]].shape)}, in the "
            f"model {list(own[other[0]].shape)}. Replace it by one for your classes: saccade train {command}"
        )


def _names(classes: str | Path | None, word: str, number: int, task: str) -> list[str]:
    """Class names: those asked for, else of the published weights, else numbers."""
    known = number if find_task(task).keypoints else None  # of COCO's classes networks of poses know the first, person
    if classes is None:
        return class_names(word)[:known] if word else [str(label) for label in range(number)]
    if str(classes) in WORDS:
        names = class_names(str(classes))[:known]
    else:
        try:
            names = read_names(Path(classes))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--classes {classes}: cannot be read ({error}); allowed: {', '.join(WORDS)}") from error
    if len(names) != number or len(set(names)) != number:
        raise UsageError(
            f"--classes {classes}: {len(names)} names, {len(set(names))} different ones; the model has {number} classes"
        )
    return names


def preprocessing_of_weights(module: Room, model: str, task: str, published: Published | None) -> Preprocessing:
    """What belongs to the recipe, at the test view of the weights' owner; of classifiers the default recipe, at the
    paper's size."""
    whole_image = find_task(task).whole_image
    name = "default" if whole_image else "paper"
    layers = [(f"recipe {name}", recipe_of(module, model, name))]
    if whole_image:
        layers.append(("paper", {"size": size_of(module, model)}))
    if published is not None:
        layers.append(("published", published.settings))
    settings, _, _ = resolve(layers, free_fields(module.VARIANTS[model]))
    joints = COCO_PERSON if published is not None and find_task(task).keypoints else None
    return dataclasses.replace(preprocessing_of(task, settings), joints=joints)
