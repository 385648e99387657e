"""Detectors of Darknet's `.cfg`: beside a second computation section by section, beside the rooms of YOLO v1 to v3, and
published files beside what OpenCV finds with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import nn

from darknet_files import CfgNetwork, cfg_text, write_weights
from saccade.data.image import decode
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.inference.predictor import load
from saccade.models.configs import with_changes
from saccade.models.darknet_network import MaxPool, Network
from saccade.models.darknet_sections import read_sections
from saccade.models.detectors import darknet_cfg, yolo1, yolo2, yolo3
from saccade.ops.boxes import box_iou, clip_boxes
from saccade.ops.suppression import NmsRule

ANCHORS = "anchors=4,6,10,8,20,30,40,24 num=4 classes=2"
YOLO = cfg_text(
    64,
    *("c 3 8", "p 2 2", "c 3 8 2", "c 1 4", "c 3 8", "shortcut from=-3", "p 2 1", "c 3 8 2", "h 14"),
    *(f"yolo mask=2,3 {ANCHORS} ignore_thresh=.5", "route layers=-4", "c 1 4", "upsample stride=2"),
    *("route layers=-1,1", "h 14", f"yolo mask=0,1 {ANCHORS} ignore_thresh=.5"),
)
REGION = cfg_text(
    64,
    *("c 3 8 2", "c 3 8 2", "c 3 8 2", "route layers=-2", "c 1 4", "reorg stride=2", "route layers=-1,-4", "c 3 8"),
    "h 21",
    "region anchors=0.5,0.7,1.5,1,3,2 classes=2 num=3 softmax=1 thresh=.6 rescore=1 object_scale=5",
).replace("thresh=.6", "thresh=0")  # which the oracle, as OpenCV, takes for a threshold of scores
SQUARES = cfg_text(
    64,
    *("c 3 8 4", "c 3 6 4", "local size=3 stride=1 pad=1 filters=4 activation=leaky", "dropout probability=.5"),
    "connected output=192 activation=linear",
    "detection classes=2 coords=4 side=4 num=2 sqrt=1 coord_scale=5 noobject_scale=.5",
)


def make(cfg: str, **changes: Any) -> darknet_cfg.Model:
    """A model with statistics of batch norm that are not those of a new one."""
    torch.manual_seed(0)
    model = darknet_cfg.Model(darknet_cfg.Config(**{"classes": 2, "cfg": cfg} | changes)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    return model


def batch() -> Batch:
    boxes = [torch.tensor([[3.0, 5, 23, 35], [40, 40, 46, 48], [8, 8, 60, 30]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 1, 1]), torch.zeros(0, dtype=torch.int64)]
    truth = [Annotation((64, 64), objects=Objects(b, c)) for b, c in zip(boxes, labels, strict=True)]
    return Batch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), [(64, 64)] * 2, truth)


@pytest.mark.parametrize("cfg", [YOLO, REGION], ids=["yolo", "region"])
def test_weights_and_boxes_are_those_of_a_second_reader(cfg: str, tmp_path: Path) -> None:
    """Through a .weights file that the second reader writes."""
    (tmp_path / "x.cfg").write_text(cfg)
    oracle, image = CfgNetwork(tmp_path / "x.cfg").eval(), batch().images[:1]
    torch.manual_seed(1)
    for value in oracle.state_dict().values():
        if value.is_floating_point():
            value.uniform_(-0.2, 0.2)
    for module in oracle.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    write_weights(tmp_path / "x.weights", oracle)
    model = make(cfg)
    model.load_state_dict(darknet_cfg.FILES[".weights"](tmp_path / "x.weights", model), strict=False)
    with torch.no_grad():
        scores, boxes = model.scored_boxes(image)
        expected = oracle(image)
    centres, sides = expected[:, :2] * 64, expected[:, 2:4] * 64
    torch.testing.assert_close(scores[0], expected[:, 4:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(boxes[0], torch.cat([centres - sides / 2, centres + sides / 2], 1), atol=1e-3, rtol=1e-4)


def test_cells_of_the_first_yolo_box_by_box() -> None:
    """[detection] orders its numbers: of all cells the classes, then the confidences, then the boxes."""
    model, image = make(SQUARES), batch().images[:1]
    with torch.no_grad():
        [raw] = model(image)
        numbers = raw[0].flatten().tolist()
        scores, boxes = (each[0].view(16, 2, -1) for each in model.scored_boxes(image))
    for cell in range(16):
        for j in range(2):
            sure = numbers[32 + 2 * cell + j]
            expected = [min(max(sure * p, 0), 1) for p in numbers[2 * cell : 2 * cell + 2]]
            assert scores[cell, j].tolist() == pytest.approx(expected, abs=1e-6)
            x, y, w, h = numbers[64 + 8 * cell + 4 * j :][:4]
            x, y, w, h = (x + cell % 4) * 16, (y + cell // 4) * 16, 64 * w * w, 64 * h * h
            expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            assert boxes[cell, j].tolist() == pytest.approx(expected, abs=1e-3)


def test_losses_are_those_of_the_rooms() -> None:
    for cfg, room, changes in (
        (YOLO, yolo3, {"priors": (((20.0, 30.0), (40.0, 24.0)), ((4.0, 6.0), (10.0, 8.0)))}),
        (REGION.replace("thresh=0", "thresh=.6"), yolo2, {"priors": ((4.0, 5.6), (12.0, 8.0), (24.0, 16.0))}),
        (SQUARES, yolo1, {"grid": 4, "boxes": 2, "head": "full"}),
    ):
        model = make(cfg)
        small = {"classes": 2, "trunk": "resnet18", "trunk_width": 8, "trunk_depths": (1, 1)}
        if room is yolo3:
            small |= {"widths": (8, 4), "depths": (1, 0)}
        other = room.Model(room.Config(**small, **changes)).eval()  # type: ignore[attr-defined]
        if room is yolo1:
            other._outputs = lambda images, model=model: model._squares(images)
        else:
            one = room is yolo2
            other.forward = lambda images, model=model, one=one: model(images)[0] if one else model(images)
        mine, expected = model.loss(batch()), other.loss(batch())
        assert {k: v.item() for k, v in mine.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
        assert min(mine.values()) > 0


def test_confidence_learns_1_where_the_file_does_not_rescore() -> None:
    """And the weights of the loss are the file's."""
    plain = make(REGION.replace("rescore=1", "rescore=0"))
    twice = make(REGION.replace("rescore=1", "rescore=0").replace("object_scale=5", "object_scale=10\nclass_scale=3"))
    images = batch()
    assert images.truth is not None
    images.truth[0].objects = images.truth[0].objects[:1]  # type: ignore[index]
    once, more = plain.loss(images), twice.loss(images)
    with torch.no_grad():
        [raw] = plain(images.images)
    # 20 x 30 overlaps the prior 24 x 16 most; its centre (13, 20) lies in row 2 and column 1 of the 8 x 8 cells.
    sure = raw.view(2, 3, 7, 8, 8)[0, 2, 4, 2, 1].sigmoid().item()
    assert once["object"].item() == pytest.approx(5 / 2 * (1 - sure) ** 2 / 2, rel=1e-4)
    assert more["object"].item() == pytest.approx(2 * once["object"].item())
    assert more["class"].item() == pytest.approx(3 * once["class"].item())


