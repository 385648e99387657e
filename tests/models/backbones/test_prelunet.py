"""PReLU-net: shapes of table 3, its start, what decays, the pyramid at any size, and its layers behind regions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from saccade.config import Settings
from saccade.errors import UsageError
from saccade.models import create, model_module
from saccade.models.backbones import create_trunk
from saccade.models.backbones.prelunet import VARIANTS, Config, Model
from saccade.models.weights import start_from
from saccade.ops.spatial_pyramid import pyramid_pool_reference
from saccade.training.optimizer import make_optimizer

TINY = Config(classes=4, width=0.0625, depths=(2, 1, 1), hidden=16, dropout=0.0)


@pytest.mark.parametrize(("name", "layers"), [("prelunet_a", 19), ("prelunet_b", 22), ("prelunet_c", 22)])
def test_table_3(name: str, layers: int) -> None:
    with torch.device("meta"):
        model = Model(VARIANTS[name]).eval()
        maps = model.features(torch.empty(1, 3, 224, 224))
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    slopes = [m for m in model.modules() if isinstance(m, nn.PReLU)]
    assert (len(weighted), len(slopes)) == (layers, layers - 1)
    assert [m.shape[2] for m in maps] == [112, 56, 28, 14]
    assert [m.shape[1] for m in maps] == model.channels
    assert model.classifier[0].in_features == 63 * model.channels[-1]
    outputs = [m.out_channels if isinstance(m, nn.Conv2d) else m.out_features for m in weighted[:-1]]
    assert [m.num_parameters for m in slopes] == outputs  # a slope for each channel


def test_the_start_keeps_the_variance() -> None:
    """Equation 15: with the slope's term, mean squares stay what they are through any number of layers."""
    for slope in (0.25, 0.0, 0.6):
        torch.manual_seed(0)
        model = Model(Config(classes=10, hidden=256, width=0.5, depths=(3, 3, 3), slope=slope))
        for stage in model.stages:
            conv = stage[2]
            wanted = math.sqrt(2 / ((1 + slope**2) * 9 * conv.in_channels))
            assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.02)
            assert not conv.bias.any()
            assert stage[1].weight.eq(slope).all()
        x = torch.randn(1, model.channels[2], 24, 24)
        for _ in range(20):
            conv = nn.Conv2d(x.shape[1], x.shape[1], 3, padding=1, padding_mode="circular", bias=False)
            nn.init.normal_(conv.weight, 0, math.sqrt(2 / ((1 + slope**2) * 9 * x.shape[1])))
            x = nn.functional.prelu(conv(x), torch.tensor(slope))
        assert (
            0.3 < float(x.detach().square().mean()) / ((1 + slope**2) / 2) < 3
        )  # of what a unit input has behind its PReLU


def test_slopes_do_not_decay() -> None:
    model = Model(TINY)
    optimizer = make_optimizer(model, Settings(weight_decay=0.1, optimizer="sgd"))
    slopes = {id(m.weight) for m in model.modules() if isinstance(m, nn.PReLU)}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[each] for each in slopes} == {0.0}
    assert {decay[id(m.weight)] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)} == {0.1}


@pytest.mark.parametrize(("height", "width"), [(224, 224), (16, 16), (61, 130), (5, 3)])
def test_images_of_any_size_give_as_many_numbers(height: int, width: int) -> None:
    torch.manual_seed(0)
    model = Model(TINY).eval()
    images = torch.rand(2, 3, height, width)
    last = model.features(images)[-1]
    windows = torch.tensor([[i, 0, 0, last.shape[3] - 1, last.shape[2] - 1] for i in range(2)])
    pooled = pyramid_pool_reference(last, windows, TINY.grids)
    torch.testing.assert_close(model(images), model.classifier(pooled))


def test_the_slopes_learn() -> None:
    torch.manual_seed(0)
    model = Model(TINY)
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    slopes = [m.weight for m in model.modules() if isinstance(m, nn.PReLU)]
    assert all(bool(each.grad is not None and each.grad.abs().sum() > 0) for each in slopes)


def test_the_tail_is_the_classifier() -> None:
    """A region as large as the map, pooled or not, goes the way of the image."""
    torch.manual_seed(0)
    whole = Model(Config(classes=4, width=0.0625, depths=(1, 1, 1), hidden=16)).eval()
    trunk = create_trunk("prelunet_a", 0.0625, depths=(1, 1, 1), tail=16).eval()
    trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("classifier.6.")})
    images = torch.rand(1, 3, 112, 112)  # ends in 7x7, the finest grid
    last = trunk.features(images)[-1]
    assert (tuple(last.shape[2:]), trunk.tail_side, trunk.tail_channels) == ((7, 7), 7, 16)
    torch.testing.assert_close(whole.classifier[6](trunk.tail(last)), whole(images))


def test_spp_net_on_its_own_layers(tmp_path: Path) -> None:
    """`tail`: the pyramid of SPP-net is that of the trunk, whose fc6 and fc7 then come with its weights and learn."""
    small = {"trunk_width": 0.0625, "trunk_depths": (1, 1, 1), "hidden": 16, "scales": (1.0,)}
    model = create("sppnet_zf5", classes=3, trunk="prelunet_a", tail=True, grids=(7, 3, 2, 1), **small)
    assert {name.split(".")[0] for name, p in model.trunk.named_parameters() if p.requires_grad} == {"classifier"}
    torch.manual_seed(1)
    network = create("prelunet_a", classes=7, width=0.0625, depths=(1, 1, 1), hidden=16).eval()
    torch.save(network.state_dict(), tmp_path / "prelunet.pth")
    start = start_from(model, model_module("sppnet_zf5"), tmp_path / "prelunet.pth")
    assert {name.split(".")[0] for name in start.fresh} == {"head"}
    images = torch.rand(1, 3, 128, 128)
    features = model.eval().look(images)
    _, hidden = model.describe(features, torch.tensor([[[-16.0, -16.0, 129.0, 129.0]]]))  # all of the map
    torch.testing.assert_close(network.classifier[6](hidden), network(images))
    with pytest.raises(UsageError, match="from a trunk that ends in a pyramid, such as prelunet_a; resnet18 does not"):
        create("sppnet_small", classes=3, tail=True)
    with pytest.raises(UsageError, match=r"ends in a pyramid of other grids: tail=true wants grids=\[7,3,2,1\]"):
        create("sppnet_zf5", classes=3, trunk="prelunet_a", tail=True, **small)
