"""`saccade train`: one loop for every model, from the first step to the report.

Read `_fit` top to bottom: it is the order of events. Devices, precision, gradient synchronisation and processes come
from accelerate; the run's state is one file (training/state.py), so that a killed run goes on bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade import checkpoint
from saccade.data.loader import Loader
from saccade.data.types import Batch
from saccade.errors import DivergedError, ModelFileError, memory_errors
from saccade.inference.predictor import Predictor, load
from saccade.inference.score import Pass, score
from saccade.machine.device import describe_hardware, only_deterministic, timed_convolutions
from saccade.machine.files import write_whole
from saccade.machine.memory import hand_back_memory
from saccade.machine.paths import at_home
from saccade.machine.processes import from_first, is_main_process, join_processes, largest, own_device
from saccade.models import known_model
from saccade.models.weights import weights_path
from saccade.reports.gallery import Gallery
from saccade.tasks.table import TASKS
from saccade.tasks.words import TRUTH
from saccade.training.display import Display
from saccade.training.interrupt import Interrupt, Stopped, ends_with_advice
from saccade.training.joint import Sources
from saccade.training.lock import lock
from saccade.training.measure import images_of_curves, measure
from saccade.training.mixup import mix
from saccade.training.optimizer import learning_rate
from saccade.training.plan import Plan, asked_trunk, make_plan, resume_plan
from saccade.training.points import add_to_point
from saccade.training.prepare import Parts, enough_steps, make_loader, prepare
from saccade.training.proposals import with_proposals
from saccade.training.rescale import random_scale
from saccade.training.run_folder import agreed_run_folder, full_disk, run_folder, what_to_do
from saccade.training.stages import Makers, find_stages, network_so_far, run_stages
from saccade.training.state import Log, Progress, read_config, save_state, thin_state
from saccade.training.taken import Taken
from saccade.training.thresholds import thresholds_of

EVALUATIONS = 10  # about so many a run; always after the last epoch
LAST_PART = 0.9  # of the run; from here on without mosaic, so that the end looks like real images (YOLOX)


def train(
    model: str,
    data: str | Path,
    *,
    out: str | Path | None = None,
    task: str | None = None,
    weights: str | Path | None = None,
    tree: str | Path | None = None,
    join: str | Path | None = None,
    recipe: str = "default",
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    proposals: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a model on a data set; leaves a run folder with checkpoints, log, metrics and report.

    Args:
        model: a name of `saccade models`, or the path of your own file, `my_net.py` or `my_net.py:VARIANT`.
        data, out: a folder whose format is recognised, or "format:path"; the run folder, by default runs/MODEL-DATA.
        task: what to train for, where labels and model leave a choice.
        weights: a run, checkpoint or public weights file to start from, or a word for a published file, which is
            downloaded unless it is in the cache: "imagenet", "imagenet_v2", "coco", "cifar10"; also of its trunk.
        tree: file with the classes as a tree of names, for models whose classes are one (docs/reference/formats.md).
        join: data of images that have a class and no boxes, for models that learn from them too.
        recipe: "default", "paper", or of a classifier with weights "probe": its output layer is fitted first.
        resume, overwrite: go on with the run in `out`; replace it.
        on_epoch: called in the first process with each row of log.jsonl; what it raises ends the run.
        proposals: of a model that takes some, a file (`data.proposals.FORMS`) or run in place of selective search.
        config, settings: a YAML or JSON file of fields of `config.Settings` or of the model's Config; such fields.

    Returns:
        `{run, checkpoint, metrics, seconds, images_per_second}`; `metrics` are those of the validation images, which
        chose the checkpoint. Where the data set has a test part with labels, `test` holds what it scored, once.

    Raises:
        SaccadeError, Stopped: with what to do; where the loss is lost, or a signal came, also with what is saved.
    """
    data, out, weights = at_home(data), at_home(out), at_home(weights)
    sources = Sources(data, at_home(join), at_home(tree))
    model = known_model(model)
    join_processes(device)
    file = None if config is None else Path(at_home(config))
    agreed = agreed_run_folder(out, model, data, resume, overwrite)
    with agreed as run, ends_with_advice(what_to_do(model, data, run, resume)):
        stored = read_config(run) if resume else None
        if weights is not None:  # what is wrong with them comes before slow work
            weights_path(model, weights, progress and is_main_process(), asked_trunk(model, file, settings, stored))
        plan_it = partial(make_plan, task=task) if stored is None else partial(resume_plan, stored=stored)
        plan = plan_it(model, sources, recipe=recipe, config=file, flags=settings, weights=weights)
        plan = with_proposals(plan if resume else enough_steps(plan), at_home(proposals), stored)
        with lock(run) as first:
            if first:
                run_folder(run, model, data, resume, overwrite)  # another run may have ended there since
            display = Display(progress and is_main_process(), on_epoch)
            return run_stages(plan, find_stages(plan, stored), run, _makers(device, display), resume=resume)


