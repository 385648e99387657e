"""Threads for kernels that release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


def in_threads(work: Callable[[int, int], None], items: int, cost: int) -> None:
    """work(start, stop) over 0..items, in torch's number of threads where the cost (multiplications) pays for them.

    Plain threads around kernels that release the interpreter's lock: no second OpenMP runtime beside torch's, and safe
    after a fork.
    """
    threads = min(torch.get_num_threads(), items) if cost > 1_000_000 else 1
    if threads <= 1:
        work(0, items)
        return
    edges = [items * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as pool:  # the calling thread takes the first share
        jobs = [pool.submit(work, low, high) for low, high in pairwise(edges[1:])]
        work(edges[0], edges[1])
        for job in jobs:
            job.result()
