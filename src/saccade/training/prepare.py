"""Everything that stands before the first step of a run: folder, model, optimiser, precision, saved state."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade import checkpoint
from saccade.data.balance import repeat_factors
from saccade.data.joined import joint_factors
from saccade.data.loader import Loader, Work
from saccade.data.orders import Identities, Order, Repeated, Shuffled, identities_of_steps
from saccade.data.people import with_own_boxes
from saccade.data.types import Batch
from saccade.data.views import training_view
from saccade.data.word_tree import Tree
from saccade.errors import ModelFileError, UsageError
from saccade.machine.device import loader_workers
from saccade.machine.files import inside, make_folder, remove_leftovers, write_whole
from saccade.machine.memory import keep_freed_memory
from saccade.machine.processes import from_all, make_accelerator, own_device, processes_here
from saccade.models.dry_run import class_tensors, model_of_shapes, takes
from saccade.models.own_file import COPY, short_name, source_of
from saccade.models.published import WORDS
from saccade.models.standing import parts_of, trunk_of
from saccade.models.weights import Start, start_from, weights_path
from saccade.ops import conv_gradients
from saccade.training.border import BorderWeights
from saccade.training.buildable import check_buildable, smallest_size
from saccade.training.depth import find_parts, freeze, rate_scales
from saccade.training.display import Display
from saccade.training.optimizer import AveragedWeights, make_optimizer
from saccade.training.plan import FITTED, Plan, of_room
from saccade.training.precision import check_precision, choose_precision, find_batch
from saccade.training.state import STATE, Log, Progress, load_state, read_config, write_config

STEPS = 4  # of an epoch at least, where nobody asked for another batch
SMALLEST_BATCH = 8  # images, to which a batch is lowered for that


class Step(nn.Module):
    """The losses of a batch as a forward pass: what data parallelism wraps, so that gradients are synchronised."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.model.loss(batch)  # type: ignore[operator]
        return losses


