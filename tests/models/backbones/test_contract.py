"""What every backbone owes to the rest of Saccade (docs/architecture.md), on small forms of one or two variants a room.

The test of each backbone holds what its paper states; this one what all have in common, and a new room joins `FORMS`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models import create, model_config, model_module
from saccade.models.configs import config_from_json
from saccade.models.contract import paper_of
from saccade.models.make_catalogue import model_modules

CLASSES = 4
SLOW = pytest.mark.slow
ROOMS = model_modules()


@dataclass(frozen=True)
class Form:
    """A variant made small, and what is its own in the tests below."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    side: int = 64  # of the images
    strides: tuple[int, ...] | None = (4, 8, 16, 32)  # of the trunk; None: no trunk, or one with a test of its own
    trunk: dict[str, Any] = field(default_factory=dict)  # further changes, with which the strides are exact
    rounding: Callable[[float], int] = math.ceil  # of side / stride
    learns: bool = True  # as part of the fast tests; otherwise of the slow ones
    quick: dict[str, Any] = field(default_factory=dict)  # further changes, with which it learns in a few steps
    lr: float = 3e-3
    steps: int = 60


MLP = {"widths": (12, 16, 16, 16, 16), "hidden": 32, "dropout": 0.0}
RESIDUAL = {"depths": (1, 2, 1, 1), "width": 8}
INCEPTION = {"width": 0.125, "dropout": 0.0}
FORMS: dict[str, Form] = {
    "alexnet": Form("alexnet", MLP, 67, (4, 8, 16), {"padded": True}),
    "alexnet_paper": Form("alexnet_paper", MLP, 67, (4, 8, 16), {"padded": True}, quick={"init": "he"}),
    "bn_inception": Form("bn_inception", INCEPTION, 33),
    "darknet19": Form("darknet19", {"stages": ((4,), (8,), (12, 8, 12), (16,), (20,), (24, 8, 24))}, learns=False),
    "darknet53": Form("darknet53", {"blocks": (1, 1, 2, 1, 1), "width": 4}, learns=False),
    "darknet_reference": Form(
        "darknet_reference",
        {"stages": ((4,), (4,), (6,), (6,), (8,), (8,), (8,))},
        strides=(4, 8, 16, 32, 64),
        learns=False,
    ),
    "densenet_bc": Form("densenet121", {"depths": (2, 3, 1, 2), "growth": 4, "stem_channels": 8}, strides=None),
    "densenet": Form("densenet40_k12", {"depths": (2, 3, 2), "growth": 4, "stem_channels": 8}, 32, strides=None),
    "example_net": Form("example_net", {"hidden": 32}, 28, strides=None),
    "googlenet": Form("googlenet", INCEPTION | {"auxiliary_dropout": 0.0}, 32, None),
    "googlenet_paper": Form(
        "googlenet_paper", INCEPTION | {"auxiliary_dropout": 0.0, "width": 0.25}, 64, None, learns=False
    ),
    "inception_resnet_v1": Form(
        "inception_resnet_v1_face", INCEPTION | {"depths": (1, 1, 1), "embedding": 16}, 75, None, learns=False
    ),
    "inception_resnet_v2": Form(
        "inception_resnet_v2", INCEPTION | {"depths": (1, 1, 2)}, 75, trunk={"padding": "same"}, learns=False
    ),
    "inception_v3": Form("inception_v3", INCEPTION, 75, trunk={"padding": "same"}, learns=False),
    "inception_v4": Form(
        "inception_v4", INCEPTION | {"depths": (1, 1, 1)}, 75, trunk={"padding": "same"}, learns=False
    ),
    "lenet5": Form("lenet5", {}, 32, strides=None, steps=150),
    "lenet5_modern": Form("lenet5_modern", {}, 32, strides=None, steps=150),
    "lenet_1990": Form("lenet_1990", {}, 28, strides=None, lr=1e-2),
    "mobilenet": Form("mobilenet_w25", learns=False),
    "mobilenet_v2": Form("mobilenet_v2", {"width": 0.25, "dropout": 0.0}, learns=False),
    "mobilenet_v3_small": Form("mobilenet_v3_small", {"width": 0.25, "dropout": 0.0}, learns=False),
    "mobilenet_v3_large": Form("mobilenet_v3_large", {"width": 0.25, "dropout": 0.0}, learns=False),
    "nin": Form(
        "nin_cifar10",
        {"widths": ((8, 8, 8), (8, 8, 8), (8, 8)), "dropouts": (0.0, 0.0)},
        32,
        (1, 2, 4),
        rounding=math.floor,
        quick={"widths": ((16, 16, 16), (16, 16, 16), (16, 16))},
        lr=5e-3,
    ),
    "preact_resnet": Form("preact_resnet18", RESIDUAL),
    "preact_resnet_bottleneck": Form("preact_resnet50", RESIDUAL, learns=False),
    "resnet": Form("resnet18", RESIDUAL),
    "resnet_cifar": Form("resnet20", {"depths": (1, 1, 1)}, 32, (1, 2, 4)),
    "resnet_bottleneck": Form("resnet50", RESIDUAL, learns=False),
    "resnext": Form("resnext50_32x4d", RESIDUAL | {"groups": 4, "group_width": 2}),
    "resnext_cifar": Form(
        "resnext29_8x64d", {"depths": (1, 1, 1), "groups": 4, "group_width": 2, "width": 8}, 32, (1, 2, 4), learns=False
    ),
    "shufflenet": Form("shufflenet_g2", {"width": 32}, learns=False),
    "shufflenet_v2": Form("shufflenet_v2_x1_0", {"width": 16, "last": 64}, learns=False),
    "squeezenet1_0": Form("squeezenet1_0", {"width": 0.25, "dropout": 0.0}, strides=None, learns=False),
    "squeezenet1_1": Form("squeezenet1_1", {"width": 0.5, "dropout": 0.0}, strides=None, learns=False, lr=1e-3),
    "vgg_bn": Form(
        "vgg16_bn",
        {"width": 4, "hidden": 16, "dropout": 0.0},
        48,
        (1, 2, 4, 8, 16),
        rounding=math.floor,
        quick={"width": 8, "depths": (1, 1, 1, 1, 1), "hidden": 64},
    ),
    "xception": Form(
        "xception",
        {"stem": (8, 8), "entry": (12, 16, 24), "middle": 1, "exit": (24, 32, 48), "dropout": 0.0},
        strides=None,
    ),
    "zfnet": Form("zfnet", MLP, 47, (2, 8, 16), {"padded": True}),
}


