"""Proposals of a whole data set, computed before a run's clock starts: no minute of training waits for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saccade.data.proposals import SOURCES
from saccade.errors import UsageError
from saccade.inference.regions import give_proposals
from saccade.machine.device import loader_workers
from saccade.machine.processes import from_first, place_among_processes, processes_here
from saccade.solvers.features import as_predicted
from saccade.training.display import Display
from saccade.training.plan import Plan


def with_proposals(plan: Plan, proposals: str | Path | None, stored: Mapping[str, Any] | None) -> Plan:
    """The plan of a run that is given boxes in place of those that Saccade would compute.

    Every image of the plan's data set gets its own (`DataSet.given`); where they come from stands in `config.json`
    and, with the checksum of all boxes, in the checkpoints (`Preprocessing.proposal_file`).

    Args:
        proposals: a file, a run of a detector, or the word of a source; None: those of the run that goes on, if any.
        stored: `config.json` of that run.

    Raises:
        UsageError: the model takes no boxes; a run that goes on is given others.
        DataError: see `inference.regions.give_proposals`.
    """
    if isinstance(proposals, int | float):
        raise UsageError(
            f"proposals={proposals}: this is where boxes come from, a file or a run; how many of them are read is "
            f"most_proposals={proposals}"
        )
    if stored is not None:
        proposals = _those_of_the_run(stored, proposals)
    if proposals is None:
        return plan
    if plan.preprocessing.one_person:
        raise UsageError(
            f"model {plan.model} learns from the people's own boxes, which the data state; --proposals is for predict "
            "and evaluate, where it finds the joints in the boxes of a detector's run or of a file"
        )
    if plan.preprocessing.proposals is None:
        raise UsageError(f"model {plan.model} looks for itself; --proposals is for models that learn from proposals")
    if plan.preprocessing.proposals == "objects":
        raise UsageError(
            f"model {plan.model} learns from the boxes of the truth; --proposals is for evaluate and predict"
        )
    if str(proposals) in SOURCES:
        shape = dataclasses.replace(plan.preprocessing, proposals=str(proposals))
        return dataclasses.replace(plan, preprocessing=shape)
    path = Path(proposals).absolute()
    found = give_proposals(plan.dataset, path)
    origin = f"{path.name}, SHA-256 of its boxes here {found.content[:16]}"
    was = None if stored is None else stored["preprocessing"].get("proposal_file")
    if was is not None and was.rsplit(" ", 1)[-1] != found.content[:16]:
        raise UsageError(f"--resume: {path} has other boxes than the run was trained on ({was}); start a new run")
    plan.dataset.ledger.warnings += found.lines(path.name)[1:]
    shape = dataclasses.replace(plan.preprocessing, proposals="file", proposal_file=origin)
    return dataclasses.replace(plan, preprocessing=shape, proposals=str(path))


def _those_of_the_run(stored: Mapping[str, Any], asked: str | Path | None) -> str | Path | None:
    """Where the boxes of a run that goes on come from; None where its model takes none. Another file may have the same
    boxes."""
    was = stored.get("proposals") or stored["preprocessing"].get("proposals")
    if was not in SOURCES and stored.get("proposals") is None:
        return asked
    if asked is None:
        return str(was)
    if str(asked) != was and (was in SOURCES or str(asked) in SOURCES):
        raise UsageError(f"--resume cannot change proposals ({was} in the run, {asked} now)")
    return asked


def computes_proposals(plan: Plan) -> bool:
    """Whether `compute_proposals` computes the boxes of a plan: its model takes some, and no file or run gives them."""
    return plan.dataset.given is None and plan.preprocessing.proposals in SOURCES


def compute_proposals(plan: Plan, device: torch.device, display: Display) -> None:
    """Compute and keep the proposals of all images of a plan whose model takes some; nothing for other models.

    Loader workers share the work, and processes the images. What is there already (`data.proposals.proposals_for`) is
    read, so that a run that goes on loses nothing.
    """
    if plan.dataset.given is not None:
        boxes = sum(map(len, plan.dataset.given.values())) / max(1, len(plan.dataset.given))
        display.say(f"proposals of {plan.preprocessing.proposal_file}: {boxes:.0f} boxes an image")
        return
    if not computes_proposals(plan):
        return
    place, processes = place_among_processes()
    records = [*plan.training, *plan.validation, *plan.testing][place::processes]
    boxes = 0
    if records:
        workers = loader_workers(plan.settings.workers, device, processes_here())
        loader = as_predicted(plan.dataset, records, plan.task, plan.preprocessing, workers)
        try:
            with display:
                for number, batch in enumerate(loader.epoch(0), 1):
                    boxes += sum(map(len, batch.given or ()))
                    display.work("proposals", number / len(loader))
        finally:
            loader.close()
        name = str(plan.preprocessing.proposals).replace("_", " ")
        display.say(f"proposals by {name}: {boxes / len(records):.0f} boxes an image")
    from_first(None)
