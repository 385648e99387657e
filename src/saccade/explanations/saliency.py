"""Saliency by the gradient: which pixels would change the score most if they changed a little.

Source: Simonyan, Vedaldi & Zisserman 2014, "Deep inside convolutional networks: Visualising image classification models
and saliency maps", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.tasks.contract import Scores


def saliency(images: Tensor, scores: Scores) -> Tensor:
    """The largest absolute derivative of each score by the three colours of each pixel.

    Args:
        images: [1, 3, H, W] in [0, 1].
        scores: differentiable (`raw_scores` of the task).

    Returns:
        [targets, H, W] float32, at least 0; units of the score for a change of a colour from 0 to 1.
    """
    with torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        values = scores(pixels)[0]
        gradients = [torch.autograd.grad(value, pixels, retain_graph=True)[0] for value in values]
    return torch.stack([g[0].abs().amax(0).float() for g in gradients]).cpu()