def _makers(device: str | None, display: Display) -> Makers:
    """What makes the stages of a run."""
    return Makers(
        lambda plan, folder, resume: fit(plan, folder, device, display, resume),
        lambda plan, run, fitted: _conclude(plan, run, fitted, own_device(device)),
        own_device(device),
        display,
    )


def fit(plan: Plan, run: Path, device: str | None, display: Display, resume: bool = False) -> dict[str, Any]:
    """One fit of a plan, from the seed to the report; what `train` returns.

    Args:
        run: its folder; the caller holds its lock.
        resume: go on with the state that is there, if any.

    Raises:
        What `train` raises, once its plan is made.
    """
    torch.manual_seed(plan.settings.seed)
    with only_deterministic(plan.settings.deterministic):
        with memory_errors(
            f"{plan.model} and batches of {plan.settings.batch or 'some'} images of size {plan.settings.size}"
        ):
            parts, counters = prepare(plan, run, device, display, resume)
            repeated = plan.settings.multi_scale == 0 and not plan.settings.deterministic  # shapes of batches
            with display, Interrupt() as interrupt, timed_convolutions(repeated), full_disk(plan.how_to_go_on(run)):
                _fit(parts, counters, interrupt)
        hand_back_memory()
        return _finish(parts, counters)


def _fit(parts: Parts, counters: Progress, interrupt: Interrupt) -> None:
    """Run epochs until the budget is spent."""
    settings, accelerator = parts.plan.settings, parts.accelerator
    budget = math.inf if settings.minutes is None else 60 * settings.minutes
    session, before = time.monotonic(), counters.elapsed
    saved = before  # by the clock that all processes share, so that they settle together
    loader: Loader | None = None
    taken: Taken | None = None  # the last step, while its losses are not read
    mosaic = settings.mosaic > 0
    while not counters.finished:
        if loader is None or (mosaic and parts.share(counters) >= LAST_PART):
            mosaic = settings.mosaic > 0 and parts.share(counters) < LAST_PART
            if loader is not None:
                loader.close()
            share = accelerator.num_processes, accelerator.process_index
            loader = make_loader(parts.plan, accelerator.device, *share, mosaic)
        parts.set_training()
        started = time.monotonic()  # of a step: waiting for its images is a part of it
        for batch in loader.epoch(counters.epoch, counters.step_in_epoch):
            counters.waited += time.monotonic() - started
            counters.rate = learning_rate(settings, parts.share(counters))
            for group in parts.optimizer.param_groups:
                group["lr"] = counters.rate * group["lr_scale"]
            batch = random_scale(batch.to(accelerator.device), settings, counters.step)
            batch = mix(batch, settings, counters.step, parts.share(counters), accelerator.process_index)
            try:
                losses = _backward(parts, batch)
            except Exception as error:
                if taken is not None and taken.lost:  # a step after one that diverged may fail in any way
                    raise taken.diverged(parts.run) from error
                raise
            norm = accelerator.clip_grad_norm_(parts.step.parameters(), settings.clip_norm or math.inf)
            parts.optimizer.step()
            parts.optimizer.zero_grad(set_to_none=True)
            if parts.averaged is not None:
                parts.averaged.update(parts.model, counters.step)
            _settle(parts, counters, taken)
            scaled = parts.precision == "fp16"
            taken = Taken(counters.step, counters.rate, batch.ids, losses, norm, scaled)
            now = time.monotonic()
            _count(counters, len(batch) * accelerator.num_processes, now - started)
            counters.elapsed, signal = _agree(before + now - session, interrupt.number)
            _show(parts, counters)
            if signal or counters.elapsed - saved >= 60 * settings.save_every:
                _settle(parts, counters, taken)  # what has diverged is not saved
                _save(parts, counters)
                saved, taken = counters.elapsed, None
            if signal:
                raise Stopped(signal, f"stopped after step {counters.step}; {parts.plan.how_to_go_on(parts.run)}")
            if counters.elapsed >= budget:
                break
            started = time.monotonic()
        _settle(parts, counters, taken)
        taken = None
        counters.epoch, counters.step_in_epoch = counters.epoch + 1, 0
        counters.finished = parts.share(counters) >= 1
        _end_of_epoch(parts, counters)
        counters.elapsed = from_first(before + time.monotonic() - session)
        if counters.finished or counters.elapsed - saved >= 60 * settings.save_every:
            _save(parts, counters)
            saved = counters.elapsed
    if loader is not None:
        loader.close()


