"""What stands on a classification network: which it takes, by which fields, and what it says of the others."""

from __future__ import annotations

import dataclasses
import pkgutil

import pytest
import torch
from torch import nn

from saccade.errors import UsageError
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.models import backbones, catalogue, model_module
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.contract import has_tail


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


@pytest.mark.parametrize(("name", "side"), [("vgg11", 7), ("alexnet", 6), ("zfnet", 6)])
def test_fully_connected_layers_are_kept_for_regions(name: str, side: int) -> None:
    """The names and numbers of the classifier, whose output layer goes on from what the tail gives."""
    torch.manual_seed(0)
    small = {"width": 2} if name == "vgg11" else {"widths": (4, 4, 4, 4, 4)}
    room = model_module(name)
    network = room.Model(dataclasses.replace(room.VARIANTS[name], classes=5, hidden=8, **small)).eval()
    trunk = room.Model(dataclasses.replace(network.config, classes=0, tail=True)).eval()
    assert trunk.load_state_dict(network.state_dict(), strict=False).missing_keys == []
    assert (trunk.tail_channels, trunk.tail_side, has_tail(trunk)) == (8, side, True)
    regions = torch.rand(3, trunk.channels[-1], side, side)
    logits = network.classifier[-1](trunk.tail(regions))
    torch.testing.assert_close(logits, network.classifier(regions.flatten(1)))
    images = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(list(trunk(images)), network.features(images))
    with torch.device("meta"):
        assert create_trunk(name, tail=8).tail_channels == 8
        assert not has_tail(create_trunk(name))
        assert create_trunk(name).classifier is None


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_the_last_stage_is_kept_for_regions(name: str) -> None:
    torch.manual_seed(0)
    width = 4 if name == "resnet18" else 8
    usual, trunk = create_trunk(name, width).eval(), create_trunk(name, width, tail=True).eval()
    trunk.load_state_dict(usual.state_dict())
    images = torch.rand(1, 3, 64, 64)
    maps, all_maps = trunk.features(images), usual.features(images)
    torch.testing.assert_close(maps, all_maps[:-1])
    torch.testing.assert_close(trunk.tail(maps[-1]), all_maps[-1])
    assert (trunk.channels, trunk.strides) == (usual.channels[:-1], [4, 8, 16])
    assert (trunk.tail_channels, trunk.tail_side) == (usual.channels[-1], 14)
    assert has_tail(trunk)
    assert not has_tail(usual)


def test_a_network_that_has_nothing_behind_its_maps_is_made_without_a_tail() -> None:
    with torch.device("meta"):
        trunk = create_trunk("densenet121", tail=True)
    assert not has_tail(trunk)
    assert trunk.strides == [4, 8, 16, 32]


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
