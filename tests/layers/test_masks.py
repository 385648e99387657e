from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.layers.masks import MaskHead, MaskPredictor, MaskTargets, mask_loss, mask_targets, paste_masks
from saccade.layers.targets import RegionTargets


def wanted_of(regions: list[list[list[float]]], matches: list[list[int]]) -> RegionTargets:
    """Drawn regions of which nothing matters but box, object and class, which is that of label 1."""
    boxes, numbers = torch.tensor(regions), torch.tensor(matches)
    positive = numbers >= 0
    return RegionTargets(numbers, boxes, numbers, torch.where(positive, 2, 0), boxes, positive, numbers >= -1)


def truth_of(masks: torch.Tensor, crowd: list[bool] | None = None) -> Annotation:
    n, height, width = masks.shape
    boxes, labels = torch.tensor([[0.0, 0, width, height]]).repeat(n, 1), torch.ones(n, dtype=torch.int64)
    flags = None if crowd is None else torch.tensor(crowd)
    return Annotation((height, width), objects=Objects(boxes, labels, masks=masks, crowd=flags))


def test_a_head_of_the_paper_has_its_layers() -> None:
    """numbers.json: 2,643,537 with 81 classes; 14x14 becomes 28x28."""
    head, predictor = MaskHead(256, 256, 4), MaskPredictor(256, 256, 81)
    assert sum(p.numel() for part in (head, predictor) for p in part.parameters()) == 2_643_537
    with torch.no_grad():
        assert predictor(head(torch.rand(2, 256, 14, 14))).shape == (2, 81, 28, 28)


def test_targets_are_the_part_of_the_mask_in_the_region_by_hand() -> None:
    """The left half of a 4x4 image is the object. The whole image at 2x2: RoIAlign samples rows and columns 0.5, 1.5 of
    each bin of 2 (a point at x reads between pixel centres at whole x): 0.5 -> 1, 1.5 -> 1 - 0.5, 2.5 and 3.5 -> 0."""
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, :, :2] = True
    wanted = wanted_of([[[0.0, 0, 4, 4], [0, 0, 2, 4], [2, 0, 4, 4]]], [[0, 0, -1]])
    found = mask_targets(wanted, [truth_of(masks)], 2)
    assert found.rois.tolist() == [[0, 0, 0, 4, 4], [0, 0, 0, 2, 4]]  # the third is background
    assert found.classes.tolist() == [2, 2]
    assert found.masks[0].tolist() == [[0.75, 0.0], [0.75, 0.0]]
    assert found.masks[1].tolist() == [[1.0, 0.5], [1.0, 0.5]]


def test_targets_count_objects_without_crowds_image_by_image() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[1], masks[2, 4:] = True, True
    first, second = truth_of(masks, [True, False, False]), truth_of(masks[1:])
    box = [0.0, 0, 8, 8]
    found = mask_targets(wanted_of([[box, box], [box, box]], [[1, 0], [-1, 1]]), [first, second], 4)
    assert found.rois[:, 0].tolist() == [0, 0, 1]
    assert found.masks.mean((1, 2)).tolist() == pytest.approx([0.5, 1.0, 0.5], abs=0.07)
    assert found.masks[1].min() == 1


def test_targets_of_images_without_objects_are_none() -> None:
    wanted = wanted_of([[[0.0, 0, 4, 4]]], [[-1]])
    empty = Annotation((4, 4), objects=Objects.empty())
    found = mask_targets(wanted, [empty], 4)
    assert found.rois.shape == (0, 5)
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, found)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_objects_without_masks_are_refused() -> None:
    wanted, truth = wanted_of([[[0.0, 0, 4, 4]]], [[0]]), truth_of(torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(DataError, match=r"\[4, 4\].*\[5, 4\]"):
        mask_targets(wanted, [Annotation((5, 4), objects=truth.objects)], 4)
    assert truth.objects is not None
    truth.objects.masks = None
    with pytest.raises(DataError, match="without masks"):
        mask_targets(wanted, [truth], 4)


def test_the_loss_is_the_mean_cross_entropy_on_the_map_of_the_true_class() -> None:
    """Two masks of 1x1: logit 0 against 1 costs ln 2, logit ln 3 (p = 3/4) against 0 costs ln 4; other maps nothing."""
    logits = torch.zeros(2, 3, 1, 1)
    logits[:, 0], logits[0, 2], logits[1, 1] = 50, -50, math.log(3)
    logits.requires_grad_()
    targets = MaskTargets(torch.zeros(2, 5), torch.tensor([1, 1]), torch.tensor([[[1.0]], [[0.0]]]))
    loss = mask_loss(logits, targets)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] != 0).all()
    assert not logits.grad[:, [0, 2]].any()