def _backward(parts: Parts, batch: Batch) -> dict[str, Tensor]:
    """Gradients of one batch, in as many forward passes as `accumulate` says; returns the losses, on the device."""
    pieces = min(parts.plan.settings.accumulate, len(batch))
    edges = [round(i * len(batch) / pieces) for i in range(pieces + 1)]
    sums: dict[str, Tensor] = {}
    for i in range(pieces):
        part = batch[edges[i] : edges[i + 1]]
        share = len(part) / len(batch)
        with parts.accelerator.no_sync(parts.step) if i < pieces - 1 else nullcontext():
            losses = parts.step(part)
            total = torch.stack([loss.float() for loss in losses.values()]).sum() * share
            parts.accelerator.backward(total)
        for name, loss in losses.items():
            value = loss.detach().float() * share
            sums[name] = sums[name] + value if name in sums else value
    return sums


def _count(counters: Progress, images: int, seconds: float) -> None:
    counters.step += 1
    counters.step_in_epoch += 1
    counters.images += images
    counters.seconds += seconds


def _settle(parts: Parts, counters: Progress, taken: Taken | None) -> None:
    """Read the losses of a step and count them, once. Raises DivergedError in all processes where one has lost them."""
    if taken is None:
        return
    if largest([taken.lost])[0]:
        another = DivergedError(f"the loss of another process is no longer finite at step {taken.step}")
        raise taken.diverged(parts.run) if taken.lost else another
    counters.steps += 1
    for name, value in taken.losses.items():
        counters.sums[name] = counters.sums.get(name, 0.0) + value
    add_to_point(counters, taken.losses, taken.rate, parts.share(counters))


def _agree(elapsed: float, signal: int) -> tuple[float, int]:
    """One clock and one decision for all processes: rates and ends must not differ between them."""
    elapsed, number = largest([elapsed, signal])
    return elapsed, int(number)


def _end_of_epoch(parts: Parts, counters: Progress) -> None:
    """Log the epoch; from time to time evaluate, and keep the checkpoint if it is the best so far."""
    share = parts.share(counters)
    row: dict[str, Any] = {
        "epoch": counters.epoch,
        "step": counters.step,
        "progress": share,
        "lr": counters.rate,
        "losses": {name: value / max(1, counters.steps) for name, value in counters.sums.items()},
        "images_per_second": counters.images / max(counters.seconds, 1e-9),
        "waiting": counters.waited / max(counters.seconds, 1e-9),
        "minutes": counters.elapsed / 60,
        "steps_an_epoch": parts.steps_an_epoch,
        "points": counters.points,
    }
    due = math.floor(share * EVALUATIONS) > math.floor(counters.evaluated * EVALUATIONS)
    if parts.plan.validation and (due or counters.finished):
        try:
            found = measure(parts, images_of_curves(parts, counters, share))
        except ModelFileError as error:
            lower = f"Try a smaller lr (--set lr={counters.rate / 10:.1g})"
            raise DivergedError(f"after epoch {counters.epoch} (lr {counters.rate:.3g}): {error}. {lower}") from error
        row |= found.beside()
        result = found.result
        if result is not None:
            metrics = {name: value.value for name, value in result.metrics.items()}
            row["metrics"] = metrics
            value = metrics[TASKS[parts.plan.task].metric]
            if counters.best is None or value is None or value > counters.best:  # None: the last is kept
                counters.best, counters.best_at = value or 0.0, share
                _save_checkpoint(parts, parts.run / "best.safetensors", metrics, thresholds_of(parts.plan, result))
        counters.best, counters.best_at = from_first((counters.best, counters.best_at))
        counters.evaluated = share
        patience = parts.plan.settings.patience
        counters.finished |= patience is not None and share - counters.best_at > patience
    counters.sums, counters.steps, counters.images, counters.seconds, counters.waited = {}, 0, 0, 0.0, 0.0
    counters.points = []
    if parts.accelerator.is_main_process:
        parts.log.add(row)
        parts.display.epoch(row, TASKS[parts.plan.task].metric)