@dataclass
class Parts:
    """What the loop works with."""

    plan: Plan
    run: Path
    accelerator: Any  # accelerate.Accelerator
    model: nn.Module
    step: nn.Module  # Step, wrapped for data parallelism
    optimizer: Any
    averaged: AveragedWeights | None
    steps_an_epoch: int
    precision: str
    display: Display
    log: Log
    frozen: list[nn.Module]  # modules that stay in evaluation mode

    def set_training(self) -> None:
        """Training mode, but for what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def share(self, counters: Progress) -> float:
        """How much of the run is done, in [0, 1]: of its minutes or steps, whichever end is nearer."""
        done = 0.0
        if self.plan.settings.minutes is not None:
            done = counters.elapsed / (60 * self.plan.settings.minutes)
        if self.plan.ends_by_epochs:
            done = max(done, counters.step / (self.plan.settings.epochs * self.steps_an_epoch))
        return min(1.0, done)


def make_loader(plan: Plan, device: torch.device, processes: int, rank: int, mosaic: bool) -> Loader:
    """Training batches of this process."""
    settings = plan.settings
    dataset, alone = plan.dataset, plan.preprocessing.one_person
    pairs = () if dataset.joints is None else dataset.joints.pairs
    view = training_view(plan.task, settings, pairs, mosaic, alone)
    view = dataclasses.replace(view, proposals=plan.preprocessing.proposals)
    border = getattr(plan.config, "border", 0.0)
    if border > 0:
        view = view.then(BorderWeights(border))
    order = _order(plan, processes)
    batch = order.p * order.k if isinstance(order, Identities) else settings.batch
    workers = loader_workers(settings.workers, device, processes_here())
    work = Work(workers, int(settings.cache * 1e9), processes, rank)
    if alone:
        dataset = with_own_boxes(dataset, plan.training)
    return Loader(dataset, plan.training, plan.task, view, order, batch, work)


def _order(plan: Plan, processes: int) -> Order:
    """Which images make the steps of an epoch.

    Raises:
        UsageError: a step is cut up into passes of less than two identities, in which there is nothing to tell apart.
    """
    settings = plan.settings
    per_identity = getattr(plan.config, "per_identity", 0)
    if per_identity:
        labels = np.array([record.label for record in plan.training])
        order = identities_of_steps(labels, settings.batch, per_identity, settings.seed)
        passes = settings.accumulate * processes
        if order.p < 2 * passes:
            raise UsageError(
                f"a step shows {order.p} identities with {per_identity} images each; {passes} passes (accumulate, "
                "processes) leave fewer than two a pass: use a larger --batch, or a smaller accumulate or per_identity"
            )
        return order
    drop_last = len(plan.training) >= settings.batch  # a last batch of one would upset batch norm
    factors = np.ones(len(plan.training))
    if plan.joint.join is not None:
        factors = joint_factors(plan.training, plan.config.labelled_images)
    if settings.repeat_threshold:
        factors = factors * repeat_factors(plan.training, len(plan.dataset.classes), settings.repeat_threshold)
    if (factors > 1).any():
        return Repeated(factors, settings.seed, drop_last)
    return Shuffled(settings.seed, drop_last)


def _check_pass(plan: Plan) -> None:
    """Raises UsageError where a forward pass is so small that batch norm sees one value a channel."""
    settings, images = plan.settings, len(plan.training)
    if min(settings.batch or images, images) // settings.accumulate > 1:
        return
    height, width = smallest_size(settings, plan.preprocessing.size)
    if not takes(plan.module, model_of_shapes(plan.module, plan.config).train(), height, width):
        raise UsageError(
            f"batch norm of {plan.model} learns nothing from one image of {height}x{width} at a time: use a larger "
            "--batch or --size, or norm=frozen (of a trunk trunk_norm=frozen) where the model has it"
        )


def check_start(plan: Plan, device: torch.device) -> None:
    """What `prepare` would refuse and can be told without its network, for work that comes before it.

    Raises:
        UsageError: the size, a pass too small for batch norm, fp16 on a CPU, more frozen parts than there are.
    """
    check_buildable(plan.module, plan.model, plan.config, (), plan.settings, plan.preprocessing.size)
    _check_pass(plan)
    check_precision(plan.settings.precision, device)
    if plan.settings.freeze:
        parts = find_parts(model_of_shapes(plan.module, plan.config), class_tensors(plan.module, plan.config))
        freeze(parts, plan.settings.freeze, plan.model)


def prepare(plan: Plan, run: Path, device: str | None, display: Display, resume: bool) -> tuple[Parts, Progress]:
    """Build model and optimiser, choose precision and batch, write config.json, load the state of a resumed run."""
    keep_freed_memory()
    target = own_device(device)
    _check_pass(plan)
    model: nn.Module = plan.module.Model(plan.config)
    conv_gradients.mend(model)
    saved = resume and (run / STATE).is_file()
    if plan.weights is not None and not saved:  # a run killed before its first save starts from them again
        path = weights_path(plan.model, plan.weights, shown=False, trunk=trunk_of(plan.config))
        _say_what_is_fresh(plan, start_from(model, plan.module, path), path, model, display)
    frozen, scales = _set_depth(plan, model, display)
    model = model.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan, precision, why = _numerics(plan, run, model.train(), target, resume)
    accelerator = make_accelerator(target, precision)
    step, optimizer = accelerator.prepare(Step(model), make_optimizer(model, plan.settings, scales))
    averaged = AveragedWeights(model, plan.settings.ema) if plan.settings.ema else None
    loader = make_loader(plan, target, accelerator.num_processes, accelerator.process_index, mosaic=False)
    log = Log(run / "log.jsonl")
    steps = len(loader)
    parts = Parts(plan, run, accelerator, model, step, optimizer, averaged, steps, precision, display, log, frozen)
    counters = Progress()
    if accelerator.is_main_process:
        make_folder(run)
        remove_leftovers(run, inside(run, *STATE.parent.parts), inside(run, "plots"))
    if saved:
        counters = load_state(run, model, optimizer, averaged, accelerator.scaler)
        if counters.best is not None:
            checkpoint.load(inside(run, "best.safetensors"))  # what the run will end with: damage is told now
        counters.finished = parts.share(counters) >= 1
    if accelerator.is_main_process:
        if not resume:
            _clear(run)
        described = plan.to_json() | {"precision": precision, "device": str(target)} | _surroundings()
        write_config(run, described)
        source = source_of(plan.module)
        if source is not None and not resume:
            write_whole(run / COPY, source)
        write_whole(run / "data_report.json", json.dumps(plan.dataset.ledger.to_json(), indent=2))
        log.cut(counters)
    accelerator.wait_for_everyone()
    tested = f", {len(plan.testing)} test" if plan.testing else ""
    display.say(
        f"{short_name(plan.model)} to {plan.task} {plan.dataset.root.name}: {len(plan.training)} training, "
        f"{len(plan.validation)} validation{tested} images, {len(plan.dataset.classes)} classes; {precision} ({why}), "
        f"batch {plan.settings.batch}"
    )
    _say_what_is_joined(plan, display)
    if not resume:
        _say_steps(plan, display)
        _say_what_is_fitted(plan, display)
    _say_what_is_wrong(plan, run, display)
    if resume:
        display.say(f"going on after step {counters.step}")
    return parts, counters


def _say_what_is_fresh(plan: Plan, start: Start, path: Path, model: nn.Module, display: Display) -> None:
    source = f"{plan.weights} ({path.name})" if plan.weights in WORDS else plan.weights
    if start.network:
        fresh = parts_of(start.fresh, model.state_dict())
        display.say(
            f"from {source}, weights of {start.network}: {start.count} of {start.held} tensors go into "
            f"{', '.join(start.placed)}; {_few(fresh)} {'begins' if len(fresh) == 1 else 'begin'} anew"
        )
        return
    others = start.fresh and set(start.fresh) <= class_tensors(plan.module, plan.config)
    display.say(
        f"from {source}; with a fresh start{', as its classes are others' if others else ''}: {_few(start.fresh)}"
    )


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:6]) or 'nothing'}{' ...' if len(names) > 6 else ''}"


def _set_depth(plan: Plan, model: nn.Module, display: Display) -> tuple[list[nn.Module], dict[str, float]]:
    """Freeze the first parts of the network and find the rate of each; says what is frozen.

    Raises:
        UsageError: more parts are to be frozen than there are before the last.
    """
    settings = plan.settings
    if not settings.freeze and settings.layer_decay == 1:
        return [], {}
    parts = find_parts(model, class_tensors(plan.module, plan.config))
    frozen = freeze(parts, settings.freeze, plan.model)
    if frozen:
        still = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        names = ", ".join(part.name for part in parts[: settings.freeze])
        total = sum(p.numel() for p in model.parameters())
        display.say(
            f"frozen: {still:,} of {total:,} parameters, and the statistics of their norms, in the first "
            f"{settings.freeze} of {len(parts)} parts: {names}"
        )
        if plan.weights is None:
            display.say("warning: what is frozen was never trained; give --weights to start from")
    return frozen, rate_scales(parts, settings.layer_decay)


def _surroundings() -> dict[str, Any]:
    """What equal numbers depend on besides the settings: the bits of a run are those of these versions and threads."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    return {"versions": versions, "threads": torch.get_num_threads()}


