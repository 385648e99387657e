from __future__ import annotations

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


def test_levels_of_boxes() -> None:
    side = torch.tensor([0.0, 16, 111.9, 112, 223.9, 224, 447, 448, 5000])
    boxes = torch.stack((side * 0, side * 0, side / 2, side * 2), 1)  # w h = side^2
    assert assign_levels(boxes, 2, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
