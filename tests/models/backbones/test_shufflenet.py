from __future__ import annotations

import pytest
import torch

from saccade.models.backbones.shufflenet import Config, Model, Unit, channel_shuffle


def test_shuffle_by_hand():
    """Six channels in two groups: the table [[0, 1, 2], [3, 4, 5]] read by columns."""
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert channel_shuffle(x, 2)[1, :, 2, 3].tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(channel_shuffle(channel_shuffle(x, 2), 3), x)


def test_every_output_group_sees_all_input_groups():
    torch.manual_seed(0)
    unit = Unit(36, 36, 1, 3, 3).eval()  # 9 channels between the 1x1 convolutions: 3 groups of 3
    x = torch.rand(1, 36, 4, 4, requires_grad=True)
    (unit(x) - x)[0, :12].sum().backward()  # the first group of outputs, without the shortcut
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


def test_stride_two_keeps_the_pooled_input_in_front():
    unit = Unit(24, 60, 2, 3, 1).eval()
    x = torch.rand(1, 24, 6, 6)
    y = unit(x)
    assert y.shape == (1, 60, 3, 3)
    torch.testing.assert_close(y[:, :24], torch.nn.functional.avg_pool2d(x, 3, 2, 1))


def test_a_width_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 4 x 3"):
        Model(Config(groups=3, width=40))
