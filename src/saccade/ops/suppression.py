"""The last step of every detector: of boxes that overlap few stay, by the rule that whoever asks for answers has set.

`suppress` is what rooms call; the rule is that of `NmsRule()`, greedy NMS within each class, but inside
`with nms_rule(...)`, as `saccade predict --nms soft` computes: a scope like that of torch's autocast, so that no room
has code for it. Soft-NMS lowers the scores of boxes that overlap a better one instead of dropping them, so that of two
objects one behind the other both stay (Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV
2017). `_fade_reference` is it in plain torch, `_fade_compiled` the same in numba for CPUs.

Letters: n boxes, K the most that stay.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.errors import UsageError, suggest
from saccade.ops.boxes import box_iou
from saccade.ops.compiled import compiled_as_numpy
from saccade.ops.nms import batched_nms

FORMS = {
    "hard": "drops a box that overlaps a better one",
    "soft": "lowers its score by exp(-IoU^2 / sigma)",
    "soft_linear": "lowers its score by 1 - IoU",
}


@dataclass(frozen=True, slots=True)
class NmsRule:
    """How boxes suppress each other where a detector answers; soft: Bodla et al. 2017.

    Raises:
        UsageError: no such form, a number out of range, or one that the form has no use for.
    """

    form: str = "hard"  # of FORMS
    iou: float | None = None  # IoU from which boxes count as overlapping; None: the detector's own
    sigma: float | None = None  # soft: how far scores fall; None: 0.5, as in the paper
    agnostic: bool = False  # boxes of different classes suppress each other too

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"nms {self.form!r}: {suggest(self.form, FORMS)}")
        if self.iou is not None and not (isinstance(self.iou, Real) and 0 <= self.iou <= 1):
            raise UsageError(f"iou is {self.iou!r}, allowed: 0 to 1")
        if self.sigma is not None and not (isinstance(self.sigma, Real) and 0 < self.sigma < math.inf):
            raise UsageError(f"sigma is {self.sigma!r}, allowed: above 0")
        if self.iou is not None and self.form == "soft":
            raise UsageError("nms soft lowers scores by any IoU; iou is for hard and soft_linear")
        if self.sigma is not None and self.form != "soft":
            raise UsageError(f"sigma is for nms soft, not for {self.form}")

    def words(self) -> list[str]:
        """The options of the command line that say this; none where it is what holds anyway."""
        words = [] if self.form == "hard" else ["--nms", self.form]
        words += [] if self.iou is None else ["--iou", f"{self.iou:g}"]
        words += [] if self.sigma is None else ["--sigma", f"{self.sigma:g}"]
        return words + (["--agnostic-nms"] if self.agnostic else [])

    def to_json(self) -> dict[str, Any]:
        """For reports: `{form, iou, sigma, agnostic}`; `iou` None is the detector's own."""
        sigma = (0.5 if self.sigma is None else self.sigma) if self.form == "soft" else None
        return {"form": self.form, "iou": self.iou, "sigma": sigma, "agnostic": self.agnostic}


def rule_of(nms: NmsRule | str) -> NmsRule:
    """The rule that a word of FORMS stands for; a rule is itself. Raises UsageError."""
    return NmsRule(nms) if isinstance(nms, str) else nms


_USUAL = NmsRule()
_RULE: ContextVar[NmsRule] = ContextVar("nms_rule", default=_USUAL)
_LEAST: ContextVar[float] = ContextVar("least_score", default=0.0)


@contextlib.contextmanager
def nms_rule(rule: NmsRule, least_score: float = 0.0) -> Iterator[None]:
    """Inside this scope, and in this thread alone, `suppress` goes by `rule`, and `enough` asks for this score."""
    before, least = _RULE.set(rule), _LEAST.set(least_score)
    try:
        yield
    finally:
        _RULE.reset(before)
        _LEAST.reset(least)


