"""RoIAlign on CPUs: numba kernels for the sums that `roi_align.roi_align_reference` states in torch.

The points of a bin form a grid, so that the weight of a pixel is the product of a weight of its row and one of its
column. Points that fall between the same pixels are counted together: where four points a bin read sixteen pixels, at
most as many different ones are multiplied, nine in a bin of a pixel and a half. Maps are channels last in memory, so
that the inner loops run over neighbouring channels; each region's result is turned while it is in the cache.

Letters: b images, c channels, H and W the map, n regions, h and w the output, P = h w bins.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from saccade.ops.compiled import compiled
from saccade.ops.threads import in_threads

_PAD = 16  # numbers between neighbouring rows of the buffer whose layout is turned: at 2^k rows share few cache sets


def forward(last: Tensor, regions: Tensor, rows: Tensor, out: Tensor, sampling_ratio: int) -> None:
    """Fill out[rows[i]] ([n, c, h, w], contiguous) from a map [b, H, W, c] and regions [i] as `roi_align._regions`
    (He et al. 2017, section 3)."""
    arrays = last.numpy(), regions.numpy(), rows.numpy(), out.numpy()

    def work(start: int, stop: int) -> None:
        _forward(*arrays, sampling_ratio, start, stop)

    in_threads(work, len(regions), len(regions) * out[0].numel() * 8)


def backward(gradient: Tensor, regions: Tensor, rows: Tensor, total: Tensor, sampling_ratio: int) -> None:
    """Add to total [b, H, W, c] what the gradient [n, c, h, w] (contiguous) of the regions says (He et al. 2017,
    section 3)."""
    arrays = gradient.numpy(), regions.numpy(), rows.numpy(), total.numpy()

    def work(start: int, stop: int) -> None:  # regions overlap, channels do not: threads never write the same number
        _backward(*arrays, sampling_ratio, start, stop)

    # Two shares: each works out all weights again.
    in_threads(work, total.shape[3], len(regions) * gradient[0].numel() * 8, shares=2)


@compiled
def _weigh(
    start: float, side: float, sampling_ratio: int, weight: np.ndarray, first: np.ndarray, last: np.ndarray
) -> None:
    """One axis of a region: bin p reads pixels first[p] <= x < last[p] with weight[p, x] ([bins, limit])."""
    bins, limit = weight.shape
    step = side / bins
    points = sampling_ratio if sampling_ratio > 0 else math.ceil(step)
    for p in range(bins):
        first[p], last[p] = 0, 0
        for s in range(points):
            place = start + p * step + (s + 0.5) * step / points
            if not (place >= -1 and place <= limit):
                continue
            place = min(max(place, 0.0), limit - 1.0)
            low = math.floor(place)
            high = min(low + 1, limit - 1)
            if last[p] == 0:
                first[p], last[p] = low, low
            while last[p] <= high:  # points come in order, so that the range only grows
                weight[p, last[p]] = 0
                last[p] += 1
            weight[p, low] += (1 - (place - low)) / points
            weight[p, high] += (place - low) / points


@compiled
def _taps(
    row_weight: np.ndarray,
    rows: tuple[int, int],
    column_weight: np.ndarray,
    columns: tuple[int, int],
    index: np.ndarray,
    weight: np.ndarray,
) -> int:
    """The pixels y W + x that one bin reads and their weights, from those of its rows and columns; returns how many."""
    taps = 0
    for y in range(rows[0], rows[1]):
        for x in range(columns[0], columns[1]):
            product = row_weight[y] * column_weight[x]
            if product != 0:
                index[taps] = y * len(column_weight) + x
                weight[taps] = product
                taps += 1
    return taps


@compiled
def _sum(target: np.ndarray, pixels: np.ndarray, index: np.ndarray, weight: np.ndarray, taps: int) -> None:
    """target [c] = the weighted sum of pixels [H W, c]; four at a time: fewer loads and stores of the target."""
    channels = len(target)
    whole = taps - taps % 4
    target[:] = 0
    for t in range(0, whole, 4):
        w0, w1, w2, w3 = weight[t], weight[t + 1], weight[t + 2], weight[t + 3]
        a, b, c, d = pixels[index[t]], pixels[index[t + 1]], pixels[index[t + 2]], pixels[index[t + 3]]
        for k in range(channels):
            target[k] += w0 * a[k] + w1 * b[k] + w2 * c[k] + w3 * d[k]
    for t in range(whole, taps):
        a, w0 = pixels[index[t]], weight[t]
        for k in range(channels):
            target[k] += w0 * a[k]


@compiled
def _forward(
    last: np.ndarray, regions: np.ndarray, rows: np.ndarray, out: np.ndarray, sampling_ratio: int, start: int, stop: int
) -> None:
    """Regions start..stop."""
    channels, height, width = out.shape[1:]
    row_weight, column_weight = np.empty((height, last.shape[1])), np.empty((width, last.shape[2]))
    top, bottom = np.empty(height, np.int64), np.empty(height, np.int64)
    left, right = np.empty(width, np.int64), np.empty(width, np.int64)
    index, weight = (
        np.empty(last.shape[1] * last.shape[2], np.int64),
        np.empty(last.shape[1] * last.shape[2], last.dtype),
    )
    pooled = np.empty((height * width, channels + _PAD), last.dtype)
    for i in range(start, stop):
        pixels = last[int(regions[i, 0])].reshape(-1, channels)
        _weigh(regions[i, 2], regions[i, 4], sampling_ratio, row_weight, top, bottom)
        _weigh(regions[i, 1], regions[i, 3], sampling_ratio, column_weight, left, right)
        for p in range(height):
            for q in range(width):
                taps = _taps(row_weight[p], (top[p], bottom[p]), column_weight[q], (left[q], right[q]), index, weight)
                _sum(pooled[p * width + q, :channels], pixels, index, weight, taps)
        target = out[rows[i]].reshape(channels, height * width)
        for k in range(channels):
            for p in range(height * width):
                target[k, p] = pooled[p, k]


@compiled
def _backward(
    gradient: np.ndarray,
    regions: np.ndarray,
    rows: np.ndarray,
    total: np.ndarray,
    sampling_ratio: int,
    start: int,
    stop: int,
) -> None:
    """Channels start..stop of total from all regions."""
    channels, height, width = gradient.shape[1:]
    row_weight, column_weight = np.empty((height, total.shape[1])), np.empty((width, total.shape[2]))
    top, bottom = np.empty(height, np.int64), np.empty(height, np.int64)
    left, right = np.empty(width, np.int64), np.empty(width, np.int64)
    index, weight = (
        np.empty(total.shape[1] * total.shape[2], np.int64),
        np.empty(total.shape[1] * total.shape[2], total.dtype),
    )
    pooled = np.empty((height * width, stop - start + _PAD), total.dtype)
    for i in range(len(regions)):
        pixels = total[int(regions[i, 0])].reshape(-1, channels)
        _weigh(regions[i, 2], regions[i, 4], sampling_ratio, row_weight, top, bottom)
        _weigh(regions[i, 1], regions[i, 3], sampling_ratio, column_weight, left, right)
        source = gradient[rows[i]].reshape(channels, height * width)
        for k in range(start, stop):
            for p in range(height * width):
                pooled[p, k - start] = source[k, p]
        for p in range(height):
            for q in range(width):
                taps = _taps(row_weight[p], (top[p], bottom[p]), column_weight[q], (left[q], right[q]), index, weight)
                for t in range(taps):
                    target, w, values = pixels[index[t]], weight[t], pooled[p * width + q]
                    for k in range(stop - start):
                        target[start + k] += w * values[k]
