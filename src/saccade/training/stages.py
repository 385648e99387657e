"""The course of a run: gradient fits and solves one after the other, each in a folder of its own.

The loop does not know of it. `run_stages` puts the stages in order; each hands tensors on in RUN/stages/N-NAME/
adopted.safetensors, and the next starts from that file. A fit that stands last is made in RUN itself; behind a solve
that stands last the network goes to RUN by `conclude`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade import checkpoint
from saccade.checkpoint import CHECKSUM, read_tensors, write_tensors
from saccade.config import resolve
from saccade.data.types import Batch
from saccade.errors import SaccadeError
from saccade.machine.device import loader_workers
from saccade.machine.files import inside, make_folder
from saccade.machine.processes import from_first, is_main_process
from saccade.models import model_module
from saccade.models.contract import stages_of
from saccade.models.recipes import PROBE
from saccade.models.stage import Fit, Given, Solve, Stage
from saccade.models.standing import trunk_of
from saccade.models.weights import start_from, weights_path
from saccade.solvers.features import as_predicted
from saccade.solvers.probe import solve_probe
from saccade.training.display import Display
from saccade.training.interrupt import Stopped, ends_with_advice
from saccade.training.plan import Plan
from saccade.training.prepare import check_start
from saccade.training.proposals import compute_proposals, computes_proposals
from saccade.training.run_folder import PLANNED, is_planned
from saccade.training.state import Log, read_config, write_config

FOLDER = "stages"
LOG = "log.jsonl"
ADOPTED = "adopted.safetensors"  # of a stage's folder; it is there when the stage is finished
AFTER = "after"  # entry of a solve's file: checksum of the file that it started from
SHARED = ", shared among the fits"  # behind the origin of minutes that were divided


@dataclass(frozen=True, slots=True)
class Makers:
    """What makes the parts of a course, on one device and with one display."""

    fit: Callable[[Plan, Path, bool], dict[str, Any]]  # plan, folder, resume -> what `train` returns
    conclude: Callable[[Plan, Path, Path], dict[str, Any]]  # plan from the last solve, RUN, folder of the last fit
    device: torch.device
    display: Display


def find_stages(plan: Plan, stored: Mapping[str, Any] | None) -> list[Stage]:
    """The course of a run; one past all stages but its own fit has none but that."""
    if plan.recipe == PROBE:
        course: list[Stage] = [Solve("probe", partial(solve_probe, plan.module)), Fit(plan.model, plan.model)]
    else:
        course = stages_of(plan.module, plan.model, plan.recipe)
    if plan.weights is not None:
        course = [stage for stage in course if not (isinstance(stage, Fit) and stage.instead_of_weights)]
    begun = stored is not None and _has_begun(stored) and isinstance(course[-1], Fit)
    return course[-1:] if begun else course


def run_stages(plan: Plan, stages: Sequence[Stage], run: Path, make: Makers, *, resume: bool = False) -> dict[str, Any]:
    """Make a run's stages. A finished one is skipped, a killed one goes on if `resume`.

    Minutes are divided evenly among the fits; epochs are those of every fit.

    Returns:
        What `train` returns.

    Raises:
        What the stages raise. The run's folder then holds what `resume` needs.
    """
    plan = _share_minutes(plan, sum(isinstance(stage, Fit) for stage in stages))
    new, on = from_first(not resume or is_planned(run)), plan.how_to_go_on(run)
    if new and (computes_proposals(plan) or len(stages) > 1):
        _check_course(plan, stages, make.device)
    if is_main_process() and new and computes_proposals(plan):  # which takes minutes, in which the run may be killed
        make_folder(run)
        write_config(run, plan.to_json() | PLANNED)
    with ends_with_advice(lambda: f"stopped while proposals were computed, of which none is lost; {on}"):
        compute_proposals(plan, make.device, make.display)
    if is_main_process() and not resume:
        shutil.rmtree(run / FOLDER, ignore_errors=True)
    if is_main_process() and (len(stages) > 1 or isinstance(stages[0], Solve)):
        make_folder(run)
        write_config(run, plan.to_json())
    last = max((number for number, stage in enumerate(stages) if isinstance(stage, Fit)), default=-1)
    start: Path | None = None
    fitted = run
    for number, stage in enumerate(stages):
        if len(stages) > 1:
            make.display.begin(f"stage {number + 1} of {len(stages)}: {stage.name}")
        folder = inside(run, FOLDER, f"{number + 1}-{stage.name}", ADOPTED).parent
        if isinstance(stage, Solve):
            start = _solve(_after(plan, start), stage, folder, make, resume)
        elif number == len(stages) - 1:
            going_on = from_first(not new if len(stages) == 1 else resume and _has_begun(read_config(run)))
            return make.fit(_plan_of(_after(plan, start), stage, None), run, going_on)
        else:
            following = stages[number + 1]
            rest = partial(_as_begun, plan, following) if stage.beside and isinstance(following, Fit) else dict
            start = _fit(_after(plan, start), stage, folder, make.fit, resume, number == last, rest)
            fitted = folder
    return make.conclude(_after(plan, start), run, fitted)


def _check_course(plan: Plan, stages: Sequence[Stage], device: torch.device) -> None:
    """What would stop a fit before its first step is said before the minutes of proposals, or of the stages before it.

    Raises:
        UsageError: as `check_start`; weights of another network.
        ModelFileError: weights that cannot be read.
    """
    for stage in stages:
        if isinstance(stage, Fit):
            check_start(_plan_of(plan, stage, None), device)
    if plan.weights is not None:
        network_so_far(plan if isinstance(stages[0], Solve) else _plan_of(plan, stages[0], None))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The log of a run: of its own fit, or where a solve ended it, of the last fit before that; no rows of a course
    without fits. Raises ModelFileError."""
    fits = [path.parent for path in (run / FOLDER).glob(f"*/{LOG}") if path.parent.name.partition("-")[0].isdecimal()]
    stages = sorted(fits, key=lambda folder: -int(folder.name.partition("-")[0]))
    return next((rows for folder in (run, *stages) if (rows := Log(folder / LOG).rows())), [])


