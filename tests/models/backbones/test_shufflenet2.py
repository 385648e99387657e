from __future__ import annotations

import pytest
import torch

from saccade.models import catalogue
from saccade.models.backbones.shufflenet2 import VARIANTS, Config, Model, Unit


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("shufflenet_v2_x0_5", 1_366_792, 40_476_448),
        ("shufflenet_v2_x1_0", 2_278_604, 144_907_992),
        ("shufflenet_v2_x1_5", 3_503_624, 295_759_392),
        ("shufflenet_v2_x2_0", 7_393_996, 583_253_464),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = catalogue()[name]
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("shufflenet_v2_x0_5", 8_008),
        ("shufflenet_v2_x1_0", 16_236),
        ("shufflenet_v2_x1_5", 23_496),
        ("shufflenet_v2_x2_0", 33_772),
    ],
)
def test_buffers(name: str, buffers: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert len(state) == 338
    assert sum(value.numel() for key, value in state.items() if key not in trained) == buffers


def test_first_half_passes_untouched_to_the_even_channels():
    unit = Unit(8, 8, 1).eval()
    x = torch.rand(1, 8, 5, 5)
    y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :4])
    torch.testing.assert_close(y[:, 1::2], unit.branch2(x[:, 4:]))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="odd"):
        Model(Config(width=17))
