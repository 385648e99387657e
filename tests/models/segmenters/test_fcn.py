"""FCN: the classifier as convolutions, the release's offsets, and the course from 32s to 8s."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.models import create
from saccade.models.segmenters import fcn
from saccade.models.stage import Fit

VGG: dict[str, Any] = {"trunk_width": 4, "hidden": 16, "classes": 3}
SMALL = dataclasses.replace(fcn.VARIANTS["fcn8s_small"], classes=3, trunk_width=8, trunk_depths=(1, 1, 1, 1), hidden=16)


def make(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return fcn.Model(dataclasses.replace(fcn.VARIANTS[name], **changes)).eval()


def test_fully_connected_layers_become_convolutions() -> None:
    """What fc7 of VGG says of a window of pool5 is what the network says of this place (section 3.1)."""
    torch.manual_seed(0)
    classifier: Any = create("vgg16", width=4, hidden=16, classes=5).eval()
    model = make("fcn32s", **VGG)
    loaded = model.load_state_dict(fcn.from_classifier(classifier.state_dict()), strict=False)
    assert not loaded.unexpected_keys
    pool5 = torch.rand(1, 32, 9, 8)
    skips = model.skips
    found = F.relu(skips.fc7(F.relu(skips.fc6(pool5))))
    assert found.shape == (1, 16, 3, 2)
    for row in range(3):
        for column in range(2):
            window = pool5[:, :, row : row + 7, column : column + 7].flatten(1)
            torch.testing.assert_close(found[:, :, row, column], classifier.classifier[:6](window))


def test_maps_and_offsets_are_those_of_the_release() -> None:
    """500 x 500 gives scores of 16 x 16, enlarged to 544 before the crop at 19; skips are cut at 5 and 9, their sums at
    27 and 31."""
    model = make("fcn32s", **VGG)
    with torch.no_grad():
        maps = model.backbone.features(model._framed(torch.rand(1, 3, 500, 500)))
        scores = model.skips.score_fr(model.skips.fc7(model.skips.fc6(F.max_pool2d(maps[-1], 2, ceil_mode=True))))
        assert scores.shape == (1, 3, 16, 16)
        assert model.skips.upscore32(scores).shape == (1, 3, 544, 544)
    assert model.skips.offset == 19
    for name, offset, offsets in (("fcn16s", 27, (5,)), ("fcn8s", 31, (5, 9))):
        skips = make(name, **VGG).skips
        assert (skips.offset, skips.offsets) == (offset, offsets)


def test_the_frame_is_zero_to_the_first_convolution() -> None:
    model = make("fcn32s", **VGG)
    framed = model.backbone.features.normalize(model._framed(torch.rand(1, 3, 8, 8)))
    assert framed.shape == (1, 3, 206, 206)
    assert framed[..., :99, :].abs().max() < 1e-6


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(fcn.VARIANTS["fcn8s"], **VGG)])
def test_scores_lie_over_the_pixels_that_they_are_of(config: fcn.Config) -> None:
    """A ramp of scores on the coarse map comes out as the same ramp over the pixels, whose cell 0 has its centre at
    pixel 15.5 (small form); the release's lie 19 pixels in, of a frame of 100, behind a window of 7."""
    torch.manual_seed(0)
    model = fcn.Model(dataclasses.replace(config, finest=32)).eval()
    side = 16 if config.pad else 4
    ramp = torch.arange(side, dtype=torch.float32).view(1, 1, side, 1).expand(1, 3, side, side)
    enlarged = model.skips.get_submodule("upscore32")(ramp)  # type: ignore[union-attr]
    column = enlarged[0, 0, model.skips.offset :, side * 16]  # type: ignore[union-attr]
    pixel = 32  # inside, where two cells meet
    place = (pixel + 0.5) / 32 - 0.5 if not config.pad else (pixel + 19 + 0.5 - 16) / 32 - 0.5
    assert column[pixel].item() == pytest.approx(place, abs=1e-5)


def test_a_finer_network_begins_as_the_coarser_one() -> None:
    """Zero scores of the new map: the answer differs by how it is enlarged alone, in two steps instead of one."""
    course = fcn.stages("fcn8s_small", "staged")
    assert [step.name for step in course] == ["fcn32s_small", "fcn16s_small", "fcn8s_small"]
    coarse = fcn.Model(dataclasses.replace(SMALL, finest=32)).eval()
    first = course[0]
    assert isinstance(first, Fit)
    fine = fcn.Model(dataclasses.replace(SMALL, finest=16)).eval()
    handed = first.adopt(dict(coarse.state_dict()))
    missing = fine.load_state_dict(handed, strict=False)
    assert {key.split(".")[1] for key in missing.missing_keys} == {"score_pool4", "upscore2", "upscore16"}
    assert not missing.unexpected_keys
    images = torch.rand(1, 3, 128, 128)
    inside = (..., slice(32, 96), slice(32, 96))
    torch.testing.assert_close(fine(images)[inside], coarse(images)[inside], atol=0.02, rtol=0.1)


def test_the_papers_course_lowers_the_rate_a_hundredfold_a_stage() -> None:
    rates = [step.settings["lr"] for step in fcn.stages("fcn8s", "paper") if isinstance(step, Fit)]
    assert rates == [1e-10, 1e-12, 1e-14]
    assert [step.name for step in fcn.stages("fcn8s", "default")] == ["fcn8s"]
    assert [step.name for step in fcn.stages("fcn_resnet50", "paper")] == ["fcn_resnet50"]


def test_summed_loss_is_the_mean_times_the_labelled_pixels() -> None:
    images = torch.rand(2, 3, 64, 64)
    truth = [Annotation((64, 64), semantic=torch.randint(0, 3, (64, 64)).to(torch.uint8)) for _ in range(2)]
    for each in truth:
        assert each.semantic is not None
        each.semantic[:14] = 255
    losses = []
    for pixels in ("mean", "sum"):
        torch.manual_seed(0)
        model = fcn.Model(dataclasses.replace(SMALL, pixels=pixels, dropout=0.0)).eval()
        losses.append(model.loss(Batch(images, [(64, 64)] * 2, truth))["cross_entropy"])
    torch.testing.assert_close(losses[1], losses[0] * 2 * 64 * 50)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 100)])
@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(fcn.VARIANTS["fcn8s"], **VGG)])
def test_any_size_of_image_gets_an_answer_for_every_pixel(config: fcn.Config, size: tuple[int, int]) -> None:
    model = fcn.Model(config).eval()
    assert model(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_trunks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="needs all of 32, 16, 8"):
        make("fcn8s", trunk="resnet20")
    with pytest.raises(UsageError, match="form=dilated takes the stride out of a ResNet's last two stages; vgg16"):
        make("fcn_resnet50", trunk="vgg16")
