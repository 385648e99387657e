"""A network as a file answers that `export` writes: named tensors of fixed shapes, and how two such answers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from saccade.ops.boxes import box_iou
from saccade.tasks.contract import Inputs, task_of
from saccade.tasks.table import find_task

NEAR = 0.95  # IoU from which two boxes of one class are one answer
TOLERANCE = 1e-3  # largest difference of a number, relative to the largest of its kind where that is above 1
STRAYS = 0.01  # largest share of pixels, objects or joints that may differ: a tie of two classes, or of two neighbours


class Exported(nn.Module):
    """The network with what its task makes of it behind: images [b, 3, H, W] in [0, 1] to the tensors named `names`.

    Args:
        model: in evaluation mode.
        task: whose file says what the outputs are (`tasks/contract.py: outputs`).
        proposals: whether it is given boxes, behind the sizes.
        suppressed: detect: boxes after non-maximum suppression, or those before it.
    """

    def __init__(self, model: nn.Module, task: str, proposals: bool = False, suppressed: bool = True) -> None:
        super().__init__()
        self.model, self.task, self.suppressed = model, task, suppressed
        self.inputs = ["images", *(["sizes"] if find_task(task).objects else []), *(["proposals"] if proposals else [])]
        self.names: list[str] = []

    def forward(self, images: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        sizes = more[0] if "sizes" in self.inputs else images.new_zeros(images.shape[0], 2, dtype=torch.int64)
        sees = Inputs(images, sizes, more[1:])
        found = task_of(self.task).outputs(self.model, sees, self.suppressed)
        self.names = list(found)
        return tuple(value.contiguous() for value in found.values())


def largest_difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """How far the answers of one network, computed in two ways, lie apart: at most TOLERANCE where they are equal.

    Numbers are compared one by one; the classes of pixels and objects of many by the share that differs, of which
    STRAYS counts as TOLERANCE, since a tie may fall either way. So it is with joints.
    """
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in wanted.items()}:
        return float("inf")
    if "labels" in wanted:
        whole = {name: value for name, value in wanted.items() if value.shape[:2] != wanted["labels"].shape}
        return max([_of_objects(found, wanted), *(_of_numbers(found[name], value) for name, value in whole.items())])
    return max(
        _share(found[name] != value) if not value.is_floating_point() else _of_numbers(found[name], value)
        for name, value in wanted.items()
    )


def _share(wrong: Tensor) -> float:
    return float(wrong.double().mean()) * TOLERANCE / STRAYS


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """How far each number lies from the one that is wanted, relative to the largest of these where that is above 1;
    infinitely far where it is not finite."""
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    return ((found - wanted).abs() / scale).where(found.isfinite(), float("inf"))


def _of_numbers(found: Tensor, wanted: Tensor) -> float:
    return float(_apart(found, wanted).max()) if wanted.numel() else 0.0


def _of_joints(found: Tensor, wanted: Tensor) -> float:
    """Of joints [n, joints, 3], which are cells of a map with the largest value: the share that lies elsewhere."""
    apart = _apart(found, wanted)
    if not bool(apart.isfinite().all()):
        return float("inf")
    return _share((apart > TOLERANCE).any(-1)) if wanted.numel() else 0.0


def _of_objects(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Of objects, each beside the one that it comes nearest to: the largest difference of a number, or the share of
    those that have none."""
    alone, many, most = 0, 0, 0.0
    for i in range(len(wanted["labels"])):
        rows = [(a["boxes"][i, :, 2] > a["boxes"][i, :, 0]).nonzero()[:, 0] for a in (found, wanted)]
        mine, theirs = (
            {name: each[i, r] for name, each in a.items() if each.shape[:2] == a["labels"].shape}
            for a, r in zip((found, wanted), rows, strict=True)
        )
        pairs = _pairs(mine, theirs)
        many += len(rows[0]) + len(rows[1])
        alone += len(rows[0]) + len(rows[1]) - 2 * len(pairs)
        numbers = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        for name, values in theirs.items():
            compare = _of_joints if name == "keypoints" else _of_numbers
            most = max(most, compare(mine[name][numbers[:, 0]].double(), values[numbers[:, 1]].double()))
    return max(most, alone / max(many, 1) * TOLERANCE / STRAYS)


def _pairs(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Sequence[tuple[int, int]]:
    """Rows of one class and nearly one box, each taken once; the surest first."""
    ours, others = mine["boxes"].double(), theirs["boxes"].double()
    near = box_iou(ours, others)
    if near.numel():  # of a box thinner than rounding the IoU says nothing
        apart = (ours[:, None] - others).abs().amax(-1) / others.abs().max().clamp(min=1)
        near = near.masked_fill(apart <= TOLERANCE, 1.0).where(near < NEAR, near)
    near = near.masked_fill(mine["labels"][:, None] != theirs["labels"], 0.0)
    pairs = []
    for i in range(len(near)):
        if near.shape[1] and float(near[i].max()) >= NEAR:
            j = int(near[i].argmax())
            pairs.append((i, j))
            near[:, j] = 0.0
    return pairs
