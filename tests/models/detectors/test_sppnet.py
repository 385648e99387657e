"""SPP-net: counts, the scale of each region, a trunk that stands still, and its stages on generated images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import saccade
from models.region_scenes import fine_tune, overlaps_found, region_scenes, solve
from saccade.models.detectors import sppnet
from saccade.models.detectors.sppnet import VARIANTS, Model, example_inputs, stages
from saccade.models.standing import standing_of
from saccade.ops.spatial_pyramid import map_windows, pyramid_pool

TINY = dataclasses.replace(
    VARIANTS["sppnet_small"], classes=3, trunk_width=8, trunk_depths=(1, 1), hidden=32, sample=64
)


def test_counts() -> None:
    """With 1,000 classes and no background it is the paper's classifier of 77,037,672."""
    with torch.device("meta"):
        model = Model(VARIANTS["sppnet_zf5"])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 77_037_672 - 979 * 4097
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count - learned == 3_726_464  # the five convolutions stand still
    assert model.head.box_weight.shape == (80, 12_800)


def test_weights_of_the_classifier_are_those_of_the_trunk() -> None:
    with torch.device("meta"):
        model, classifier = Model(VARIANTS["sppnet_zf5"]), saccade.create("zfnet").state_dict()
    own, base = model.state_dict(), standing_of(model)
    assert base is not None
    placed = base.tensors(sppnet, classifier)
    fitting = {key for key, value in placed.items() if key in own and own[key].shape == value.shape}
    trunk = {key for key in own if key.startswith("trunk.")}  # fc6 sees another pyramid, and has its bias in common
    assert trunk | {"tail.fc7.weight", "tail.fc7.bias", "tail.fc6.bias"} == fitting


def test_a_frozen_trunk_stands_still() -> None:
    torch.manual_seed(0)
    batch, model = region_scenes(2), Model(dataclasses.replace(TINY, frozen=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fine_tune(model, batch, 2, 1e-2)
    changed = {name.partition(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"tail", "head"}


def test_each_region_is_pooled_from_the_scale_at_which_it_is_nearest_to_the_window() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, scales=(0.5, 1.0), window=32.0)).eval()
    images = torch.rand(1, 3, 96, 128)
    boxes = torch.tensor([[[8.0, 8, 40, 40], [4, 4, 84, 84], [0, 0, 4, 4]]])  # 32 of the image, 40 at half its size
    seen = model.look(images)
    assert [tuple(each.shape[2:]) for each in seen] == [(6, 8), (12, 16)]
    pooled, _ = model.describe(seen, boxes)
    for row, scale in ((0, 1), (1, 0), (2, 1)):
        windows = map_windows(boxes[0, row : row + 1] * (0.5, 1.0)[scale], 8, *seen[scale].shape[2:])
        expected = pyramid_pool(seen[scale], torch.cat((torch.zeros(1, 1), windows), 1))
        torch.testing.assert_close(pooled[row : row + 1], expected)


def test_learns_four_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch, model = region_scenes(), Model(TINY)
    fine_tune(model, batch, 25, 1e-2)
    for stage in stages("sppnet_small", "default")[1:]:
        solve(model, stage, batch, tmp_path)
    best, answers = overlaps_found(model, batch)
    assert best.min() > 0.5
    assert answers <= 4
    assert float(model.get_buffer("head.solved")) == 1


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_export(scales: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, regions=6, scales=scales)).eval()
    images, boxes = example_inputs(model.config, 64, 96, 2)
    program = torch.export.export(model, (images, boxes))
    other = torch.rand_like(images)
    torch.testing.assert_close(program.module()(other, boxes), model(other, boxes))
