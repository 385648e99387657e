"""Finished runs beside each other: what they were asked to do, and the validation images that all of them have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.checkpoint import CHECKPOINTS
from saccade.data.dataset import DataSet, Record
from saccade.data.packing import pack
from saccade.data.truth import read_truth
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.machine.files import open_regular
from saccade.machine.paths import short_names_of
from saccade.metrics import Result, Value
from saccade.models.own_file import confirmed, is_own
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.tasks.words import TRUTH
from saccade.training.joint import Sources
from saccade.training.lock import is_held
from saccade.training.own_data import data_of
from saccade.training.plan import FITTED, Plan, resume_plan
from saccade.training.proposals import with_proposals
from saccade.training.run_folder import how_to_go_on
from saccade.training.stages import rows_of
from saccade.training.state import read_config

ABOUT = ("model", "recipe", "weights", "data", "proposals", "join", "tree")  # of config.json, besides the settings
AROUND = ("precision", "device", "threads", "saccade")
LONGEST = 60  # letters of a value in a table
FEW = 100  # images on which small differences cannot be seen
FEWEST = 6  # fewer that all speak for one of two runs do so by chance more often than once in twenty (the sign test)


@dataclass(frozen=True, slots=True)
class Finished:
    """A run folder whose training has ended."""

    folder: Path
    name: str  # as short as tells it from the others
    stated: dict[str, Any]  # config.json
    rows: list[dict[str, Any]]  # log.jsonl of its last fit
    plan: Plan


@dataclass(frozen=True, slots=True)
class Shared:
    """The validation images that all runs have, in the order of the first, whose ids and recordings they bear."""

    datasets: list[DataSet]  # of each run
    records: list[list[Record]]  # of each run, as many each
    of: list[int]  # how many validation images each run has


def open_runs(folders: Sequence[Path]) -> list[Finished]:
    """The runs, ready to be compared.

    Raises:
        UsageError: fewer than two runs, one twice, one that is none or has not ended; tasks or classes differ.
        ModelFileError, DataError: a run is damaged; its data are gone or not as they were.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        given = ", ".join(map(str, folders)) or "none"
        raise UsageError(f"compare needs two different runs or more: saccade compare RUN RUN (given: {given})")
    stated = [_stated_of(folder) for folder in folders]
    for folder, other in zip(folders[1:], stated[1:], strict=True):
        for what, verb in (("task", "differs"), ("classes", "differ")):
            if other[what] != stated[0][what]:
                raise UsageError(
                    f"{what} {verb}: {folder} has {_short(other[what])}, {folders[0]} has {_short(stated[0][what])}; "
                    "runs are compared that answer the same question, with the same classes in the same order"
                )
    names = short_names_of(folders)
    return [
        Finished(folder, name, own, rows_of(folder), _plan_of(folder, own))
        for folder, name, own in zip(folders, names, stated, strict=True)
    ]


