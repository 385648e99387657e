from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from saccade.layers.response_norm import LocalResponseNorm
from saccade.models.backbones.alexnet import SIZE, VARIANTS, Model, local_response_norm

NARROW = {"classes": 4, "widths": (6, 8, 8, 8, 8), "hidden": 16}


def _narrow(name: str, **changes: object) -> Model:
    return Model(dataclasses.replace(VARIANTS[name], **NARROW | changes))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 61_100_840),
        ("alexnet_paper", 60_965_224),
        ("alexnet_ungrouped", 62_378_344),
        ("caffenet", 60_965_224),
    ],
)
def test_parameters_and_shapes(name: str, parameters: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name]).eval()
        images = torch.empty(1, 3, SIZE[name], SIZE[name])
        assert model(images).shape == (1, 1000)
        maps = model.features(images)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert [tuple(m.shape[1:]) for m in maps] == [(c, s, s) for c, s in zip(model.channels, (55, 27, 13), strict=True)]
    if name == "alexnet_paper":
        assert sum(p.numel() for p in model.features.parameters()) == 2_334_080
        assert nn.functional.max_pool2d(maps[-1], 3, 2).shape == (1, 256, 6, 6)


@pytest.mark.parametrize(("n", "f", "p", "s", "out"), [(227, 11, 0, 4, 55), (224, 11, 2, 4, 55)])
def test_first_convolution_gives_55(n: int, f: int, p: int, s: int, out: int):
    assert (n - f + 2 * p) // s + 1 == out
    name = "alexnet" if n == 224 else "alexnet_paper"
    conv = Model(dataclasses.replace(VARIANTS[name], classes=0, widths=(2,) * 5)).features.get_submodule("0")
    assert conv(torch.zeros(1, 3, n, n)).shape[2:] == (out, out)


def _loop(x: Tensor, k: float, alpha: float, beta: float) -> Tensor:
    """Section 3.3 as it is written: a sum over at most five neighbours."""
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        squares = sum(x[:, j] ** 2 for j in range(max(0, i - 2), min(x.shape[1] - 1, i + 2) + 1))
        out[:, i] = x[:, i] / (k + alpha * squares) ** beta
    return out


def test_response_normalisation_has_the_papers_alpha():
    torch.manual_seed(0)
    x = 50 * torch.rand(2, 9, 3, 4)
    torch.testing.assert_close(local_response_norm(2.0, 1e-4, 0.75)(x), _loop(x, 2.0, 1e-4, 0.75))
    caffe = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    found = next(m for m in _narrow("caffenet").modules() if isinstance(m, LocalResponseNorm))
    assert (found.alpha, found.beta, found.k) == (pytest.approx(caffe.alpha), caffe.beta, caffe.k)


def test_order_of_pool_and_normalisation():
    kinds = {
        name: [type(m).__name__ for m in _narrow(name).features.children() if not isinstance(m, nn.Conv2d | nn.ReLU)]
        for name in VARIANTS
    }
    norm, pool = "LocalResponseNorm", "MaxPool2d"
    assert kinds["alexnet"] == ["Normalize", pool, pool, pool]
    assert kinds["alexnet_paper"] == ["Normalize", norm, pool, norm, pool, pool]
    assert kinds["caffenet"] == ["Normalize", pool, norm, pool, norm, pool]


def test_printed_initialisation():
    model = _narrow("alexnet_paper")
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [float(c.bias.mean()) for c in convs] == [0, 1, 0, 1, 1]
    assert [float(m.bias.mean()) for m in model.classifier if isinstance(m, nn.Linear)] == [1, 1, 0]
    assert float(convs[2].weight.std()) == pytest.approx(0.01, rel=0.2)
