"""Training settings: each written once, with its unit and source; command line, docs and saved runs derive from here.

A value comes from the first of: flag, file (`--config`), recipe of the model, default below. `resolve` also says which.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from saccade.errors import UsageError, suggest
from saccade.machine.files import open_regular

Size = int | tuple[int, int]
VIEW = 8 / 7  # test view of classifiers: 256 pixels for a crop of 224


def _setting(group: str, default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"group": group, "help": help, "low": low, "high": high})


_run, _optimiser, _numerics, _data, _augmentation, _files = (
    partial(_setting, group) for group in ("run", "optimiser", "numerics", "data", "augmentation", "files")
)


@dataclass(frozen=True)
class Settings:
    """How a model is trained. Models' recipes override these; flags override both."""

    # run
    epochs: int = _run(
        50,
        "passes over the training images; with minutes only where both are given: the first to be reached ends the run",
        low=1,
    )
    minutes: float | None = _run(None, "wall-clock budget in minutes; the schedule is fitted to it", low=0.01)
    patience: float | None = _run(None, "stop when the metric has not risen for this share of the run", low=0, high=1)
    batch: int = _run(16, "images a step over all processes; 0 finds the largest that fits", low=0)
    accumulate: int = _run(1, "split every batch into this many forward passes (same gradients, less memory)", low=1)
    curve_images: int = _run(
        1000,
        "at most so many images show at each evaluation the validation loss and the score on training images, by which "
        "overfitting is seen; fewer where they would take more than about a twentieth of the time; 0 for none",
        low=0,
    )
    # optimiser
    optimizer: Literal["sgd", "adamw", "rmsprop"] = _optimiser(
        "sgd", "sgd with momentum, adamw (Loshchilov & Hutter 2019), or rmsprop with momentum"
    )
    lr: float = _optimiser(0.01, "peak learning rate at the given batch", low=0)
    momentum: float = _optimiser(0.9, "of sgd and rmsprop, or adamw's beta 1", low=0, high=0.9999)
    nesterov: bool = _optimiser(False, "Nesterov's form of momentum")
    rms_decay: float = _optimiser(0.9, "rmsprop: decay a step of the mean square of each gradient", low=0, high=0.99999)
    rms_eps: float = _optimiser(
        1e-3, "rmsprop: added to the root mean square before it divides (Inception v3: 1)", low=0, high=10
    )
    weight_decay: float = _optimiser(1e-4, "on weights; never on norms and biases", low=0)
    schedule: Literal["cosine", "step", "poly", "constant"] = _optimiser(
        "cosine", "course of the learning rate after warm-up"
    )
    milestones: tuple[float, ...] = _optimiser(
        (0.667, 0.889), "step: shares of the run at which lr is multiplied by gamma"
    )
    gamma: float = _optimiser(0.1, "step: factor at each milestone", low=0, high=1)
    power: float = _optimiser(0.9, "poly: lr * (1 - progress) ** power", low=0)
    warmup: float = _optimiser(0.03, "share of the run in which lr rises linearly from a thousandth", low=0, high=0.9)
    clip_norm: float = _optimiser(10.0, "largest L2 norm of the gradient; 0 for none", low=0)
    ema: float = _optimiser(
        0.0, "decay a step of the averaged weights that are evaluated and saved; 0 for none", low=0, high=0.99999
    )
    layer_decay: float = _optimiser(
        1.0, "factor on lr from each part of the network to the one before it; 1 for one rate", low=0.01, high=1
    )
    freeze: int = _optimiser(0, "the first so many parts of the network keep weights and norm statistics", low=0)
    # numerics
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _numerics(
        "auto", "auto: bf16 where the hardware has it and the loss agrees"
    )
    seed: int = _numerics(0, "everything random follows from it", low=0)
    deterministic: bool = _numerics(
        False, "only algorithms that give the same bits every time (GPUs have faster ones); stops where there is none"
    )
    # data
    size: Size = _data(224, "input side in pixels, or HxW; for segment the training crop", low=8)
    scale: float = _data(1.0, "segment: factor applied to every image before cropping", low=0.01, high=8)
    border_class: int = _data(
        0,
        "segment, from data of objects with masks: width in pixels of a class of its own along the inside of each "
        "object's edge, by which predict --instances tells objects that touch apart; 0 for none",
        low=0,
        high=32,
    )
    resize: Literal["crop", "letterbox", "stretch"] = _data(
        "letterbox", "crop: random resized crop (classify); letterbox keeps the aspect; stretch does not"
    )
    view: float = _data(
        VIEW, "crop: in tests, shorter side of the resized image over that of its central part", low=1, high=9
    )
    holdout: float = _data(
        0.2,
        "share of the training images held out to choose the checkpoint, where the data set has no val; 0 for none",
        low=0,
        high=0.9,
    )
    group: str = _data(
        "auto",
        "recordings (of a video, a patient) that stay on one side of the split: auto, none, or a regular expression "
        "searched in the path whose first group names the recording",
    )
    repeat_threshold: float = _data(
        0.0,
        "show images of classes that occur in less than this share of them more often (LVIS: 0.001); 0 for none",
        low=0,
        high=1,
    )
    max_refused: float = _data(0.5, "stop when more than this share of the labels or images is refused", low=0, high=1)
    cache: float = _data(1.0, "GB of decoded images to keep in memory, if all training images fit", low=0)
    workers: int | None = _data(
        None,
        "loader processes; by default one a core, one for two cores where the network computes on them, at most 8",
        low=0,
        high=64,
    )
    # augmentation, of training images only
    multi_scale: float = _augmentation(
        0.0, "vary the input side of each batch by up to this share (YOLO9000, section 2)", low=0, high=0.9
    )
    crop_min: float = _augmentation(0.35, "crop: smallest share of the area", low=0.01, high=1)
    pad: int = _augmentation(0, "crop: instead of resizing, pad by this many pixels and crop back (CIFAR: 4)", low=0)
    flip: float = _augmentation(0.5, "probability of a left-right mirror", low=0, high=1)
    flip_vertical: float = _augmentation(0.0, "probability of an upside-down mirror", low=0, high=1)
    transpose: float = _augmentation(
        0.0, "probability of swapping rows and columns; with both mirrors all eight orientations", low=0, high=1
    )
    rotate: float = _augmentation(0.0, "degrees, uniform in +-", low=0, high=180)
    jitter: float = _augmentation(
        0.0, "scale and translation, uniform in 1 +- jitter and +- jitter / 2 of the side", low=0, high=0.9
    )
    min_overlap_crop: float = _augmentation(
        0.0, "probability of SSD's sampling: crop with a minimum overlap, or expand", low=0, high=1
    )
    color: float = _augmentation(
        0.3, "strength of brightness, contrast, saturation and hue changes (1 = SSD's)", low=0, high=2
    )
    elastic: float = _augmentation(
        0.0, "probability of an elastic deformation (U-Net: 3x3 grid, sigma 10 px)", low=0, high=1
    )
    object_crop: float = _augmentation(
        0.0,
        "segment: train on crops around single things of the class map, this many times their box, resized to size "
        "(DeconvNet's first stage: 1.2); 0 for crops at random places",
        low=0,
        high=8,
    )
    mosaic: float = _augmentation(
        0.0, "probability of composing four images; off in the last tenth of the run", low=0, high=1
    )
    lighting: float = _augmentation(
        0.0, "standard deviation of AlexNet's colour noise along the principal components (paper: 0.1)", low=0, high=1
    )
    policy: Literal["none", "randaugment", "trivialaugment"] = _augmentation(
        "none", "operators drawn by chance; only those on colours unless the task is classify or tag"
    )
    policy_number: int = _augmentation(2, "randaugment: operators an image", low=1, high=10)
    policy_magnitude: float = _augmentation(9.0, "randaugment: strength of the operators, of 30", low=0, high=30)
    cutout: float = _augmentation(0.0, "probability of blanking a random square (DeVries & Taylor 2017)", low=0, high=1)
    mixup: float = _augmentation(
        0.0,
        "blend images in pairs, share from Beta(mixup, mixup): of classify and tag by the loss too (Zhang et al. 2018: "
        "0.2); of detect, instances and pose with the objects of both (Zhang et al. 2019), at least 1, such as 8",
        low=0,
        high=10,
    )
    cutmix: float = _augmentation(
        0.0,
        "classify, tag: paste windows of images, share from Beta(cutmix, cutmix) (Yun et al. 2019: 1)",
        low=0,
        high=10,
    )
    mix_probability: float = _augmentation(1.0, "mixup, cutmix: share of the batches that they change", low=0, high=1)
    mix_until: float = _augmentation(1.0, "mixup, cutmix: share of the run after which they are off", low=0, high=1)
    # files
    save_every: float = _files(1.0, "minutes between saved states, from which --resume goes on", low=0)
    keep_state: bool = _files(False, "keep the whole state of a finished run, so that more epochs continue it exactly")


