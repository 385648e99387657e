from __future__ import annotations

import resource
import sys

import pytest
import torch

from saccade.training.memory import freed_memory_kept

MEGABYTES = 8


def faults(times: int) -> int:
    """Pages that the system had to give while a map was made and dropped so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(MEGABYTES << 20, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    with freed_memory_kept():
        faults(2)
        assert faults(10) < 2 * MEGABYTES * 256  # what two of the ten take; a megabyte has 256 pages


def test_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="inner"), freed_memory_kept():
        raise ValueError("inner")
