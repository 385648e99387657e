"""Systems that are several fits: the fits before the main run, each in a folder of its own.

The loop does not know of it. `run_stages` puts the fits in order; each hands tensors on in RUN/stages/N-NAME/
adopted.safetensors, and the main run starts from the last such file. How a fit is made is the caller's matter (`fit`):
a gradient run today; a fit by a solver needs a kind of stage and a branch there, and neither loop nor runner changes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from saccade.checkpoint import write_tensors
from saccade.config import resolve
from saccade.machine.files import inside, make_folder
from saccade.machine.processes import from_first, is_main_process
from saccade.models import model_module
from saccade.models.contract import stages_of
from saccade.models.stage import Stage
from saccade.training.plan import Plan
from saccade.training.state import read_config, write_config

FOLDER = "stages"
ADOPTED = "adopted.safetensors"  # of a stage's folder; it is there when the stage is finished
SHARED = ", shared among the fits"  # behind the origin of minutes that were divided

Fit = Callable[[Stage, Plan, Path, bool], Mapping[str, Tensor]]  # stage, its plan, its folder, resume -> its tensors


def find_stages(plan: Plan, stored: Mapping[str, Any] | None) -> list[Stage]:
    """The stages that stand before a run; none where it was given weights, or where it is past them already."""
    if plan.weights is not None or (stored is not None and has_begun(stored)):
        return []
    return stages_of(plan.module, plan.model, plan.recipe)


def has_begun(stored: Mapping[str, Any]) -> bool:
    """Whether `config.json` is that of a run past its stages: the precision is settled right before the first step."""
    return "precision" in stored


def run_stages(plan: Plan, stages: Sequence[Stage], run: Path, fit: Fit, *, resume: bool = False) -> Plan:
    """Make the fits that stand before a run. A finished one is skipped, a killed one goes on if `resume`.

    Minutes are divided evenly among the fits, the main run included; epochs are those of every fit.

    Returns:
        The plan of the main run: with its share of the minutes, from the weights of the last stage.

    Raises:
        What `fit` raises. The run's folder then holds what `resume` needs.
    """
    main = is_main_process()
    plan = _share_minutes(plan, len(stages) + 1)
    if main and not resume:
        shutil.rmtree(run / FOLDER, ignore_errors=True)
    if main:
        make_folder(run)
        write_config(run, plan.to_json())
    start: Path | None = None
    for number, stage in enumerate(stages, 1):
        adopted = inside(run, FOLDER, f"{number}-{stage.name}", ADOPTED)
        folder = adopted.parent
        if not (resume and adopted.is_file()):
            going_on = resume and (folder / "config.json").is_file()
            tensors = fit(stage, _stage_plan(plan, stage, start, folder if going_on else None), folder, going_on)
            if main:
                write_tensors(adopted, stage.adopt(dict(tensors)), {})
            from_first(None)  # the others wait for what it evaluates and writes
        start = adopted
    return dataclasses.replace(plan, weights=str(start))


def discard_stages(run: Path) -> None:
    """Remove the stages of a run that is replaced by one without."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def _share_minutes(plan: Plan, fits: int) -> Plan:
    """Each fit gets its part of the budget; minutes of a resumed run are divided already."""
    minutes, origin = plan.settings.minutes, plan.origins["minutes"]
    if minutes is None or origin.endswith(SHARED):
        return plan
    settings = dataclasses.replace(plan.settings, minutes=minutes / fits)
    return dataclasses.replace(plan, settings=settings, origins=plan.origins | {"minutes": origin + SHARED})


def _stage_plan(plan: Plan, stage: Stage, start: Path | None, begun: Path | None) -> Plan:
    """The main run's plan for a stage's network: same data, same splits, same settings but for those it states.

    Of the model's Config those fields carry over in which both variants agree before the user's changes, such as
    classes and width; what makes the stage's network another one (its depths) stays its own.

    Args:
        begun: the folder of a stage that goes on; it keeps the settings that it began with.
    """
    module = model_module(stage.model)
    ours, theirs = plan.module.VARIANTS[plan.model], module.VARIANTS[stage.model]
    before = dataclasses.asdict(ours)
    common = {k for k, v in dataclasses.asdict(theirs).items() if k in before and before[k] == v}
    config = dataclasses.replace(theirs, **{name: getattr(plan.config, name) for name in common})
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
        weights=None if start is None else str(start),
    )