# what other tools call these settings, for the suggestion in the error
ELSEWHERE = {
    "learning_rate": "lr",
    "lr0": "lr",
    "batch_size": "batch",
    "imgsz": "size",
    "image_size": "size",
    "wd": "weight_decay",
    "optim": "optimizer",
    "scheduler": "schedule",
    "num_epochs": "epochs",
    "num_workers": "workers",
    "amp": "precision",
    "fliplr": "flip",
    "flipud": "flip_vertical",
}


# fields of `losses.classification.Objective`, which the Configs of models with labels of whole images hold
OF_LABELS = ("loss", "label_smoothing", "focal_gamma", "class_balance", "effective_beta", "tune_thresholds")


def parse_size(text: str | int | tuple[int, int] | list[int]) -> Size:
    """`320`, `"320"` or `"180x240"` (height x width). Raises UsageError."""
    if isinstance(text, int):
        return text
    parts = text.lower().split("x") if isinstance(text, str) else [str(v) for v in text]
    if len(parts) in (1, 2) and all(p.strip().isdigit() for p in parts):
        numbers = [int(p) for p in parts]
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    raise UsageError(f"size {text!r} is not a number of pixels or HEIGHTxWIDTH, such as 320 or 180x240")


def parse_sides(text: str | int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Height and width in pixels of what `parse_size` takes. Raises UsageError, also for sides without a pixel."""
    sides = height_width(parse_size(text))
    if min(sides) < 1:
        raise UsageError(f"size is {text!r}, allowed: at least 1 pixel")
    return sides


def height_width(size: Size) -> tuple[int, int]:
    """Height and width in pixels of a setting that may be one number for both."""
    return (size, size) if isinstance(size, int) else size


SETTINGS_LISTED = "saccade settings MODEL"  # the command that shows all of them


def resolve(
    layers: Sequence[tuple[str, Mapping[str, Any]]], model_fields: Iterable[str] = ()
) -> tuple[Settings, dict[str, Any], dict[str, str]]:
    """Merge settings, later layers over earlier ones.

    Args:
        layers: (origin, {name: value}) from weakest to strongest: recipe, file, flags.
        model_fields: names that belong to the model's Config; passed on unchecked (`model_config` checks them).

    Returns:
        The settings, the values meant for the model's Config, and the origin of every value.

    Raises:
        UsageError: names all unknown keys and bad values at once.
    """
    hints = typing.get_type_hints(Settings)
    known = {f.name: f for f in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    model: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    faults: list[str] = []
    for origin, layer in layers:
        where = "" if origin == "flag" else f"{origin}: "
        for name, value in layer.items():
            if name in known:
                try:
                    values[name] = _coerce(name, hints[name], value, known[name].metadata)
                    origins[name] = origin
                except ValueError as error:
                    faults.append(f"{where}{error}")
            elif name in set(model_fields):
                model[name] = value
                origins[name] = origin
            else:
                if name in OF_LABELS:
                    faults.append(f"{where}{name} is a setting of models that classify, tag or localize")
                    continue
                near = difflib.get_close_matches(name.lower(), ELSEWHERE, n=1, cutoff=0.85)
                every = [*known, *model_fields]
                hint = f"did you mean {ELSEWHERE[near[0]]!r}?" if near else suggest(name, every, SETTINGS_LISTED)
                faults.append(f"{where}unknown setting {name!r}: {hint}")
    if faults:
        raise UsageError("\n".join(faults))
    return dataclasses.replace(Settings(), **values), model, origins


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """`["lr=0.1", "schedule=step"]` as a dictionary; values are YAML scalars or lists. Raises UsageError."""
    import yaml

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} is not of the form name=value, such as --set lr=0.02")
        try:
            _refuse_nesting(value)
            values[name.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {text!r}: the value is not a number, word or list") from error
    return values


def read_settings_file(path: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file: one mapping of names to values. Raises UsageError with the line."""
    import yaml

    try:
        with open_regular(path, links=True) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a settings file ({error})") from error
    try:
        _refuse_nesting(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not valid YAML or JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}: expected settings as `name: value` lines, found {type(values).__name__}")
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise UsageError(f"{path} line {line}: {key.value!r} stands twice (first in line {seen[key.value]})")
        seen[key.value] = line
    return {str(name): value for name, value in values.items()}


def _refuse_nesting(text: str) -> None:
    """Raises ValueError for deep nesting and references, by which a short text grows without bound when it is built."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 8 or isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ValueError(f"line {line}: settings are numbers, words and lists, without references (*name)")


def _coerce(name: str, hint: Any, value: Any, limits: Mapping[str, Any]) -> Any:
    """`value` as the annotated type, within the limits. Raises ValueError with a message for the user."""
    if hint == Size:
        return _coerce_size(name, value, limits)
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(str, options))}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}, expected a list of numbers such as [0.6, 0.9]")
        return tuple(_number(name, float, v, limits) for v in value)
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _coerce(name, options[0], value, limits)
    if hint in (bool, str):
        if not isinstance(value, hint):
            raise ValueError(f"{name} is {value!r}, expected {'true or false' if hint is bool else 'text'}")
        return value
    return _number(name, hint, value, limits)


def _coerce_size(name: str, value: Any, limits: Mapping[str, Any]) -> Size:
    try:
        size = parse_size(value)
    except (UsageError, AttributeError, TypeError) as error:
        raise ValueError(f"{name} is {value!r}, expected pixels or HEIGHTxWIDTH, such as 320 or 180x240") from error
    if min(height_width(size)) < limits["low"]:
        raise ValueError(f"{name} is {value!r}, allowed: at least {limits['low']} pixels")
    return size


def _number(name: str, kind: type, value: Any, limits: Mapping[str, Any]) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, expected a number") from error
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
        raise ValueError(f"{name} is {value!r}, expected {'a whole' if kind is int else 'a finite'} number")
    low, high = limits["low"], limits["high"]
    if (low is not None and number < low) or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}, allowed: {allowed}")
    return kind(number)
