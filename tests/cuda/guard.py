"""Loads the library of guard.cpp, whose path SACCADE_PLAYED_CUDA holds, before torch asks for its CUDA hooks (which it
does once)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path


def _folder(package: str) -> Path:
    """Of a package that need not be imported for it."""
    found = importlib.util.find_spec(package)
    assert found is not None
    return Path(str(found.origin)).parent


assert "torch" not in sys.modules, "import guard before torch"
ctypes.CDLL(str(_folder("torch") / "lib" / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(str(_folder("torch") / "lib" / "libtorch_cpu.so"))
ctypes.CDLL(os.environ["SACCADE_PLAYED_CUDA"])

PACKAGE = f"{_folder('saccade')}{os.sep}"
