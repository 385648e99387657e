from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from saccade.models.backbones.densenet import VARIANTS, Config, Model, from_public

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"
SMALL = Config(classes=4, depths=(2, 3, 1, 2), growth=4, stem_channels=8)
PLAIN = dataclasses.replace(SMALL, depths=(2, 3, 2), stem="cifar", bottleneck=False, theta=1.0)


@pytest.mark.parametrize(
    ("name", "parameters", "ten_classes", "buffers", "tensors"),
    [
        ("densenet121", 7_978_856, 6_964_106, 83_769, 727),
        ("densenet161", 28_681_000, 26_494_090, 220_097, 967),
        ("densenet169", 14_149_480, 12_501_130, 158_569, 1_015),
        ("densenet201", 20_013_928, 18_112_138, 229_257, 1_207),
    ],
)
def test_parameters(name: str, parameters: int, ten_classes: int, buffers: int, tensors: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    trained = {key for key, _ in model.named_parameters()}
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert parameters - (1000 - 10) * (model.channels[-1] + 1) == ten_classes
    assert sum(value.numel() for key, value in state.items() if key not in trained) == buffers
    assert len(state) == tensors


def test_released_state_dict_loads_strictly():
    """The released files have a dot before the number of a layer's norm and convolution."""
    layout = json.loads((LAYOUTS / "densenet121.json").read_text())
    public = {}
    for key, shape in layout.items():
        if "denselayer" in key:
            for word in ("norm1", "norm2", "conv1", "conv2"):
                key = key.replace(f".{word}.", f".{word[:-1]}.{word[-1]}.")
        public[key] = torch.empty(shape, device="meta")
    assert set(public) != set(layout)
    with torch.device("meta"):
        model = Model(VARIANTS["densenet121"])
        model.load_state_dict(from_public(public))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def test_width_of_the_fifth_layer():
    """k0 + k (l - 1) with k0 = 16, k = 12, l = 5."""
    with torch.device("meta"):
        layer = Model(VARIANTS["densenet40_k12"]).features.denseblock1.denselayer5
    assert layer.conv1.in_channels == 16 + 12 * (5 - 1) == 64


@pytest.mark.parametrize("name", ["densenet121", "densenet161", "densenet_bc100_k12", "densenet40_k12"])
def test_widths_of_all_layers(name: str):
    config = VARIANTS[name]
    with torch.device("meta"):
        model = Model(config)
    k0 = config.stem_channels
    for i, depth in enumerate(config.depths):
        block = model.features.get_submodule(f"denseblock{i + 1}")
        for layer in range(1, depth + 1):
            made = block.get_submodule(f"denselayer{layer}")
            assert made.conv1.in_channels == k0 + config.growth * (layer - 1)
            assert (made.conv2 or made.conv1).out_channels == config.growth
            assert made.conv2 is None or made.conv2.in_channels == 4 * config.growth
        k0 = model.channels[i] if config.theta == 1 else model.channels[i] // 2


def test_transition_keeps_the_floor_of_theta_m():
    model = Model(dataclasses.replace(SMALL, depths=(1, 1), growth=5, stem_channels=8, theta=0.75))
    assert model.features.transition1.conv.out_channels == 9  # 0.75 * 13 = 9.75


def test_every_layer_sees_all_maps_before_it():
    """A block's output starts with its input and holds each layer's maps in order, unchanged."""
    torch.manual_seed(0)
    block = Model(SMALL).eval().features.denseblock2
    x = torch.rand(1, 8, 6, 5)
    out = block(x)
    assert torch.equal(out[:, :8], x)
    for i in range(3):
        layer = block.get_submodule(f"denselayer{i + 1}")
        torch.testing.assert_close(layer([out[:, : 8 + 4 * i]]), out[:, 8 + 4 * i : 12 + 4 * i])


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["BC", "plain"])
def test_checkpointing_changes_memory_and_nothing_else(config: Config):
    config = dataclasses.replace(config, depths=(4, 4, 4))
    torch.manual_seed(0)
    kept = Model(config)
    remade = Model(dataclasses.replace(config, checkpointing=True))
    remade.load_state_dict(kept.state_dict())
    images = torch.rand(2, 3, 32, 32)
    stored = []
    for model in (kept, remade):
        tensors: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, tensors=tensors: tensors.update({t.untyped_storage().data_ptr(): t.numel()}) or t, lambda t: t
        ):
            out = model(images)
        stored.append(sum(tensors.values()))
        out.square().sum().backward()
    assert stored[1] < 0.8 * stored[0]
    for (name, a), b in zip(kept.named_parameters(), remade.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(kept.state_dict().items(), remade.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)  # running statistics counted once
    assert all(m.momentum == 0.1 for m in remade.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["imagenet", "cifar"])
def test_features_have_the_channels_and_strides_that_the_model_states(config: Config):
    model = Model(dataclasses.replace(config, classes=0)).eval()
    maps = model(torch.rand(2, 3, 67, 94))
    first = 4 if config.stem == "imagenet" else 1
    wanted = [(2, c, -(-67 // first) >> i, -(-94 // first) >> i) for i, c in enumerate(model.channels)]
    assert [tuple(m.shape) for m in maps] == wanted
    assert model.strides == [first * 2**i for i in range(len(config.depths))]
    assert all(bool((m >= 0).all()) for m in maps)
