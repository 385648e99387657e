"""A trained model that answers: `saccade.load(run).predict(image)`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from saccade import checkpoint
from saccade.data.loader import collate
from saccade.data.packing import pack, unpack
from saccade.data.pipelines import Preprocessing, to_original
from saccade.data.types import Annotation, Batch, Sample
from saccade.data.views import inference_view
from saccade.errors import ModelFileError, UsageError
from saccade.inference.fuse import prepare_for_inference
from saccade.machine.device import autocast, has_fast_bf16, pick_device
from saccade.machine.memory import keep_freed_memory
from saccade.machine.paths import at_home
from saccade.models import catalogue, model_module
from saccade.models.configs import config_from_json, unknown_fields
from saccade.models.dry_run import model_of_shapes
from saccade.version import __version__

ROOM = 2**24  # numbers that a network may hold besides as many as its weights: priors, masks of positions


class Predictor:
    """A model with its classes and preprocessing, on a device, ready to answer.

    It answers by a copy that is faster (`inference.fuse.prepare_for_inference`); the model itself is left as it is.

    Args:
        model: a network with `predict(batch)`.
        task: name of the task (tasks/table.py).
        classes: names in the order of the labels.
        preprocessing: how images are brought to the network.
        device: where to compute.
        precision: "fp32", "bf16", or "auto": bf16 where the hardware multiplies it natively.
        thresholds: tag: the probability from which each class is given; none: what the model says (0.5).
    """

    def __init__(
        self,
        model: nn.Module,
        task: str,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        thresholds: Sequence[float] = (),
    ) -> None:
        self.device = pick_device(device)
        if precision not in ("auto", "fp32", "bf16"):
            raise UsageError(f"precision {precision!r} for prediction, allowed: auto, fp32, bf16")
        self.precision = ("bf16" if has_fast_bf16(self.device) else "fp32") if precision == "auto" else precision
        if any(tensor.device != self.device for tensor in model.parameters()):
            model = copy.deepcopy(model).to(self.device)
        self.network = prepare_for_inference(model, torch.bfloat16 if self.precision == "bf16" else torch.float32)
        keep_freed_memory()
        self.task = task
        self.classes = list(classes)
        self.preprocessing = preprocessing
        self.view = inference_view(task, preprocessing)
        self.thresholds = tuple(thresholds)

    def predict(self, image: str | Path | np.ndarray) -> Annotation:
        """Answer for one image, in pixels of the upright original.

        Args:
            image: a file, or an array [H, W, 3] uint8 RGB.

        Raises:
            DataError: the file is not an image that can be read.
            UsageError: the array is not [H, W, 3] uint8.
        """
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise UsageError(f"an image array must be [H, W, 3] uint8 RGB, got {list(image.shape)} {image.dtype}")
            size = (image.shape[0], image.shape[1])
            sample = self.view.apply(Sample(image, Annotation(size), "", size))
        else:
            sample = self.view.read(Path(at_home(image)))
        return next(iter(self.predict_batches([collate([sample])])))[1]

    @torch.inference_mode()
    def predict_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[str, Annotation]]:
        """Id and answer of every image, in order; coordinates and maps in pixels of the originals."""
        for batch in batches:
            with autocast(self.device, self.precision):
                answers = self.network.predict(batch.to(self.device))  # type: ignore[operator]
            if self.device.type != "cpu":
                buffer, layout = pack(answers)
                answers = unpack(buffer.cpu(), layout)  # one copy, one wait
            for index, answer in enumerate(answers):
                self.decide(answer)
                yield batch.ids[index], to_original(answer, batch, index)

    def decide(self, answer: Annotation) -> None:
        """Give the tags whose probability reaches their threshold, where the model has thresholds."""
        if self.thresholds and answer.tags is not None and answer.scores is not None:
            answer.tags = answer.scores >= torch.tensor(self.thresholds)


def load(run: str | Path, device: str | torch.device | None = None, precision: str = "auto") -> Predictor:
    """The trained model of a run folder or checkpoint file.

    Raises:
        ModelFileError: see `checkpoint.load`; also for an unknown model, or weights that do not fit it.
        UsageError: no such device.
    """
    path = checkpoint.find(at_home(run))
    state = checkpoint.load(path)
    model, preprocessing = build(state, path), preprocessing_in(state, path)
    return Predictor(model, state.task, state.classes, preprocessing, pick_device(device), precision, state.thresholds)


def preprocessing_in(state: checkpoint.Checkpoint, path: Path) -> Preprocessing:
    """How a checkpoint wants its images. Raises ModelFileError where it does not say, or thresholds do not fit."""
    try:
        preprocessing = Preprocessing.from_json(state.preprocessing)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    if state.thresholds and len(state.thresholds) != len(state.classes):
        raise ModelFileError(f"{path}: {len(state.thresholds)} thresholds for {len(state.classes)} classes")
    return preprocessing


def build(state: checkpoint.Checkpoint, path: Path) -> nn.Module:
    """The network of a checkpoint with its weights. Raises ModelFileError."""
    if state.model not in catalogue():
        raise ModelFileError(f"{path}: made by a model that this Saccade does not know: {state.model!r}")
    module = model_module(state.model)
    maker = f"Saccade {state.versions.get('saccade', 'of unknown version')}"
    unknown = unknown_fields(module, state.model, state.config)
    if unknown:
        raise ModelFileError(
            f"{path}: made by {maker}, whose {state.model} has settings that Saccade {__version__} does not know: "
            f"{', '.join(unknown)}. Use that version or a newer one"
        )
    if state.task not in module.TASKS or state.config.get("classes") != len(state.classes):
        raise ModelFileError(
            f"{path}: a model of {state.config.get('classes')} classes to {state.task!r} with {len(state.classes)} "
            f"class names; {state.model} serves {', '.join(module.TASKS)}, with a name for each class"
        )
    try:
        config = config_from_json(module, state.model, state.config)
        shapes = model_of_shapes(module, config, len(state.weights))
    except Exception as error:  # a configuration that is not ours may raise anything
        raise ModelFileError(f"{path}: {maker}'s configuration of {state.model} does not fit ({error})") from error
    kept, tables = (sum(t.numel() for t in tensors) for tensors in (state.weights.values(), shapes.buffers()))
    try:
        _compare(shapes.state_dict(), state.weights, path)  # before a network that is not this one takes memory
        if tables > kept + ROOM:
            raise UsageError(f"{path}: tables of {tables:,} numbers beside weights of {kept:,}; the file is damaged")
        model: nn.Module = module.Model(config)
        fit_weights(model, state.weights, path)
    except UsageError as error:  # here the file contradicts itself
        raise ModelFileError(str(error)) from error
    return model


def fit_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Give the model weights that must fit exactly. Raises UsageError with the first keys that do not."""
    expected = model.state_dict()
    _compare(expected, weights, path)
    # The tensors themselves become the parameters: large networks are not held twice.
    fitting = {name: value.to(expected[name].dtype) for name, value in weights.items()}
    model.load_state_dict(fitting, assign=True)


def _compare(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], path: Path) -> None:
    """Raises UsageError where names or shapes differ."""
    missing = sorted(set(expected) - set(weights))
    foreign = sorted(set(weights) - set(expected))
    shapes = [
        f"{name} {list(weights[name].shape)}, expected {list(expected[name].shape)}"
        for name in sorted(set(weights) & set(expected))
        if weights[name].shape != expected[name].shape
    ]
    if missing or foreign or shapes:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:10])}"
            for what, names in (("missing", missing), ("unexpected", foreign), ("of another shape", shapes))
            if names
        ]
        raise UsageError(f"{path}: weights of another architecture; " + "; ".join(parts))
