"""What every model file owes to the rest of Saccade (`models/contract.py`), over the whole catalogue.

The test of each room holds what its paper states; this one what all have in common. A new file is found by itself: it
needs a line in `counts.py`, and a form in `forms.py` where its smallest variant is slow.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade
from models.counts import MULTIPLY_ADDS, PARAMETERS
from models.forms import Form, all_forms
from models.pictures import CLASSES, nothing, pictures
from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.explanations.image import inputs_of
from saccade.explanations.layers import of_trunk, recorded_maps
from saccade.inference.exported import Exported
from saccade.machine.device import autocast
from saccade.models import catalogue, contract, create, model_config, model_module
from saccade.models.configs import config_from_json, free_fields
from saccade.models.contract import (
    Room,
    adapt,
    adapts,
    as_trunk,
    example_inputs,
    features_of,
    from_public,
    one_person,
    paper_of,
    takes_proposals,
)
from saccade.models.dry_run import model_of_shapes
from saccade.models.make_catalogue import entry_of, model_modules
from saccade.ops.boxes import box_iou
from saccade.tasks.table import TASKS
from saccade.training.measure import mean_losses

SLOW = pytest.mark.slow
ROOMS = model_modules()
EVERY = all_forms()
FIRST = {model_module(form.name).__name__: name for name, form in reversed(EVERY.items())}  # form of each room
LEARNS = {model_module(form.name).__name__: name for name, form in reversed(EVERY.items()) if form.learns}
BOXES = ("detect", "instances", "pose", "boxes3d")
# Exported by the fast tests: a form of every room, but two for all that classify, which end in one layer of classes and
# look at no value (`test_training_changes_no_shape` would raise).
EXPORTED = {"resnet", "googlenet"} | {n for n in FIRST.values() if "classify" not in model_module(EVERY[n].name).TASKS}
NAMES = {id(room): room.__name__.rsplit(".", 1)[-1] for room in ROOMS}


# variant -> layout of its public checkpoint, key -> shape
LAYOUTS = {
    "alexnet": "alexnet",
    "darknet53": "darknet53",
    "densenet121": "densenet121",
    "fcn_resnet50": "fcn_resnet50",
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


@pytest.fixture(params=EVERY)
def form(request: pytest.FixtureRequest) -> Form:
    return EVERY[request.param]


@pytest.fixture(params=[pytest.param(name, marks=[] if name in FIRST.values() else SLOW) for name in EVERY])
def one_form(request: pytest.FixtureRequest) -> Form:
    """One form of every room; the others among the slow tests."""
    return EVERY[request.param]


@pytest.fixture(params=ROOMS, ids=lambda room: NAMES[id(room)])
def room(request: pytest.FixtureRequest) -> Room:
    return request.param


def make(form: Form, **more: Any) -> Any:
    torch.manual_seed(0)
    return create(form.name, **{"classes": CLASSES} | form.changes | more)


def task_of(form: Form) -> str:
    return model_module(form.name).TASKS[0]


def shown(form: Form, task: str, images: int) -> Batch:
    """Pictures of the form's side, with boxes where its model takes some, or of one object each."""
    room = model_module(form.name)
    return pictures(task, images, form.side, takes_proposals(room), one_person(room))


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def shapes(outputs: Tensor | tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in ([outputs] if isinstance(outputs, Tensor) else outputs)]


# What a room states.


def names_of(protocol: type) -> set[str]:
    """The members that a protocol of contract.py lists."""
    listed = set(vars(protocol)) | set(protocol.__annotations__)
    return {name for name in listed if not name.startswith("_")}


@functools.cache
def words_of_the_house() -> dict[Path, set[str]]:
    """Of each file the names that it uses: read, imported, or asked of an object."""
    root = Path(saccade.__file__).parent
    return {path: used_names(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}


def used_names(source: str) -> set[str]:
    used: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names)
    return used


