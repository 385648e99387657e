"""The prepared copy of a network: the same answers, the network untouched, and the steps that it was to save saved."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from saccade.data.types import Batch, Objects
from saccade.inference.fuse import RowNormalize, prepare_for_inference
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.layers.normalize import Normalize
from saccade.models import catalogue, create, model_module
from saccade.models.contract import example_inputs
from saccade.ops.boxes import box_iou
from saccade.ops.fused_conv import FusedConv2d

# Every way in which layers are put together: (changes that make it small, input side).
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "resnet20": ({"width": 8}, 32),
    "resnet18": ({"width": 8, "classes": 7}, 64),
    "resnet50": ({"width": 8, "classes": 0, "norm": "frozen", "norm_eps": 0.0}, 64),
    "preact_resnet110": ({"width": 4}, 32),
    "densenet_bc100_k12": ({"depths": (4, 4, 4)}, 32),
    "googlenet": ({"width": 0.125, "classes": 7}, 64),
    "mobilenet_v2": ({"width": 0.25}, 64),
    "mobilenet_v3_small": ({"classes": 7}, 64),
    "shufflenet_v2_x0_5": ({"classes": 7}, 64),
    "squeezenet1_1": ({"classes": 7}, 64),
    "darknet19": ({"classes": 7}, 64),
    "vgg11_bn": ({"width": 8, "hidden": 16, "classes": 7}, 64),
    "atss_small": ({"trunk_width": 8, "channels": 16, "classes": 3}, 64),
    "unet": ({"width": 4, "classes": 3}, 48),
    "unet_light": ({"classes": 3, "trunk_width": 8}, 48),
    "unet_paper": ({"width": 4}, 220),
    "faster_rcnn_small": ({"classes": 3}, 64),
    "mask_rcnn_small": ({"classes": 3}, 64),
    "faster_rcnn_c4_small": ({"classes": 3, "tail": True, "pooled": 7, "trunk_depths": (1, 1, 1, 1)}, 64),
}


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in flat(part)]


def enliven(network: nn.Module) -> nn.Module:
    """Statistics, scales and shifts as training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norms: list[Any] = [p for p in network.modules() if isinstance(p, nn.BatchNorm2d | FrozenBatchNorm2d)]
        for norm in norms:
            norm.running_mean.uniform_(-0.3, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            norm.weight.uniform_(0.7, 1.3, generator=generator)
            norm.bias.uniform_(-0.3, 0.3, generator=generator)
    return network.eval()


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    changes, side = SMALL[name]
    return enliven(create(name, **changes)), torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def agree(
    network: nn.Module, images: Tensor, *more: Tensor, tolerance: float = 1e-4, first: int | None = None
) -> nn.Module:
    """The prepared copy, which has answered equally three times, in its `first` outputs: plain, packing, packed."""
    with torch.inference_mode():
        prepared = prepare_for_inference(network)
        expected = flat(network(images.clone(), *more))
        for _ in range(3):
            found = flat(prepared(images.clone(), *more))
            assert len(found) == len(expected)
            for a, b in zip(found[:first], expected[:first], strict=True):
                torch.testing.assert_close(a, b, atol=tolerance * max(1.0, float(b.abs().max())), rtol=0)
    return prepared


def share_found(boxes: Objects, others: Objects) -> float:
    """Share of `boxes` that have a counterpart: what lies at a threshold is in one answer and not in the other."""
    close = box_iou(boxes.boxes, others.boxes) > 0.99
    alike = (boxes.scores[:, None] - others.scores).abs() < 1e-3  # type: ignore[operator, index]
    return float((close & alike & (boxes.labels[:, None] == others.labels)).any(1).float().mean())


def graph_of(prepared: Any) -> fx.Graph:
    graph: fx.Graph = prepared.forward.__self__.graph
    return graph


def calls(prepared: nn.Module) -> list[Any]:
    """What the traced form of a network calls, in order."""
    graph = graph_of(prepared)
    parts = dict(prepared.named_modules())
    return [type(parts[n.target]) if n.op == "call_module" else n.target for n in graph.nodes]


@pytest.mark.parametrize("name", SMALL)
def test_the_copy_answers_as_the_network_and_leaves_it_as_it_is(name: str) -> None:
    network, images = made(name)
    before = {key: (value.clone(), value.data_ptr()) for key, value in network.state_dict().items()}
    kinds = [type(part) for part in network.modules()]
    agree(network, images)
    network.train()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key][0])
        assert value.data_ptr() == before[key][1]
    assert [type(part) for part in network.modules()] == kinds
    assert all(part.training for part in network.modules())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({entry["module"] for entry in catalogue().values()}))
def test_one_network_of_every_paper(module: str) -> None:
    names = [name for name, entry in catalogue().items() if entry["module"] == module]
    name = min(names, key=lambda n: (catalogue()[n]["macs"], catalogue()[n]["parameters"]))
    torch.manual_seed(0)
    side = catalogue()[name]["size"]
    tolerance = 1e-3 if "detectors" in module else 1e-4  # which of two boxes of equal score comes first may differ
    network = enliven(create(name))
    first = 5 if module.endswith("mask_rcnn") else None  # then come answers, in which boxes of like scores trade places
    agree(network, *example_inputs(model_module(name), network.config, side, side), tolerance=tolerance, first=first)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in SMALL
        if n not in ("googlenet", "shufflenet_v2_x0_5", "faster_rcnn_small", "unet_paper", "squeezenet1_1")
    ],
)
def test_no_norm_is_left_beside_a_convolution_or_before_an_activation(name: str) -> None:
    prepared = prepare_for_inference(made(name)[0])
    kinds = {type(part) for part in prepared.modules()}
    assert FusedConv2d in kinds
    assert not kinds & {nn.Conv2d, nn.BatchNorm2d, FrozenBatchNorm2d}


