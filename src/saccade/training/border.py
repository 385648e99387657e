"""U-Net's weight between touching things, made where the samples are made: in the loader's processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from saccade.data.types import Sample
from saccade.losses.segmentation import border_weights


@dataclass(frozen=True)
class BorderWeights:
    """The last transform of a segmenter that weighs pixels: fills `Annotation.weights`."""

    strength: float  # the paper: 10

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A sample with a class map; nothing here is random."""
        assert sample.truth.semantic is not None
        extra = torch.from_numpy(border_weights(sample.truth.semantic.numpy(), self.strength))
        return replace(sample, truth=replace(sample.truth, weights=extra + 1))