def defined_names(body: list[ast.stmt]) -> set[str]:
    """Public names that stand in a module or class: functions, classes, assignments."""
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def unasked_names(source: str, used: set[str]) -> set[str]:
    """Public names of a model file and of its Model that are neither in the contract nor used by anyone: a hook that
    nobody calls, because its name is misspelt."""
    body = ast.parse(source).body
    model = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == "Model")
    of_module = defined_names(body) - names_of(contract.Room) - names_of(contract.RoomOffers)
    of_model = defined_names(model.body) - names_of(contract.Network) - names_of(contract.NetworkOffers)
    return (of_module | of_model) - used - used_names(source)


def test_a_room_offers_nothing_that_nobody_asks_for(room: Room) -> None:
    path = Path(str(room.__file__))
    used = set().union(*(words for other, words in words_of_the_house().items() if other != path))
    source = path.read_text(encoding="utf-8")
    assert unasked_names(source, used) == set(), "in models/contract.py there is no such name"
    if adapts(room):
        assert unasked_names(source.replace("def adapt(", "def adpat("), used) == {"adpat"}
        assert unasked_names(source.replace("def predict(", "def prdict("), used) == {"prdict"}


def test_what_a_room_states(room: Room) -> None:
    """Every name that it must offer; paper and size of every variant, recipes of known settings."""
    assert [name for name in names_of(contract.Room) if not hasattr(room, name)] == []
    methods = names_of(contract.Network) - {"config"}
    assert [name for name in methods if not callable(getattr(room.Model, name, None))] == []
    assert room.TASKS
    assert set(room.TASKS) <= set(TASKS)
    assert {"default", "paper"} <= set(room.RECIPES)
    assert isinstance(room.SIZE, int) or set(room.SIZE) == set(room.VARIANTS)
    assert not isinstance(room.PAPER, dict) or set(room.PAPER) == set(room.VARIANTS)
    fields = {f.name for f in dataclasses.fields(room.Config)}
    assert {"classes", *(["task"] if len(room.TASKS) > 1 else [])} <= fields
    for recipe in room.RECIPES.values():
        assert set(recipe) <= {"*", *room.VARIANTS}
        for settings in recipe.values():
            resolve([("recipe", settings)], free_fields(next(iter(room.VARIANTS.values()))))


def test_a_variant_is_what_the_catalogue_states_and_others_count(room: Room) -> None:
    """Parameters, multiply-adds and outputs of every variant at its paper's side, on the meta device."""
    for name, config in room.VARIANTS.items():
        assert paper_of(room, name).year >= 1980
        assert model_config(name) == config
        assert config_from_json(room, name, json.loads(json.dumps(dataclasses.asdict(config)))) == config
        entry = entry_of(room, name)
        assert name in PARAMETERS, f"tests/models/counts.py does not say how many parameters {name} has"
        assert (name, entry["parameters"]) == (name, PARAMETERS[name])
        assert (name, entry["macs"]) == (name, MULTIPLY_ADDS.get(name, entry["macs"]))
        assert catalogue()[name] == entry, "run: python -m saccade.models.make_catalogue"
    assert config_from_json(room, name, {}) == config


def check_shapes(room: Room, config: Any, height: int, width: int) -> None:
    """Outputs for two images have the form of the task, the same in training and evaluation."""
    found, model = [], model_of_shapes(room, config)
    for training in (False, True):
        with torch.no_grad(), torch.device("meta"):
            found.append(shapes(model.train(training)(*example_inputs(room, config, height, width, 2))))
    assert found[0] == found[1]
    assert all(shape[0] == 2 for shape in found[0])
    first = found[0][0]
    if room.TASKS[0] in ("classify", "localize"):
        assert first == (2, config.classes)
    if room.TASKS[0] == "segment":
        assert first[1] == config.classes
        assert len(first) == 4


def test_training_changes_no_shape(one_form: Form) -> None:
    config = model_config(one_form.name, **{"classes": CLASSES} | one_form.changes)
    check_shapes(model_module(one_form.name), config, one_form.side + 32, one_form.side)