@pytest.mark.parametrize(("cfg", "values"), [(YOLO, [20, 20]), (REGION, [30]), (SQUARES, [16 * 15])])
def test_heads_are_made_for_other_classes(cfg: str, values: list[int]) -> None:
    assert [x.shape[1] for x in make(cfg, classes=5)(batch().images)] == values


def test_priors_are_fitted_and_dealt_out_by_size() -> None:
    """[yolo] of the coarse map stands first in the file and gets the two largest."""
    sides = torch.tensor([[5.0, 5], [9, 9], [20, 20], [50, 50]]).repeat(10, 1)
    example = Annotation((64, 64), objects=Objects(torch.cat((torch.zeros(40, 2), sides), 1), torch.zeros(40).long()))
    fitted = darknet_cfg.adapt(darknet_cfg.Config(classes=2, cfg=YOLO), [example]).priors
    assert fitted == (((20.0, 20.0), (50.0, 50.0)), ((5.0, 5.0), (9.0, 9.0)))
    assert make(YOLO, priors=fitted)._priors()[0].tolist() == [[20, 20], [50, 50]]
    assert not darknet_cfg.adapt(darknet_cfg.Config(classes=2, cfg=SQUARES), [example]).priors
    with pytest.raises(UsageError, match=r"priors of \[1\] shapes; this cfg has heads of \[2, 2\]"):
        make(YOLO, priors=(((1.0, 1.0),),))


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 1), (2, 1, 1), (3, 2, 2), (5, 1, 4), (3, 3, 0), (2, 2, 2)]
)
@pytest.mark.parametrize("side", [8, 9])
def test_max_pools_are_widened_as_in_darknet(size: int, stride: int, padding: int, side: int) -> None:
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)) - 2
    out = (side + padding - size) // stride + 1
    expected = torch.empty(1, 1, out, out)
    for row in range(out):
        for column in range(out):
            y, z = row * stride - padding // 2, column * stride - padding // 2
            expected[0, 0, row, column] = x[0, 0, max(y, 0) : y + size, max(z, 0) : z + size].max()
    torch.testing.assert_close(MaxPool(size, stride, padding)(x), expected)


