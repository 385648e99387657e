from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.models.backbones import create_trunk
from saccade.models.backbones.lenet import (
    C3_TABLE,
    H3_TABLE,
    VARIANTS,
    Config,
    Model,
    Subsampling,
    TableConv2d,
    codes,
    map_loss,
    squash,
)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _shapes(model: Model, side: int) -> dict[str, tuple[int, ...]]:
    """What each layer gives for one image, without the batch."""
    seen: dict[str, tuple[int, ...]] = {}
    for name, layer in model.net.named_children():
        layer.register_forward_hook(lambda _, __, y, name=name: seen.update({name: tuple(y.shape[1:])}))
    model(torch.rand(1, 3, side, side))
    return seen


def test_lenet5_is_the_one_of_1998():
    model = Model(VARIANTS["lenet5"])
    parts = {name: _count(layer) for name, layer in model.net.named_children()}
    assert parts == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert _count(model) == 60_000
    assert model.net.get_buffer("codes").numel() == 840
    assert _shapes(model, 32) == {
        "c1": (6, 28, 28),
        "s2": (6, 14, 14),
        "c3": (16, 10, 10),
        "s4": (16, 5, 5),
        "c5": (120, 1, 1),
        "f6": (84,),
    }


def test_lenet_of_1990():
    model = Model(VARIANTS["lenet_1990"])
    parts = {name: _count(layer) for name, layer in model.net.named_children()}
    assert parts == {"h1": 104, "h2": 8, "h3": 512, "h4": 24, "out": 1_930}
    assert _count(model) == 2_578
    assert _shapes(model, 28) == {
        "h1": (4, 24, 24),
        "h2": (4, 12, 12),
        "h3": (12, 8, 8),
        "h4": (12, 4, 4),
        "out": (10,),
    }
    assert sum(len(row) for row in H3_TABLE) == 20
    assert [sum(i in row for row in H3_TABLE) for i in range(4)] == [5, 5, 5, 5]


def test_modern_form():
    assert _count(Model(VARIANTS["lenet5_modern"])) == 61_706


def test_table_of_c3():
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert [sum(i in row for row in C3_TABLE) for i in range(6)] == [10] * 6
    assert set(C3_TABLE[14]) == {0, 2, 3, 5}


@pytest.mark.parametrize("table", [C3_TABLE, H3_TABLE])
def test_sparse_convolution_is_a_dense_one_with_holes(table: tuple[tuple[int, ...], ...]):
    torch.manual_seed(0)
    channels = 1 + max(max(row) for row in table)
    sparse, x = TableConv2d(table), torch.rand(2, channels, 9, 8)
    weight, bias = torch.zeros(len(table), channels, 5, 5), torch.zeros(len(table))
    for seen, conv in zip(sorted({len(row) for row in table}), sparse.convs, strict=True):
        for k, i in enumerate(i for i, row in enumerate(table) if len(row) == seen):
            weight[i, list(table[i])] = conv.weight.detach()[k]
            bias[i] = conv.bias.detach()[k]
    torch.testing.assert_close(sparse(x), nn.functional.conv2d(x, weight, bias))


def test_subsampling_sums_scales_and_shifts():
    layer = Subsampling(2)
    layer.weight.data, layer.bias.data = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.0])
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert layer(x).flatten().tolist() == [2 * (0 + 1 + 2 + 3) + 0.5, -(4.0 + 5 + 6 + 7)]


def test_squash_maps_one_to_one():
    assert squash(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1.0, -1.0], abs=1e-4)


def test_codes_are_ten_drawn_digits_or_random_ones():
    drawn = codes(10)
    assert drawn.shape == (10, 84)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    distances = torch.cdist(drawn, drawn, 1) / 2  # pixels that differ
    assert distances[~torch.eye(10, dtype=torch.bool)].min() >= 4
    one = drawn[1].reshape(12, 7)
    assert one[-1].tolist() == [-1, 1, 1, 1, 1, 1, 1]
    assert torch.equal(codes(26), codes(26))
    assert codes(26).unique(dim=0).shape == (26, 84)


def test_map_criterion_by_hand():
    distances, labels, j = torch.tensor([[1.0, 2.0], [0.5, 3.0]]), torch.tensor([1, 0]), 0.1
    first = 2.0 + math.log(math.exp(-j) + math.exp(-1.0) + math.exp(-2.0))
    second = 0.5 + math.log(math.exp(-j) + math.exp(-0.5) + math.exp(-3.0))
    assert float(map_loss(distances, labels, j).mean()) == pytest.approx((first + second) / 2)


def test_criterion_of_1990_by_hand():
    model = Model(Config(classes=2, form="1990"))
    images = torch.rand(1, 3, 28, 28)
    outputs = model.outputs(images)[0].tolist()
    loss = model.loss(Batch(images, [(28, 28)], [Annotation((28, 28), label=1)]))["classification"]
    assert float(loss) == pytest.approx(0.5 * ((outputs[0] + 1) ** 2 + (outputs[1] - 1) ** 2), rel=1e-5)


def test_nearest_code_is_the_answer():
    model = Model(VARIANTS["lenet5"]).eval()
    images = torch.rand(3, 3, 32, 32)
    answers = model.predict(Batch(images, [(32, 32)] * 3))
    assert [a.label for a in answers] == model.outputs(images).argmin(1).tolist()


def test_gray_is_the_mean_of_the_colours():
    model = Model(VARIANTS["lenet5_modern"]).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images), model(images.mean(1, keepdim=True).expand(-1, 3, -1, -1)))


def test_is_no_trunk():
    with pytest.raises(UsageError, match="no feature maps"):
        create_trunk("lenet5")