def test_what_a_forward_pass_makes_is_on_the_device_of_the_images(one_form: Form) -> None:
    """A tensor of the CPU that meets one of the meta device is refused, as it would be by one of a GPU."""
    config = model_config(one_form.name, **{"classes": CLASSES} | one_form.changes)
    room = model_module(one_form.name)
    model = model_of_shapes(room, config)
    with torch.device("meta"):
        inputs = example_inputs(room, config, one_form.side, one_form.side, 2)
    with torch.no_grad():
        outputs = model.train()(*inputs)
    assert all(each.is_meta for each in ([outputs] if isinstance(outputs, Tensor) else outputs))


@SLOW
@pytest.mark.parametrize("name", catalogue())
def test_training_changes_no_shape_of_any_variant(name: str) -> None:
    side = catalogue()[name]["size"]
    check_shapes(model_module(name), model_config(name), side, side)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_state_dict_loads_strictly(name: str) -> None:
    folder = Path(__file__).parents[1] / "data" / "layouts"
    layout = json.loads((folder / f"{LAYOUTS[name]}.json").read_text(encoding="utf-8"))
    room = model_module(name)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    with torch.device("meta"):
        model = create(name)
        model.load_state_dict(from_public(room, public))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def test_own_weights_are_left_as_they_are(room: Room) -> None:
    name = min(room.VARIANTS, key=lambda name: catalogue()[name]["parameters"])
    state = model_of_shapes(room, room.VARIANTS[name]).state_dict()
    once = from_public(room, state)
    assert list(once) == list(state)
    assert all(once[key] is value for key, value in state.items())


def test_adapt_keeps_what_a_person_gave(form: Form) -> None:
    room, config = model_module(form.name), model_config(form.name, **{"classes": CLASSES} | form.changes)
    if not adapts(room):
        pytest.skip(f"{form.name} fits nothing to the data")
    truth = (shown(form, task_of(form), 4).truth or []) * 20
    fitted = adapt(room, config, truth)
    changed = {f.name for f in dataclasses.fields(config) if getattr(fitted, f.name) != getattr(config, f.name)}
    assert changed
    assert adapt(room, config, truth) == fitted
    assert adapt(room, config, []) == config
    for name in changed:
        assert getattr(adapt(room, config, truth, {name}), name) == getattr(config, name)
    assert adapt(room, config, truth, changed) == config
    model_of_shapes(room, fitted)


# What a small form does.


