"""Sums over the processes of a data-parallel run."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_processes(count: Tensor | float) -> Tensor:
    """The mean of `count` (a tensor [] or a number) over all processes; `count` itself where there is only one; [].

    A loss that is normalised by a count (matched boxes, labelled pixels) divides by this, so that the mean of the
    gradients over processes equals the gradient of one process with the whole batch.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.3, remark 3; the count there is of images.
    """
    value = torch.as_tensor(count, dtype=torch.float32).detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value