def _say_what_is_joined(plan: Plan, display: Display) -> None:
    """The tree of the classes, and what of an epoch has boxes, where images with a class alone are among it."""
    if getattr(plan.config, "tree", ()):
        display.say(Tree(tuple(plan.dataset.classes), plan.config.tree).in_words())
    if plan.joint.join is not None:
        alone = sum(record.label_alone for record in plan.training)
        times = joint_factors(plan.training, plan.config.labelled_images).max()
        display.say(
            f"{alone} of the training images have a class and no boxes ({plan.joint.join}); an epoch shows the others "
            f"{'once' if times == 1 else f'{times:.3g} times'}"
        )


def _say_what_is_fitted(plan: Plan, display: Display) -> None:
    """The values that the model took from the training images; another value is kept where --set gives it."""
    for name in (name for name, origin in plan.origins.items() if origin == FITTED):
        value = json.dumps(getattr(plan.config, name), separators=(",", ":"))
        value = re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.4g}", value)
        display.say(f"{name} {FITTED} (--set {name}=... keeps yours): {value}")


def enough_steps(plan: Plan) -> Plan:
    """A new run whose epochs have `STEPS` steps at least, where they can: the batch of a default recipe is halved until
    they do, down to `SMALLEST_BATCH` images, and the rate with it (Goyal et al. 2017, section 2.1). What a person gave,
    and the recipe of a paper, stay; so do batches of identities, which have an order of their own."""
    settings, images = plan.settings, len(plan.training)
    batch = settings.batch
    while batch >= 2 * SMALLEST_BATCH and STEPS * batch > images:
        batch //= 2
    usual = {name: plan.origins[name] == "default" or of_room(plan.origins[name]) for name in ("batch", "lr")}
    if batch == settings.batch or not usual["batch"] or plan.recipe == "paper" or _has_identities(plan):
        return plan
    rate = settings.lr * batch / settings.batch if usual["lr"] else settings.lr
    plan.origins["batch"] += f", {settings.batch} lowered for {images} images"
    plan.origins["lr"] += f", times {batch}/{settings.batch}" if usual["lr"] else ""
    lowered = dataclasses.replace(settings, batch=batch, lr=rate)
    return dataclasses.replace(plan, settings=lowered, usual_batch=settings.batch)