def _stated_of(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no run folder: it has no config.json")
    stated = read_config(folder)
    if is_held(folder):
        raise UsageError(f"{folder}: a process is training in it; compare the run when it has ended")
    if not (folder / "metrics.json").is_file():
        advice = how_to_go_on(str(stated["model"]), str(stated["data"]), folder)
        raise UsageError(
            f"{folder}: the run has not ended (no metrics.json). Where it was stopped, {advice}. "
            "Where it diverged, train it anew with a smaller lr"
        )
    if not any((folder / name).is_file() for name in CHECKPOINTS):
        raise ModelFileError(
            f"{folder}: no {' or '.join(CHECKPOINTS)}, so that the run cannot answer: put one of them back, or train "
            "the run anew"
        )
    return stated


def _plan_of(folder: Path, stated: Mapping[str, Any]) -> Plan:
    """What the run set out to do, with its data as they were. Raises UsageError, DataError, ModelFileError."""
    if is_own(stated["model"]):
        name = confirmed(stated["model"], str(stated.get("file_sha256", "")), folder / "config.json")
        stated = {**stated, "model": name}
    try:
        plan = with_proposals(resume_plan(stated["model"], Sources(data_of(stated)), stated), None, stated)
    except (UsageError, DataError) as error:
        raise type(error)(f"{folder}: its data cannot be read as they were: {error}") from error
    if not plan.validation:
        raise UsageError(f"{folder}: the run has no validation images to compare on")
    return plan


def share_images(runs: Sequence[Finished]) -> Shared:
    """The validation images with the same content and the same labels in all runs, wherever their files lie.

    Raises:
        DataError: there are none.
    """
    found = [dict(_keys(run.plan)) for run in runs]
    common = [key for key in found[0] if all(key in other for other in found[1:])]
    if not common:
        counts = ", ".join(f"{len(own)} in {run.name}" for own, run in zip(found, runs, strict=True))
        raise DataError(f"no validation image is the same, with the same labels, in all runs ({counts})")
    first = [found[0][key] for key in common]
    datasets, records = [], []
    for run, own in zip(runs, found, strict=True):
        pairs = [(model, own[key]) for model, key in zip(first, common, strict=True)]
        records.append([dataclasses.replace(r, id=model.id, path=r.path, group=model.group) for model, r in pairs])
        given = run.plan.dataset.given
        boxes = None if given is None else {model.id: given[r.id] for model, r in pairs if r.id in given}
        datasets.append(dataclasses.replace(run.plan.dataset, given=boxes))
    return Shared(datasets, records, [len(own) for own in found])


def _keys(plan: Plan) -> Iterator[tuple[tuple[Any, ...], Record]]:
    """Each validation image under what it is: the bytes of its file, its region, its labels; and how often that came
    before."""
    seen: Counter[tuple[Any, ...]] = Counter()
    for record in plan.validation:
        with open_regular(plan.dataset.root / record.path, links=True) as file:
            content = hashlib.sha256(file.read()).hexdigest()
        buffer, layout = pack([read_truth(record, plan.dataset, plan.task)])
        labels = hashlib.sha256(buffer.numpy().tobytes() + repr(layout).encode()).hexdigest()
        key = (content, record.region, labels)
        yield (*key, seen[key]), record
        seen[key] += 1


def differing(runs: Sequence[Finished]) -> list[dict[str, Any]]:
    """What the runs were told differently: `{name, values}`, a value each, None where a run has no such thing.

    A field that only some of the networks have counts as a difference where a person set it.
    """
    all_of = [_flat(run.stated) for run in runs]
    rows = []
    for name in dict.fromkeys(name for own in all_of for name in own):
        values = [own.get(name) for own in all_of]
        there = [name in own for own in all_of]
        if not all(there) and not any(_by_person(run.stated["origins"].get(name)) for run in runs):
            continue
        if any(value != values[0] for value in values):
            rows.append({"name": name, "values": values})
    return rows


def _flat(stated: Mapping[str, Any]) -> dict[str, Any]:
    """All that `config.json` says of a run by name, the settings in the middle."""
    network = dict(stated["config"])
    objective = network.pop("objective", None) or {}
    images = {f"{split} images": count for split, count in stated.get("images", {}).items()}
    versions = {name: version for name, version in stated.get("versions", {}).items() if name == "torch"}
    about = {name: stated.get(name) for name in ABOUT}
    around = {name: stated[name] for name in AROUND if name in stated}
    return about | images | stated["settings"] | network | objective | around | versions


def _by_person(origin: str | None) -> bool:
    return origin is not None and not origin.startswith(("default", "recipe ", "weights ", "resumed", FITTED))


def as_text(value: Any) -> str:
    """A value of `differing` in a few letters."""
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return _short(text)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def difference_in_words(
    name: str, first: str, metric: str, value: Value, difference: Value, units: int = FEWEST
) -> str:
    """A sentence on how a run's score differs from the first run's; `units` are what was resampled (`units_of`)."""
    if value.value is None or difference.value is None:
        return f"{name}: {metric} is undefined on these images."
    small = min((abs(v) for v in (difference.value, difference.low, difference.high) if v), default=1.0)
    places = min(6, max(3, math.ceil(-math.log10(small))))  # so many that what is not 0 is not written as 0
    size = f"{abs(difference.value):.{places}f} {'more' if difference.value > 0 else 'less'} than {first}"
    start = f"{name}: {metric} {value.value:.{places}f}, {size if difference.value else f'the same as {first}'}"
    if difference.low is None or difference.high is None:
        return f"{start}; whether by chance cannot be said without an interval."
    low, high = (f"{end:+z.{places}f}" for end in (difference.low, difference.high))
    sure = "more than chance" if difference.low > 0 or difference.high < 0 else "the difference may be chance"
    if units < FEWEST:
        sure = "so few images cannot tell it from chance"
    return f"{start} (95 % interval of the difference {low} to {high}): {sure}."


def units_of(task: str, records: Sequence[Record]) -> int:
    """How many things the intervals resample: identities, recordings, files or images."""
    if TASKS[task].embedding:
        return len({record.label for record in records})
    return len({_unit(record) for record in records})


def _unit(record: Record) -> tuple[str, str]:
    if record.group is not None:
        return ("recording", record.group)
    return ("image", record.id) if record.region is None else ("file", record.path)


def warnings_of(runs: Sequence[Finished], shared: Shared, results: Sequence[Result]) -> list[str]:
    """What keeps the numbers from saying more."""
    found, count = [], len(shared.records[0])
    if any(own > count for own in shared.of):
        each = ", ".join(f"{own} of {run.name}" for own, run in zip(shared.of, runs, strict=True))
        found.append(
            f"Only the {count} validation images that all runs have, with the same labels, are compared ({each}): "
            "scores differ from those of the runs' own reports."
        )
    if count < FEW:
        found.append(f"{count} images are few: only large differences can be told from chance on them.")
    recordings = results[0].recordings
    if recordings == 1:
        found.append("All images are of one recording: how the runs differ on another cannot be said from them.")
    elif recordings:
        found.append(f"The images are of {recordings} recordings; the intervals resample recordings, not images.")
    if len({frozenset(row["losses"]) for run in runs for row in run.rows[-1:]}) > 1:
        found.append("The runs have different losses: their curves of the loss cannot be compared in height.")
    return found + _cautions(runs, results)


def _cautions(runs: Sequence[Finished], results: Sequence[Result]) -> list[str]:
    """What the task has to say of the score of each run, once; with the names of the runs where it is not of all."""
    names: dict[str, list[str]] = {}
    for run, result in zip(runs, results, strict=True):
        given = {"proposals": TRUTH} if run.plan.preprocessing.of_given_objects else {}
        for line in task_of(run.plan.task).cautions(result.to_json() | given):
            names.setdefault(line, []).append(run.name)
    return [line if len(own) == len(runs) else f"{', '.join(own)}: {line}" for line, own in names.items()]
