"""What a detector may learn from."""

from __future__ import annotations

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.layers.matching import BACKGROUND, IGNORED
from saccade.layers.sampling import Drawn
from saccade.layers.targets import detection_targets, learnable
from saccade.ops.boxes import box_iof, box_iou


def test_crowds_are_set_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 9, 9]])
    objects = Objects(boxes, torch.tensor([1, 0]), crowd=torch.tensor([False, True]))
    own = learnable(Annotation((10, 10), objects=objects), 2)
    assert (own.boxes.tolist(), own.labels.tolist(), own.crowds.tolist()) == ([[0, 0, 2, 2]], [1], [[1, 1, 9, 9]])


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ((0.0, 0, 0, 5), 0),
        ((3.0, 0, 2, 5), 0),
        ((0.0, 0, float("nan"), 5), 0),
        ((0.0, 0, 2, 5), 2),
        ((0.0, 0, 2, 5), -1),
    ],
)
def test_unsound_truth_names_the_image(box: tuple[float, ...], label: int) -> None:
    objects = Objects(torch.tensor([(0.0, 0, 1, 1), box]), torch.tensor([0, label]))
    with pytest.raises(DataError, match=r"image a\.jpg: object 1"):
        learnable(Annotation((10, 10), objects=objects), 2, "a.jpg")


