from __future__ import annotations

import pytest
import torch

from saccade.layers.response_norm import LocalResponseNorm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_strong_responses_of_half_types_stay_finite(dtype: torch.dtype) -> None:
    """The square of 3000 is infinite in float16; under autocast too nothing but the result is rounded."""
    x = (3000 * torch.rand(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    norm = LocalResponseNorm(5e-4, 0.75, 2.0)
    exact = x.detach().double().requires_grad_()
    squares = torch.nn.functional.pad(exact.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    expected = exact / (2.0 + 1e-4 * squares) ** 0.75
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=1e-3)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=0.02, atol=1e-3)  # type: ignore[union-attr]
