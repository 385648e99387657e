"""What is measured while a network trains: the score on the validation images, and what shows overfitting beside it,
the loss on some of these images and the score on as many training images.

None of it changes the run: weights are those of a run without it, bit for bit. Networks are in evaluation mode (no
dropout, norms by their running statistics, which stay) and have no gradients; what a loss draws by chance (anchors,
regions, windows, pixels) comes from generators of its own, the same at every evaluation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import Ledger, Record
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder, Order, identities_of_steps
from saccade.data.people import people_to_learn, with_own_boxes
from saccade.data.types import Batch
from saccade.data.views import View, inference_view, training_view
from saccade.inference.predictor import Predictor
from saccade.inference.score import score_together
from saccade.machine.device import autocast, kept_random_numbers, loader_workers, timed_convolutions
from saccade.machine.processes import from_first, place_among_processes, processes_here, share_buffers
from saccade.metrics import Result
from saccade.models.dry_run import class_tensors
from saccade.tasks.table import TASKS
from saccade.training.border import BorderWeights
from saccade.training.plan import Plan
from saccade.training.prepare import Parts
from saccade.training.state import Progress

# Of the images trained on since the last evaluation so many are looked at twice more, once for the validation loss and
# once for the score of training images: a forward pass is a third of a step, so that both take about a twentieth.
SHARE = 0.07
LEAST = 16  # images, however few are trained on
_STREAM = 3  # apart from the random numbers of orders, samples and mixup, which follow from (0, ...) to (2, ...)
STILL: dict[str, Any] = {  # settings without which the crop of a segmenter is only cut out
    **dict.fromkeys(("flip", "flip_vertical", "transpose", "rotate", "jitter", "color", "elastic"), 0.0),
    **dict.fromkeys(("lighting", "cutout"), 0.0),
    "policy": "none",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one evaluation found."""

    result: Result | None  # of the validation images; None in all processes but the first
    validation_losses: dict[str, float]  # by name, as means over images; empty where there are none
    training_metrics: dict[str, float | None]  # of the fixed training images; empty where there are none
    training_images: int = 0  # how many those are

    def beside(self) -> dict[str, Any]:
        """What the row of the log holds besides the metrics of the validation images."""
        found: dict[str, Any] = {"validation_losses": self.validation_losses, "training_metrics": self.training_metrics}
        found |= {"training_images": self.training_images}
        return {name: values for name, values in found.items() if values}


def images_of_curves(parts: Parts, counters: Progress, share: float) -> int:
    """On how many images, at most, validation loss and training score are measured; settled at the first evaluation,
    as equal images make the curves.

    Args:
        share: how much of the run is done, in (0, 1].
    """
    settings = parts.plan.settings
    if settings.curve_images and not counters.measured:
        trained = counters.step * settings.batch * (share - counters.evaluated) / max(share, 1e-9)
        counters.measured = from_first(max(LEAST, round(SHARE * trained)))
    return min(settings.curve_images, counters.measured)


def measure(parts: Parts, images: int) -> Measured:
    """Measure the weights that would be saved, by all processes together.

    Args:
        images: of `images_of_curves`.
    """
    plan, device = parts.plan, parts.accelerator.device
    model = parts.model if parts.averaged is None else parts.averaged.model
    share_buffers(model)
    precision = "bf16" if parts.precision == "bf16" else "fp32"
    predictor = Predictor(model, plan.task, plan.dataset.classes, plan.preprocessing, device, precision)
    losses: dict[str, float] = {}
    training: Result | None = None
    learnt: list[Record] = []
    with timed_convolutions(torch.backends.cudnn.benchmark and plan.preprocessing.size is not None):
        result = score_together(predictor, plan.dataset, plan.validation, plan.settings.workers)
        if images:
            losses = validation_losses(plan, model, device, parts.precision, images)
            objects = TASKS[plan.task].objects  # a joined image that has a class alone is no example of them
            learnt = [record for record in plan.training if not (objects and record.label_alone)]
            learnt = fixed_part(plan, learnt, min(images, len(plan.validation)))
            training = score_together(predictor, plan.dataset, learnt, plan.settings.workers)
    metrics = {} if training is None else {name: value.value for name, value in training.metrics.items()}
    return Measured(result, losses, metrics, len(learnt))


