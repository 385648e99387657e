"""The trunk with two heads: parametrisation and losses by hand, gradients, answers, weights of classifiers, export."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.models import catalogue, create, model_module
from saccade.models.localizers.localizer import box_losses, corners, true_boxes
from saccade.models.standing import standing_of

SIDE = 64
TINY: dict[str, Any] = {"classes": 3, "trunk_width": 8, "reduced": 16, "box_hidden": (32,)}


def make(name: str = "localizer_small", **changes: Any) -> Any:
    torch.manual_seed(0)
    return create(name, **TINY | changes)


def truth_of(label: int, box: list[float], side: int = SIDE) -> Annotation:
    return Annotation((side, side), label=label, objects=Objects(torch.tensor([box]), torch.tensor([label])))


def squares(count: int = 6) -> Batch:
    """A red, green or blue square on gray noise; class and place vary."""
    generator = torch.Generator().manual_seed(1)
    images = 0.4 + 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    truth = []
    for i in range(count):
        x, y, side = 8 * (i % 3), 6 * (i % 4), 20 + 4 * (i % 5)
        images[i, :, y : y + side, x : x + side] = 0
        images[i, i % 3, y : y + side, x : x + side] = 1
        truth.append(truth_of(i % 3, [x, y, x + side, y + side]))
    return Batch(images, [(SIDE, SIDE)] * count, truth)


def test_boxes_are_shares_of_the_input_and_come_back() -> None:
    truth = [truth_of(0, [10.0, 20.0, 30.0, 60.0])]
    shares = true_boxes(truth, (80, 40))
    assert shares.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert corners(shares, (80, 40)).tolist() == [[10, 20, 30, 60]]
    two = Objects(torch.zeros(2, 4), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="image 1 of the batch has 2 boxes"):
        true_boxes([*truth, Annotation((8, 8), label=0, objects=two)], (80, 40))
    with pytest.raises(ValueError, match="image 0 of the batch has 0 boxes"):
        true_boxes([Annotation((8, 8), label=0)], (80, 40))


def test_distances_by_hand() -> None:
    predicted, true = torch.tensor([[0.1, 0.5, 0.5, 0.9]]), torch.tensor([[0.5, 0.5, 0.6, 0.9]])
    assert float(box_losses(predicted, true, "l1", 0.2)) == pytest.approx(0.5)
    assert float(box_losses(predicted, true, "l2", 0.2)) == pytest.approx(0.17)
    assert float(box_losses(predicted, true, "smooth_l1", 0.2)) == pytest.approx((0.4 - 0.1) + 0.01 / 0.4)


def test_alpha_weighs_the_box_alone() -> None:
    batch = squares()
    one, three = (make(box_weight=alpha).eval().loss(batch) for alpha in (1.0, 3.0))
    assert three["box"].item() == pytest.approx(3 * one["box"].item())
    assert three["classification"].item() == pytest.approx(one["classification"].item())


def test_a_box_of_its_class_is_trained_on_its_own_images_alone() -> None:
    model = make(per_class=True).train()
    batch = squares(3)
    batch.truth = [truth_of(1, [0.0, 0.0, 20.0, 20.0])] * 3
    model.loss(batch)["box"].backward()
    touched = model.locate.layers[-1].weight.grad.abs().sum(1).reshape(3, 4).sum(1) > 0
    assert touched.tolist() == [False, True, False]


def test_an_answer_is_a_label_and_a_box_inside_the_image() -> None:
    batch = squares(2)
    batch.sizes = [(SIDE, SIDE), (30, 40)]
    for answer, size in zip(make().eval().predict(batch), batch.sizes, strict=True):
        assert answer.size == size
        assert float(answer.probabilities.sum()) == pytest.approx(1)
        assert answer.label == int(answer.probabilities.argmax())
        assert answer.objects.labels.tolist() == [answer.label]
        assert float(answer.objects.scores[0]) == float(answer.probabilities[answer.label])
        x1, y1, x2, y2 = answer.objects.boxes[0].tolist()
        assert 0 <= x1 <= x2 <= size[1]
        assert 0 <= y1 <= y2 <= size[0]


def test_boxes_of_classes_are_those_of_the_five_best() -> None:
    model = make(classes=7, per_class=True).eval()
    batch = Batch(torch.rand(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2)
    logits, boxes = model(batch.images)
    assert boxes.shape == (2, 7, 4)
    for i, answer in enumerate(model.predict(batch)):
        order = logits[i].argsort(descending=True)[:5]
        assert answer.objects.labels.tolist() == order.tolist()
        wanted = corners(boxes[i, order], (SIDE, SIDE)).clamp(0, SIDE)
        torch.testing.assert_close(answer.objects.boxes, wanted)


def test_another_number_of_outputs_a_layer_away() -> None:
    """Parameters by hand: the trunk without its classifier, a linear layer of classes, the box head."""
    trunk = catalogue()["resnet18"]["parameters"] - 512 * 1000 - 1000
    box = 512 * 128 + 2 * 128 + (128 * 49 + 1) * 256 + 257 * 4
    assert catalogue()["localizer_resnet18"]["parameters"] == trunk + 513 * 1000 + box
    trunk = catalogue()["vgg16"]["parameters"]
    assert catalogue()["localizer_vgg16"]["parameters"] == trunk + 25089 * 4096 + 4097 * 1024 + 1025 * 4


@pytest.mark.parametrize(
    ("name", "trunk"),
    [("localizer_small", "resnet18"), ("localizer_vgg16", "vgg16"), ("localizer_small", "densenet121")],
)
def test_a_classifier_fills_all_but_the_box(name: str, trunk: str) -> None:
    with torch.device("meta"):
        public, model = create(trunk).state_dict(), create(name, trunk=trunk, trunk_width=None)
    expected, base = model.state_dict(), standing_of(model)
    assert base is not None
    placed = base.tensors(model_module(name), public)
    assert all(expected[key].shape == value.shape for key, value in placed.items() if key in expected)
    assert {key.split(".")[0] for key in set(expected) - set(placed)} == {"locate"}
