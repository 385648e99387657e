"""YOLO9000: the tree in scores and losses, and images that have a class and no boxes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models.detectors import yolo2, yolo9000
from saccade.ops.boxes import box_iou

TREE = (-1, 0, 0)  # a thing, of two kinds
TINY = dataclasses.replace(
    yolo9000.VARIANTS["yolo9000_small"],
    classes=3,
    tree=TREE,
    trunk_width=8,
    trunk_depths=(1, 1),
    convs=(8,),
    joined=8,
    priors=((16.0, 16.0), (40.0, 20.0)),
)


def make(config: yolo9000.Config = TINY) -> yolo9000.Model:
    torch.manual_seed(0)
    return yolo9000.Model(config).eval()


def boxed(boxes: list[list[float]], labels: list[int]) -> Annotation:
    return Annotation((64, 64), objects=Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long()))


def labelled(label: int) -> Annotation:
    return dataclasses.replace(boxed([], []), label=label)


def batch_of(*truths: Annotation) -> Batch:
    return Batch(torch.rand(len(truths), 3, 64, 64), [(64, 64)] * len(truths), list(truths))


def stating(model: yolo9000.Model, values: Tensor) -> yolo9000.Model:
    """The model, answering with `values` [b, k, 5 + C, h, w] to any image."""
    model.network.forward = lambda images: values.flatten(1, 2)  # type: ignore[method-assign]
    return model


def test_scores_are_those_of_the_path_and_a_sure_child_hides_its_parent() -> None:
    values = torch.zeros(1, 2, 8, 8, 8)
    values[:, :, 4] = -20.0
    values[0, 0, 4:, 2, 3] = torch.tensor([20.0, 0.0, 2.0, 0.0])
    scores, _ = stating(make(), values).scored_boxes(torch.zeros(1, 3, 64, 64))
    p = math.exp(2) / (math.exp(2) + 1)
    assert scores[0, (2 * 8 + 3) * 2].tolist() == pytest.approx([0, p, 1 - p], rel=1e-4)


def test_flat_it_is_yolo2() -> None:
    torch.manual_seed(0)
    flat = make(dataclasses.replace(TINY, tree=(), sure=1.1))
    shared = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(yolo2.Config) if hasattr(TINY, f.name)}
    other = yolo2.Model(yolo2.Config(**shared)).eval()
    other.load_state_dict(flat.network.state_dict())
    batch = batch_of(boxed([[10.0, 10, 30, 30]], [2]), boxed([], []))
    for a, b in zip(flat.scored_boxes(batch.images), other.scored_boxes(batch.images), strict=True):
        torch.testing.assert_close(a, b)
    losses = flat.loss(batch)
    assert losses.pop("label").item() == 0
    for name, value in other.loss(batch).items():
        torch.testing.assert_close(losses[name], value)


def test_an_image_with_a_class_alone_teaches_it_where_it_is_believed_most() -> None:
    values = torch.zeros(1, 2, 8, 8, 8)
    values[:, :, 4] = 1.0  # sure enough everywhere: that is not punished, for nobody knows where the object is
    values[0, 1, 6, 5, 5] = 3.0
    values.requires_grad_()
    losses = stating(make(), values).loss(batch_of(labelled(1)))
    assert {name: value.item() for name, value in losses.items() if name != "label"} == dict.fromkeys(
        ("box", "object", "background", "class", "prior"), 0.0
    )
    assert losses["label"].item() == pytest.approx(-math.log(math.exp(3) / (math.exp(3) + 1)), rel=1e-5)
    losses["label"].backward()
    assert values.grad is not None
    assert values.grad.nonzero()[:, 1:].tolist() == [[1, 6, 5, 5], [1, 7, 5, 5]]


def test_a_box_that_hardly_believes_is_asked_for_a_little_confidence() -> None:
    values = torch.zeros(1, 2, 8, 8, 8)
    values[:, :, 4] = -math.log(9)  # 0.1
    losses = stating(make(), values).loss(batch_of(labelled(0)))
    assert losses["label"].item() == pytest.approx(5 / 2 * 0.2**2, rel=1e-4)


def test_both_kinds_of_images_in_one_batch() -> None:
    model = make()
    losses = model.loss(batch_of(boxed([[10.0, 10, 30, 30]], [2]), labelled(0)))
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert losses["label"].item() > 0 < losses["class"].item()


def test_a_tree_of_other_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="the tree has 3 classes, the data 4"):
        yolo9000.Model(dataclasses.replace(TINY, classes=4))


def test_a_class_that_never_had_a_box_is_found() -> None:
    """As the 156 classes of ImageNet that COCO does not have (section 4): images with boxes teach where things are, and
    those with a class alone what they are."""
    small = {"priors": ((16.0, 16.0),), "trunk_width": 16, "convs": (), "passthrough": "none", "prior_images": 0}
    tree = (-1, 0, 0, -1, 3, 3)  # warm (red, orange), cold (blue, cyan); orange and cyan have no boxes
    colours = {1: (0.95, 0.1, 0.1), 2: (0.95, 0.6, 0.1), 4: (0.1, 0.1, 0.95), 5: (0.1, 0.85, 0.95)}
    model = make(dataclasses.replace(TINY, classes=6, tree=tree, **small)).train()
    torch.manual_seed(1)

    def picture(label: int) -> tuple[Tensor, list[float]]:
        x, y = torch.randint(0, 48, (2,)).tolist()
        image = 0.4 + 0.1 * torch.rand(3, 64, 64)
        image[:, y : y + 16, x : x + 16] = torch.tensor(colours[label])[:, None, None]
        return image, [x, y, x + 16, y + 16]

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        labels = [1, 4, 1, 4, 2, 5, 2, 5]
        drawn = [picture(label) for label in labels]
        truth = [boxed([box], [n]) if n in (1, 4) else labelled(n) for n, (_, box) in zip(labels, drawn, strict=True)]
        batch = Batch(torch.stack([image for image, _ in drawn]), [(64, 64)] * len(truth), truth)
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    labels = [2, 5] * 6
    drawn = [picture(label) for label in labels]
    answers = model.eval().predict(Batch(torch.stack([image for image, _ in drawn]), [(64, 64)] * len(drawn)))
    best = [answer.objects[:1] for answer in answers if answer.objects is not None]
    assert [int(objects.labels[0]) for objects in best] == labels
    overlaps = box_iou(torch.cat([objects.boxes for objects in best]), torch.tensor([b for _, b in drawn]).float())
    assert overlaps.diagonal().median() > 0.5
