"""Which convolutions does this processor's torch get wrong? Outputs and gradients against those in float64.

    python benchmarks/convolution_gradients.py [--cases 1000] [--mended] [--seconds 60]

Sweeps channels, strides, groups, kernels, dilation, layouts, threads and number formats, plain and transposed. Cases
are computed in child processes, so that a crash or a hang is a line of the result too; with glibc's
`libc_malloc_debug`, where the system has it, also what writes past its memory. Status 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade.ops.conv_gradients import mend

CHECKS = "libc_malloc_debug.so.0"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.04}  # of the largest value; sums are over at most 2,048 places
TOGETHER = 50  # cases a process


class Case(NamedTuple):
    transposed: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: int
    channels: int  # in a group
    out: int  # in a group
    groups: int
    side: int
    layout: torch.memory_format
    dtype: torch.dtype
    threads: int

    def __str__(self) -> str:
        kind = "transposed" if self.transposed else "convolution"
        layout = "channels last" if self.layout == torch.channels_last else "plain"
        height, width = self.kernel
        return (
            f"{kind} {height}x{width} stride {self.stride} dilation {self.dilation}, {self.groups} x "
            f"({self.channels} -> {self.out}) channels, {self.side} px, {layout}, {self.dtype}, threads {self.threads}"
        )


def cases() -> Iterator[Case]:
    """What networks are made of, with channel counts around the widths of vectors (4, 8, 16)."""
    layouts, dtypes, threads = (torch.channels_last, torch.contiguous_format), (torch.float32, torch.bfloat16), (1, 2)
    ways = list(itertools.product(layouts, dtypes, threads))
    kernels = [((1, 1), 1), ((3, 3), 1), ((5, 5), 1), ((7, 7), 1), ((1, 3), 1), ((3, 1), 1), ((2, 2), 1), ((3, 3), 2)]
    strides = [(1, 1), (2, 2), (3, 3), (1, 2), (2, 1)]
    counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 63, 64]
    for (kernel, dilation), stride, channels in itertools.product(kernels, strides, counts):
        for out, groups, side in ((channels, 1, 8), (2 * channels, 1, 15), (7, 1, 32), (channels, 4, 8), (16, 2, 9)):
            for way in ways:
                yield Case(False, kernel, stride, dilation, channels, out, groups, side, *way)
    for multiplier, stride, ((kernel, dilation), groups) in itertools.product(
        (1, 2), strides, itertools.product(kernels, (3, 8, 12, 16, 24, 40))
    ):
        for way in ways:
            yield Case(False, kernel, stride, dilation, 1, multiplier, groups, 15, *way)
    for kernel, stride, channels in itertools.product(((1, 1), (2, 2), (3, 3), (4, 4)), ((1, 1), (2, 2)), counts):
        for way in ways:
            yield Case(True, kernel, stride, 1, channels, max(1, channels // 2), 1, 8, *way)


def layer_of(case: Case) -> nn.Conv2d | nn.ConvTranspose2d:
    kind = nn.ConvTranspose2d if case.transposed else nn.Conv2d
    inside, out = case.channels * case.groups, case.out * case.groups
    height, width = (case.dilation * (size - 1) // 2 for size in case.kernel)
    return kind(inside, out, case.kernel, case.stride, (height, width), dilation=case.dilation, groups=case.groups)


def answers(layer: nn.Module, x: Tensor, layout: torch.memory_format, upstream: Tensor | None) -> list[Tensor]:
    """Output, and the gradients of input, weights and bias."""
    layer = layer.to(memory_format=layout)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=layout).requires_grad_()
    y = layer(x)
    y.backward(torch.ones_like(y) if upstream is None else upstream.to(y.dtype))
    found = [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]
    return [each.double() for each in found if each is not None]


def compare(case: Case, mended: bool) -> str:
    """What is wrong, in words; empty where nothing is."""
    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    layer = layer_of(case).to(case.dtype)
    x = torch.randn(2, case.channels * case.groups, case.side, case.side).to(case.dtype)
    exact = layer_of(case).double()
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        upstream = torch.randn(exact(x.double()).shape).to(case.dtype)
    if mended:
        mend(layer)
    expected = answers(exact, x.double(), torch.contiguous_format, upstream)
    found = answers(layer, x, case.layout, upstream)
    wrong = []
    for name, one, other in zip(("output", "d input", "d weights", "d bias"), found, expected, strict=True):
        difference = float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
        if not difference <= TOLERANCE[case.dtype]:
            wrong.append(f"{name} {difference:.2g} off")
    return ", ".join(wrong)


def apart(cases: list[Case], mended: bool, seconds: float) -> list[str]:
    """`compare` for each case in a process of their own; where that ends or hangs, for each in one of its own."""
    context = multiprocessing.get_context("fork")  # torch is imported once, and has started no threads here
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # glibc's own words at an abort
        for case in cases:
            theirs.send(compare(case, mended))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    found: list[str] = []
    with contextlib.suppress(EOFError):  # it has ended before its last answer
        while len(found) < len(cases) and ours.poll(seconds):
            found.append(str(ours.recv()))
    hangs = len(found) < len(cases) and process.is_alive() and not ours.poll(0)
    if hangs:
        process.kill()
    process.join()
    status = process.exitcode or 0
    if status == 0:
        return found
    if len(cases) > 1:
        return [apart([case], mended, seconds)[0] for case in cases]
    ending = signal.Signals(-status).name if status < 0 else f"status {status}"
    return ["hangs" if hangs else ending]


def with_checked_memory() -> None:
    """Start again with glibc's checks of the heap, where they can be had."""
    if CHECKS in os.environ.get("LD_PRELOAD", ""):
        return
    try:
        ctypes.CDLL(CHECKS)
    except OSError:
        print(f"no {CHECKS} here: what writes past its memory shows only where it crashes or errs")
        return
    os.environ.update(LD_PRELOAD=CHECKS, MALLOC_CHECK_="3")
    os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="so many, drawn by chance but the same every time")
    parser.add_argument("--mended", action="store_true", help="as training on a CPU computes (ops/conv_gradients.py)")
    parser.add_argument("--seconds", type=float, default=60, help="a case that takes longer hangs")
    options = parser.parse_args()
    with_checked_memory()
    every = list(cases())
    swept = random.Random(0).sample(every, min(options.cases, len(every)))
    wrong: Counter[str] = Counter()
    groups = [swept[i : i + TOGETHER] for i in range(0, len(swept), TOGETHER)]
    results = (apart(some, options.mended, options.seconds) for some in groups)
    for case, what in zip(swept, itertools.chain.from_iterable(results), strict=True):
        if what:
            wrong[what.split()[0]] += 1
            print(f"{what}: {case}", flush=True)
    print(f"{sum(wrong.values())} of {len(swept)} cases are wrong {dict(wrong) or ''}; torch {torch.__version__}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
