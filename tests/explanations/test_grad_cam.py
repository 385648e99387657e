"""Grad-CAM against CAM, known maps and hand-made networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import UsageError
from saccade.explanations.grad_cam import grad_cam
from saccade.models import create
from saccade.tasks import classify, segment
from saccade.tasks.contract import Target


class Pooled(nn.Module):
    """Two convolutions, mean over the map, one linear layer: the networks for which CAM is defined."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.second = nn.Conv2d(5, 7, 3, 2, padding=1)
        self.last = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(7, 4)

    def maps(self, images: Tensor) -> Tensor:
        return self.last(self.second(self.relu(self.first(images))))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.maps(images).mean((2, 3)))


def _targets(*labels: int) -> list[Target]:
    return [Target(label, 0.5) for label in labels]


@pytest.mark.parametrize("inplace", [False, True])
def test_it_is_cam_where_a_mean_and_one_linear_layer_follow(inplace: bool) -> None:
    torch.manual_seed(0)
    model, images = Pooled(inplace).eval(), torch.rand(1, 3, 12, 10)
    found = grad_cam(model, images, classify.raw_scores(model, _targets(2, 0)))
    assert found.layer == "last"
    maps = model.maps(images)[0]
    cam = torch.einsum("ck,khw->chw", model.fc.weight[[2, 0]], maps).detach()
    assert (cam > 0).any()
    assert (cam < 0).any()
    torch.testing.assert_close(found.heat, cam.clamp(min=0) / maps[0].numel())


@pytest.mark.parametrize(("name", "size"), [("resnet20", 48), ("densenet121", 64)])
def test_it_is_cam_for_networks_of_the_catalogue(name: str, size: int) -> None:
    """Through the trunk contract: the maps after the last activation, which is no module of its own."""
    torch.manual_seed(1)
    model = create(name, classes=3).eval()
    images = torch.rand(1, 3, size, size)
    found = grad_cam(model, images, classify.raw_scores(model, _targets(1)))
    maps = model.features(images)[-1].detach()
    linear = next(m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear))
    cam = (linear.weight[1].detach()[:, None, None] * maps[0]).sum(0)
    torch.testing.assert_close(found.heat[0], cam.clamp(min=0) / cam.numel(), rtol=1e-4, atol=1e-7)
    assert found.heat.shape[1:] == maps.shape[2:]
    assert found.layer.startswith("features[")


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("lenet5", 32, "net.s4"), ("googlenet", 64, "inception5b"), ("squeezenet1_1", 64, "features[")],
)
def test_the_layer_before_the_pooling_is_found_in_networks_of_other_forms(name: str, size: int, layer: str) -> None:
    torch.manual_seed(0)
    model: Any = create(name, classes=3).eval()
    found = grad_cam(model, torch.rand(1, 3, size, size), classify.raw_scores(model, _targets(1)))
    assert found.layer.startswith(layer)
    assert found.heat.shape[1] == found.heat.shape[2] > 1


def test_the_heat_lies_where_the_pattern_is() -> None:
    """A network that sums red, of which one place has some; the class that blue speaks for finds nothing."""
    conv, fc = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1]])[..., None, None])
        fc.weight.copy_(torch.eye(2))
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)
    images = torch.zeros(1, 3, 6, 8)
    images[0, 0, 4, 5] = 1
    heat = grad_cam(model, images, classify.raw_scores(model, _targets(0, 1))).heat
    assert heat[0].argmax() == 4 * 8 + 5
    assert heat[0].count_nonzero() == 1
    assert heat[1].count_nonzero() == 0


class Mapper(nn.Module):
    """Down, up, a class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 4, 4)
        self.up = nn.ConvTranspose2d(4, 2, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(F.relu(self.down(images)))


def test_a_segmenter_is_asked_at_its_smallest_map() -> None:
    torch.manual_seed(0)
    model, images = Mapper(), torch.rand(1, 3, 16, 24)
    found = grad_cam(model, images, segment.raw_scores(model, _targets(0, 1)), deepest=True)
    assert found.layer == "down"
    assert found.heat.shape == (2, 4, 6)


def test_maps_of_one_cell_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"more than one cell.*8x8"):
        grad_cam(model, torch.rand(1, 3, 8, 8), classify.raw_scores(model, _targets(0)))


def test_the_network_is_left_as_it_was() -> None:
    model: Any = create("resnet20", classes=3).eval()
    images, before = torch.rand(1, 3, 32, 32), {k: v.clone() for k, v in model.state_dict().items()}
    grad_cam(model, images, classify.raw_scores(model, _targets(1)))
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert classify.class_logits(model, images).shape == (1, 3)
