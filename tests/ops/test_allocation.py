from __future__ import annotations

import pytest
import torch

from saccade.ops.allocation import empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_is_an_ordinary_tensor(dtype: torch.dtype) -> None:
    made = empty((2, 0, 3), dtype)
    assert made.shape == (2, 0, 3)
    large = empty((1000, 2000), dtype).fill_(3)
    assert large.dtype == dtype
    assert large.is_contiguous()
    assert large.sum().item() == 6_000_000
