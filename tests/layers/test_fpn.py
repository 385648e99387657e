from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from saccade.layers.fpn import FeaturePyramid, assign_levels


@pytest.mark.parametrize(
    ("channels", "parameters"), [((256, 512, 1024, 2048), 3_344_384), ((512, 1024, 2048), 2_688_512)]
)
def test_counts(channels: tuple[int, ...], parameters: int) -> None:
    assert sum(p.numel() for p in FeaturePyramid(channels, 256).parameters()) == parameters


def test_sums_from_above() -> None:
    fpn = FeaturePyramid([2, 3], 4)
    maps = [torch.randn(1, 2, 7, 5), torch.randn(1, 3, 4, 3)]  # odd sizes: the upper map is not exactly half
    levels = fpn(maps)
    assert [tuple(level.shape) for level in levels] == [(1, 4, 7, 5), (1, 4, 4, 3), (1, 4, 2, 2)]
    coarse = F.conv2d(maps[1], fpn.inner_blocks[1][0].weight, fpn.inner_blocks[1][0].bias)
    rows, columns = torch.arange(7) * 4 // 7, torch.arange(5) * 3 // 5
    fine = (
        F.conv2d(maps[0], fpn.inner_blocks[0][0].weight, fpn.inner_blocks[0][0].bias) + coarse[:, :, rows][..., columns]
    )
    torch.testing.assert_close(levels[0], fpn.layer_blocks[0](fine))
    torch.testing.assert_close(levels[2], F.max_pool2d(levels[1], 1, 2))


@pytest.mark.parametrize("top", ["c5", "p5"])
def test_coarser_levels_by_convolutions(top: Literal["c5", "p5"]) -> None:
    """RetinaNet: P6 of the coarsest map or of its level, P7 of the ReLU of P6."""
    fpn = FeaturePyramid([2, 3], 4, extra=2, top=top)
    added = {key: tuple(value.shape) for key, value in fpn.state_dict().items() if key.startswith("extra_blocks")}
    assert added == {
        "extra_blocks.p6.weight": (4, 3 if top == "c5" else 4, 3, 3),
        "extra_blocks.p6.bias": (4,),
        "extra_blocks.p7.weight": (4, 4, 3, 3),
        "extra_blocks.p7.bias": (4,),
    }
    maps = [torch.randn(1, 2, 14, 10), torch.randn(1, 3, 7, 5)]
    levels = fpn(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(14, 10), (7, 5), (4, 3), (2, 2)]
    p6, p7 = fpn.extra_blocks["p6"], fpn.extra_blocks["p7"]
    below = F.pad(maps[1] if top == "c5" else levels[1], (1, 1, 1, 1))
    corner = (below[0, :, 2:5, 4:7] * p6.weight).sum((1, 2, 3)) + p6.bias  # the window around row 2, column 4
    torch.testing.assert_close(levels[2][0, :, 1, 2], corner)
    torch.testing.assert_close(levels[3], F.conv2d(levels[2].clamp(min=0), p7.weight, p7.bias, stride=2, padding=1))


def test_counts_with_convolutions() -> None:
    """RetinaNet on ResNet-50: P3 to P7, with P6 from C5 (the paper) and from P5 (the public weights)."""
    for top, first in (("c5", 2048), ("p5", 256)):
        fpn = FeaturePyramid([512, 1024, 2048], 256, extra=2, top=top)  # type: ignore[arg-type]
        expected = 2_688_512 + (9 * first + 1) * 256 + (9 * 256 + 1) * 256
        assert sum(p.numel() for p in fpn.parameters()) == expected


def test_several_levels_by_subsampling_or_none() -> None:
    maps = [torch.randn(1, 2, 7, 5)]
    levels = FeaturePyramid([2], 4, extra=2)(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(7, 5), (4, 3), (2, 2)]
    assert torch.equal(levels[2], levels[0][:, :, ::4, ::4])
    assert len(FeaturePyramid([2], 4, extra=0)(maps)) == 1


def test_levels_of_boxes() -> None:
    side = torch.tensor([0.0, 16, 111.9, 112, 223.9, 224, 447, 448, 5000])
    boxes = torch.stack((side * 0, side * 0, side / 2, side * 2), 1)  # w h = side^2
    assert assign_levels(boxes, 2, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
