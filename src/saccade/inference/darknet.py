"""Darknet's files as a checkpoint: a `.cfg`, its `.weights`, and the names of its classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from saccade.checkpoint import Checkpoint
from saccade.data.formats.class_names import refuse_repeats
from saccade.data.pipelines import Preprocessing
from saccade.errors import ModelFileError, UsageError
from saccade.machine.files import read_names
from saccade.machine.paths import at_home
from saccade.models.contract import reader_of
from saccade.models.darknet_network import network_of_shapes
from saccade.models.darknet_sections import read_cfg, read_sections
from saccade.models.detectors import darknet_cfg
from saccade.models.dry_run import model_of_shapes
from saccade.models.standing import is_counter
from saccade.version import __version__

SUFFIX = ".cfg"
MODEL = "darknet_cfg"


def darknet_checkpoint(cfg: Path, weights: str | Path | None = None, names: str | Path | None = None) -> Checkpoint:
    """What a checkpoint of Darknet's files holds. Images are letterboxed to the file's size, of YOLO v1 stretched.

    Args:
        weights: by default the one beside the `.cfg` that has its name, or the only one.
        names: a text file with the name of a class a line; by default the `.names` beside it that has its name, or the
            only one, and where there is none numbers from 0.

    Raises:
        UsageError: a `.cfg` that cannot be had or run; no weights, or of another network; names that are not as many
            as the classes, or repeat.
        ModelFileError: weights that are shorter than the network needs, or damaged.
    """
    text = read_cfg(cfg)
    try:
        network = network_of_shapes(read_sections(text))
        config = darknet_cfg.Config(classes=network.heads[0].classes, cfg=text)
        model = model_of_shapes(darknet_cfg, config)  # type: ignore[arg-type]  # a module is a Room
    except UsageError as error:
        raise UsageError(f"{cfg}: {error}") from error
    path = _beside(cfg, weights, ".weights")
    if path is None:
        raise UsageError(f"{cfg}: no .weights of this name beside it, nor a single one; name it by --weights FILE")
    read = reader_of(darknet_cfg, path.suffix)  # type: ignore[arg-type]
    if read is None:
        raise UsageError(f"{path}: weights of a .cfg are a .weights file of Darknet")
    letterbox = network.heads[0].section.kind != "detection"
    return Checkpoint(
        MODEL,
        dataclasses.asdict(config),
        _names(_beside(cfg, names, ".names"), config.classes),
        darknet_cfg.TASKS[0],
        Preprocessing(network.size, "letterbox" if letterbox else "stretch").to_json(),
        read(path, model) | {name: torch.tensor(0) for name in model.state_dict() if is_counter(name)},
        versions={"saccade": __version__, "torch": str(torch.__version__)},
    )


def _beside(cfg: Path, given: str | Path | None, suffix: str) -> Path | None:
    """The file that a person gave, else the one of this suffix beside a `.cfg`."""
    if given is not None:
        path = Path(at_home(given))
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file")
        return path
    own = cfg.with_suffix(suffix)
    if own.is_file():
        return own
    found = sorted(path for path in cfg.parent.glob(f"*{suffix}") if path.is_file())
    return found[0] if len(found) == 1 else None


def _names(path: Path | None, number: int) -> list[str]:
    """The names of the classes, a line each, without empty lines."""
    if path is None:
        return [str(label) for label in range(number)]
    try:
        names = read_names(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as names of classes ({error})") from error
    refuse_repeats(names, str(path))
    if len(names) != number:
        raise UsageError(f"{path}: {len(names)} names of classes, the network has {number}; give its own by --names")
    return names
