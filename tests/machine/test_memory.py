from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from saccade.machine.memory import hand_back_memory, keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros({megabytes} << 20, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults(20)
kept = faults(10)
hand_back_memory()
print(kept, faults(1))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
@pytest.mark.parametrize("megabytes", [8, 100])
def test_freed_memory_is_used_again_until_it_is_handed_back(megabytes: int) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS.format(megabytes=megabytes)], capture_output=True, text=True, check=True
    )
    kept, after = map(int, answer.stdout.split())
    huge = 512  # pages of 4 kB in a huge page, of which the system may give some
    assert kept < megabytes * 256 / 10  # ten times; a megabyte has 256 pages
    assert after >= megabytes * 256 / huge
