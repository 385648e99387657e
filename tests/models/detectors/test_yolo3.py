"""YOLOv3: its three maps beside hand-made numbers, and Darknet's files run as their cfg states them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darknet_files import CfgNetwork, cfg_text, write_weights
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models.detectors import yolo3

TINY = dataclasses.replace(
    yolo3.VARIANTS["yolo3_small"],
    classes=2,
    trunk_width=8,
    trunk_depths=(1, 1),  # strides 4 and 8
    widths=(8, 4),
    depths=(1, 0),
    priors=(((32.0, 32.0), (48.0, 24.0)), ((8.0, 8.0),)),
)


def make(config: yolo3.Config = TINY) -> yolo3.Model:
    torch.manual_seed(0)
    return yolo3.Model(config).eval()


def truth(boxes: list[list[float]], labels: list[int], **more: Tensor) -> Annotation:
    return Annotation((64, 64), objects=Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long(), **more))


def batch_of(*truths: Annotation) -> Batch:
    return Batch(torch.zeros(len(truths), 3, 64, 64), [(64, 64)] * len(truths), list(truths))


def stating(model: yolo3.Model) -> tuple[yolo3.Model, Tensor, Tensor]:
    """The model answers any image with two maps of cells, that may be written to: [1, 2, 7, 8, 8], [1, 1, 7, 16, 16];
    it is sure of no box."""
    coarse, fine = torch.zeros(1, 2, 7, 8, 8), torch.zeros(1, 1, 7, 16, 16)
    coarse[:, :, 4], fine[:, :, 4] = -40.0, -40.0
    model.forward = lambda images: (coarse.flatten(1, 2), fine.flatten(1, 2))  # type: ignore[method-assign]
    return model, coarse, fine


def test_one_prior_over_all_maps_answers_for_an_object() -> None:
    """8 x 8 belongs to the fine map (cell of 4 pixels), 30 x 30 to the coarse one; each pays for itself alone."""
    model, _, fine = stating(make())
    batch = batch_of(truth([[8.0, 8, 16, 16]], [1]))
    before = model.loss(batch)
    fine[0, 0, 4, 3, 3] = 40.0  # sure at last, in the cell in which the centre (12, 12) falls
    after = model.loss(batch)
    assert before["object"].item() == pytest.approx(40, rel=1e-4)
    assert after["object"].item() < 1e-4
    assert after["background"].item() < 1e-4


def test_loss_by_hand() -> None:
    """30 x 30 in the middle of cell (3, 3) of the coarse map: prior 0, 32 x 32."""
    model, coarse, _ = stating(make())
    coarse[0, 0, :, 3, 3] = torch.tensor([0.4, -0.2, 0.1, 0, 0.5, 2.0, -1.0])
    coarse[0, 1, 4, 0, 0] = 0.3  # a box far away that believes in itself
    losses = {k: v.item() for k, v in model.loss(batch_of(truth([[13.0, 13, 43, 43]], [0]))).items()}

    def cross_entropy(x: float, target: float) -> float:
        p = 1 / (1 + math.exp(-x))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    shape = math.log(30 / 32)
    box = cross_entropy(0.4, 0.5) + cross_entropy(-0.2, 0.5) + ((0.1 - shape) ** 2 + shape**2) / 2
    assert losses == pytest.approx(
        {
            "box": (2 - 900 / 4096) * box,
            "object": cross_entropy(0.5, 1),
            "background": cross_entropy(0.3, 0),
            "class": cross_entropy(2.0, 1) + cross_entropy(-1.0, 0),
        },
        rel=1e-5,
    )
    squares, coarse, _ = stating(make(dataclasses.replace(TINY, centre="squares")))
    coarse[0, 0, :4, 3, 3] = torch.tensor([0.4, -0.2, shape, shape])
    far = [1 / (1 + math.exp(-x)) - 0.5 for x in (0.4, -0.2)]
    losses = {k: v.item() for k, v in squares.loss(batch_of(truth([[13.0, 13, 43, 43]], [0]))).items()}
    assert losses["box"] == pytest.approx((2 - 900 / 4096) * sum(x**2 for x in far) / 2, rel=1e-5)


def test_boxes_that_overlap_an_object_are_left_alone() -> None:
    model, coarse, _ = stating(make())
    coarse[0, 0, 4, 3, 4] = 3.0  # the neighbour of the responsible cell, IoU above one half
    assert model.loss(batch_of(truth([[12.0, 12, 44, 44]], [0])))["background"].item() < 1e-4
    assert model.loss(batch_of(truth([[52.0, 52, 64, 64]], [0])))["background"].item() > 3


def test_counts_of_boxes() -> None:
    """10,647 at 416 pixels, 22,743 at 608 and 6,300 at 320, of three priors at strides 32, 16 and 8."""
    model = yolo3.Model(
        dataclasses.replace(
            TINY, trunk_depths=(1, 1, 1, 1), widths=(4, 4, 4), depths=(1, 1, 1), priors=yolo3.Config().priors
        )
    ).eval()
    for side, boxes in ((416, 10_647), (608, 22_743), (320, 6_300)):
        scores, found = model.scored_boxes(torch.zeros(1, 3, side, side))
        assert scores.shape == (1, boxes, 2)
        assert found.shape == (1, boxes, 4)


def test_largest_priors_go_to_the_coarsest_map() -> None:
    sizes = torch.tensor([[8.0, 8], [24, 24], [60, 60]])
    boxes = torch.cat((torch.zeros(60, 2), sizes.repeat(20, 1)), 1)
    example = Annotation((64, 64), objects=Objects(boxes, torch.zeros(60, dtype=torch.int64)))
    assert yolo3.adapt(TINY, [example]).priors == (((24.0, 24.0), (60.0, 60.0)), ((8.0, 8.0),))
    given = dataclasses.replace(TINY, fit_priors=False)
    assert yolo3.adapt(given, [example]) == given


def test_configurations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="priors for 2 maps, 3 widths and 2 depths"):
        yolo3.Model(dataclasses.replace(TINY, widths=(8, 4, 4)))
    with pytest.raises(UsageError, match="trunk resnet18 has 1 maps of different strides, 2 are needed"):
        yolo3.Model(dataclasses.replace(TINY, trunk_depths=(1,)))


def _darknet53() -> list[str]:
    layers = ["c 3 32"]
    for width, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        layers.append(f"c 3 {width} 2")
        layers += [f"c 1 {width // 2}", f"c 3 {width}", "shortcut from=-3 activation=linear"] * blocks
    return layers


def _yolo3(values: int, pyramid: bool) -> list[str]:
    def head(level: int) -> list[str]:
        return [
            f"h {values}",
            f"yolo anchors={_anchors(yolo3.Config().priors)} mask={6 - 3 * level},{7 - 3 * level},{8 - 3 * level}",
        ]

    first = ["c 1 512", "c 3 1024", "c 1 512"]
    if pyramid:
        pools = ["p 5 1", "route layers=-2", "p 9 1", "route layers=-4", "p 13 1", "route layers=-1,-3,-5,-6"]
        first += [*pools, "c 1 512"]
    layers = [*_darknet53(), *first, "c 3 1024", "c 1 512", "c 3 1024", *head(0)]
    layers += ["route layers=-4", "c 1 256", "upsample stride=2", "route layers=-1,61"]
    layers += [*["c 1 256", "c 3 512"] * 2, "c 1 256", "c 3 512", *head(1)]
    layers += ["route layers=-4", "c 1 128", "upsample stride=2", "route layers=-1,36"]
    return [*layers, *["c 1 128", "c 3 256"] * 3, *head(2)]


def _tiny3(values: int) -> list[str]:
    text = "c 3 16|p 2 2|c 3 32|p 2 2|c 3 64|p 2 2|c 3 128|p 2 2|c 3 256|p 2 2|c 3 512|p 2 1|c 3 1024|c 1 256|c 3 512"
    anchors = _anchors(yolo3.VARIANTS["yolo3_tiny"].priors)
    layers = [*text.split("|"), f"h {values}", f"yolo anchors={anchors} mask=3,4,5"]
    layers += ["route layers=-4", "c 1 128", "upsample stride=2", "route layers=-1,8", "c 3 256"]
    return [*layers, f"h {values}", f"yolo anchors={anchors} mask=0,1,2"]


def _anchors(priors: tuple[yolo3.Sizes, ...]) -> str:
    return ",".join(f"{value:g}" for level in reversed(priors) for size in level for value in size)


@pytest.mark.parametrize(
    "name",
    ["yolo3_tiny", pytest.param("yolo3", marks=pytest.mark.slow), pytest.param("yolo3_spp", marks=pytest.mark.slow)],
)
def test_darknets_files_give_darknets_boxes(name: str, tmp_path: Path) -> None:
    """yolov3.cfg, yolov3-spp.cfg and yolov3-tiny.cfg, run section by section."""
    side = 64
    layers = _tiny3(255) if name == "yolo3_tiny" else _yolo3(255, name == "yolo3_spp")
    (tmp_path / "x.cfg").write_text(cfg_text(side, *layers))
    torch.manual_seed(0)
    oracle = CfgNetwork(tmp_path / "x.cfg").eval()
    write_weights(tmp_path / "x.weights", oracle)
    model = yolo3.Model(yolo3.VARIANTS[name]).eval()
    model.load_state_dict(yolo3.FILES[".weights"](tmp_path / "x.weights", model))
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        expected = oracle(image)
        scores, boxes = model.scored_boxes(image)
    half = expected[:, 2:4] / 2
    torch.testing.assert_close(boxes[0] / side, torch.cat((expected[:, :2] - half, expected[:, :2] + half), 1))
    torch.testing.assert_close(scores[0], expected[:, 4:], rtol=1e-3, atol=1e-5)


def test_stages_show_the_prior_that_answers_and_what_is_suppressed() -> None:
    """Two boxes of one cell, of 32 x 32 and 30 x 32, find one object: its prior is the square one around (20, 12)."""
    model, coarse, _ = stating(make())
    coarse[0, 0, 4:6, 1, 2] = 4.0
    coarse[0, 1, 4:6, 1, 2] = 2.0
    coarse[0, 1, 2, 1, 2], coarse[0, 1, 3, 1, 2] = math.log(30 / 48), math.log(32 / 24)
    matched, before, answer = model.answer_stages(batch_of(truth([], [])))
    assert (matched.boxes.tolist(), matched.labels.tolist()) == ([[4, -4, 36, 28]], [0])  # type: ignore[union-attr]
    sure = before.labels == 0
    assert (len(before.boxes[sure]), before.nms) == (2, 0.45)
    assert answer.boxes[answer.labels == 0].tolist() == [[4, 0, 36, 28]]  # clipped
