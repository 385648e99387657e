from __future__ import annotations

import pytest
import torch

from saccade.models.backbones.shufflenet2 import VARIANTS, Config, Model, Unit


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
