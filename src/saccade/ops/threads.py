"""Threads for kernels that release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


def in_threads(work: Callable[[int, int], None], items: int, cost: int, shares: int = 8) -> None:
    """work(start, stop) over 0..items, in torch's number of threads where the cost (multiplications) pays for them.

    Plain threads around kernels that release the interpreter's lock: no second OpenMP runtime beside torch's, and safe
    after a fork. Each thread gets `shares` parts on average, one after the other, so that a thread which the machine
    holds up does not hold up the rest.
    """
    threads = min(torch.get_num_threads(), items) if cost > 1_000_000 else 1
    if threads <= 1:
        work(0, items)
        return
    parts = min(threads * shares, items)
    edges = [items * i // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(work, low, high) for low, high in pairwise(edges)]:
            job.result()
