"""Properties that hold for every geometric transform: image, boxes, masks, class map and the way back agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade.data.elastic import Elastic
from saccade.data.geometry import map_points, mask_hulls, scaling, shift
from saccade.data.mixing import Cutout
from saccade.data.photometric import PhotometricDistortion
from saccade.data.resampling import crop, resize_plane, warp_masks, warp_plane
from saccade.data.sampling import WHOLE, MinOverlapCrop
from saccade.data.transforms import (
    Affine,
    CenterCrop,
    FitInside,
    Flip,
    Letterbox,
    PadCrop,
    PadTo,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Scale,
    ScaleJitter,
    Transpose,
)
from saccade.data.types import IGNORE, Annotation, Objects, Sample

AXIS = {
    "resize": Resize((90, 70)),
    "scale": Scale(0.6),
    "fit inside": FitInside((64, 64)),
    "scale jitter": ScaleJitter(0.5, 2.0),
    "pad to": PadTo((150, 160)),
    "letterbox": Letterbox((100, 64)),
    "letterbox centred": Letterbox((100, 64), centred=True),
    "centre crop": CenterCrop((56, 56), (64, 64)),
    "resized crop": RandomResizedCrop((80, 64), 0.5),
    "random crop": RandomCrop((60, 120)),
    "pad crop": PadCrop(9),
    "flip": Flip(1.0),
    "flip vertical": Flip(1.0, vertical=True),
    "transpose": Transpose(1.0),
    "zoom": Affine(0, 0.4, 0.2),
    "zoom to size": Affine(0, 0.4, 0.2, (64, 80), keep_aspect=True),
    "zoom stretched": Affine(0, 0.4, 0.2, (64, 80)),
    "overlap crop": MinOverlapCrop(expand=0),
    "overlap crop to size": MinOverlapCrop(size=(72, 72)),
    "expand": MinOverlapCrop(expand=1, modes=(WHOLE,)),
    "expand to size": MinOverlapCrop(expand=1, modes=(WHOLE,), size=(72, 72), keep_aspect=True),
}
TURNED = {"turn": Affine(40, 0.2, 0.1), "turn to size": Affine(180, 0.2, 0.1, (90, 90), keep_aspect=True)}
OTHER = {"elastic": Elastic(), "photometric": PhotometricDistortion(2.0), "cutout": Cutout(1.0)}
MATRIX = {**AXIS, **TURNED}
ALL = {**MATRIX, **OTHER}
SIZES = [(1, 1), (2, 3), (1, 2000), (2000, 1), (33, 17)]


def rectangle(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], masks: bool = True) -> Sample:
    """A black image with white boxes; labels are row numbers, the class map is 1 in boxes, keypoints their centres."""
    height, width = size
    planes = np.zeros((len(boxes), height, width), bool)
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        planes[row, y1:y2, x1:x2] = True
    semantic = planes.any(axis=0).astype(np.uint8) if boxes else np.zeros(size, np.uint8)
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    centres = (tensor[:, :2] + tensor[:, 2:]) / 2
    objects = Objects(
        tensor,
        torch.arange(len(boxes)),
        masks=torch.from_numpy(planes) if masks else None,
        keypoints=torch.cat([centres, torch.full((len(boxes), 1), 2.0)], dim=1)[:, None],
        difficult=torch.zeros(len(boxes), dtype=torch.bool),
        area=(tensor[:, 2] - tensor[:, 0]) * (tensor[:, 3] - tensor[:, 1]),
    )
    image = np.repeat(semantic[..., None] * np.uint8(255), 3, axis=2)
    truth = Annotation(size, semantic=torch.from_numpy(semantic), objects=objects)
    return Sample(image, truth, "x.jpg", size)


def run(transform: Callable[..., Sample], sample: Sample, seed: int) -> Sample:
    return transform(sample, np.random.default_rng(seed))


def hull(plane: np.ndarray) -> np.ndarray:
    return mask_hulls(torch.from_numpy(plane[None]))[0][0]


@st.composite
def pictures(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    height, width = draw(st.integers(40, 130)), draw(st.integers(40, 130))
    w, h = draw(st.integers(12, width)), draw(st.integers(12, height))
    x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
    return (height, width), (x, y, x + w, y + h)


@pytest.mark.parametrize("name", AXIS)
@settings(max_examples=25, deadline=None)
@given(picture=pictures(), seed=st.integers(0, 2**32))
def test_boxes_agree_with_image_mask_and_class_map(name: str, picture, seed: int) -> None:
    size, box = picture
    out = run(AXIS[name], rectangle(size, [box], masks=False), seed)
    with_masks = run(AXIS[name], rectangle(size, [box]), seed)
    objects = out.truth.objects
    height, width = out.truth.size
    picture_part = out.image[:height, :width, 0]
    if not len(objects):  # less than a quarter is left in view
        assert (out.truth.semantic == 1).sum() <= 0.3 * (box[2] - box[0]) * (box[3] - box[1]) / abs(
            np.linalg.det(out.to_original)
        )
        return
    shown = objects.boxes[0].numpy()
    growth = max(1.0, np.abs(np.linalg.inv(out.to_original)[:2, :2]).max())
    tolerance = 1.5 * growth
    assert np.abs(hull(out.truth.semantic.numpy() == 1) - shown).max() <= tolerance
    if "overlap" not in name and "expand" not in name:  # their fill is bright enough to be taken for the box
        assert np.abs(hull(picture_part > 150) - shown).max() <= tolerance
    assert len(with_masks.truth.objects) == 1
    assert np.abs(hull(with_masks.truth.objects.masks[0].numpy()) - shown).max() <= tolerance
    assert np.abs(with_masks.truth.objects.boxes[0].numpy() - shown).max() <= tolerance


@pytest.mark.parametrize("name", TURNED)
@settings(max_examples=25, deadline=None)
@given(picture=pictures(), seed=st.integers(0, 2**32))
def test_turned_boxes_are_hulls_and_masks_make_them_tighter(name: str, picture, seed: int) -> None:
    size, box = picture
    plain = run(TURNED[name], rectangle(size, [box], masks=False), seed)
    masked = run(TURNED[name], rectangle(size, [box]), seed)
    seen = hull(plain.truth.semantic.numpy() == 1)
    for row in masked.truth.objects.boxes.numpy():
        assert np.array_equal(row, hull(masked.truth.objects.masks[0].numpy()))
        assert np.abs(row - seen).max() <= 2
    for row in plain.truth.objects.boxes.numpy():
        assert (row[:2] <= seen[:2] + 1.5).all()
        assert (row[2:] >= seen[2:] - 1.5).all()
        height, width = plain.truth.size
        if row.min() > 0 and row[2] < width and row[3] < height:  # nothing cut: the hull is tight
            assert np.abs(row - seen).max() <= 2


@pytest.mark.parametrize("name", MATRIX)
@settings(max_examples=15, deadline=None)
@given(picture=pictures(), seed=st.integers(0, 2**32))
def test_points_map_back(name: str, picture, seed: int) -> None:
    size, box = picture
    out = run(MATRIX[name], rectangle(size, [box]), seed)
    for x, y, visible in out.truth.objects.keypoints[:, 0].tolist():
        if visible:
            back = map_points(np.array([x, y]), out.to_original)
            assert np.abs(back - [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]).max() < 0.01
    # and so does the picture itself: the part of the box that is seen lies where the box was
    seen = np.argwhere(out.truth.semantic.numpy() == 1)[:, ::-1] + 0.5
    if len(seen):
        back = map_points(seen, out.to_original)
        assert (back > np.array(box[:2]) - 0.75).all()
        assert (back < np.array(box[2:]) + 0.75).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ALL)
def test_tiny_and_narrow_images(name: str, size: tuple[int, int]) -> None:
    transform = ALL[name]
    if name == "pad to":
        transform = PadTo((2048, 2048))
    for boxes in ([], [(0, 0, size[1], size[0])]):
        for seed in range(4):
            out = run(transform, rectangle(size, boxes), seed)
            height, width = out.truth.size
            assert min(height, width) >= 1
            assert out.image.dtype == np.uint8
            assert out.image.shape[0] >= height
            assert out.image.shape[1] >= width
            assert out.image.size < 2048 * 2048 * 3 + 1
            assert np.isfinite(out.to_original).all()
            assert tuple(out.truth.semantic.shape) == (height, width)
            found = out.truth.objects
            assert found.masks.shape[1:] == (height, width)
            assert torch.isfinite(found.boxes).all()
            assert (found.boxes >= 0).all()
            assert (found.boxes[:, 2:] <= torch.tensor([width, height])).all()


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_result_and_the_input_stays(name: str) -> None:
    sample = rectangle((60, 80), [(5, 6, 30, 40), (20, 10, 79, 59)])
    image, boxes = sample.image.copy(), sample.truth.objects.boxes.clone()
    masks, semantic = sample.truth.objects.masks.clone(), sample.truth.semantic.clone()
    points = sample.truth.objects.keypoints.clone()
    one, two = run(ALL[name], sample, 5), run(ALL[name], sample, 5)
    assert np.array_equal(one.image, two.image)
    assert torch.equal(one.truth.objects.boxes, two.truth.objects.boxes)
    assert torch.equal(one.truth.objects.masks, two.truth.objects.masks)
    assert np.array_equal(one.to_original, two.to_original)
    assert np.array_equal(sample.image, image)
    assert torch.equal(sample.truth.objects.boxes, boxes)
    assert torch.equal(sample.truth.objects.masks, masks)
    assert torch.equal(sample.truth.objects.keypoints, points)
    assert torch.equal(sample.truth.semantic, semantic)
    assert np.array_equal(sample.to_original, np.eye(3))


@pytest.mark.parametrize("name", ALL)
def test_image_without_truth(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    out = run(ALL[name], Sample(image, Annotation((50, 70), label=3), "x", (50, 70)), 1)
    assert out.truth.label == 3
    assert out.truth.objects is None
    assert out.truth.semantic is None
    assert out.image.shape[2] == 3


@pytest.mark.parametrize(
    "transform",
    [
        Resize((60, 80)),
        Scale(1.0),
        FitInside((60, 100)),
        PadTo((60, 80)),
        CenterCrop((60, 80), (60, 80)),
        RandomCrop((60, 80)),
        PadCrop(0),
        Flip(0.0),
        Transpose(0.0),
        Affine(),
        Affine(size=(60, 80), keep_aspect=True),
        MinOverlapCrop(expand=0, modes=(WHOLE,)),
        MinOverlapCrop(probability=0),
        Elastic(probability=0),
        PhotometricDistortion(0.0),
    ],
    ids=repr,
)
def test_identity_parameters_change_nothing(transform: Callable[..., Sample]) -> None:
    sample = rectangle((60, 80), [(5, 6, 30, 40)])
    out = run(transform, sample, 3)
    assert np.array_equal(out.image, sample.image)
    assert torch.equal(out.truth.objects.boxes, sample.truth.objects.boxes)
    assert torch.equal(out.truth.objects.masks, sample.truth.objects.masks)
    assert np.allclose(out.to_original, np.eye(3))


@pytest.mark.parametrize("flip", [Flip(1.0), Flip(1.0, vertical=True), Transpose(1.0)], ids=repr)
def test_two_flips_are_none(flip: Callable[..., Sample]) -> None:
    sample = rectangle((41, 63), [(5, 6, 30, 40), (0, 0, 3, 9)])
    out = run(flip, run(flip, sample, 0), 0)
    assert np.array_equal(out.image, sample.image)
    for name in ("boxes", "masks", "keypoints", "labels"):
        assert torch.equal(getattr(out.truth.objects, name), getattr(sample.truth.objects, name)), name
    assert torch.equal(out.truth.semantic, sample.truth.semantic)
    assert np.allclose(out.to_original, np.eye(3))


def test_a_mirror_trades_left_and_right() -> None:
    sample = rectangle((10, 20), [(0, 0, 10, 10)], masks=False)
    sample.truth.objects.keypoints = torch.tensor([[[1.0, 2, 2], [6, 3, 1], [0, 0, 0]]])  # left eye, right eye, absent
    out = run(Flip(1.0, pairs=((0, 1),)), sample, 0)
    assert out.truth.objects.keypoints.tolist() == [[[14, 3, 1], [19, 2, 2], [0, 0, 0]]]
    upside_down = run(Flip(1.0, vertical=True, pairs=((0, 1),)), sample, 0)
    assert upside_down.truth.objects.keypoints.tolist() == [[[1, 8, 2], [6, 7, 1], [0, 0, 0]]]
    transposed = run(Transpose(1.0, pairs=((0, 1),)), sample, 0)
    assert transposed.truth.objects.keypoints.tolist() == [[[3, 6, 1], [2, 1, 2], [0, 0, 0]]]


def test_transposition_and_mirrors_make_eight_orientations() -> None:
    sample = rectangle((8, 8), [(1, 2, 4, 7)])
    sample.image[0, 3] = 99
    steps = (Transpose(0.5), Flip(0.5), Flip(0.5, vertical=True))
    seen = set()
    for seed in range(60):
        out, rng = sample, np.random.default_rng(seed)
        for step in steps:
            out = step(out, rng)
        seen.add(out.image.tobytes())
    assert len(seen) == 8


def test_crop_clips_and_drops_by_the_visible_share() -> None:
    boxes = [(0, 0, 20, 20), (8, 0, 28, 20), (16, 0, 36, 20), (40, 0, 60, 20)]
    sample = rectangle((20, 60), boxes, masks=False)
    out = crop(sample, (16, 0, 60, 20)).truth.objects  # keeps 20 %, 60 %, 100 %, 100 %
    assert out.labels.tolist() == [1, 2, 3]
    assert out.boxes.tolist() == [[0, 0, 12, 20], [0, 0, 20, 20], [24, 0, 44, 20]]
    assert out.area.tolist() == pytest.approx([240, 400, 400])
    assert out.keypoints[:, 0].tolist() == [[2, 10, 2], [10, 10, 2], [34, 10, 2]]
    every = crop(sample, (16, 0, 60, 20), keep=0.1).truth.objects
    assert every.labels.tolist() == [0, 1, 2, 3]
    assert every.keypoints[0].tolist() == [[0, 0, 0]]
    centres = crop(sample, (16, 0, 60, 20), keep="centre").truth.objects
    assert centres.labels.tolist() == [1, 2, 3]


def test_a_cut_object_whose_mask_is_gone_is_dropped() -> None:
    sample = rectangle((20, 40), [(0, 0, 40, 20), (0, 0, 40, 20), (0, 0, 40, 20)])
    sample.truth.objects.masks[0, :, 10:] = False  # seen only on the left
    sample.truth.objects.masks[1, :, 30:] = False
    sample.truth.objects.masks[2] = False  # no mask was ever given
    out = crop(sample, (20, 0, 40, 20)).truth.objects
    assert out.labels.tolist() == [1, 2]
    assert out.boxes.tolist() == [[0, 0, 10, 20], [0, 0, 20, 20]]


def test_padding_keeps_the_size_of_the_picture() -> None:
    sample = rectangle((30, 50), [(0, 0, 50, 30)])
    boxed = run(Letterbox((100, 100)), sample, 0)
    assert boxed.image.shape == (100, 100, 3)
    assert boxed.truth.size == (60, 100)
    assert boxed.truth.objects.boxes.tolist() == [[0, 0, 100, 60]]
    assert (boxed.image[60:] == 114).all()
    assert (boxed.image[:60] == 255).all()
    centred = run(Letterbox((100, 100), centred=True), sample, 0)
    assert centred.truth.size == (100, 100)
    assert centred.truth.objects.boxes.tolist() == [[0, 20, 100, 80]]
    with pytest.raises(ValueError, match=r"x\.jpg"):
        run(PadTo((20, 100)), sample, 0)


def test_random_crop_pads_with_ignore() -> None:
    out = run(RandomCrop((50, 20)), rectangle((30, 40), [(0, 0, 40, 30)]), 2)
    assert out.truth.size == (50, 20)
    values, counts = np.unique(out.truth.semantic.numpy(), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {1: 600, IGNORE: 400}


def test_centre_crop_is_the_usual_test_view() -> None:
    out = run(CenterCrop((224, 224), (256, 256)), rectangle((512, 768), [(160, 32, 608, 480)]), 0)
    assert np.allclose(out.to_original, [[2, 0, 160], [0, 2, 32], [0, 0, 1]])
    assert (out.image == 255).all()


@settings(max_examples=50, deadline=None)
@given(height=st.integers(8, 200), width=st.integers(8, 200), seed=st.integers(0, 2**32))
def test_resized_crop_keeps_its_area_and_aspect(height: int, width: int, seed: int) -> None:
    x, y, w, h = RandomResizedCrop((64, 64), 0.3)._window(height, width, np.random.default_rng(seed))
    assert 0 <= x <= width - w
    assert 0 <= y <= height - h
    assert (w - 0.51) / (h + 0.51) <= 4 / 3  # sides are rounded to pixels
    assert (w + 0.51) / (h - 0.51) >= 3 / 4
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w + 0.51) * (h + 0.51) >= 0.3 * height * width


@pytest.mark.parametrize("turned", [False, True])
def test_masks_are_warped_as_whole_planes(turned: bool) -> None:
    """A part of each mask is warped alone: small, at the border, beyond it, empty, and over the whole image."""
    masks = torch.zeros(5, 24, 30, dtype=torch.bool)
    masks[0, 5:9, 7:13], masks[1, :3, 25:], masks[2, 20, 0], masks[4] = True, True, True, True
    masks[4, ::3, 1::4] = False
    matrix = shift(-4.3, 1.7) @ scaling(1.7, 1.3)
    if turned:
        matrix = matrix @ np.array([[0.8, -0.6, 9], [0.6, 0.8, -3], [0, 0, 1]])
    found = warp_masks(masks, matrix, (28, 33))
    whole = [warp_plane(mask.numpy().view(np.uint8), matrix, (28, 33), 0).astype(bool) for mask in masks]
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), np.stack(whole))
    assert found[0].any()
    assert not found[3].any()
    assert warp_masks(masks[:0], matrix, (28, 33)).shape == (0, 28, 33)
    assert torch.equal(warp_masks(masks, np.eye(3), (24, 30)), masks)


def test_warps_follow_the_pixel_convention() -> None:
    """Half a pixel off would pass the tolerances above; here it does not."""
    plane = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    half_turn = shift(30, 20) @ scaling(-1, -1)
    assert np.array_equal(warp_plane(plane, half_turn, (20, 30), 0), plane[::-1, ::-1])
    assert np.array_equal(warp_plane(plane, shift(3, -2), (20, 30), 7)[:18, 3:], plane[2:, :27])
    doubled = warp_plane(plane, scaling(2, 2), (40, 60), 0).astype(int)
    assert np.abs(doubled - resize_plane(plane, (40, 60)))[1:-1, 1:-1].max() <= 3


@pytest.mark.parametrize("size", [(25, 40), (10, 10), (7, 90), (200, 13), (3, 3)])
def test_resizing_keeps_ramps_in_place(size: tuple[int, int]) -> None:
    """On a ramp every resampling that keeps the geometry gives the ramp: value = position."""
    ramp = np.repeat(np.linspace(0, 252, 127).astype(np.uint8)[None], 100, axis=0)  # 2 levels a pixel
    out = resize_plane(ramp, size).astype(float)
    expected = ((np.arange(size[1]) + 0.5) * 127 / size[1] - 0.5) * 2
    assert np.abs(out - expected)[:, 1:-1].max() <= 1.5


@pytest.mark.parametrize("size", [(25, 40), (10, 10), (7, 90), (200, 13), (224, 300)])
def test_resizing_is_pillows_bilinear_filter(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 127, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_plane(image, size) - theirs).max() <= 1
    plane = np.ascontiguousarray(image[:, :, 1])
    assert np.abs(resize_plane(plane, size) - theirs[:, :, 1]).max() <= 1


@pytest.mark.parametrize("shape", [(2000, 1), (1, 2000), (7, 1, 3), (1, 1)])
def test_a_side_of_one_pixel_may_have_any_stride(shape: tuple[int, ...]) -> None:
    """A column cut from a mask is contiguous to numpy; torch's kernel for bytes read far behind it."""
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    odd = np.lib.stride_tricks.as_strided(
        pixels, strides=[1 << 20 if n == 1 else s for n, s in zip(shape, pixels.strides, strict=True)]
    )
    size = (max(1, shape[0] // 26), max(1, shape[1] // 26))
    size = size if size != shape[:2] else (3, 3)
    np.testing.assert_array_equal(resize_plane(odd, size), resize_plane(pixels.copy(), size))
