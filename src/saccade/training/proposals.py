"""Proposals of a whole data set, computed before a run's clock starts: no minute of training waits for them."""

from __future__ import annotations

import torch

from saccade.data.proposals import SOURCES
from saccade.machine.device import loader_workers
from saccade.machine.processes import from_first, place_among_processes, processes_here
from saccade.solvers.features import as_predicted
from saccade.training.display import Display
from saccade.training.plan import Plan


def compute_proposals(plan: Plan, device: torch.device, display: Display) -> None:
    """Compute and keep the proposals of all images of a plan whose model takes some; nothing for other models.

    Loader workers share the work, and processes the images. What is there already (`data.proposals.proposals_for`) is
    read, so that a run that goes on loses nothing.
    """
    if plan.preprocessing.proposals not in SOURCES:
        return
    place, processes = place_among_processes()
    records = [*plan.training, *plan.validation, *plan.testing][place::processes]
    boxes = 0
    if records:
        workers = loader_workers(plan.settings.workers, device, processes_here())
        loader = as_predicted(plan.dataset, records, plan.task, plan.preprocessing, workers)
        with display:
            for number, batch in enumerate(loader.epoch(0), 1):
                boxes += sum(map(len, batch.given or ()))
                display.work("proposals", number / len(loader))
        loader.close()
        name = plan.preprocessing.proposals.replace("_", " ")
        display.say(f"proposals by {name}: {boxes / len(records):.0f} boxes an image")
    from_first(None)
