"""YOLOv2: boxes, loss and priors beside hand-made numbers, and Darknet's files run as their cfg states them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darknet_files import CfgNetwork, cfg_text, reorg, write_weights
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models.detectors import yolo2

TINY = dataclasses.replace(
    yolo2.VARIANTS["yolo2_small"],
    classes=3,
    trunk_width=8,
    trunk_depths=(1, 1),
    convs=(8,),
    joined=8,
    background=1.0,  # the paper's
    priors=((16.0, 16.0), (40.0, 20.0)),
)  # cells of 8


def make(config: yolo2.Config = TINY) -> yolo2.Model:
    torch.manual_seed(0)
    return yolo2.Model(config).eval()


def truth(boxes: list[list[float]], labels: list[int], **more: Tensor) -> Annotation:
    return Annotation((64, 64), objects=Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long(), **more))


def stating(model: yolo2.Model, values: Tensor) -> yolo2.Model:
    """The model, answering with `values` [b, k (5 + C), h, w] to any image."""
    model.forward = lambda images: values  # type: ignore[method-assign]
    return model


def values_of(**stated: tuple[float, ...]) -> Tensor:
    """[1, 2 (5 + 3), 8, 8] of zeros, but for "prior_row_column"."""
    values = torch.zeros(1, 2, 8, 8, 8)
    values[:, :, 4] = -20.0
    for name, numbers in stated.items():
        prior, row, column = map(int, name[1:].split("_"))
        values[0, prior, : len(numbers), row, column] = torch.tensor(numbers)
    return values.flatten(1, 2)


def batch_of(*truths: Annotation) -> Batch:
    return Batch(torch.zeros(len(truths), 3, 64, 64), [(64, 64)] * len(truths), list(truths))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_boxes_are_where_the_equations_say() -> None:
    """b_x = sigmoid(t_x) + c_x and b_w = p_w e^t_w: prior 1 of the cell in row 2, column 5."""
    values = values_of(_1_2_5=(logit(0.25), logit(0.75), math.log(0.5), math.log(1.5), logit(0.8), 9.0, 0.0, 0.0))
    scores, boxes = stating(make(), values).scored_boxes(torch.zeros(1, 3, 64, 64))
    number = (2 * 8 + 5) * 2 + 1
    centre, sides = (5.25 * 8, 2.75 * 8), (20.0, 30.0)
    expected = [centre[0] - 10, centre[1] - 15, centre[0] + 10, centre[1] + 15]
    torch.testing.assert_close(boxes[0, number], torch.tensor(expected))
    assert sides == (expected[2] - expected[0], expected[3] - expected[1])
    assert scores[0, number].tolist() == pytest.approx([0.8, 0.8 * math.exp(-9), 0.8 * math.exp(-9)], rel=1e-3)


def test_without_direct_location_centres_move_by_the_prior() -> None:
    model = stating(make(dataclasses.replace(TINY, location="anchor")), values_of(_1_2_5=(0.5, -1.0, 0, 0, 0)))
    _, boxes = model.scored_boxes(torch.zeros(1, 3, 64, 64))
    centre = (5.5 * 8 + 0.5 * 40, 2.5 * 8 - 20)
    expected = torch.tensor([centre[0] - 20, centre[1] - 10, centre[0] + 20, centre[1] + 10])
    torch.testing.assert_close(boxes[0, (2 * 8 + 5) * 2 + 1], expected)


def test_loss_of_one_object_by_hand() -> None:
    """A 20 x 20 object in the middle of cell (2, 2): prior 0 answers. Its prediction is 16 x 16 at the same centre,
    with confidence 0.5; prior 1 there overlaps by 0.5 and says 0.6; one idle box far away says 0.3."""
    values = values_of(
        _0_2_2=(0, 0, 0, 0, 0, 1.0, 0, 0), _1_2_2=(0, 0, 0, 0, logit(0.6)), _0_7_7=(0, 0, 0, 0, logit(0.3))
    )
    model = stating(make(), values)
    model.seen.fill_(yolo2.Config().prior_images)  # priors are no longer learned
    losses = {k: v.item() for k, v in model.loss(batch_of(truth([[10.0, 10, 30, 30]], [0]))).items()}
    shape = math.log(20 / 16)
    overlap = 16 * 16 / 400
    assert losses == pytest.approx(
        {
            "box": (2 - 400 / 4096) * 2 * shape**2 / 2,
            "object": 5 / 2 * (0.5 - overlap) ** 2,
            "background": (0.6**2 + 0.3**2) / 2,
            "class": -math.log(math.e / (math.e + 2)),
            "prior": 0.0,
        },
        rel=1e-5,
    )


def test_boxes_that_overlap_an_object_well_are_not_punished() -> None:
    model = stating(make(), values_of(_1_2_2=(0, 0, math.log(0.5), math.log(1.0), logit(0.6))))
    losses = model.loss(batch_of(truth([[10.0, 10, 30, 30]], [0])))  # 20 x 20: it is the object, but of another prior
    assert losses["background"].item() < 1e-9


def test_crowds_are_not_punished() -> None:
    model = stating(make(), values_of(_0_2_2=(0, 0, 0, 0, logit(0.6))))
    crowd = torch.tensor([True])
    assert model.loss(batch_of(truth([[0.0, 0, 64, 64]], [0], crowd=crowd)))["background"].item() < 1e-9
    assert model.loss(batch_of(truth([], [])))["background"].item() == pytest.approx(0.6**2 / 2)


def test_of_two_objects_with_one_box_the_first_counts() -> None:
    model = make()
    one = model.loss(batch_of(truth([[10.0, 10, 30, 30]], [0])))
    two = model.loss(batch_of(truth([[10.0, 10, 30, 30], [11, 11, 29, 30]], [0, 2])))
    for name in ("box", "object", "class"):
        torch.testing.assert_close(one[name], two[name])


def test_priors_are_learned_for_the_first_images_of_training_alone() -> None:
    model = make()
    batch = batch_of(truth([], []), truth([], []))
    assert model.loss(batch)["prior"].item() > 0
    assert model.seen.item() == 0  # evaluation does not count
    model.train()
    model.loss(batch)
    assert model.seen.item() == 2
    model.seen.fill_(12_800)
    assert model.loss(batch)["prior"].item() == 0


def test_priors_are_fitted_to_boxes() -> None:
    boxes = torch.cat([torch.tensor([[0.0, 0, 10, 10]]).repeat(20, 1), torch.tensor([[0.0, 0, 50, 25]]).repeat(20, 1)])
    example = Annotation((64, 64), objects=Objects(boxes, torch.zeros(40, dtype=torch.int64)))
    assert yolo2.adapt(TINY, [example]).priors == ((10.0, 10.0), (50.0, 25.0))
    assert yolo2.adapt(dataclasses.replace(TINY, fit_priors=False), [example]).priors == TINY.priors
    assert yolo2.adapt(TINY, []).priors == TINY.priors


@pytest.mark.parametrize("channels", [4, 64])
def test_fold_is_darknets_reorg(channels: int) -> None:
    x = torch.randn(1, channels, 6, 8)
    torch.testing.assert_close(yolo2.fold(x, (3, 4)), reorg(x, 2))
    odd = yolo2.fold(x[..., :5, :7], (3, 4))
    assert odd.shape == (1, 4 * channels, 3, 4)


def test_paper_passes_the_whole_map_through() -> None:
    """Section 2, "Fine-Grained Features": 26 x 26 x 512 becomes 13 x 13 x 2048."""
    with torch.device("meta"):
        model: Any = yolo2.Model(dataclasses.replace(yolo2.Config(), passthrough="whole"))
    assert model.joined.conv.in_channels == 2048 + 1024


def _darknet19(classes: int) -> tuple[str, ...]:
    before = "c 3 32|p 2 2|c 3 64|p 2 2|c 3 128|c 1 64|c 3 128|p 2 2|c 3 256|c 1 128|c 3 256|p 2 2"
    late = "c 3 512|c 1 256|c 3 512|c 1 256|c 3 512|p 2 2|c 3 1024|c 1 512|c 3 1024|c 1 512|c 3 1024"
    mine = f"c 3 1024|c 3 1024|route layers=-9|c 1 64|reorg stride=2|route layers=-1,-4|c 3 1024|h {5 * (5 + classes)}"
    return (*before.split("|"), *late.split("|"), *mine.split("|"), f"region anchors={_anchors(yolo2.VOC)} thresh=0")


def _tiny(classes: int) -> tuple[str, ...]:
    text = "c 3 16|p 2 2|c 3 32|p 2 2|c 3 64|p 2 2|c 3 128|p 2 2|c 3 256|p 2 2|c 3 512|p 2 1|c 3 1024|c 3 1024"
    return (*text.split("|"), f"h {5 * (5 + classes)}", f"region anchors={_anchors(yolo2.TINY_VOC)} thresh=0")


def _anchors(priors: yolo2.Sizes) -> str:
    return ",".join(f"{value / 32:g}" for size in priors for value in size)


@pytest.mark.parametrize("name", ["yolo2_tiny", pytest.param("yolo2", marks=pytest.mark.slow)])
def test_darknets_files_give_darknets_boxes(name: str, tmp_path: Path) -> None:
    """yolov2-voc.cfg and yolov2-tiny-voc.cfg, run section by section."""
    side = 64
    layers = {"yolo2": _darknet19, "yolo2_tiny": _tiny}[name](20)
    (tmp_path / "x.cfg").write_text(cfg_text(side, *layers))
    torch.manual_seed(0)
    oracle = CfgNetwork(tmp_path / "x.cfg").eval()
    write_weights(tmp_path / "x.weights", oracle)
    model = yolo2.Model(yolo2.VARIANTS[name]).eval()
    model.load_state_dict(yolo2.FILES[".weights"](tmp_path / "x.weights", model))
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        expected = oracle(image)
        scores, boxes = model.scored_boxes(image)
    half = expected[:, 2:4] / 2
    torch.testing.assert_close(boxes[0] / side, torch.cat((expected[:, :2] - half, expected[:, :2] + half), 1))
    torch.testing.assert_close(scores[0], expected[:, 4:], rtol=1e-3, atol=1e-5)


def test_images_smaller_than_a_cell_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images of 64x7 .* needs at least 8x8"):
        make()(torch.zeros(1, 3, 64, 7))