def test_a_mask_is_pasted_with_a_border_by_hand() -> None:
    """A full mask of 2x2 in the box (2, 2, 6, 6): with its border 4x4 in (0, 0, 8, 8), whose corners both count, hence
    9x9 pixels. Pixel p reads cell (p + 0.5) 4 / 9 - 0.5, which lies between the cells 1 and 2 from p = 3 to 5; pixel 2
    reads 0.611, hence 0.611 of it, pixel 1 reads 0.167 of it."""
    found = paste_masks(torch.ones(1, 2, 2), torch.tensor([[2.0, 2, 6, 6]]), (9, 12))[0]
    weight = torch.tensor([0, 1 / 6, 11 / 18, 1, 1, 1, 11 / 18, 1 / 6, 0])
    expected = torch.zeros(9, 12, dtype=torch.bool)
    expected[:, :9] = weight[:, None] * weight > 0.5
    assert torch.equal(found, expected)
    assert found.sum() == 21  # 5x5 without its corners, 0.611^2 = 0.373


def test_what_reaches_out_of_the_image_is_cut_off() -> None:
    boxes = torch.tensor([[-3.0, -2, 5, 6], [8, 8, 14, 15], [30, 30, 40, 40], [4, 4, 4, 4]])
    masks = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))
    found = paste_masks(masks, boxes, (10, 11))
    moved = paste_masks(masks, boxes + 50, (110, 111))[:, 50:60, 50:61]
    assert torch.equal(found[1], moved[1])
    assert found[0].any()
    assert not found[2].any()
    assert paste_masks(masks[:0], boxes[:0], (4, 5)).shape == (0, 4, 5)


def test_an_aligned_mask_fills_its_box_exactly() -> None:
    """Along an axis pixels 1 and 2 read 1/4 and 3/4 of a full mask of 2x2 in the box from 2 to 6: 0.75^2 > 0.5."""
    found = paste_masks(torch.ones(1, 2, 2), torch.tensor([[2.0, 2, 6, 6]]), (9, 12), aligned=True)[0]
    expected = torch.zeros(9, 12, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("aligned", "least"), [(False, 0.94), (True, 0.99)])
def test_a_mask_that_is_cut_out_comes_back(aligned: bool, least: float) -> None:
    """A disc, by the targets' way in and the answers' way back."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    disc = (x - 34) ** 2 + (y - 30) ** 2 < 20**2
    box = [14.0, 10, 54, 50]
    target = mask_targets(wanted_of([[box]], [[0]]), [truth_of(disc[None])], 28, aligned)
    back = paste_masks(target.masks, torch.tensor([box]), (64, 64), aligned=aligned)[0]
    assert (back & disc).sum() / (back | disc).sum() > least


@pytest.mark.parametrize("aligned", [False, True])
def test_pasting_is_linear_resizing(aligned: bool) -> None:
    """Against torch's own resizing of the mask with its border, for a box on whole pixels that cells fit into."""
    mask = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    corner, last = 10 - 5, 10 + 4 * 5 + 5  # cells of 5 pixels, and the border
    shape = (last - corner) + (0 if aligned else 1)
    resized = F.interpolate(F.pad(mask, (1, 1, 1, 1))[None], (shape, shape), mode="bilinear")[0, 0]
    expected = torch.zeros(50, 50)
    expected[corner : corner + shape, corner : corner + shape] = resized
    box = torch.tensor([[10.0, 10, 30, 30]])
    for threshold in (0.2, 0.5, 0.7):
        assert torch.equal(paste_masks(mask, box, (50, 50), threshold, aligned)[0], expected > threshold)


def test_thresholds_are_strict() -> None:
    half = torch.full((1, 2, 2), 0.5)
    assert not paste_masks(half, torch.tensor([[0.0, 0, 20, 20]]), (20, 20)).any()
    assert paste_masks(half, torch.tensor([[0.0, 0, 20, 20]]), (20, 20), threshold=0.4).any()


def test_masks_begin_at_one_half() -> None:
    """With two maps too: weights by fan-out would be as large as the input is wide."""
    torch.manual_seed(0)
    with torch.no_grad():
        logits = MaskPredictor(32, 32, 2)(MaskHead(32, 32, 2)(torch.randn(4, 32, 7, 7)))
    assert logits.abs().max() < 0.1
