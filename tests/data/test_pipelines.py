"""Pipelines of every task give what the network takes, and predictions come back to the original pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.config import Settings
from saccade.data.geometry import mask_hulls
from saccade.data.pipelines import (
    Preprocessing,
    inference_transforms,
    preprocessing_of,
    to_original,
    training_transforms,
)
from saccade.data.policies import RandAugment, TrivialAugment
from saccade.data.types import IGNORE, Annotation, Batch, Objects, Sample
from saccade.errors import ModelFileError, UsageError

EVERYTHING = {"rotate": 20.0, "jitter": 0.3, "flip_vertical": 0.5, "elastic": 1.0, "cutout": 0.5, "color": 1.0}
EVERYTHING |= {"transpose": 0.5}
EVERYTHING |= {"policy": "randaugment", "policy_magnitude": 30.0, "lighting": 0.5}


def sample_of(size: tuple[int, int], task: str, masks: bool = False) -> Sample:
    height, width = size
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), (width, height))
    if task in ("classify", "tag"):
        return Sample(image, Annotation(size, label=1), "x", size)
    plane = torch.zeros(1, height, width, dtype=torch.bool)
    x1, y1, x2, y2 = width // 4, height // 4, -(-3 * width // 4), -(-3 * height // 4)
    plane[0, y1:y2, x1:x2] = True
    if task == "segment":
        return Sample(image, Annotation(size, semantic=plane[0].to(torch.uint8)), "x", size)
    boxes = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    objects = Objects(boxes, torch.tensor([2]), masks=plane if masks else None)
    return Sample(image, Annotation(size, objects=objects), "x", size)


def apply(transforms: list, sample: Sample, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    for transform in transforms:
        others = getattr(transform, "needs_others", False)
        sample = transform(sample, rng, lambda s=sample: s) if others else transform(sample, rng)
    return sample


def batch_of(sample: Sample) -> Batch:
    images = torch.from_numpy(sample.image.transpose(2, 0, 1).copy())[None]
    return Batch(images, [sample.truth.size], [sample.truth], [sample.id], [sample.original_size], [sample.to_original])


CASES = [
    ("classify", {"resize": "crop", "size": 64}, (64, 64)),
    ("classify", {"resize": "crop", "size": (48, 64), "crop_min": 0.1}, (48, 64)),
    ("classify", {"pad": 4, "size": 32}, (32, 32)),
    ("tag", {"resize": "letterbox", "size": 64}, (64, 64)),
    ("detect", {"resize": "letterbox", "size": 96}, (96, 96)),
    ("detect", {"resize": "stretch", "size": (64, 96)}, (64, 96)),
    ("detect", {"resize": "letterbox", "size": 96, "min_overlap_crop": 1.0, "mosaic": 0.5}, (96, 96)),
    ("detect", {"resize": "stretch", "size": 96, "min_overlap_crop": 1.0, "mosaic": 1.0}, (96, 96)),
    ("localize", {"resize": "letterbox", "size": 96, "min_overlap_crop": 1.0}, (96, 96)),
    ("localize", {"resize": "stretch", "size": (64, 96)}, (64, 96)),
    ("instances", {"resize": "letterbox", "size": 96, "mosaic": 0.5}, (96, 96)),
    ("segment", {"size": 96, "scale": 0.5}, (96, 96)),
]


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", [(120, 200), (1, 1), (2, 3), (1, 2000), (300, 7)])
@pytest.mark.parametrize(("task", "values", "expected"), CASES)
def test_training_inputs_have_one_size(task: str, values: dict, expected, size, everything: bool) -> None:
    chosen = Settings(**{**(EVERYTHING if everything else {}), **values})
    transforms = training_transforms(task, chosen)
    for seed in range(3):
        out = apply(transforms, sample_of(size, task, masks=task == "instances"), seed)
        assert out.image.shape == (*expected, 3)
        assert out.image.dtype == np.uint8
        assert out.truth.size[0] <= expected[0]
        assert out.truth.size[1] <= expected[1]
        if task == "segment":
            assert tuple(out.truth.semantic.shape) == expected
        if out.truth.objects is not None:
            boxes = out.truth.objects.boxes
            assert torch.isfinite(boxes).all()
            assert len(boxes) == 1 or task != "localize"  # whatever is cut, the one box stays
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes[:, 2:] <= torch.tensor([out.truth.size[1], out.truth.size[0]])).all()


@pytest.mark.parametrize("size", [(120, 200), (1, 1), (2, 3), (1, 2000), (300, 7)])
@pytest.mark.parametrize(("task", "values", "expected"), CASES)
def test_test_inputs_have_one_size_and_follow_from_nothing_random(task: str, values: dict, expected, size) -> None:
    transforms = inference_transforms(task, preprocessing_of(task, Settings(**values)))
    sample = sample_of(size, task)
    out, again = apply(transforms, sample, 0), apply(transforms, sample, 1)
    assert np.array_equal(out.image, again.image)
    if task == "segment":
        assert out.truth.size == tuple(max(1, round(side / 2)) for side in size)
        assert out.image.shape[:2] == out.truth.size
    else:
        assert out.image.shape == (*expected, 3)


def test_classifiers_see_the_centre_and_padded_ones_the_whole() -> None:
    crop = inference_transforms("classify", Preprocessing((224, 224), "crop"))
    out = apply(crop, sample_of((512, 768), "classify"))
    assert np.allclose(out.to_original, [[2, 0, 160], [0, 2, 32], [0, 0, 1]])
    whole = inference_transforms("classify", Preprocessing((32, 32), "crop", pad=4))
    sample = sample_of((32, 32), "classify")
    assert np.array_equal(apply(whole, sample).image, sample.image)


def test_objects_are_never_centre_cropped() -> None:
    with pytest.raises(UsageError, match="letterbox"):
        training_transforms("detect", Settings(resize="crop"))


@pytest.mark.parametrize(
    "made",
    [
        Preprocessing((3, 4), "letterbox"),
        Preprocessing(None, "stretch", 0.5, 16),
        Preprocessing((8, 8), "crop", pad=4),
        Preprocessing((8, 8), "stretch", proposals="file"),
    ],
)
def test_preprocessing_survives_json(made: Preprocessing) -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_preprocessing_written_before_there_were_proposals_has_none() -> None:
    state = Preprocessing((3, 4), "letterbox").to_json()
    del state["proposals"]
    assert Preprocessing.from_json(state).proposals is None


def test_preprocessing_written_before_when_sides_had_a_stride_is_read_if_there_was_none() -> None:
    made = Preprocessing((3, 4), "letterbox")
    assert Preprocessing.from_json(made.to_json() | {"stride": 1}) == made
    with pytest.raises(ModelFileError, match="stride"):
        Preprocessing.from_json(made.to_json() | {"stride": 32})


@pytest.mark.parametrize(
    "change",
    [
        *({"size": [0, 4]}, {"size": [4]}, {"size": 7}, {"size": [10**5, 10**5]}, {"size": [8.5, 8]}, {"resize": "x"}),
        *({"scale": -1}, {"stride": "a"}, {"stride": 10**6}, {"pad": 10**6}, {"pad": [1]}, {"view": "x"}, {"more": 1}),
        *({"proposals": "elsewhere"}, {"proposals": 1}, {"proposals": []}),
    ],
)
def test_bad_preprocessing_is_a_model_file_error(change: dict) -> None:
    with pytest.raises(ModelFileError, match="preprocessing"):
        Preprocessing.from_json({**Preprocessing((3, 4), "letterbox").to_json(), **change})
    with pytest.raises(ModelFileError, match="size"):
        Preprocessing.from_json({"resize": "crop"})


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(20, 200),
    width=st.integers(20, 200),
    kind=st.sampled_from(["letterbox", "stretch", "crop"]),
)
def test_truth_comes_back_as_it_was(height: int, width: int, kind: str) -> None:
    sample = sample_of((height, width), "detect", masks=True)
    if kind == "crop":
        transforms = inference_transforms("classify", Preprocessing((64, 64), "crop"))
    else:
        transforms = inference_transforms("detect", Preprocessing((64, 80), kind))
    out = apply(transforms, sample)
    back = to_original(out.truth, batch_of(out), 0)
    box = sample.truth.objects.boxes[0].numpy()
    seen = np.array([[0, 0, *out.truth.size[::-1]]], float)
    window = np.r_[out.to_original[:2, 2], out.to_original[:2, :2] @ seen[0, 2:] + out.to_original[:2, 2]]
    full, box = box, np.clip(box, np.tile(window[:2], 2), np.tile(window[2:], 2))
    if not len(out.truth.objects):
        assert np.prod(box[2:] - box[:2]) < 0.25 * np.prod(full[2:] - full[:2])
        return
    pixel = np.diag(out.to_original)[:2].max()
    assert back.size == (height, width)
    assert np.abs(back.objects.boxes[0].numpy() - box).max() <= (1e-3 if kind != "crop" else max(1, pixel))
    assert back.objects.masks.shape == (1, height, width)
    hull = mask_hulls(back.objects.masks)[0][0]
    assert np.abs(hull - box).max() <= 1.5 * max(1, pixel)


def test_class_map_comes_back_at_full_size() -> None:
    sample = sample_of((61, 90), "segment")
    out = apply(inference_transforms("segment", Preprocessing(None, "stretch", 0.5, 16)), sample)
    assert out.truth.size == (30, 45)
    back = to_original(Annotation((30, 45), semantic=out.truth.semantic, label=None), batch_of(out), 0)
    assert back.semantic.shape == (61, 90)
    assert (back.semantic == sample.truth.semantic).float().mean() > 0.95
    doubled = apply(inference_transforms("segment", Preprocessing(None, "stretch", 2.0)), sample)
    assert torch.equal(to_original(doubled.truth, batch_of(doubled), 0).semantic, sample.truth.semantic)


def test_what_a_crop_left_out_is_ignore() -> None:
    semantic = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    matrix = np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    batch = Batch(torch.zeros(1, 3, 2, 2), [(2, 2)], None, ["x"], [(3, 4)], [matrix])
    back = to_original(Annotation((2, 2), semantic=semantic, label=7), batch, 0)
    assert back.semantic.tolist() == [[IGNORE, 1, 2, IGNORE], [IGNORE, 3, 4, IGNORE], [IGNORE] * 4]
    assert back.label == 7
    quarter = np.array([[0.0, -1, 2], [1, 0, 0], [0, 0, 1]])  # x' = 2 - y, y' = x
    turned = Batch(torch.zeros(1, 3, 2, 2), [(2, 2)], None, ["x"], [(2, 2)], [quarter])
    assert to_original(Annotation((2, 2), semantic=semantic), turned, 0).semantic.tolist() == [[3, 1], [4, 2]]


def test_predictions_are_clipped_and_keep_their_rows() -> None:
    objects = Objects(
        torch.tensor([[-5.0, 2, 30, 8], [4, 4, 6, 6]]),
        torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.2]),
        keypoints=torch.tensor([[[4.0, 4, 0.5]], [[0, 0, 0]]]),
    )
    batch = Batch(torch.zeros(1, 3, 10, 10), [(10, 10)], None, ["x"], [(20, 40)], [np.diag([2.0, 2.0, 1.0])])
    back = to_original(Annotation((10, 10), objects=objects), batch, 0).objects
    assert back.boxes.tolist() == [[0, 4, 40, 16], [8, 8, 12, 12]]
    assert back.scores.tolist() == pytest.approx([0.9, 0.2])
    assert back.keypoints[:, 0].tolist() == [[8, 8, 0.5], [0, 0, 0]]
    nothing = to_original(Annotation((10, 10), objects=Objects.empty(scored=True)), batch, 0).objects
    assert len(nothing) == 0


@pytest.mark.shared
def test_real_photos_through_every_step(shared_data: Path) -> None:
    folder = shared_data / "penn_fudan"
    if not folder.is_dir():
        pytest.skip("penn_fudan is not there")
    name = sorted((folder / "Images").iterdir())[3]
    image = cv2.imread(str(name))[..., ::-1].copy()
    ids = cv2.imread(str(folder / "PedMasks" / f"{name.stem}_mask.png"), cv2.IMREAD_UNCHANGED)
    masks = torch.from_numpy(np.stack([ids == k for k in range(1, ids.max() + 1)]))
    corners = [
        [float(v) for v in (*np.argwhere(m)[:, ::-1].min(0), *np.argwhere(m)[:, ::-1].max(0) + 1)]
        for m in masks.numpy()
    ]
    objects = Objects(torch.tensor(corners), torch.zeros(len(corners), dtype=torch.int64), masks=masks)
    sample = Sample(image, Annotation(ids.shape, objects=objects), name.name, ids.shape)
    for seed in range(10):
        settings_ = Settings(size=256, rotate=10, jitter=0.2, min_overlap_crop=0.5, mosaic=0.3, elastic=0.3)
        found = apply(training_transforms("instances", settings_), sample, seed).truth.objects
        for box, mask in zip(found.boxes.numpy(), found.masks.numpy(), strict=True):
            points = np.argwhere(mask)[:, ::-1]
            assert np.abs(np.r_[points.min(0), points.max(0) + 1] - box).max() <= 2


@pytest.mark.parametrize(
    ("task", "geometric"), [("classify", True), ("tag", True), ("detect", False), ("segment", False)]
)
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_move_pixels_only_where_no_truth_is_tied_to_them(task: str, geometric: bool, policy: str) -> None:
    transforms = training_transforms(task, Settings(size=64, policy=policy))
    (found,) = [t for t in transforms if isinstance(t, RandAugment | TrivialAugment)]
    assert found.geometric is geometric