def test_sums_and_activations_are_part_of_the_convolutions() -> None:
    for name in ("resnet18", "mobilenet_v2", "darknet19"):
        left = set(calls(prepare_for_inference(made(name)[0])))
        assert not left & {operator.add, torch.add, F.relu, F.leaky_relu, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Dropout}


def test_a_dense_block_joins_one_map_at_a_time() -> None:
    graph = graph_of(prepare_for_inference(made("densenet_bc100_k12")[0]))
    joined = [len(node.args[0]) for node in graph.nodes if node.target is torch.cat]
    assert joined
    assert set(joined) == {2}


@pytest.mark.parametrize("name", [name for name, (changes, _) in SMALL.items() if changes.get("classes") != 0])
def test_the_copy_predicts_padded_images_as_the_network_does(name: str) -> None:
    """`predict` may read parts that `forward` does not, such as the mean that Faster R-CNN fills the padding with."""
    network, images = made(name)
    side = images.shape[-1]
    batch = Batch(images, [(side, side), (side, side * 3 // 4)])
    with torch.inference_mode():
        expected, found = network.predict(batch), prepare_for_inference(network).predict(batch)  # type: ignore[operator]
    for a, b in zip(found, expected, strict=True):
        assert a.size == b.size
        if b.probabilities is not None:
            torch.testing.assert_close(a.probabilities, b.probabilities, atol=1e-5, rtol=0)
        if b.semantic is not None:
            assert (a.semantic == b.semantic).float().mean() > 0.99
        if b.objects is not None:
            assert len(b.objects) > 0
            assert min(share_found(a.objects, b.objects), share_found(b.objects, a.objects)) > 0.95


@pytest.mark.parametrize("name", ["densenet_bc100_k12", "atss_small", "faster_rcnn_small", "unet_light"])
def test_bfloat16_is_for_weights_and_maps_alone(name: str) -> None:
    """Norms that stay, boxes and scores are float32; the answers are near those of float32."""
    network, images = made(name)
    prepared = prepare_for_inference(network, torch.bfloat16)
    for part in prepared.modules():
        if isinstance(part, FusedConv2d):
            assert part.weight.tensor.dtype == torch.bfloat16
        elif isinstance(part, nn.Linear | nn.ConvTranspose2d):
            assert part.weight.dtype == torch.bfloat16
        elif isinstance(part, nn.BatchNorm2d):
            assert part.weight.dtype == torch.float32
    side = images.shape[-1]
    batch = Batch(images, [(side, side)] * 2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for answer in prepared.predict(batch):  # type: ignore[operator]
            if answer.objects is not None:
                assert answer.objects.boxes.dtype == answer.objects.scores.dtype == torch.float32
            if answer.probabilities is not None:
                assert answer.probabilities.dtype == torch.float32
        if name.startswith("atss"):
            scores, boxes = prepared.scored_boxes(images)  # type: ignore[operator]
            exact, places = network.scored_boxes(images)  # type: ignore[operator]
            assert scores.dtype == boxes.dtype == torch.float32
            torch.testing.assert_close(scores, exact, atol=0.02, rtol=0)
            torch.testing.assert_close(boxes, places, atol=1.0, rtol=0)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_rows_are_normalised_as_pixels_are(form: torch.memory_format) -> None:
    normalize = Normalize((0.4, 0.5, 0.6), (0.1, 0.2, 1 / 255))
    images = torch.rand(2, 3, 5, 7).to(memory_format=form)
    found = RowNormalize(normalize)(images)
    torch.testing.assert_close(found, normalize(images), atol=1e-4, rtol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


class Written(nn.Module):
    """Three convolutions and norms, put together by a function."""

    def __init__(self, steps: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.steps = steps

    def forward(self, x: Tensor) -> Any:
        return self.steps(self, x)


def _seen_by_others(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    return net.norm(y) + y, net.other(x)


def _called_twice(net: Any, x: Tensor) -> Any:
    return net.norm(net.a(net.norm(net.a(x)))) + net.other(net.b(x))


def _overwritten(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    z = net.b(y)
    return net.relu(y) + z, z + y, y


def _overwritten_between(net: Any, x: Tensor) -> Any:
    y, z = net.a(x), net.b(x)
    first = torch.cat([y, z], 1)
    y.relu_()
    return torch.cat([y, z, x], 1) + torch.cat([first, x], 1)


def _doubled(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    return y + y, net.b(x) + net.c(x), torch.add(net.b(x), net.c(x), alpha=3), net.c(x) + 1


def _broadcast(net: Any, x: Tensor) -> Any:
    return F.relu(net.a(x) + net.b(x).mean((2, 3), keepdim=True)), net.c(x[:1]) + x


def _asks_for_values(net: Any, x: Tensor) -> Any:
    return net.norm(net.a(x)) if float(x.sum()) > 0 else x


@pytest.mark.parametrize(
    "steps",
    [_seen_by_others, _called_twice, _overwritten, _overwritten_between, _doubled, _broadcast, _asks_for_values],
)
def test_what_must_not_be_drawn_together_is_not(steps: Callable[[Any, Tensor], Any]) -> None:
    torch.manual_seed(0)
    agree(enliven(Written(steps)), torch.rand(2, 4, 6, 6))


def test_sizes_may_change_from_call_to_call() -> None:
    network = made("unet")[0]
    with torch.inference_mode():
        prepared = prepare_for_inference(network)
        for side in (32, 32, 40, 33, 32, 40, 40, 40):
            images = torch.rand(1, 3, side, side + 8)
            torch.testing.assert_close(prepared(images), network(images), atol=1e-4, rtol=1e-4)