def test_activations_and_groups() -> None:
    """Each by its formula; a route takes a part of the channels of each of its layers."""
    x = torch.linspace(-3, 8, 12)
    formulas = {
        "linear": x,
        "leaky": torch.where(x > 0, x, 0.1 * x),
        "relu": x.clamp(min=0),
        "relu6": x.clamp(0, 6),
        "logistic": 1 / (1 + (-x).exp()),
        "tanh": x.tanh(),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "mish": x * (1 + x.exp()).log().tanh(),
        "swish": x / (1 + (-x).exp()),
    }
    for word, expected in formulas.items():
        cfg = cfg_text(8, f"convolutional filters=4 size=1 activation={word}", "h 7", "yolo classes=2 anchors=1,1")
        network = Network(read_sections(cfg))
        torch.testing.assert_close(network.layers[0].activation(x), expected)  # type: ignore[operator]
    cfg = cfg_text(8, "c 1 4", "c 1 6", "route layers=-1,-2 groups=2 group_id=1", "h 7", "yolo classes=2 anchors=1,1")
    network = Network(read_sections(cfg))
    a, b = torch.rand(1, 6, 8, 8), torch.rand(1, 4, 8, 8)
    assert torch.equal(network.layers[2](a, b), torch.cat((a[:, 3:], b[:, 2:]), 1))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (
            ("c 1 4", "h 8", "yolo classes=2 anchors=1,1"),
            r"line 13, \[convolutional\]: filters=8, where \[yolo\]",
        ),
        (("c 1 4", "yolo classes=2 anchors=1,1"), r"filters=4, where"),
        (("yolo classes=2 anchors=1,1",), r"line 5, \[yolo\]: it has no layer before it"),
        (("c 1 4", "p 2 2", "yolo classes=2 anchors=1,1"), r"it stands behind \[maxpool\]"),
        (("c 1 4", "route layers=-3", "h 7", "yolo classes=2 anchors=1,1"), r"layers=-3 is no layer before this one"),
        (("c 1 4", "c 1 5", "shortcut from=-2", "h 7", "yolo classes=2 anchors=1,1"), r"maps of different shapes"),
        (
            ("c 1 4", "p 2 2", "route layers=-1,-2", "h 7", "yolo classes=2 anchors=1,1"),
            r"sides: 4 x 4, 8 x 8",
        ),
        (("convolutional filters=4 groups=2", "h 7", "yolo classes=2 anchors=1,1"), r"do not divide into 2 groups"),
        (("c 1 4", "h 7", "yolo classes=2 anchors=1,1,2"), r"anchors= has 3 numbers; num=1 needs 2"),
        (("c 1 4", "h 7", "yolo classes=2 anchors=1,1 mask=1"), r"mask= names an anchor that there is not"),
        (("c 1 4", "reorg stride=3", "h 7", "yolo classes=2 anchors=1,1"), r"stride=3 on 4 channels; known: 2"),
        (
            ("c 1 4", "h 7", "yolo classes=2 anchors=1,1", "h 8", "yolo classes=3 anchors=1,1"),
            r"second head",
        ),
        (("convolutional filters=4 size=9", "h 7", "yolo classes=2 anchors=1,1"), r"nothing is left of the image"),
    ],
)
def test_layers_that_do_not_fit(layers: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        darknet_cfg.Model(darknet_cfg.Config(classes=2, cfg=cfg_text(8, *layers)))


def test_sides_that_the_joined_maps_cannot_have() -> None:
    assert [x.shape[2] for x in make(YOLO)(torch.rand(1, 3, 80, 96))] == [10, 40]
    with pytest.raises(UsageError, match=r"images of 64x60 .* multiples of 8; use another --size"):
        make(YOLO)(torch.rand(1, 3, 64, 60))
    assert make(SQUARES)(torch.rand(1, 3, 75, 90))[0].shape == (1, 192, 1, 1)  # maps are pooled to those of the file


def test_the_first_yolo_learns_and_exports() -> None:
    """Its cells see the whole image; the forms of the contract test are the other two."""
    model, images = make(SQUARES).train(), batch()
    steps = torch.optim.Adam(model.parameters(), 2e-3)
    first = sum(model.loss(images).values())
    for _ in range(60):
        steps.zero_grad()
        sum(model.loss(images).values()).backward()  # type: ignore[union-attr]
        steps.step()
    assert sum(model.eval().loss(images).values()) < 0.25 * first
    exported = torch.export.export(model, (images.images,)).module()
    torch.testing.assert_close(exported(images.images)[0], model(images.images)[0])
    [stage, before, answer] = model.answer_stages(dataclasses.replace(images[:1], truth=None))
    assert (stage.name, before.nms, answer.name) == ("responsible cells", 0.45, "answer")


def test_a_file_of_the_user_becomes_the_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.cfg"
    path.write_text(YOLO)
    config = with_changes(darknet_cfg.Config(), {"cfg": str(path), "classes": 2}, "darknet_cfg")
    assert config.cfg == YOLO
    assert with_changes(config, {"cfg": YOLO}, "darknet_cfg") == config
    with pytest.raises(UsageError, match=r"none.cfg: cannot be read as a Darknet .cfg"):
        with_changes(config, {"cfg": str(tmp_path / "none.cfg")}, "darknet_cfg")
    path.write_text(YOLO.replace("[maxpool]", "[maxpol]"))
    with pytest.raises(UsageError, match=r"mine.cfg: line 12, \[maxpol\]: unknown layer; allowed: convolutional"):
        with_changes(config, {"cfg": str(path)}, "darknet_cfg")


@pytest.mark.parametrize(
    ("change", "kind", "says"), [(-1, UsageError, "truncated"), (1, UsageError, "another network")]
)
def test_weights_of_another_length(change: int, kind: type[Exception], says: str, tmp_path: Path) -> None:
    """Though the last layer could be one of other classes."""
    path, model = tmp_path / "x.weights", make(YOLO)
    write_weights(path, model.network)
    numbers = path.read_bytes()
    path.write_bytes(numbers[:-4] if change < 0 else numbers + 36 * b"\0")
    with pytest.raises(kind, match=says):
        darknet_cfg.FILES[".weights"](path, model)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("files", "least", "overlap"),
    [
        ("yolo_lite_voc/tiny-yolov2-trial3", 0.5, 0.4),  # `thresh` of the file and OpenCV's own NMS in a [region]
        ("yolo_fastest_1.1_coco/yolo-fastest-1.1", 0.2, 0.45),
    ],
)
def test_published_files_find_what_opencv_finds(files: str, least: float, overlap: float, shared_data: Path) -> None:
    """Given images that are stretched to the file's size, as those of the reference, which names each box once: no more
    boxes, and no fewer."""
    base = shared_data / "weights" / files
    predictor = load(base.with_name(base.name + ".cfg"), "cpu", "fp32", NmsRule(iou=overlap))
    size = predictor.preprocessing.size
    assert size is not None
    reference = json.loads((base.parent / "reference_detections.json").read_text())
    for name, expected in reference["photos"].items():
        photo = decode(shared_data / "photos" / name)
        factor = torch.tensor([photo.shape[1] / size[1], photo.shape[0] / size[0]] * 2)
        small = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR)
        answer = predictor.answer(small).objects
        with torch.no_grad():
            scores, boxes = predictor.network.scored_boxes(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)  # type: ignore[operator]
        assert answer is not None
        assert answer.scores is not None
        own = scores[0, box_iou(answer.boxes, clip_boxes(boxes[0], size)).argmax(1)].argmax(1)
        sure = (answer.scores > least) & (answer.labels == own)
        found = [
            (predictor.classes[int(label)], float(score), box * factor)
            for label, score, box in zip(answer.labels[sure], answer.scores[sure], answer.boxes[sure], strict=True)
        ]
        assert [each[0] for each in found] == [row["class"] for row in expected]
        for (_, score, box), row in zip(found, expected, strict=True):
            height, width = photo.shape[:2]
            limit = torch.tensor([width, height] * 2)
            assert score == pytest.approx(row["score"], abs=0.002)
            inside = torch.minimum(torch.tensor(row["box"]).clamp(min=0), limit)
            torch.testing.assert_close(box, inside, atol=0.6, rtol=0)