@pytest.mark.parametrize("height_width", [(67, 94), pytest.param((224, 96), marks=SLOW)])
def test_a_trunk_has_the_channels_and_strides_that_it_states(form: Form, height_width: tuple[int, int]) -> None:
    if form.strides is None:
        pytest.skip("no trunk, or one whose own test says more")
    with torch.device("meta"):
        model = make(form, classes=0, **as_trunk(model_module(form.name))).eval()
        maps = model(torch.empty(2, 3, *height_width))
    assert tuple(model.strides) == form.strides
    wanted = [
        (2, c, *(form.rounding(v / s) for v in height_width))
        for c, s in zip(model.channels, model.strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == wanted
    with pytest.raises(ValueError, match="no classifier"):
        model.predict(Batch(torch.empty(1, 3, *height_width, device="meta"), [height_width]))


def test_hooks_see_the_maps_that_a_trunk_hands_out(form: Form) -> None:
    """What explains a network finds its maps by hooks; so `features` is a module, or ends by one (layers/maps.py)."""
    room = model_module(form.name)
    with torch.device("meta"):
        if ".backbones." not in room.__name__ or features_of(make(form)) is None:
            pytest.skip("no trunk")
        model = make(form, classes=0, **as_trunk(room)).eval()
        with recorded_maps(model) as seen:
            maps = model.features(torch.empty(1, 3, 96, 96))
    assert [name for name in seen if of_trunk(name)] == [f"features[{i}]" for i in range(len(maps))]
    assert all(seen[f"features[{i}]"] is each for i, each in enumerate(maps))


def test_the_loss_reaches_every_parameter(form: Form) -> None:
    for task in model_module(form.name).TASKS:
        model = make(form) if task == task_of(form) else make(form, task=task)
        losses = model.train().loss(shown(form, task, 4))
        assert all(loss.ndim == 0 and bool(loss.isfinite()) for loss in losses.values())
        total(losses).backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert [name for name, grad in found.items() if grad is None or not grad.isfinite().all()] == []
        if task not in BOXES:  # a map on which no object lies has nothing to learn about boxes
            assert [name for name, grad in found.items() if not grad.any()] == []
        assert model.eval().loss(shown(form, task, 2)).keys() == losses.keys()


def test_the_loss_on_validation_images_leaves_no_trace(one_form: Form) -> None:
    """As it is measured in the middle of a training: the same twice, and nothing of the run has moved."""
    form = one_form
    for task in model_module(form.name).TASKS:
        model = (make(form) if task == task_of(form) else make(form, task=task)).train()
        still = next(model.children(), torch.nn.Identity())
        still.eval()  # as a frozen part is
        batch = shown(form, task, 4)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random = torch.get_rng_state()
        found = [mean_losses(model, [batch[:2], batch], torch.device("cpu"), "fp32", seed=3) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0]
        assert all(math.isfinite(value) for value in found[0].values())
        assert torch.equal(random, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.training
        assert not still.training
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("images", ["none", "one of two"])
def test_images_with_nothing_in_them(form: Form, images: str) -> None:
    task = task_of(form)
    if task not in (*BOXES, "segment"):
        pytest.skip("an image always has a label")
    batch, model = shown(form, task, 2), make(form).train()
    empty = nothing(task, batch.sizes[0])
    batch.truth = [empty, empty] if images == "none" or batch.truth is None else [batch.truth[0], empty]
    losses = model.loss(batch)
    assert total(losses).isfinite()
    assert all(loss.item() == 0 for name, loss in losses.items() if "box" in name and images == "none")
    total(losses).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_answers_are_valid(form: Form) -> None:
    for task in model_module(form.name).TASKS:
        model = (make(form) if task == task_of(form) else make(form, task=task)).eval()
        batch = shown(form, task, 2)
        if task in (*BOXES, "segment"):
            batch.sizes = [batch.sizes[0], (form.side - 8, form.side - 5)]  # the second image is padded
        with torch.no_grad():
            answers = model.predict(batch)
        assert [answer.size for answer in answers] == batch.sizes
        for answer in answers:
            check_answer(answer, task)


def test_a_detector_shows_the_way_to_its_answer(form: Form) -> None:
    """The last stage is the answer, the one before holds it, and every box is one; nothing found is shown too."""
    if task_of(form) not in BOXES:
        pytest.skip("no detector")
    model, batch = make(form).eval(), shown(form, task_of(form), 1)
    batch.sizes = [(form.side - 8, form.side - 5)]
    for least in (0.0, 0.999):
        if hasattr(model, "rules"):
            model.rules = dataclasses.replace(model.rules, score_threshold=least)
        with torch.no_grad():
            stages, answer = contract.answer_stages(model, batch), model.predict(batch)[0].objects
        assert answer is not None
        assert stages[-1].name == "answer"
        torch.testing.assert_close(stages[-1].boxes, answer.boxes)
        for stage in stages:
            assert stage.name
            assert stage.words.endswith(".")
            assert bool(stage.boxes.isfinite().all())
            assert stage.scores is None or bool((stage.scores.diff() <= 1e-6).all())
            assert stage.labels is None or len(stage.labels) == len(stage.boxes)
        before = [stage for stage in stages if stage.nms is not None]
        if before and len(answer):
            assert bool((box_iou(answer.boxes, before[-1].boxes).amax(1) > 0.99).all())


def check_answer(answer: Annotation, task: str) -> None:
    height, width = answer.size
    if task in ("classify", "tag", "localize"):
        assert answer.probabilities is not None
        assert answer.probabilities.shape == (CLASSES,)
        assert bool(((answer.probabilities >= 0) & (answer.probabilities <= 1)).all())
    if task in ("classify", "localize"):
        assert answer.probabilities is not None
        assert float(answer.probabilities.sum()) == pytest.approx(1)
        assert answer.label == int(answer.probabilities.argmax())
    if task == "tag":
        assert answer.tags is not None
        assert answer.tags.shape == (CLASSES,)
    if task == "embed":
        assert answer.embedding is not None
        assert answer.embedding.dtype == torch.float32
        assert float(answer.embedding.norm()) == pytest.approx(1, abs=1e-5)
    if task == "segment":
        assert answer.semantic is not None
        assert (tuple(answer.semantic.shape), answer.semantic.dtype) == (answer.size, torch.uint8)
        assert int(answer.semantic.max()) < CLASSES
    if task in (*BOXES, "localize"):
        objects = answer.objects
        assert objects is not None
        assert objects.scores is not None
        assert bool((objects.boxes >= 0).all())
        assert bool((objects.boxes <= torch.tensor([width, height, width, height])).all())
        assert bool((objects.boxes[:, 2:] >= objects.boxes[:, :2]).all())
        assert bool(((objects.scores >= 0) & (objects.scores <= 1)).all())
        assert bool((objects.scores.diff() <= 0).all())
        assert bool(((objects.labels >= 0) & (objects.labels < CLASSES)).all())
        assert (objects.masks is not None) == (task == "instances")
        assert (objects.keypoints is not None) == (task == "pose")
        assert (objects.cuboids is not None) == (task == "boxes3d")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EXPORTED else SLOW) for n in EVERY])
