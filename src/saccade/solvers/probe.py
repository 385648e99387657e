"""The output layer of a network by logistic regression on what comes before it, for training and for transfer.

A fresh output layer sends large gradients through a trained network and spoils its features; one that is fitted already
does not. Source: Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution"
(linear probing then fine-tuning).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.models.contract import Room
from saccade.models.dry_run import class_tensors
from saccade.models.stage import Given
from saccade.solvers.choice import check_enough, choose_probe
from saccade.solvers.features import Features, compute_features, output_layer, refuse_fresh
from saccade.solvers.linear import Probe
from saccade.tasks.table import find_task


def solve_probe(module: Room, given: Given) -> dict[str, Tensor]:
    """The output layer that classifies or tags the training images best from the network's features.

    Its strength is chosen by cross-validation on these images and their mirror images.

    Raises:
        UsageError: the network does not end in a linear layer, or not all before it has given weights.
        DataError: too few images of a class.
    """
    network = given.network
    config, task = network.config, str(network.config.task)  # type: ignore[union-attr]
    refuse_fresh(set(given.fresh) - class_tensors(module, config), "the weights given")
    head = output_layer(module, config, network)
    first: list[Batch] = []
    truths: list[Annotation] = []

    def seen() -> Iterator[Batch]:
        for batch in given.batches():
            first[:] = first or [batch]
            truths.extend(batch.truth or [])
            yield batch

    features = compute_features(network, head, seen(), given.device)
    targets = targets_of(truths, len(given.classes), task)
    check_enough("train", given.classes, targets, task)
    choice = choose_probe("logistic", features.top, features.top_mirrored, targets, task, given.seed)
    layer = network.get_submodule(head)
    choice.probe.put_into(layer)
    check_linear(network, choice.probe, features, first[0])
    measured = "accuracy" if find_task(task).label else "mean average precision"
    given.show(
        f"{head} by logistic regression on {features.top.shape[1]} features of {len(targets)} images, C = "
        f"{choice.probe.strength:g}: {measured} {choice.value:.4f} in cross-validation"
    )
    return {f"{head}.{name}": tensor for name, tensor in layer.state_dict().items()}


def targets_of(truths: Sequence[Annotation], classes: int, task: str) -> np.ndarray:
    """What holds of each image, [images, classes] bool; for classify one a row."""
    rows = np.zeros((len(truths), classes), bool)
    for row, truth in zip(rows, truths, strict=True):
        if find_task(task).label:
            row[truth.label] = True
        elif truth.tags is not None:
            row[:] = truth.tags.numpy()
    return rows


@torch.inference_mode()
def check_linear(network: nn.Module, probe: Probe, features: Features, batch: Batch) -> None:
    """Whether the network's answer to some images is that of the probe in its output layer.

    Raises:
        UsageError: it is not, as something follows on the output layer.
    """
    device = next(network.parameters()).device
    answer = network.eval()(batch.to(device).images).double().cpu().numpy()
    expected = probe.scores(features.top[[features.ids.index(name) for name in batch.ids]])
    off = answer - expected
    if find_task(network.config.task).label:  # type: ignore[union-attr, arg-type]
        off -= off.mean(1, keepdims=True)  # a softmax does not see it
    gap = float(np.abs(off).max())
    if gap > 1e-2 * (1 + float(np.abs(expected).max())):
        room = type(network).__module__.rpartition(".")[2]
        raise UsageError(
            f"{room} changes what its output layer says (by up to {gap:.3g}), so "
            "that a linear classifier on its features is no network of this kind; use another model"
        )
