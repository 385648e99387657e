from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.errors import ModelFileError
from saccade.models.backbones.darknet import PAPER, RECIPES, SIZE, VARIANTS, Config, Model, Residual
from saccade.models.darknet_weights import file_layers, read_for_model, write_weights
from saccade.models.make_catalogue import describe
from saccade.training.weights import start_from

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"
RESIDUAL = Config(classes=4, stages=(), blocks=(1, 1, 2, 1, 1), width=4, scores="mean")
REFERENCE = Config(classes=4, stages=((4,), (4,), (6,), (6,), (8,), (8,), (8,)), scores="mean")
SMALL = Config(classes=4, stages=((4,), (8,), (12, 8, 12), (16,), (20,), (24, 8, 24)))


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("darknet_reference", 7_319_416, 387_211_264),
        ("extraction", 23_437_224, 4_259_340_288),
        ("darknet19", 20_842_376, 2_790_989_824),
        ("darknet53", 41_609_928, 9_285_115_904),
        ("darknet53_timm", 41_609_928, 9_285_115_904),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_public_state_dict_loads_strictly():
    layout = json.loads((LAYOUTS / "darknet53.json").read_text())
    with torch.device("meta"):
        model = Model(VARIANTS["darknet53"])
        model.load_state_dict({key: torch.empty(shape) for key, shape in layout.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL, RESIDUAL, REFERENCE):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "convolutions", "statistics"),
    [("darknet_reference", 8, 4_064), ("extraction", 21, 18_176), ("darknet19", 19, 14_400), ("darknet53", 53, 35_712)],
)
def test_layers_and_running_statistics(name: str, convolutions: int, statistics: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    layers = file_layers(model)
    assert len(layers) == convolutions
    assert sum(2 * layer.shape[0] for layer in layers if layer.norm) == statistics
    assert sum(layer.numbers for layer in layers) == sum(p.numel() for p in model.parameters()) + statistics


@pytest.mark.parametrize("name", ["darknet19", "extraction"])
def test_trunks_of_the_published_networks(name: str):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], classes=0)).eval()
        maps = model(torch.empty(1, 3, 224, 224))
    channels = {"darknet19": (128, 256, 512, 1024), "extraction": (192, 512, 1024, 1024)}[name]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 224 // s, 224 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_kernels_alternate_and_end_with_three():
    kernels = [layer.shape[-1] for layer in file_layers(Model(SMALL))]
    assert kernels == [3, 3, 3, 1, 3, 3, 3, 3, 1, 3, 1]


def test_residual_block_adds_without_activation():
    block = Residual(8, 0.1).eval()
    torch.nn.init.zeros_(block.conv2.bn.weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_scores_by_hand():
    """A class map of 1 and -1: mean 0 as it is, (1 - 0.1) / 2 through a leaky ReLU."""
    for scores, wanted in (("maps", 0.0), ("leaky maps", 0.45)):
        model = Model(Config(classes=1, stages=((1,),), scores=scores))
        torch.nn.init.ones_(model.head[0].weight)
        torch.nn.init.zeros_(model.head[0].bias)
        model.features = lambda images: [images[:, :1]]  # type: ignore[method-assign]
        images = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
        torch.testing.assert_close(model(images), torch.tensor([[wanted]]))


def test_every_variant_has_paper_and_size():
    assert set(PAPER) == set(SIZE) == set(VARIANTS)


@pytest.mark.parametrize("config", [SMALL, RESIDUAL], ids=["plain", "residual"])
def test_binary_weights_start_a_model_of_other_classes(config: Config, tmp_path: Path):
    torch.manual_seed(0)
    room = sys.modules[Model.__module__]
    public = Model(dataclasses.replace(config, classes=7)).eval()
    with torch.no_grad():
        for name, value in public.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    path = tmp_path / "some.weights"
    write_weights(path, file_layers(public), public.state_dict())
    same = Model(dataclasses.replace(config, classes=7)).eval()
    assert [k for k in start_from(same, room, path) if not k.endswith("num_batches_tracked")] == []
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(same(images), public(images))
    other = Model(config)
    left = [k for k in start_from(other, room, path) if not k.endswith("num_batches_tracked")]
    assert left == [name for name, _ in sorted(other.named_parameters()) if name.startswith("head.")]
    with pytest.raises(ModelFileError, match="weights of another network"):
        start_from(Model(VARIANTS["darknet19"]), room, path)


def test_a_file_without_classifier_starts_a_model_with_one(tmp_path: Path):
    trunk = Model(dataclasses.replace(RESIDUAL, classes=0))
    path = tmp_path / "trunk.conv"
    write_weights(path, file_layers(trunk), trunk.state_dict())
    found = read_for_model(path, Model(RESIDUAL))
    assert {name for name, _ in trunk.named_parameters()} <= set(found)
    assert not any(name.startswith("head.") for name in found)


def batch_of(images: int, side: int, classes: int) -> Batch:
    """Noise around one colour an image; image i is of class i % classes."""
    generator = torch.Generator().manual_seed(0)
    noise, colour = (torch.rand(images, 3, n, n, generator=generator) for n in (side, 1))
    truth = [
        Annotation((side, side), label=i % classes, tags=torch.arange(classes) == i % classes) for i in range(images)
    ]
    return Batch(0.3 * noise + 0.7 * colour, [(side, side)] * images, truth)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradient_reaches_all_parameters(task: str):
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, task=task))
    sum(model.loss(batch_of(4, 64, 4)).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.slow
def test_learns_sixteen_images_by_heart():
    torch.manual_seed(0)
    batch = batch_of(16, 32, 4)
    model = Model(SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 60)
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(40):  # the running statistics of so short a training lag behind the weights
            model(batch.images)
        said = model.eval().predict(batch)
    assert [s.label for s in said] == [i % 4 for i in range(16)]


@pytest.mark.parametrize("config", [SMALL, RESIDUAL, REFERENCE], ids=["plain", "residual", "reference"])
def test_exports(config: Config):
    model = Model(config).eval()
    images = torch.rand(1, 3, 64, 64)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


def test_a_trunk_has_no_loss():
    with pytest.raises(ValueError, match="no classifier"):
        Model(dataclasses.replace(SMALL, classes=0)).eval().predict(batch_of(1, 32, 4))


def test_recipes_are_valid_settings():
    for recipe in RECIPES.values():
        assert set(recipe) <= {"*", *VARIANTS}
        for settings in recipe.values():
            resolve([("recipe", settings)])
