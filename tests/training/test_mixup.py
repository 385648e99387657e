"""mixup and CutMix: shares are what the pixels show, targets sum to 1, objects of both images are kept, and chance
follows from seed and step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from saccade.config import Settings
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.losses.classification import Objective, classification_loss
from saccade.tasks.table import TASKS
from saccade.training.mixup import cutmix_windows, mix, refuse_mixing

BOTH = {"mixup": 0.4, "cutmix": 1.0}


def _batch(count: int = 6, height: int = 12, width: int = 20) -> Batch:
    """Image i holds the value i everywhere and is labelled i."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, height, width).clone()
    truth = [Annotation((height, width), label=i) for i in range(count)]
    return Batch(images, [(height, width)] * count, truth, [str(i) for i in range(count)])


def _settings(**values: float) -> Settings:
    return dataclasses.replace(Settings(), **values)


def test_off_changes_nothing() -> None:
    batch = _batch()
    assert mix(batch, Settings(), 0, 0.0) is batch
    assert mix(batch, _settings(**BOTH, mix_until=0.5), 0, 0.5) is batch
    assert mix(batch, _settings(**BOTH, mix_probability=0.0), 0, 0.0) is batch


@limits(max_examples=50, deadline=None)
@given(
    step=st.integers(0, 10**6),
    alphas=st.sampled_from([{"mixup": 0.2}, {"cutmix": 1.0}, BOTH]),
    count=st.integers(1, 7),
    height=st.integers(1, 20),
)
def test_the_share_is_what_the_pixels_show(step: int, alphas: dict[str, float], count: int, height: int) -> None:
    mixed = mix(_batch(count, height), _settings(**alphas), step, 0.3)
    assert mixed.truth is not None
    for i, truth in enumerate(mixed.truth):
        assert truth.label == i
        assert truth.mixed is not None
        other, share = truth.mixed
        assert other.label is not None
        assert 0 <= share <= 1
        expected = (1 - share) * i + share * other.label
        assert mixed.images[i].double().mean().item() == pytest.approx(expected, abs=1e-5)
        values = set(mixed.images[i].unique().tolist())
        if "mixup" not in alphas:
            assert values <= {float(i), float(other.label)}


@limits(max_examples=50, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000), height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_window_is_a_rectangle_of_at_most_its_share(share: float, seed: int, height: int, width: int) -> None:
    (window,) = cutmix_windows(np.array([share]), height, width, np.random.default_rng(seed)).tolist()
    top, left, bottom, right = window
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert bottom - top <= np.sqrt(share) * height + 1
    assert right - left <= np.sqrt(share) * width + 1


def test_windows_have_their_share_where_nothing_is_cut_off() -> None:
    windows = cutmix_windows(np.full(2000, 0.25), 32, 32, np.random.default_rng(0))
    areas = (windows[:, 2:] - windows[:, :2]).prod(1) / 32**2
    assert areas.max() == 0.25
    assert (areas == 0.25).mean() == pytest.approx(0.25, abs=0.06)  # centres at least 8 pixels inside: half, twice


def test_chance_follows_from_seed_step_and_rank() -> None:
    settings = _settings(**BOTH)
    images = [mix(_batch(), settings, step, 0.1, rank).images for step, rank in ((5, 0), (5, 0), (6, 0), (5, 1))]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[3])
    other = mix(_batch(), dataclasses.replace(settings, seed=1), 5, 0.1).images
    assert not torch.equal(images[0], other)


