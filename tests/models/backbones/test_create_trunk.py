"""What stands on a classification network: which it takes, by which fields, and what it says of the others."""

from __future__ import annotations

import pkgutil

import pytest
import torch
from torch import nn

from saccade.errors import UsageError
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.models import backbones, catalogue, model_module
from saccade.models.backbones import create_trunk, refuse_strides


def test_only_the_room_of_the_network_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkgutil, "iter_modules", lambda path: pytest.fail("looked through all rooms"))
    with torch.device("meta"):
        assert create_trunk("zfnet").strides == [2, 8, 16]


def test_a_network_that_the_catalogue_does_not_know_yet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the catalogue is made of a new room, or of one whose file has another name."""
    moved = dict(catalogue()) | {"zfnet": catalogue()["zfnet"] | {"module": "saccade.models.backbones.zf"}}
    for known in ({name: entry for name, entry in moved.items() if name != "zfnet"}, moved):
        monkeypatch.setattr(backbones, "catalogue", lambda known=known: known)
        with torch.device("meta"):
            assert create_trunk("zfnet").strides == [2, 8, 16]


def test_fields_of_the_network_are_taken_in_its_own_type() -> None:
    with torch.device("meta"):
        trunk = create_trunk("resnet18", width=8.0, depths=(1, 1, 1, 2))
        assert (trunk.channels, len(trunk.layer4)) == ([8, 16, 32, 64], 2)
        assert create_trunk("mobilenet", width=0.5).channels == [64, 128, 256, 512]
        assert create_trunk("inception_v3").config.padding == "same"
        assert create_trunk("alexnet").config.padded


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("lenet5", {}, r"lenet5 gives no feature maps .*densenet.*resnet.*can"),
        ("example_net", {}, "gives no feature maps"),
        ("resnet17", {}, "did you mean 'resnet1"),
        ("ssd300", {}, "ssd300 is no classification network"),
        ("resnet18", {"width": 0.5}, "width of model resnet18 is 0.5: 0.5 is no whole number"),
        ("densenet121", {"width": 8}, "model densenet121 has no setting 'width'"),
        ("mobilenet", {"depths": (1, 1)}, "model mobilenet has no setting 'depths'"),
        ("vgg11", {"dilated": True}, "model vgg11 has no setting 'dilated'"),
        ("vgg11", {"norm": "frozen"}, "vgg11 has no batch norms"),
    ],
)
def test_what_cannot_be_is_refused(name: str, fields: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        create_trunk(name, **fields)


def test_strides_that_do_not_fit_name_networks_that_do() -> None:
    text = str(refuse_strides("resnet20", [1, 2, 4], "one at 8", 8))
    assert text.startswith("the trunk resnet20 has maps at strides 1, 2, 4, and needs one at 8; ")
    assert "densenet121" in text
    assert "nin_cifar10" not in text


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "bn_inception", "mobilenet_v3_small"])
def test_norms_of_any_network_can_be_frozen(name: str) -> None:
    torch.manual_seed(0)
    trunk = create_trunk(name, norm="frozen", norm_eps=0.01, depths=(1, 1, 1, 1) if "net1" in name else None)
    norms = [m for m in trunk.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert norms
    assert all(norm.eps == 0.01 for norm in norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())
    images = torch.rand(1, 3, 64, 64)
    trained = trunk.train().features(images)
    torch.testing.assert_close(trained, trunk.eval().features(images))
    trained[-1].sum().backward()


def test_a_frozen_norm_keeps_the_numbers_of_the_one_before() -> None:
    frozen = create_trunk("resnet18", width=4, norm="frozen")
    usual = create_trunk("resnet18", width=4)
    frozen.load_state_dict(usual.state_dict())
    images = torch.rand(1, 3, 40, 40)
    torch.testing.assert_close(frozen.eval().features(images), usual.eval().features(images))


def test_the_catalogue_states_the_strides_of_every_trunk() -> None:
    trunks = {name: entry["strides"] for name, entry in catalogue().items() if "strides" in entry}
    assert trunks["densenet121"] == [4, 8, 16, 32]
    assert {name for name, entry in catalogue().items() if ".backbones." in entry["module"]} - set(trunks) == {
        "example_net",
        *model_module("lenet5").VARIANTS,
    }
