"""What networks that embed share behind their last layer: vectors as answers, and learned similarities of two.

Vectors have length 1, so that one serves the cosine and, scaled by the root of their length, a learned similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation

Similarity = Literal["cosine", "weighted_l1", "chi_square"]
ROWS = 2**24  # numbers that one step of a comparison holds


def embedding_answers(vectors: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Annotation]:
    """Vectors [b, d] of length 1 as annotations of images of `sizes` (height, width); float32."""
    vectors = vectors.detach().float()
    return [Annotation(size, embedding=vector) for size, vector in zip(sizes, vectors, strict=True)]


def parts_apart(a: Tensor, b: Tensor, kind: Similarity) -> Tensor:
    """How far apart each number of two vectors is, of vectors [..., d]: |a - b|, or (a - b)^2 / (a + b).

    The second is for numbers of at least 0; where both are 0 it is 0. Sources: Taigman et al. 2014, "DeepFace",
    sections 4.1 and 4.2.
    """
    if kind == "weighted_l1":
        return (a - b).abs()
    return (a - b).square() / (a + b).clamp(min=1e-6)


class LearnedSimilarity(nn.Module):
    """The probability that two vectors are of one identity: sigmoid(bias - sum_i weight_i apart_i) (`parts_apart`).

    Sources: weighted L1, Koch et al. 2015, section 3.1, and Taigman et al. 2014, section 4.2; weighted chi-square,
    there in section 4.1. Weights are written with their sign turned and begin above 0: all numbers count the same.

    Args:
        length: d.
        kind: "weighted_l1" or "chi_square", which takes vectors of numbers of at least 0.
    """

    def __init__(self, length: int, kind: Similarity) -> None:
        super().__init__()
        self.kind = kind
        self.root = length**0.5
        self.weight = nn.Parameter(torch.full((length,), 4 / length))
        self.bias = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits [n, m] of vectors [n, d] and [m, d] of length 1."""
        rows = max(1, ROWS // max(1, b.numel()))
        weight = self.weight.float()
        a, b = self.root * a.float(), self.root * b.float()
        parts = [parts_apart(some[:, None], b[None], self.kind) @ weight for some in a.split(rows)]
        return self.bias.float() - torch.cat(parts)