def test_shares_are_distributed_as_asked_and_channels_last_stays() -> None:
    batch = _batch(400, 2, 2)
    batch.images = batch.images.contiguous(memory_format=torch.channels_last)
    mixed = mix(batch, _settings(mixup=0.2), 0, 0.0)
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)
    shares = np.array([t.mixed[1] for t in mixed.truth or [] if t.mixed])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.var() == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(a, a): 1 / (4 (2a + 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_soft_targets(smoothing: float) -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    mixed = mix(_batch(), _settings(**BOTH), 3, 0.0).truth
    assert mixed is not None
    target = torch.zeros(6, 6)
    for i, truth in enumerate(mixed):
        assert truth.mixed is not None
        target[i, i] += 1 - truth.mixed[1]
        target[i, truth.mixed[0].label] += truth.mixed[1]
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    expected = -((1 - smoothing) * target + smoothing / 6).mul(logits.log_softmax(1)).sum(1).mean()
    objective = Objective(label_smoothing=smoothing)
    torch.testing.assert_close(classification_loss(logits, mixed, "classify", objective)["classification"], expected)


def test_tags_mix_as_soft_tags() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -2.0]])
    one, two = (Annotation((4, 4), tags=torch.tensor(tags).bool()) for tags in ([1, 0, 1], [0, 0, 1]))
    truth = [dataclasses.replace(one, mixed=(two, 0.3)), two]
    soft = torch.tensor([[0.7, 0.0, 1.0], [0.0, 0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, truth, "tag")["classification"], expected)


def test_a_mixed_truth_moves_with_its_partner() -> None:
    tags = torch.tensor([True])
    truth = Annotation((1, 1), tags=tags, mixed=(Annotation((1, 1), tags=tags), 0.5)).to("meta")
    assert truth.mixed is not None
    assert truth.mixed[0].tags is not None
    assert truth.mixed[0].tags.device.type == "meta"


def _boxed() -> Batch:
    """Four images of 12 x 16 in 16 x 16, image i of value i: one object labelled i with its mask, which is a crowd in
    image 0; image 2 is 16 x 8 and has none; image 3 has a class in place of boxes. Each is given a box of its number.
    """
    sizes = [(12, 16), (12, 16), (16, 8), (12, 16)]
    truth = []
    for i, (height, width) in enumerate(sizes):
        rows = int(i < 2)
        masks = torch.zeros(rows, height, width, dtype=torch.bool)
        masks[:, 2:5, 3 : 6 + i] = True
        boxes = torch.tensor([[3.0, 2.0, 6.0 + i, 5.0]])[:rows]
        objects = Objects(boxes, torch.tensor([i])[:rows], masks=masks)
        if i == 0:
            objects.crowd = torch.tensor([True])
        truth.append(Annotation((height, width), objects=objects))
    truth[3] = Annotation(sizes[3], label=5)
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).clone()
    given = [Objects(torch.tensor([[0.0, 0.0, 1.0 + i, 1.0 + i]]), torch.tensor([0])) for i in range(4)]
    return Batch(images, sizes, truth, [str(i) for i in range(4)], given=given)


def _partners(batch: Batch, step: int) -> tuple[Batch, list[int]]:
    """A blended batch, and whom each image was blended with, as its given boxes tell; itself where it was not."""
    mixed = mix(batch, _settings(mixup=8.0), step, 0.0)
    assert mixed.given is not None
    return mixed, [i if len(g) == 1 else round(g.boxes[1, 2].item()) - 1 for i, g in enumerate(mixed.given)]


def test_a_blended_image_has_the_objects_of_both() -> None:
    before = _boxed()
    assert before.truth is not None
    seen = set()
    for step in range(40):
        mixed, partners = _partners(before, step)
        assert mixed.truth is not None
        for i, j in enumerate(partners):
            own, other, both = before.truth[i], before.truth[j], mixed.truth[i]
            assert mixed.sizes[i] == both.size
            value = mixed.images[i].unique().tolist()
            assert len(value) == 1
            if i == j:
                assert both is own
                assert value == [float(i)]
                continue
            assert 3 not in (i, j)  # whose boxes nobody knows
            assert both.size == (max(own.size[0], other.size[0]), max(own.size[1], other.size[1]))
            assert 0.05 < (value[0] - i) / (j - i) < 0.95  # both are seen
            assert both.objects is not None
            assert both.mixed is None
            rows = [k for k in (i, j) if k < 2]
            assert both.objects.labels.tolist() == rows
            assert both.objects.boxes[:, 2].tolist() == [6.0 + k for k in rows]
            assert both.objects.masks is not None
            assert both.objects.masks.shape == (len(rows), *both.size)
            for mask, k in zip(both.objects.masks, rows, strict=True):
                assert mask.sum() == 3 * (3 + k)
                assert mask[2:5, 3 : 6 + k].all()
            if 0 in rows:
                assert both.objects.crowd is not None
                assert both.objects.crowd.tolist() == [k == 0 for k in rows]
            seen.add((i, j))
    assert seen == {(i, j) for i in range(3) for j in range(3) if i != j}


def test_objects_are_blended_by_mixup_alone_and_where_both_are_seen() -> None:
    for task in ("detect", "instances", "pose"):
        refuse_mixing(TASKS[task], _settings(mixup=1.0))
        with pytest.raises(UsageError, match=f"too faint.*for {task} at least 1"):
            refuse_mixing(TASKS[task], _settings(mixup=0.9))
    for task in ("localize", "boxes3d", "segment", "embed"):
        with pytest.raises(UsageError, match=f"mixup blends labels, or joins .*not {task}"):
            refuse_mixing(TASKS[task], _settings(mixup=8.0))
    for task in set(TASKS) - {"classify", "tag"}:
        with pytest.raises(UsageError, match="cutmix blends"):
            refuse_mixing(TASKS[task], _settings(cutmix=1.0))
    for task in ("classify", "tag"):
        refuse_mixing(TASKS[task], _settings(**BOTH))