def test_exports(name: str) -> None:
    """An exported network answers by name what `predict` does, in shapes that do not depend on what images show."""
    form = EVERY[name]
    task, room = task_of(form), model_module(form.name)
    model, batch = make(form).eval(), shown(form, task, 2)
    if task in BOXES and not one_person(room):
        batch.sizes = [batch.sizes[0], (form.side - 8, form.side - 5)]  # the second image is padded
    network = Exported(model, task, takes_proposals(room)).eval()
    inputs = (batch.images, *([torch.tensor(batch.sizes)] if "sizes" in network.inputs else []), *inputs_of(batch)[1:])
    dark = (torch.zeros_like(inputs[0]), *inputs[1:])
    with torch.no_grad():
        whatever = shapes(network(*dark))
        program = torch.export.export(network, inputs)
        found = dict(zip(network.names, program.module()(*inputs), strict=True))
        check_named(found, model.predict(batch))
    assert shapes(tuple(found.values())) == whatever


def check_named(found: dict[str, Tensor], answers: list[Annotation]) -> None:
    """The tensors of a file say what the answers say, but for joints, which may be placed to a cell of their map."""
    for i, answer in enumerate(answers):
        height, width = answer.size
        if "probabilities" in found:
            torch.testing.assert_close(found["probabilities"][i], answer.probabilities)
        if "embedding" in found:
            torch.testing.assert_close(found["embedding"][i], answer.embedding)
        if "classes" in found:
            assert answer.semantic is not None
            assert float((found["classes"][i, :height, :width] == answer.semantic).float().mean()) > 0.999
        if "labels" in found:
            objects, there = answer.objects, found["boxes"][i][:, 2] > found["boxes"][i][:, 0]  # empty: zeros
            assert objects is not None
            assert found["labels"][i][there].tolist() == objects.labels.tolist()
            torch.testing.assert_close(found["scores"][i][there], objects.scores)
            torch.testing.assert_close(found["boxes"][i][there], objects.boxes)


