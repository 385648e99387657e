from __future__ import annotations

import pytest
import torch

from saccade.models.backbones.mobilenet2 import VARIANTS, InvertedResidual, Model, round_channels


def test_keys_and_shapes_of_the_public_checkpoint():
    with torch.device("meta"):
        model = Model(VARIANTS["mobilenet_v2"])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert len(state) == 314
    assert sum(value.numel() for key, value in state.items() if key not in trained) == 34_164
    landmarks = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_var": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.bias": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.num_batches_tracked": (),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.weight": (1000, 1280),
    }
    assert {key: tuple(state[key].shape) for key in landmarks} == landmarks


def test_the_narrow_end_is_linear_and_the_shortcut_joins_equal_shapes_only():
    block = InvertedResidual(8, 8, 1, 6).eval()
    torch.nn.init.zeros_(block.conv[3].weight)
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(block(x), x)  # negative values pass
    assert not InvertedResidual(8, 8, 2, 6).residual
    assert not InvertedResidual(8, 16, 1, 6).residual


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (11.9, 16), (12, 16), (24, 24), (28, 32), (112.5, 112), (18, 24)]
)
def test_channels_are_multiples_of_eight_that_lose_no_more_than_a_tenth(channels: float, rounded: int):
    assert round_channels(channels) == rounded
