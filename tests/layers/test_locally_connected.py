from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from saccade.layers.locally_connected import LocallyConnected2d


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(3, 1, 1, (5, 4)), (3, 2, 0, (7, 7)), (1, 1, 0, (2, 3))]
)
def test_each_place_is_a_convolution_of_its_own(kernel: int, stride: int, padding: int, side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d(2, 3, side, kernel, stride, padding)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 2, *side)
    answer = layer(x)
    for place in range(answer.shape[2] * answer.shape[3]):
        row, column = divmod(place, answer.shape[3])
        weight = layer.weight[place].view(3, 2, kernel, kernel)
        everywhere = F.conv2d(x, weight, layer.bias[:, row, column], stride, padding)
        torch.testing.assert_close(answer[:, :, row, column], everywhere[:, :, row, column])


def test_equal_weights_are_a_convolution_and_gradients_are_right() -> None:
    layer = LocallyConnected2d(2, 2, (4, 4), 3, padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[0].view(2, 2, 3, 3), padding=1))
    assert torch.autograd.gradcheck(layer, (x,))


def test_deepface_l4_has_its_numbers() -> None:
    """Taigman et al. 2014, section 3: 16 filters of 9 x 9 x 16 at 55 x 55 places."""
    with torch.device("meta"):
        layer = LocallyConnected2d(16, 16, (63, 63), 9)
    assert sum(p.numel() for p in layer.parameters()) == 55 * 55 * 16 * (16 * 9 * 9 + 1)


def test_maps_of_another_side_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of \(4, 4\), not of \(5, 4\)"):
        LocallyConnected2d(1, 1, (4, 4), 3)(torch.zeros(1, 1, 5, 4))