def test_half_precision_agrees(form: Form) -> None:
    batch, model = shown(form, task_of(form), 2), make(form).eval()
    values = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(1)
        with autocast(torch.device("cpu"), precision), torch.no_grad():
            losses = model.loss(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        values.append(float(total(losses)))
    assert values[1] == pytest.approx(values[0], rel=0.15)


def learns_by_heart(form: Form) -> None:
    task = task_of(form)
    batch = shown(form, task, form.images)
    room = model_module(form.name)
    config = adapt(room, make(form, **form.quick).config, batch.truth or [])
    torch.manual_seed(0)
    model = room.Model(config).train()
    optimizer = torch.optim.Adam(model.parameters())
    values = []
    for step in range(form.steps):
        optimizer.param_groups[0]["lr"] = form.lr * (1 - form.falls * step / form.steps)
        optimizer.zero_grad()
        loss = total(model.loss(batch))
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert min(values[-3:]) < values[0]
    with torch.no_grad():
        for _ in range(20):  # the running statistics of so short a training lag behind the weights
            model(*(inputs_of(batch) if takes_proposals(room) else [batch.images]))
        answers = model.eval().predict(batch)
    for truth, answer in zip(batch.truth or [], answers, strict=True):
        check_learned(truth, answer, task)
    if task == "embed":
        check_apart(model, batch.truth or [], answers)
    for truth, answer in zip(batch.truth or [], answers, strict=True):
        if one_person(room):
            check_joints(truth, answer)


def check_apart(model: Any, truths: list[Annotation], answers: list[Annotation]) -> None:
    """Any two images of one identity are more alike than any two of different ones."""
    vectors = torch.stack([answer.embedding for answer in answers if answer.embedding is not None])
    labels = torch.tensor([truth.label for truth in truths])
    with torch.no_grad():
        alike = model.similarity(vectors, vectors) if hasattr(model, "similarity") else vectors @ vectors.T
    same = labels[:, None] == labels
    assert float(alike[same].min()) > float(alike[~same].max())


def check_joints(truth: Annotation, answer: Annotation) -> None:
    """Every labelled joint of the one object is found within a twentieth of the image."""
    assert truth.objects is not None
    assert truth.objects.keypoints is not None
    assert answer.objects is not None
    assert answer.objects.keypoints is not None
    wanted, found = truth.objects.keypoints[0], answer.objects.keypoints[0]
    away = (wanted - found)[wanted[:, 2] > 0, :2].norm(dim=1)
    assert bool((away <= max(truth.size) / 20).all())


def check_learned(truth: Annotation, answer: Annotation, task: str) -> None:
    """The answer is the truth, or near it: IoU of a box over 0.5, of the classes of a map over 0.9."""
    if task in ("classify", "localize"):
        assert answer.label == truth.label
    if task == "segment":
        assert truth.semantic is not None
        assert answer.semantic is not None
        overlaps = []
        for label in truth.semantic.unique():
            mine, wanted = answer.semantic == label, truth.semantic == label
            overlaps.append(float((mine & wanted).sum() / (mine | wanted).sum()))
        assert sum(overlaps) / len(overlaps) > 0.9
    if task in (*BOXES, "localize"):
        assert truth.objects is not None
        assert answer.objects is not None
        assert answer.objects.scores is not None
        sure = answer.objects[:1] if task == "localize" else answer.objects[answer.objects.scores > 0.5]
        near = box_iou(truth.objects.boxes, sure.boxes) > 0.5
        assert bool((near & (truth.objects.labels[:, None] == sure.labels)).any(1).all())
        assert len(sure) <= 2 * len(truth.objects)


@pytest.mark.parametrize("name", LEARNS.values())
def test_learns_by_heart(name: str) -> None:
    learns_by_heart(EVERY[name])


@SLOW
@pytest.mark.parametrize("name", [name for name in EVERY if name not in LEARNS.values()])
def test_the_others_learn_by_heart(name: str) -> None:
    learns_by_heart(EVERY[name])


@pytest.mark.parametrize("name", [name for room, name in FIRST.items() if room not in LEARNS])
def test_a_few_steps_lower_the_loss(name: str) -> None:
    form = EVERY[name]
    batch, model = shown(form, task_of(form), 4), make(form).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = total(model.loss(batch))
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]
