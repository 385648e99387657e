from __future__ import annotations

import torch

from saccade.models.backbones.inception_v4 import Config, Model, PoolAndConv

NARROW = Config(classes=4, width=0.125, depths=(1, 1, 1))


def test_maps_of_the_paper():
    """Figures 3 and 9: 71x71x192, 35x35x384, 17x17x1024, 8x8x1536."""
    with torch.device("meta"):
        model = Model(Config(classes=0))
        maps = model(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps] == [(192, 71, 71), (384, 35, 35), (1024, 17, 17), (1536, 8, 8)]
    assert model.channels == [192, 384, 1024, 1536]


def test_public_order_of_pool_and_convolution():
    """The first halving joins the pool before the convolution, the second after it."""
    torch.manual_seed(0)
    model = Model(NARROW).eval()
    x = torch.rand(1, 8, 7, 7)
    first = model.features.get_submodule("3")
    assert isinstance(first, PoolAndConv)
    torch.testing.assert_close(first(x)[:, :8], torch.nn.functional.max_pool2d(x, 3, 2))
    x = torch.rand(1, 24, 7, 7)
    second = model.features.get_submodule("5")
    torch.testing.assert_close(second(x)[:, 24:], torch.nn.functional.max_pool2d(x, 3, 2))


def test_norms_have_the_epsilon_of_the_public_weights():
    with torch.device("meta"):
        model = Model(Config())
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
