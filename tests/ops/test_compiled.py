"""Kernels are compiled with and without a place where they can be kept."""

from __future__ import annotations

import numba.core.caching
import numpy as np
import pytest

from saccade.ops.compiled import compiled, compiled_as_numpy


def shares(parts: np.ndarray, whole: float) -> np.ndarray:
    out = np.empty_like(parts)
    for i in range(len(parts)):
        out[i] = parts[i] / whole
    return out


def quotients(parts: np.ndarray, whole: float) -> np.ndarray:
    """As `shares`; numba keeps one form of a function, whatever its rules."""
    out = np.empty_like(parts)
    for i in range(len(parts)):
        out[i] = parts[i] / whole
    return out


@pytest.mark.parametrize("kept", [True, False])
def test_kernels_need_no_place_to_be_kept(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where package and home are read-only."""
    if not kept:
        monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    np.testing.assert_array_equal(compiled(shares)(np.ones(2), 4.0), [0.25, 0.25])
    assert np.isinf(compiled_as_numpy(quotients)(np.ones(2), 0.0)).all()
    with pytest.raises(ZeroDivisionError):
        compiled(shares)(np.ones(2), 0.0)
