from __future__ import annotations

import pytest
import torch

from saccade.data.types import Annotation, Batch
from saccade.models.backbones.inception_v3 import Auxiliary, Config, Model

NARROW = Config(classes=4, width=0.125)


@pytest.mark.parametrize(("auxiliary", "parameters"), [(True, 27_161_264), (False, 23_834_568)])
def test_parameters(auxiliary: bool, parameters: int):
    with torch.device("meta"):
        model = Model(Config(auxiliary=auxiliary))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_maps_of_the_paper():
    """Table 1: 35x35x288, 17x17x768, 8x8x2048; figure 8: the auxiliary classifier takes the second."""
    with torch.device("meta"):
        model = Model(Config(classes=0))
        maps = model(torch.empty(1, 3, 299, 299))
        wanted = [(1, c, n, n) for c, n in zip(model.channels, (71, 35, 17, 8), strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert Auxiliary(Config(classes=9), 768).eval()(maps[2]).shape == (1, 9)
    assert model.channels == [192, 288, 768, 2048]
    assert model.AuxLogits is None


def test_auxiliary_loss_has_its_weight():
    model = Model(NARROW).eval()
    assert model.AuxLogits is not None
    for parameter in model.AuxLogits.fc.parameters():
        torch.nn.init.zeros_(parameter)
    losses = model.loss(Batch(torch.rand(1, 3, 75, 75), [(75, 75)], [Annotation((75, 75), label=1)]))
    assert losses["auxiliary"].item() == pytest.approx(0.4 * torch.tensor(4.0).log().item())


def test_norms_have_the_epsilon_of_the_public_weights():
    with torch.device("meta"):
        model = Model(Config())
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
