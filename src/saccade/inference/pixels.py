"""What is made of a segmenter's scores: a class for every pixel.

Two steps, so that large pictures are read in tiles (`inference/tiles.py`): `planes` reads each pixel by itself and
keeps a few bytes of it, `answer` looks at the whole.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from saccade.data.types import Annotation


class Pixels(Protocol):
    """A way to read the scores of pixels."""

    def planes(self, scores: Tensor) -> Tensor:
        """Scores [b, C, h, w] before softmax -> [b, k, h, w] uint8, what is kept of each pixel."""

    def answer(self, planes: Tensor) -> Annotation:
        """The answer for one image of its planes [k, h, w], in their pixels."""


class ClassMaps:
    """The most probable class of every pixel."""

    def planes(self, scores: Tensor) -> Tensor:
        """As `Pixels`, k = 1."""
        return scores.argmax(1, keepdim=True).to(torch.uint8)

    def answer(self, planes: Tensor) -> Annotation:
        """The class map."""
        return Annotation((planes.shape[1], planes.shape[2]), semantic=planes[0])