def enough(scores: Tensor, threshold: float) -> Tensor:
    """Which scores [...] are above the detector's own threshold, and at least what the scope asks for: bool [...].

    The answer is that without the scope, cut at this score: no box changes one of a higher score, by any rule, so that
    those that nobody will see need not be sorted and compared (nor masks be computed for them).

    Source: Girshick et al. (R-CNN), CVPR 2014, section 2.2; soft: Bodla et al. 2017, figure 2 (boxes by falling score).
    """
    least = _LEAST.get()
    return scores >= least if least > threshold else scores > threshold


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int, least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Which boxes of one image stay, and with what scores: by greedy NMS within each class, or by the scope's rule.

    Args:
        boxes: [n, 4] x1 y1 x2 y2 in any unit.
        scores: [n] in [0, 1].
        labels: [n] integers.
        iou_threshold: the detector's own, in [0, 1].
        limit: K.
        least: boxes whose lowered score is not above this are dropped; of the scores given none is compared.

    Returns:
        rows [kept] int64 by falling score, kept <= K, and their scores [kept].

    Raises:
        ValueError: shapes do not fit, or the threshold is outside [0, 1].

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, section 2.2; soft: Bodla et al. 2017.
    """
    rule = _RULE.get()
    threshold = iou_threshold if rule.iou is None else rule.iou
    labels = torch.zeros_like(labels) if rule.agnostic else labels
    if rule.form == "hard":
        kept = batched_nms(boxes, scores, labels, threshold, limit)
        return kept, scores[kept]
    sigma = None if rule.form == "soft_linear" else 0.5 if rule.sigma is None else rule.sigma
    return soft_nms(boxes, scores, labels, threshold, limit, least, sigma)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    limit: int,
    least: float = 0.0,
    sigma: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the box of the highest score, lower those of its label that overlap it, and again with what is left.

    Args:
        boxes, scores, labels, limit, least: as in `suppress`. Of equal scores the lower index comes first.
        iou_threshold: linear: scores fall by 1 - IoU where the IoU is not below this (equation 2 of the paper).
        sigma: by exp(-IoU^2 / sigma) wherever boxes overlap (its equation 3); None: linear.

    Returns:
        rows [kept] int64 by falling lowered score, and these scores [kept].

    Source: Bodla et al., "Soft-NMS", ICCV 2017, figure 2.
    """
    if scores.shape != boxes.shape[:1] or labels.shape != scores.shape:
        raise ValueError(f"need scores and labels [{len(boxes)}], got {list(scores.shape)} and {list(labels.shape)}")
    fade = _fade_compiled if boxes.device.type == "cpu" else _fade_reference
    rows, values = fade(boxes.detach().double(), scores.detach().double(), labels, iou_threshold, limit, sigma)
    stays = values > least
    return rows[stays], values[stays].to(scores.dtype)


def _fade_reference(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int, sigma: float | None
) -> tuple[Tensor, Tensor]:
    """The first `limit` boxes and their lowered scores; nothing is asked of a GPU between two of them."""
    left, rows, values = scores.clone(), [], []
    for _ in range(min(limit, len(scores))):
        best = left.argmax(0, keepdim=True)  # the first of equals
        overlap = box_iou(boxes[best], boxes)[0]
        if sigma is None:
            share = torch.where(overlap >= iou_threshold, 1 - overlap, 1)
        else:
            share = (-overlap.square() / sigma).exp()
        rows.append(best)
        values.append(left[best])
        left = torch.where(labels == labels[best], left * share, left).index_fill(0, best, -1.0)
    if not rows:
        return labels.new_zeros(0, dtype=torch.int64), scores.new_zeros(0)
    return torch.cat(rows), torch.cat(values)


def _fade_compiled(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int, sigma: float | None
) -> tuple[Tensor, Tensor]:
    """`_fade_reference` for CPU tensors."""
    groups = labels.to(torch.int64).contiguous().numpy()
    corners, left = boxes.contiguous().numpy(), scores.clone().numpy()
    rows, values = _fade(corners, left, groups, float(iou_threshold), limit, -1.0 if sigma is None else sigma)
    return torch.from_numpy(rows), torch.from_numpy(values)


@compiled_as_numpy
def _fade(
    boxes: np.ndarray, left: np.ndarray, groups: np.ndarray, threshold: float, limit: int, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """One pass over the boxes for each that is taken: scores are lowered and the next best is found at once. `left`
    [n] is overwritten; a box that is taken has -1. `sigma` below 0: linear."""
    n = len(boxes)
    rows, values = np.empty(min(n, limit), np.int64), np.empty(min(n, limit), np.float64)
    best = 0
    for i in range(1, n):
        if left[i] > left[best]:
            best = i
    for count in range(len(rows)):
        rows[count], values[count] = best, left[best]
        left[best] = -1.0
        taken, following = best, best
        area = max(boxes[taken, 2] - boxes[taken, 0], 0.0) * max(boxes[taken, 3] - boxes[taken, 1], 0.0)
        for i in range(n):
            if left[i] < 0:
                continue
            if groups[i] == groups[taken]:
                width = min(boxes[i, 2], boxes[taken, 2]) - max(boxes[i, 0], boxes[taken, 0])
                height = min(boxes[i, 3], boxes[taken, 3]) - max(boxes[i, 1], boxes[taken, 1])
                overlap = 0.0
                if width > 0 and height > 0:
                    own = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
                    overlap = width * height / (own + area - width * height)
                if sigma >= 0:
                    left[i] *= math.exp(-overlap * overlap / sigma)
                elif overlap >= threshold:
                    left[i] *= 1 - overlap
            if left[i] > left[following]:
                following = i
        best = following
    return rows, values