def scattered(count: int, crowd: bool = False, classes: int = 7) -> Objects:
    """Some objects of a 100 x 100 image; every third is a crowd region where `crowd`."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 80
    boxes = torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 19), 1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Objects(boxes, labels, crowd=(torch.arange(count) % 3 == 0) & crowd)


def batch_of(*objects: Objects) -> Batch:
    size = (100, 100)
    truth = [Annotation(size, objects=each) for each in objects]
    return Batch(torch.zeros(len(objects), 3, *size), [size] * len(objects), truth)


CASES = {
    "usual": [scattered(5), scattered(3)],
    "none": [scattered(0), scattered(0)],
    "some without": [scattered(0), scattered(4), scattered(0)],
    "one": [scattered(1)],
    "many": [scattered(400), scattered(1), scattered(0)],
    "crowds": [scattered(9, crowd=True), scattered(4), scattered(400, crowd=True)],
    "only crowds": [Objects(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([2]), crowd=torch.tensor([True]))],
    "far label": [Objects(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([16_000_001]))],
}


@pytest.mark.parametrize("objects", CASES.values(), ids=CASES.keys())
def test_targets_are_what_each_image_says(objects: list[Objects]) -> None:
    """Packed into one table and unpacked: every row as `learnable` gives it, image by image."""
    batch = batch_of(*objects)
    targets = detection_targets(batch, 2**24)
    anchors = torch.tensor([[0.0, 0, 30, 30], [20, 20, 70, 60], [0, 0, 100, 100]])
    overlaps, cover = targets.overlaps(anchors), targets.crowd_cover(anchors)
    assert targets.boxes.shape[1] >= 1
    for i, truth in enumerate(batch.truth or []):
        own = learnable(truth, 2**24)
        boxes, labels, crowds = own.boxes, own.labels, own.crowds
        count = targets.counts[i]
        assert torch.equal(targets.boxes[i, :count], boxes)
        assert torch.equal(targets.labels[i, :count], labels)
        assert torch.equal(targets.crowds[i, : targets.crowd_counts[i]], crowds)
        torch.testing.assert_close(overlaps[i], box_iou(boxes, anchors))
        if len(crowds):
            assert cover is not None
            torch.testing.assert_close(cover[i], box_iof(anchors, crowds).amax(1))
        elif cover is not None:
            assert not cover[i].any()
    assert (cover is None) == (not any(targets.crowd_counts))


def test_anchors_may_be_each_images_own() -> None:
    targets = detection_targets(batch_of(scattered(3), scattered(9, crowd=True)), 7)
    anchors = torch.rand(2, 4, 4) * 20
    anchors[..., 2:] += anchors[..., :2]
    cover = targets.crowd_cover(anchors)
    assert cover is not None
    torch.testing.assert_close(targets.overlaps(anchors)[1], box_iou(targets.boxes[1, :6], anchors[1]))
    torch.testing.assert_close(cover[1], box_iof(anchors[1], targets.crowds[1]).amax(1))


def test_what_drawn_anchors_must_answer() -> None:
    """Two images, the first without objects; four anchors that they share, of which three places are drawn."""
    targets = detection_targets(batch_of(scattered(0), scattered(3)), 7)
    anchors = torch.arange(16.0).view(4, 4)
    matches = torch.tensor([[BACKGROUND, BACKGROUND, IGNORED, BACKGROUND], [BACKGROUND, 2, 0, IGNORED]])
    drawn = Drawn(torch.tensor([[3, 0, 2], [1, 0, 2]]), torch.tensor([[True, True, False], [True, True, False]]))
    wanted = targets.of(anchors, matches, drawn)
    assert torch.equal(wanted.regions, anchors[drawn.rows])
    assert wanted.matches.tolist() == [[BACKGROUND, BACKGROUND, IGNORED], [2, BACKGROUND, IGNORED]]
    assert wanted.positive.tolist() == [[False] * 3, [True, False, False]]
    assert wanted.classes.tolist() == [[0, 0, IGNORED], [int(targets.labels[1, 2]) + 1, 0, IGNORED]]
    assert torch.equal(wanted.boxes[1, 0], targets.boxes[1, 2])
    assert torch.equal(wanted.drawn, drawn.valid)
    assert wanted.take(matches).tolist() == matches.gather(1, drawn.rows).tolist()
    own = torch.rand(2, 4, 4)
    assert torch.equal(wanted.take(own)[1], own[1, drawn.rows[1]])
    assert torch.equal(targets.of(own, matches, drawn).regions[1], own[1, drawn.rows[1]])


def test_crowds_are_heeded_and_unusable_anchors_answer_for_nothing() -> None:
    crowd = Objects(torch.tensor([[0.0, 0, 50, 50], [60, 60, 80, 80]]), torch.tensor([0, 1]))
    crowd.crowd = torch.tensor([True, False])
    targets = detection_targets(batch_of(crowd, scattered(0)), 2)
    anchors = torch.tensor([[0.0, 0, 20, 20], [40, 40, 70, 70], [60, 60, 80, 79], [58, 60, 80, 80]])
    assert targets.match(anchors, 0.5, 0.5).tolist() == [[IGNORED, BACKGROUND, 0, 0], [BACKGROUND] * 4]
    usable = torch.tensor([[True, False, False, True], [True, True, False, True]])
    matches = targets.match(anchors, 0.99, 0.99, force_best=True, usable=usable)
    assert matches[0].tolist() == [IGNORED, IGNORED, IGNORED, 0]  # the best anchor may not serve, the next one does
    assert matches[1].tolist() == [BACKGROUND, BACKGROUND, IGNORED, BACKGROUND]
    assert targets.match_adaptive(anchors, [4], [4])[0].tolist()[0] == IGNORED


def test_truth_stays_on_the_cpu_until_the_loss_packs_it() -> None:
    """But for class maps, which are as large as images."""
    batch = batch_of(scattered(2))
    assert batch.truth is not None
    batch.truth[0].semantic = torch.zeros(100, 100, dtype=torch.uint8)
    moved = batch.to("meta")
    assert moved.truth is not None
    assert moved.truth[0].objects is batch.truth[0].objects
    assert moved.images.device.type == "meta"
    assert moved.truth[0].semantic is not None
    assert moved.truth[0].semantic.device.type == "meta"
    assert batch.truth[0].semantic.device.type == "cpu"


def test_batches_without_boxes_are_refused() -> None:
    with pytest.raises(DataError, match="boxes"):
        detection_targets(Batch(torch.zeros(1, 3, 8, 8), [(8, 8)], [Annotation((8, 8), label=1)]), 2)
    with pytest.raises(DataError, match="boxes"):
        detection_targets(Batch(torch.zeros(1, 3, 8, 8), [(8, 8)]), 2)
