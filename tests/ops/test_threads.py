from __future__ import annotations

import pytest
import torch

from saccade.ops.threads import in_threads


@pytest.mark.parametrize(("items", "threads", "cost"), [(0, 2, 10**9), (1, 2, 10**9), (7, 3, 10**9), (7, 3, 10)])
def test_every_item_once(items: int, threads: int, cost: int) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        in_threads(lambda start, stop: seen.extend(range(start, stop)), items, cost)
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == list(range(items))


def test_a_failure_in_a_thread_is_raised() -> None:
    def work(start: int, stop: int) -> None:
        if stop == 4:
            raise ValueError("the last share")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="the last share"):
            in_threads(work, 4, 10**9)
    finally:
        torch.set_num_threads(before)