def _save(parts: Parts, counters: Progress) -> None:
    """The state to go on from, and the weights as they are."""
    if parts.accelerator.is_main_process:
        save_state(parts.run, counters, parts.model, parts.optimizer, parts.averaged, parts.accelerator.scaler)
        _save_checkpoint(parts, parts.run / "last.safetensors", {})


def _save_checkpoint(parts: Parts, path: Path, metrics: dict[str, Any], thresholds: Sequence[float] = ()) -> None:
    model = parts.model if parts.averaged is None else parts.averaged.model
    checkpoint.save(parts.plan.checkpoint(model, metrics, thresholds), path)


def _finish(parts: Parts, counters: Progress) -> dict[str, Any]:
    """Measure the checkpoint that the fit leaves."""
    device, rows = parts.accelerator.device, parts.log.rows()
    summary = _report(Ended(parts.plan, parts.run, rows, counters.elapsed, device, parts.precision))
    if parts.accelerator.is_main_process and not parts.plan.settings.keep_state:
        thin_state(parts.run)
    return summary


def _conclude(plan: Plan, run: Path, fitted: Path, device: torch.device) -> dict[str, Any]:
    """The network that a course ends with, where no fit ends it (the weights of `plan`): its checkpoint, measured.
    `fitted` is the folder of the last fit."""
    rows = Log(fitted / "log.jsonl").rows()  # none where no stage is a fit
    if is_main_process():
        network, _ = network_so_far(plan)
        predictor = Predictor(network.to(device), plan.task, plan.dataset.classes, plan.preprocessing, device, "fp32")
        metrics, thresholds = {}, []
        if plan.validation:
            result = score(predictor, plan.dataset, plan.validation, Pass(workers=plan.settings.workers))
            metrics, thresholds = {k: value.value for k, value in result.metrics.items()}, thresholds_of(plan, result)
        checkpoint.save(plan.checkpoint(network, metrics, thresholds), run / "best.safetensors")
        write_whole(run / "data_report.json", json.dumps(plan.dataset.ledger.to_json(), indent=2))
    return _report(Ended(plan, run, rows, 60 * rows[-1]["minutes"] if rows else 0.0, device, "fp32"))


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has its best checkpoint."""

    plan: Plan
    run: Path
    rows: list[dict[str, Any]]  # of the log of its last fit
    seconds: float  # that it trained
    device: torch.device
    precision: str


def _report(ended: Ended) -> dict[str, Any]:
    """Measure the best checkpoint with intervals, on the test part too where there is one; write metrics.json and
    report.html."""
    from saccade.reports.training import write_training_report

    run, plan, device = ended.run, ended.plan, ended.device
    seen = sum(row["images_per_second"] for row in ended.rows) / max(1, len(ended.rows))
    best = run / ("best.safetensors" if (run / "best.safetensors").is_file() else "last.safetensors")
    summary: dict[str, Any] = {
        "run": str(run),
        "checkpoint": str(best),
        "metrics": {},
        "seconds": round(ended.seconds, 1),
        "images_per_second": round(seen, 2),
    }
    if not is_main_process():
        return summary
    gallery, how = None, Pass(workers=plan.settings.workers)
    if plan.validation or plan.testing:
        predictor = load(best, device, "bf16" if ended.precision == "bf16" else "fp32")
    if plan.validation:
        gallery = Gallery(plan.task, plan.dataset, plan.validation, predictor.thresholds)
        result = score(predictor, plan.dataset, plan.validation, how, [gallery], bootstrap=1000)
        summary |= {"split": "val", **result.to_json()}
        summary |= {"proposals": TRUTH} if plan.preprocessing.of_given_objects else {}
    if plan.testing:  # once, with the checkpoint that val chose
        result = score(predictor, plan.dataset, plan.testing, how, bootstrap=1000)
        summary["test"] = result.to_json()
    write_whole(run / "metrics.json", json.dumps(summary, indent=2, allow_nan=False))
    write_training_report(run, plan, ended.rows, summary, gallery, describe_hardware(device), ended.precision)
    return summary


def _show(parts: Parts, counters: Progress) -> None:
    losses = {name: value / counters.steps for name, value in counters.sums.items()}
    parts.display.step(counters.epoch, parts.share(counters), losses, counters.images / max(counters.seconds, 1e-9))