def _has_begun(stored: Mapping[str, Any]) -> bool:
    """Whether `config.json` is that of a fit that took steps: the precision is settled right before the first."""
    return "precision" in stored


def _after(plan: Plan, start: Path | None) -> Plan:
    """The same from what an earlier stage handed on."""
    return plan if start is None else dataclasses.replace(plan, weights=str(start))


def _share_minutes(plan: Plan, fits: int) -> Plan:
    """Each fit gets its part of the budget; minutes of a resumed run are divided already."""
    minutes, origin = plan.settings.minutes, plan.origins["minutes"]
    if minutes is None or fits < 2 or origin.endswith(SHARED):
        return plan
    settings = dataclasses.replace(plan.settings, minutes=minutes / fits)
    return dataclasses.replace(plan, settings=settings, origins=plan.origins | {"minutes": origin + SHARED})


def _as_begun(plan: Plan, stage: Fit) -> dict[str, Tensor]:
    """The network of a fit as the run itself began: from given weights, else as its seed says."""
    torch.manual_seed(plan.settings.seed)
    return network_so_far(_plan_of(plan, stage, None))[0].state_dict()


def _fit(
    plan: Plan,
    stage: Fit,
    folder: Path,
    fit: Callable[[Plan, Path, bool], Any],
    resume: bool,
    last: bool,
    rest: Callable[[], dict[str, Tensor]],
) -> Path:
    """A fit in a folder of its own; the file with what it hands on.

    Args:
        last: it is the last of the course, which takes more epochs or minutes that a resumed run is given.
        rest: gives tensors that are handed on where the stage has none.
    """
    adopted = folder / ADOPTED
    going_on = from_first(resume and (folder / "config.json").is_file())
    own = _plan_of(plan, stage, folder if going_on and not last else None)
    if from_first(going_on and adopted.is_file() and (not last or _same_end(own, folder))):
        return adopted
    if is_main_process():
        adopted.unlink(missing_ok=True)  # what goes on is not finished
    try:
        fit(own, folder, going_on)
    except Stopped as stopped:
        raise Stopped(stopped.exit_code - 128, _advice(plan, stage, folder)) from stopped
    from_first(None)  # which writes the file
    if is_main_process():
        write_tensors(adopted, rest() | stage.adopt(checkpoint.load(folder / "last.safetensors").weights), {})
    from_first(None)  # the others wait for what it evaluates and writes
    return adopted


def _same_end(plan: Plan, folder: Path) -> bool:
    """Whether a finished fit was to end where it is to end now."""
    ended = read_config(folder)["settings"]
    return (ended["epochs"], ended["minutes"]) == (plan.settings.epochs, plan.settings.minutes)


