"""What names and corrects regions where it is solved for, not trained: an SVM and a ridge regression for each class.

The last part of R-CNN (Girshick et al. 2014, sections 2.3 and 3.5) and of SPP-net (He et al. 2014, section 4.2).
Letters: n regions, C classes, d features before the last layer, p pooled features of the last map.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SolvedHead(nn.Module):
    """The softmax layer of fine-tuning, and the SVMs and box regressions that take its place once they are solved.

    Sources: Girshick et al. 2014, section 2.3 and appendix C; He et al. 2014, section 4.2.

    These are buffers: no gradient reaches them. Until `solved` is 1 the softmax gives the scores; until the regressions
    are there their offsets are 0.

    Args:
        hidden: d.
        pooled: p.
        classes: C.
    """

    def __init__(self, hidden: int, pooled: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, classes + 1)  # background first
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)
        self.register_buffer("svm_weight", torch.zeros(classes, hidden))
        self.register_buffer("svm_bias", torch.zeros(classes))
        self.register_buffer("box_weight", torch.zeros(classes * 4, pooled))
        self.register_buffer("box_bias", torch.zeros(classes * 4))
        self.register_buffer("solved", torch.zeros(()))

    def forward(self, hidden: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, d] and [n, p] -> scores [n, C] in [0, 1] and offsets [n, C * 4], see `decode_boxes`; float32.

        The score is the logistic function of the SVM's margin, whose weights hold the slope and offset that make a
        probability of it (`solvers/linear.py: MinedSVM.calibrate`): the order within a class is that of the margins.
        """
        named = self.cls_score(hidden).float().softmax(1)[:, 1:]
        margins = _exact(hidden, self.get_buffer("svm_weight"), self.get_buffer("svm_bias"))
        scores = torch.where(self.get_buffer("solved") > 0, margins.sigmoid(), named)
        return scores, _exact(pooled, self.get_buffer("box_weight"), self.get_buffer("box_bias"))


def _exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer in float32 whatever the autocast type: margins rounded to bfloat16 would tie."""
    kind = x.device.type
    lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if lowered else nullcontext():
        return F.linear(x.float(), weight, bias)