# variant -> layout of its public checkpoint, key -> shape
LAYOUTS = {
    "alexnet": "alexnet",
    "darknet53": "darknet53",
    "densenet121": "densenet121",
    "googlenet": "googlenet",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "mobilenet": "mobilenetv1_100",
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": "resnext50_32x4d",
    "shufflenet_v2_x1_0": "shufflenet_v2_x1_0",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "xception": "xception",
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def make(form: Form, **more: Any) -> Any:
    torch.manual_seed(0)
    return create(form.name, **{"classes": CLASSES} | form.changes | more)


def batch_of(form: Form, images: int) -> Batch:
    """Noise around one colour an image; image i is of class i % CLASSES."""
    generator = torch.Generator().manual_seed(0)
    noise, colour = (torch.rand(images, 3, side, side, generator=generator) for side in (form.side, 1))
    size = (form.side, form.side)
    labels = [i % CLASSES for i in range(images)]
    truth = [Annotation(size, label=label, tags=torch.arange(CLASSES) == label) for label in labels]
    return Batch(0.3 * noise + 0.7 * colour, [size] * images, truth)


def test_every_room_has_a_form() -> None:
    backbones = {room.__name__ for room in ROOMS if ".backbones." in room.__name__}
    assert {model_module(form.name).__name__ for form in FORMS.values()} == backbones


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_the_loss_reaches_every_parameter(form: Form, task: str) -> None:
    if task not in model_module(form.name).TASKS:
        pytest.skip(f"{form.name} is not trained to {task}")
    model = make(form) if task == "classify" else make(form, task=task)
    losses = model.train().loss(batch_of(form, 4))
    assert all(loss.ndim == 0 and bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in found.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []
    model.eval()
    assert model.loss(batch_of(form, 2)).keys() == losses.keys()
    answers = model.predict(batch_of(form, 2))
    for answer in answers:
        assert answer.size == (form.side, form.side)
        assert answer.scores.shape == (CLASSES,)
        assert bool(((answer.scores >= 0) & (answer.scores <= 1)).all())
        if task == "classify":
            assert float(answer.scores.sum()) == pytest.approx(1)
            assert answer.label == int(answer.scores.argmax())
        else:
            assert answer.tags.shape == (CLASSES,)


def test_exports(form: Form) -> None:
    model = make(form).eval()
    images = torch.rand(1, 3, form.side + 5, form.side)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize("height_width", [(67, 94), (224, 96)])
def test_a_trunk_has_the_channels_and_strides_that_it_states(form: Form, height_width: tuple[int, int]) -> None:
    if form.strides is None:
        pytest.skip("no trunk, or one whose own test says more")
    with torch.device("meta"):
        model = make(form, classes=0, **form.trunk).eval()
        maps = model(torch.empty(2, 3, *height_width))
    assert tuple(model.strides) == form.strides
    wanted = [
        (2, c, *(form.rounding(v / s) for v in height_width))
        for c, s in zip(model.channels, model.strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == wanted
    with pytest.raises(ValueError, match="no classifier"):
        model.predict(Batch(torch.empty(1, 3, *height_width, device="meta"), [height_width]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_state_dict_loads_strictly(name: str) -> None:
    folder = Path(__file__).parents[2] / "data" / "layouts"
    layout = json.loads((folder / f"{LAYOUTS[name]}.json").read_text(encoding="utf-8"))
    room = model_module(name)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    with torch.device("meta"):
        model = create(name)
        model.load_state_dict(getattr(room, "from_public", dict)(public))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def _learns_eight_images_by_heart(form: Form) -> None:
    batch = batch_of(form, 8)
    model = make(form, **form.quick).train()
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(form.steps):
        optimizer.param_groups[0]["lr"] = form.lr * (1 - step / form.steps)
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(20):  # the running statistics of so short a training lag behind the weights
            model(batch.images)
        answers = model.eval().predict(batch)
    assert [answer.label for answer in answers] == [truth.label for truth in batch.truth or []]


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.learns])
def test_learns_by_heart(name: str) -> None:
    _learns_eight_images_by_heart(FORMS[name])


@SLOW
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if not form.learns])
def test_the_others_learn_by_heart(name: str) -> None:
    _learns_eight_images_by_heart(FORMS[name])


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__.rsplit(".", 1)[-1])
def test_what_a_room_states(room: ModuleType) -> None:
    """Paper and size of every variant, recipes of known settings, configs that JSON keeps."""
    assert {"default", "paper"} <= set(room.RECIPES)
    for name, config in room.VARIANTS.items():
        assert paper_of(room, name).year >= 1980
        assert isinstance(room.SIZE, int) or set(room.SIZE) == set(room.VARIANTS)
        assert model_config(name) == config
        assert config_from_json(room, name, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    fields = {f.name for f in dataclasses.fields(room.Config)}
    for recipe in room.RECIPES.values():
        assert set(recipe) <= {"*", *room.VARIANTS}
        for settings in recipe.values():
            resolve([("recipe", settings)], fields)