def _say_steps(plan: Plan, display: Display) -> None:
    """That the batch was lowered; or that an epoch has one step, which is hardly what was meant."""
    batch, images = plan.settings.batch, len(plan.training)
    if plan.usual_batch is not None:
        display.say(
            f"batch {batch} in place of the recipe's {plan.usual_batch}, lr {plan.settings.lr:.4g}: {images} images "
            f"make {images // batch} steps an epoch by it (--batch and --set lr=... keep yours)"
        )
    elif SMALLEST_BATCH < batch <= images < 2 * batch and not _has_identities(plan):
        display.say(
            f"warning: a batch of {batch} of {images} training images leaves one step an epoch; a smaller --batch "
            "learns more in as many epochs"
        )


def _has_identities(plan: Plan) -> bool:
    return bool(getattr(plan.config, "per_identity", 0))


def _say_what_is_wrong(plan: Plan, run: Path, display: Display) -> None:
    """Nothing is left out in silence: how much is refused, the first of it, and where all of it stands."""
    ledger = plan.dataset.ledger
    for line in ledger.lines():
        display.say(line)
    if len(ledger.refused) > 5:
        display.say(f"  ... {run / 'data_report.json'} names all")


def _numerics(plan: Plan, run: Path, model: nn.Module, device: torch.device, resume: bool) -> tuple[Plan, str, str]:
    """Precision and batch of the run; a resumed run keeps those it began with."""
    settings = plan.settings
    if resume:
        precision = read_config(run).get("precision")
        if precision not in ("fp32", "bf16", "fp16"):
            raise ModelFileError(f"{run / 'config.json'}: damaged (precision {precision!r}); start a new run")
        return plan, precision, "as before"
    probe = dataclasses.replace(settings, batch=settings.batch or min(8, len(plan.training)), workers=0, accumulate=1)
    batch = next(iter(make_loader(dataclasses.replace(plan, settings=probe), device, 1, 0, mosaic=False).epoch(0)))
    found = from_all(choose_precision(settings.precision, model, batch, device))
    precision, why = min(found, key=lambda choice: choice[0] != "fp32")  # bf16 only where it is good for all of them
    if settings.batch == 0:
        share = -(-len(plan.training) // len(found))
        size = len(found) * min(from_all(find_batch(model, batch, device, precision, settings, share)))
        size = min(size, len(plan.training))
        usual = plan.module.RECIPES["default"].get("*", {}).get("batch", 16)
        settings = dataclasses.replace(settings, batch=size, lr=settings.lr * size / usual)
        plan.origins.update(batch="found", lr=f"{plan.origins['lr']}, times {size}/{usual} for the batch found")
    elif settings.batch > len(plan.training):
        settings = dataclasses.replace(settings, batch=len(plan.training))
        plan.origins["batch"] = "all training images"
    return dataclasses.replace(plan, settings=settings), precision, why


def _clear(run: Path) -> None:
    """Remove what an overwritten run left."""
    for name in ("log.jsonl", "best.safetensors", "last.safetensors", "metrics.json", "report.html"):
        (run / name).unlink(missing_ok=True)
    inside(run, *STATE.parts).unlink(missing_ok=True)
