"""The data that a run was trained on: which they are, where they lie, and how the run split them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade import checkpoint
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import FORMATS, format_and_place, read
from saccade.data.split import HOLDOUT
from saccade.errors import ModelFileError, UsageError
from saccade.inference.score import records_of
from saccade.training.state import read_config


@dataclass(frozen=True, slots=True)
class OwnData:
    """What a run was trained on, from any folder."""

    data: str  # as `data.formats.read` takes it
    proposals: str | None  # file or run of a detector whose boxes its images were given, if any


def data_of(stated: Mapping[str, Any]) -> str:
    """The data of a run by its `config.json`, with the format that was recognised then in front."""
    place = str(stated.get("data", ""))
    named = format_and_place(place)[0] is not None
    return place if named or stated.get("format") not in FORMATS else f"{stated['format']}:{place}"


def own_data(run: str | Path, verb: str, wanted: str = "DATA") -> OwnData:
    """The data of a run folder, or of a checkpoint in one, for a command `verb` that was not given what is `wanted`.

    Raises:
        UsageError: a model file that does not say what it was trained on; data that are not there any more.
        ModelFileError: `config.json` is damaged; no such run.
    """
    command = f"saccade {verb} {shlex.quote(str(run))} {wanted}"
    if Path(run).suffix == ".json":
        raise UsageError(f"{run}: a results file does not say which data it is of; say it: {command}")
    folder = checkpoint.find(run).parent
    if not os.path.lexists(folder / "config.json"):
        raise UsageError(f"{run} does not say what it was trained on (no config.json beside it); say it: {command}")
    stated = read_config(folder)
    data = data_of(stated)
    place = format_and_place(data)[1]
    if not place.exists():
        raise UsageError(
            f"{run}: the data that it was trained on are not there any more ({place}); say where they are: {command}"
        )
    proposals = stated.get("proposals")
    return OwnData(data, None if proposals is None else str(proposals))


def split_of_run(run: str | Path, dataset: DataSet, split: str) -> dict[str, Any]:
    """`seed`, `share` and `group` by which the run that wrote a checkpoint split its data; nothing, with a warning if a
    split must be drawn, where that is unknown."""
    folder = checkpoint.find(run).parent
    try:
        settings = read_config(folder)["settings"]
        how = {"seed": int(settings["seed"]), "share": settings.get("holdout", HOLDOUT)}
        group = settings.get("group", "auto")
        if group in ("auto", "none") or any(re.search(group, record.path) for record in dataset.records):
            how["group"] = group
        return how
    except (ModelFileError, ValueError, KeyError, TypeError) as error:
        is_own = Path(run).is_dir()  # beside a lone checkpoint a config.json may be anybody's
        if is_own and os.path.lexists(folder / "config.json"):
            raise ModelFileError(f"{folder}: what the run was cannot be read: {error}") from error
        if split in ("train", "val") and "val" not in dataset.splits:
            dataset.ledger.warnings.append(
                f"the data set has no val of its own: {split} is drawn by seed 0. If the model was trained on this "
                "data with another seed, it has seen some of these images: give its run folder, or the seed"
            )
        return {}


def validation_images(run: str | Path, task: str, verb: str, wanted: str = "DATA") -> tuple[DataSet, list[Record]]:
    """The validation images of a run, by id, and the data set that they are of.

    Raises:
        UsageError, ModelFileError: as `own_data`.
        DataError: the data cannot be read any more, or have no validation images.
    """
    dataset = read(own_data(run, verb, wanted).data, task)
    return dataset, records_of(dataset, "val", **split_of_run(run, dataset, "val"))
