"""Kernels for CPUs in plain Python, compiled by numba and kept on the disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel, error_model: Literal["python", "numpy"] = "python") -> Kernel:
    """A function of arrays and numbers as machine code that lets other threads run.

    It is kept beside the package, else below the user's home (or in NUMBA_CACHE_DIR). Where none of these can be
    written, as in a read-only container or a shared installation without a home, numba refuses to keep it, and it is
    compiled anew by each process.

    Args:
        error_model: "numpy" divides by zero as numpy does, to infinity or NaN; "python" raises, and checks for that.
    """
    try:
        return cast("Kernel", numba.njit(cache=True, nogil=True, error_model=error_model)(kernel))
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return cast("Kernel", numba.njit(nogil=True, error_model=error_model)(kernel))


def compiled_as_numpy(kernel: Kernel) -> Kernel:
    """`compiled` with numpy's rules for division by zero."""
    return compiled(kernel, "numpy")