def fixed_part(plan: Plan, records: Sequence[Record], count: int) -> list[Record]:
    """`count` of the records, drawn by the run's seed and always the same, in their order; all where there are no more.
    Of identities whole ones, so that there are pairs, until there are as many."""
    rng = np.random.default_rng([_STREAM, plan.settings.seed])
    if not TASKS[plan.task].embedding:
        return [records[i] for i in sorted(rng.permutation(len(records))[:count])]
    known = [record for record in records if record.label is not None]
    of: dict[int | None, list[Record]] = {}
    for record in known:
        of.setdefault(record.label, []).append(record)
    chosen: list[Record] = []
    for i in rng.permutation(len(of)):
        chosen += list(of.values())[i] if len(chosen) < count else []
    return sorted(chosen, key=lambda record: record.id)


def validation_losses(
    plan: Plan, model: nn.Module, device: torch.device, precision: str, images: int
) -> dict[str, float]:
    """The losses of training, by name, on a fixed part of the validation images: means over images, in batches of the
    size of a step. All processes compute all of it.

    Empty where the loss tells the identities of training apart, of whom the validation images show none, and where a
    loss is not finite.

    Args:
        model: as it trains; its mode, statistics and all generators are afterwards as they were.
        images: of the fixed part, at most.
    """
    if TASKS[plan.task].embedding and class_tensors(plan.module, plan.config):
        return {}
    loader = loss_loader(plan, fixed_part(plan, plan.validation, images), device)
    if loader is None:
        return {}
    try:
        values = mean_losses(model, loader.epoch(0), device, precision, plan.settings.seed)
    finally:
        loader.close()
    return values if all(map(math.isfinite, values.values())) else {}


def mean_losses(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, precision: str, seed: int
) -> dict[str, float]:
    """The losses of a network by name, without gradients and in evaluation mode: means over the images of all batches.
    Network and generators are afterwards as they were."""
    sums: dict[str, Tensor] = {}
    seen = 0
    with torch.no_grad(), evaluating(model), kept_random_numbers(device):
        torch.manual_seed(seed)
        for batch in batches:
            with autocast(device, precision):
                losses: Mapping[str, Tensor] = model.loss(batch.to(device))  # type: ignore[operator]
            seen += len(batch)
            for name, loss in losses.items():
                value = loss.float() * len(batch)
                sums[name] = sums[name] + value if name in sums else value
    return {name: value / seen for name, value in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)}


def loss_loader(plan: Plan, records: Sequence[Record], device: torch.device) -> Loader | None:
    """Images as training shows them, but without what it changes by chance: as predictions see them, of a segmenter
    crops of the training size at places that stay; None where nothing can be learned from these images."""
    settings, shape, dataset = plan.settings, plan.preprocessing, plan.dataset
    if shape.one_person:
        records = people_to_learn(dataclasses.replace(dataset, ledger=Ledger()), records)
        dataset = with_own_boxes(dataset, records)
    if not records:
        return None
    batch = max(1, settings.batch // (settings.accumulate * place_among_processes()[1]))
    order: Order = InOrder(settings.seed)
    per_identity = getattr(plan.config, "per_identity", 0)
    if per_identity:
        of_steps = identities_of_steps(np.array([r.label for r in records]), batch, per_identity, settings.seed)
        order, batch = of_steps, of_steps.p * of_steps.k
    workers = min(loader_workers(settings.workers, device, processes_here()), len(records) // batch)
    return Loader(dataset, records, plan.task, _still_view(plan), order, batch, Work(workers))


def _still_view(plan: Plan) -> View:
    border = getattr(plan.config, "border", 0.0)
    if plan.preprocessing.size is not None:
        return inference_view(plan.task, plan.preprocessing)
    view = training_view(plan.task, dataclasses.replace(plan.settings, **STILL))
    return view.then(BorderWeights(border)) if border > 0 else view


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, a network is in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
