"""YOLO: the grid, the five sums of the loss beside a second computation of them by loops, and the released files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darknet_files import write_weights
from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.targets import detection_targets
from saccade.models import create
from saccade.models.detectors import yolo1

SMALL: dict[str, Any] = {"classes": 3, "trunk": "resnet18", "trunk_width": 8}
PAPER: dict[str, Any] = {"coordinates": 5.0, "background": 0.5}
CELLS = yolo1.VARIANTS["yolo1_small"]
CONV = dataclasses.replace(CELLS, **SMALL, **PAPER, trunk_depths=(1, 1), convs=((8, 2),))  # cells of 16
FULL = dataclasses.replace(yolo1.Config(), **SMALL, convs=((8, 1),), hidden=16, grid=4)
LOCAL = dataclasses.replace(FULL, head="local", boxes=3)


def make(config: yolo1.Config) -> yolo1.Model:
    torch.manual_seed(0)
    model = yolo1.Model(config).eval()
    with torch.no_grad():  # answers that differ from cell to cell
        for name, value in model.named_parameters():
            if name.startswith("head.") and name.endswith("bias"):
                value.copy_(torch.linspace(0.05, 0.6, value.numel()).view_as(value))
    return model


def truth(boxes: list[list[float]], labels: list[int], **more: Tensor) -> Annotation:
    return Annotation((64, 64), objects=Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long(), **more))


def batch_of(*truths: Annotation) -> Batch:
    images = torch.rand(len(truths), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return Batch(images, [(64, 64)] * len(truths), list(truths))


BATCH = batch_of(
    truth([[2.0, 3, 30, 40], [33, 33, 47, 60], [36, 36, 44, 58], [48, 0, 64, 16]], [0, 1, 2, 2]),
    truth([], []),
)


@pytest.mark.parametrize("config", [CONV, FULL, LOCAL])
def test_loss_is_equation_3(config: yolo1.Config) -> None:
    """Cell by cell and box by box. Two of the objects share a cell, and the first counts."""
    model = make(config)
    classes, confidences, boxes = (each[0].detach() for each in model(BATCH.images))
    side = int(len(classes) ** 0.5)
    expected = dict.fromkeys(("centre", "size", "object", "background", "class"), 0.0)
    responsible = set()
    assert BATCH.truth is not None
    assert BATCH.truth[0].objects is not None
    objects = BATCH.truth[0].objects
    for number in (0, 1, 3):
        x1, y1, x2, y2 = (objects.boxes[number] / 64).tolist()
        centre = ((x1 + x2) / 2 * side, (y1 + y2) / 2 * side)
        column, row = int(centre[0]), int(centre[1])
        cell = row * side + column
        overlaps, distances = [], []
        for x, y, root_w, root_h in boxes[cell].tolist():
            middle_x, middle_y, w, h = (x + column) / side, (y + row) / side, root_w**2, root_h**2
            wide = min(x2, middle_x + w / 2) - max(x1, middle_x - w / 2)
            high = min(y2, middle_y + h / 2) - max(y1, middle_y - h / 2)
            shared = max(wide, 0) * max(high, 0)
            overlaps.append(shared / (w * h + (x2 - x1) * (y2 - y1) - shared))
            target = (centre[0] - column, centre[1] - row, (x2 - x1) ** 0.5, (y2 - y1) ** 0.5)
            distances.append([(a - b) ** 2 for a, b in zip((x, y, root_w, root_h), target, strict=True)])
        best = max(range(config.boxes), key=lambda j: overlaps[j] if max(overlaps) > 0 else -sum(distances[j]))
        responsible.add((cell, best))
        expected["centre"] += 5 * sum(distances[best][:2])
        expected["size"] += 5 * sum(distances[best][2:])
        expected["object"] += (float(confidences[cell, best]) - overlaps[best]) ** 2
        label = int(objects.labels[number])
        expected["class"] += sum((float(p) - (c == label)) ** 2 for c, p in enumerate(classes[cell]))
    first = model(BATCH.images)[1].detach()
    for image, cell, j in torch.cartesian_prod(*(torch.arange(n) for n in first.shape)).tolist():
        if image or (cell, j) not in responsible:
            expected["background"] += 0.5 * float(first[image, cell, j]) ** 2
    assert len(responsible) == 3
    losses = {name: float(value.detach()) for name, value in model.loss(BATCH).items()}
    assert losses == pytest.approx({name: value / 2 for name, value in expected.items()}, rel=1e-4)


def test_the_nearest_box_answers_where_none_meets_the_object() -> None:
    model = make(CONV)
    with torch.no_grad():
        model.head.weight.zero_()  # type: ignore[operator, union-attr]
        # two boxes: far from the object, one nearer than the other
        model.head.bias.copy_(torch.tensor([0, 0, 0, 0.3, 0.7, -2.0, -2, 0.1, 0.1, -0.5, -0.5, 0.1, 0.1]))  # type: ignore[operator, union-attr]
    losses = model.loss(batch_of(truth([[40.0, 40, 46, 46]], [1])))
    assert losses["object"].item() == pytest.approx(0.7**2)


def test_boxes_are_responsible_alone_and_crowds_are_not_punished() -> None:
    model = make(CONV)
    alone = model.loss(batch_of(truth([[40.0, 40, 46, 46]], [1])))
    crowd = torch.tensor([False, True])
    crowded = model.loss(batch_of(truth([[40.0, 40, 46, 46], [-64, -64, 128, 128]], [1, 0], crowd=crowd)))
    assert crowded["background"].item() == 0 < alone["background"].item()
    for name in ("centre", "size", "object", "class"):
        torch.testing.assert_close(crowded[name], alone[name])


def test_an_object_on_the_far_edge_belongs_to_the_last_cell() -> None:
    losses = make(CONV).loss(batch_of(truth([[63.0, 63, 65, 65]], [1])))  # its centre is the corner of the image
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("config", [CONV, FULL])
def test_answers_are_where_the_cells_say(config: yolo1.Config) -> None:
    """One box that fills its cell (row 1, column 2), drawn by hand: class 2 at 0.9 x 0.8."""
    model = make(config)
    classes, confidences, boxes, (rows, columns) = model._outputs(torch.zeros(1, 3, 64, 64))
    classes, confidences, boxes = (torch.zeros_like(x) for x in (classes, confidences, boxes))
    cell = columns + 2
    classes[0, cell, 2], confidences[0, cell, 1] = 0.9, 0.8
    boxes[0, cell, 1] = torch.tensor([0.5, 0.5, columns**-0.5, rows**-0.5])
    model._outputs = lambda images: (classes, confidences, boxes, (rows, columns))  # type: ignore[method-assign]
    answer = model.predict(Batch(torch.zeros(1, 3, 64, 64), [(64, 64)]))[0].objects
    assert answer is not None
    assert answer.scores is not None
    torch.testing.assert_close(answer.boxes, torch.tensor([[2.0, 1, 3, 2]]) * 64 / columns)
    assert answer.labels.tolist() == [2]
    assert float(answer.scores) == pytest.approx(0.72)


def test_a_map_of_8_by_8_cells_states_what_the_lecture_counts() -> None:
    """Lecture "CNNs and object detection": 8 x 8 x (5 B + 20)."""
    model = yolo1.Model(dataclasses.replace(FULL, classes=20, grid=8))
    head: Any = model.head
    assert head.last.out_features == 8 * 8 * (5 * 2 + 20)
    assert sum(part.numel() for part in model(torch.zeros(1, 3, 64, 64))) == 8 * 8 * (5 * 2 + 20)


def test_without_norm_it_has_the_papers_count() -> None:
    """Figure 3 layer by layer, with biases in place of batch norms."""
    with torch.device("meta"):
        model = create("yolo1", trunk_norm="none")
    assert sum(p.numel() for p in model.parameters()) == 271_703_550


def test_released_weights_are_read_with_their_local_layer(tmp_path: Path) -> None:
    config = dataclasses.replace(LOCAL, trunk="darknet_reference", trunk_width=None, grid=2)
    trunk = {"trunk": "darknet_reference", "convs": ((4, 1),), "grid": 2}
    source = yolo1.Model(dataclasses.replace(config, **trunk))
    other = yolo1.Model(dataclasses.replace(config, **trunk))
    write_weights(tmp_path / "x.weights", source)
    other.load_state_dict(yolo1.FILES[".weights"](tmp_path / "x.weights", other))
    images = torch.rand(1, 3, 128, 128)
    for a, b in zip(source.eval()(images), other.eval()(images), strict=True):
        torch.testing.assert_close(a, b)


def test_stages_show_the_cells_that_answer() -> None:
    """Of images of 64 x 32 pixels in cells of 16: the first object of a cell, others not."""
    objects = Objects(torch.tensor([[17.0, 1, 30, 14], [18.0, 2, 29, 13], [40.0, 17, 60, 31]]), torch.tensor([0, 1, 1]))
    batch = Batch(torch.zeros(1, 3, 32, 64), [(32, 64)], [Annotation((32, 64), objects=objects)])
    stage = yolo1.cell_stage((2, 4), batch.images, detection_targets(batch, 2))
    assert (stage.boxes.tolist(), stage.labels.tolist()) == ([[16, 0, 32, 16], [48, 16, 64, 32]], [0, 1])  # type: ignore[union-attr]
