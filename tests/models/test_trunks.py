"""Every kind of head on every kind of trunk: shapes, losses that reach all of it, answers.

Trunks differ in what a head must not assume: strides that begin at 1 (VGG) or end at 16 (AlexNet, SqueezeNet), sides
rounded down (VGG, DenseNet), borders lost to unpadded convolutions (SqueezeNet), ReLUs or none behind the maps, widths
that count channels (ResNet) or multiply them (MobileNet, Inception), none at all (DenseNet, AlexNet).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models import catalogue, create, model_config, model_module
from saccade.models.dry_run import model_of_shapes

CLASSES = 3
TRUNKS: dict[str, dict[str, Any]] = {
    "resnet18": {"trunk_width": 4},
    "vgg11_bn": {"trunk_width": 4},
    "densenet121": {"trunk_depths": (1, 1, 1, 1)},
    "mobilenet_v2": {"trunk_width": 0.25},
    "inception_v3": {"trunk_width": 0.125},
    "shufflenet_v2_x0_5": {"trunk_width": 16},
    "squeezenet1_1": {"trunk_width": 0.125},
    "prelunet_a": {"trunk_width": 0.03125, "trunk_depths": (1, 1, 1)},
}
HEADS: dict[str, dict[str, Any]] = {
    "atss_small": {"channels": 8},
    "retinanet_small": {"channels": 8, "depth": 1},
    "faster_rcnn_small": {"channels": 8, "rpn_sample": 16, "head_sample": 16, "head_width": 16},
    "mask_rcnn_small": {
        "channels": 8,
        "rpn_sample": 16,
        "head_sample": 16,
        "head_width": 16,
        "mask_width": 8,
        "detections": 20,
    },
    "faster_rcnn_c4_small": {"rpn_channels": 8, "rpn_sample": 16, "head_sample": 16, "head_width": 16, "tail": True},
    "unet_light": {"decoder_width": 2},
    "localizer_small": {"reduced": 8, "box_hidden": (8,)},
}
PAIRS = [(head, trunk) for head in HEADS for trunk in TRUNKS]


def batch_of(height: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, height, width, generator=generator)
    truth = [
        Annotation(
            (height, width),
            label=i,
            objects=Objects(
                torch.tensor([[4.0 + 8 * i, 6, 40, 50 - 8 * i]]),
                torch.tensor([i]),
                masks=torch.rand(1, height, width, generator=generator) < 0.5,
            ),
            semantic=torch.randint(0, CLASSES, (height, width), generator=generator).to(torch.uint8),
        )
        for i in range(2)
    ]
    return Batch(images, [(height, width)] * 2, truth)


def check_answer(answer: Annotation, size: tuple[int, int]) -> None:
    assert answer.size == size
    assert (answer.objects is None) != (answer.semantic is None)
    if answer.semantic is not None:
        assert tuple(answer.semantic.shape) == size
        assert int(answer.semantic.max()) < CLASSES
    if answer.objects is not None:
        x1, y1, x2, y2 = answer.objects.boxes.unbind(1)
        assert bool(((x1 >= 0) & (x1 <= x2) & (x2 <= size[1]) & (y1 >= 0) & (y1 <= y2) & (y2 <= size[0])).all())
        masks = answer.objects.masks
        assert masks is None or tuple(masks.shape) == (len(x1), *size)
        assert answer.objects.labels.numel() == 0 or int(answer.objects.labels.max()) < CLASSES


@pytest.mark.parametrize(("head", "trunk"), PAIRS)
def test_the_loss_reaches_all_and_answers_are_valid(head: str, trunk: str) -> None:
    torch.manual_seed(0)
    model = create(head, classes=CLASSES, trunk=trunk, **HEADS[head] | TRUNKS[trunk])
    batch = batch_of(70, 61)
    losses = model.train().loss(batch)
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values())
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not bool(grad.isfinite().all())] == []
    assert next(grad for grad in gradients.values() if grad is not None and grad.ndim == 4).abs().sum() > 0
    answers = model.eval().predict(batch)
    assert len(answers) == 2
    for answer, size in zip(answers, batch.sizes, strict=True):
        check_answer(answer, size)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_room_that_can_be_a_trunk_is_one(head: str) -> None:
    """The smallest variant with a map at stride 8 of each, as `--set trunk=NAME` makes it, in shapes alone."""
    fitting = [(entry["parameters"], name) for name, entry in catalogue().items() if 8 in entry.get("strides", [])]
    rooms = {catalogue()[name]["module"]: name for _, name in sorted(fitting, reverse=True)}
    assert len(rooms) >= 21
    room = model_module(head)
    with torch.no_grad(), torch.device("meta"):
        images = torch.empty(1, 3, 160, 130)
        for name in rooms.values():
            model = model_of_shapes(room, model_config(head, classes=CLASSES, trunk=name))
            outputs = model(images)
            if head == "unet_light":
                assert tuple(outputs.shape) == (1, CLASSES, 160, 130), name
            if head == "localizer_small":
                assert [tuple(x.shape) for x in outputs] == [(1, CLASSES), (1, 1, 4)], name
            if head == "atss_small":
                cells = sum(x.shape[2] * x.shape[3] for x in model.backbone(images))
                assert [tuple(x.shape) for x in outputs] == [(1, 2 * cells, CLASSES), (1, 2 * cells, 4)], name


@pytest.mark.parametrize("head", ["atss_small", "faster_rcnn_small"])
def test_a_detector_refuses_maps_that_are_too_fine(head: str) -> None:
    with pytest.raises(UsageError, match=r"resnet20 has maps at strides 1, 2, 4, .*densenet121"):
        create(head, trunk="resnet20")


@pytest.mark.parametrize("head", HEADS)
def test_a_trunk_with_frozen_norms(head: str) -> None:
    model = create(
        head, classes=CLASSES, trunk="densenet121", trunk_depths=(1, 1, 1, 1), trunk_norm="frozen", **HEADS[head]
    )
    trunk = getattr(model, "trunk", None) or model.backbone.body
    before = {name: value.clone() for name, value in trunk.named_buffers() if "running" in name}
    assert before
    sum(model.train().loss(batch_of(64, 64)).values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in trunk.named_buffers() if name in before)