def _plan_of(plan: Plan, stage: Fit, begun: Path | None) -> Plan:
    """The run's plan for a fit's network: same data, same splits, what the stage says of Config and settings.

    Args:
        begun: the folder of a stage that goes on; it keeps the settings that it began with.
    """
    module = model_module(stage.model)
    config = plan.config
    if stage.carries is not None:
        carried = {name: getattr(plan.config, name) for name in stage.carries}
        config = dataclasses.replace(module.VARIANTS[stage.model], **carried)
    config = dataclasses.replace(config, **stage.changes)
    settings = dataclasses.replace(plan.settings, **stage.settings)
    if begun is not None:
        settings, _, _ = resolve([("resumed", read_config(begun)["settings"])])
    origins = plan.origins | dict.fromkeys(stage.settings, f"stage {stage.name}")
    return dataclasses.replace(
        plan,
        model=stage.model,
        module=module,
        config=config,
        settings=settings,
        origins=origins,
        validation=plan.validation if stage.measured else [],
        testing=plan.testing if stage.measured else [],
    )


def _solve(plan: Plan, stage: Solve, folder: Path, make: Makers, resume: bool) -> Path:
    """A solve, made by the first process alone; the file with the network as it is then.

    It is made again where the stage before it has changed since.
    """
    adopted, fault = folder / ADOPTED, None
    if is_main_process():
        before = _checksum(plan)
        try:
            if not (resume and adopted.is_file() and read_tensors(adopted)[0].get(AFTER) == before):
                make_folder(folder)
                tensors = _solved(plan, stage, folder, make)
                write_tensors(adopted, tensors, {AFTER: before})
        except SaccadeError as error:
            fault = error
    fault = from_first(fault)
    if fault is not None:
        raise fault
    return adopted


def _checksum(plan: Plan) -> str:
    """Of the file that an earlier stage handed on; "" for other weights, which a resumed run cannot change."""
    handed = plan.weights is not None and Path(plan.weights).name == ADOPTED
    return read_tensors(Path(str(plan.weights)))[0].get(CHECKSUM, "") if handed else ""


def _solved(plan: Plan, stage: Solve, folder: Path, make: Makers) -> dict[str, Tensor]:
    """The tensors of the network after the solve."""
    torch.manual_seed(plan.settings.seed)
    network, fresh = network_so_far(plan)
    with make.display, ends_with_advice(lambda: _advice(plan, stage, folder)):
        given = Given(
            network=network.to(make.device),
            fresh=frozenset(fresh),
            classes=plan.dataset.classes,
            batches=lambda: _images(plan, make, stage.name),
            device=make.device,
            seed=plan.settings.seed,
            folder=folder,
            show=make.display.say,
        )
        solved = stage.solve(given)
    state = network.state_dict()
    odd = [name for name, value in solved.items() if name not in state or state[name].shape != value.shape]
    if odd:
        raise ValueError(f"stage {stage.name} of {plan.model} gives tensors that its network does not have: {odd}")
    return {name: solved.get(name, value).to(value) for name, value in state.items()}


def network_so_far(plan: Plan) -> tuple[nn.Module, list[str]]:
    """The run's network in evaluation mode with the weights of the plan, and the tensors that have a fresh start."""
    network: nn.Module = plan.module.Model(plan.config)
    if plan.weights is None:
        return network.eval(), list(network.state_dict())
    path = weights_path(plan.model, plan.weights, shown=False, trunk=trunk_of(plan.config))
    return network.eval(), start_from(network, plan.module, path).fresh


def _images(plan: Plan, make: Makers, name: str) -> Iterator[Batch]:
    """The training images as predictions see them, in the order of their ids."""
    records = sorted(plan.training, key=lambda record: record.id)
    workers = loader_workers(plan.settings.workers, make.device)
    loader = as_predicted(plan.dataset, records, plan.task, plan.preprocessing, workers)
    try:
        for number, batch in enumerate(loader.epoch(0), 1):
            yield batch
            make.display.work(name, number / len(loader))
    finally:
        loader.close()


def _advice(plan: Plan, stage: Stage, folder: Path) -> str:
    return f"stopped in stage {stage.name}; {plan.how_to_go_on(folder.parent.parent)}"
