"""Drawing: any size, any name, nothing outside, the input untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.plots.contact_sheet import Tile, draw_contact_sheet
from saccade.plots.draw import caption, draw, draw_errors, fit
from saccade.plots.palette import class_colour, class_colours, ink_on
from saccade.plots.text import font_of, one_line, shorten, wrap

HOSTILE = ["<script>alert(1)</script>", "$\\frac{", "日本語 ", "a\nb\tc\x00", "\ud800", "x" * 10_000, "", "_hidden"]


def _gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def _all_kinds(height: int, width: int) -> list[Annotation]:
    boxes = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height], [-50, -9, 2 * width, 1e9]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    points = torch.tensor([[[width / 2, height / 2, 2.0]], [[-5.0, 1e6, 1.0]]])
    objects = Objects(boxes, torch.tensor([0, 7]), torch.tensor([0.3, 0.9]), masks, points)
    semantic = torch.zeros(height, width, dtype=torch.uint8)
    semantic[:, width // 2 :] = 1
    semantic[height // 2 :] = 255
    size = (height, width)
    return [
        Annotation(size, objects=objects),
        Annotation(size, objects=Objects(boxes, torch.tensor([0, 50]), crowd=torch.tensor([True, False]))),
        Annotation(size, objects=Objects.empty(scored=True)),
        Annotation(size, semantic=semantic),
        Annotation(size, label=5, probabilities=torch.linspace(0, 1, 8)),
        Annotation(size, tags=torch.ones(8, dtype=torch.bool), probabilities=torch.linspace(0, 1, 8)),
        Annotation(size, tags=torch.zeros(8, dtype=torch.bool)),
        Annotation(size),
    ]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 400), (400, 1), (7, 5), (32, 32), (300, 400)])
def test_every_task_at_every_size_with_hostile_names(height: int, width: int) -> None:
    image = _gray(height, width)
    for annotation in _all_kinds(height, width):
        out = draw(image, annotation, HOSTILE)
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        larger, fitted = fit(image, annotation, 160)
        assert max(larger.shape[:2]) == 160
        assert fitted.size == larger.shape[:2]
        draw(larger, fitted, HOSTILE)
    assert (image == 128).all()


def test_a_large_image_has_letters_that_can_be_read_when_it_is_shrunk() -> None:
    height, width = 8000, 500
    box = torch.tensor([[100.0, 4000, 400, 7000]])
    annotation = Annotation((height, width), objects=Objects(box, torch.tensor([0])))
    out = draw(_gray(height, width), annotation, ["cat"])
    plate = (out == class_colour(0)).all(-1)[3800:4000, 100:400]
    assert plate.any(1).sum() >= 40  # the plate's height in pixels


def test_a_box_is_framed_in_the_colour_of_its_class_where_it_is() -> None:
    box = torch.tensor([[20.0, 30, 60, 90]])
    out = draw(_gray(100, 100), Annotation((100, 100), objects=Objects(box, torch.tensor([3]))), list("abcd"))
    colour = class_colour(3)
    for y, x in ((60, 20), (60, 59), (89, 40)):
        assert tuple(out[y, x]) == colour
    assert tuple(out[60, 40]) == (128, 128, 128)
    assert tuple(out[95, 95]) == (128, 128, 128)


def test_masks_are_tinted_and_maps_outlined_where_they_are_and_background_is_not() -> None:
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[0, 80:160, 80:160] = True
    boxes = torch.tensor([[80.0, 80, 160, 160]])
    out = draw(
        _gray(200, 200), Annotation((200, 200), objects=Objects(boxes, torch.tensor([1]), masks=mask)), ["a", "b"]
    )
    tint = 0.55 * 128 + 0.45 * np.array(class_colour(1))
    np.testing.assert_allclose(out[120, 120], tint, atol=1.5)
    assert tuple(out[180, 180]) == (128, 128, 128)
    semantic = torch.zeros(200, 200, dtype=torch.uint8)
    semantic[:, 100:] = 1
    semantic[150:] = 255
    out = draw(_gray(200, 200), Annotation((200, 200), semantic=semantic), ["background", "road"])
    assert tuple(out[120, 50]) == (128, 128, 128)
    assert tuple(out[180, 150]) == (128, 128, 128)
    assert tuple(out[120, 150]) == (128, 128, 128)  # what is inside of a region stays as it is
    for y, x in ((120, 100), (149, 150), (120, 199)):  # its borders, and that of the picture
        assert tuple(out[y, x]) == class_colour(1)


def test_the_map_of_errors() -> None:
    truth, answer = np.zeros((2, 20, 30), np.uint8)
    truth[:, 20:], answer[:5, :10] = 255, 1
    out = draw_errors(_gray(20, 30), truth, answer)
    assert tuple(out[2, 2]) == (214, 39, 40)
    assert (out[10, 10] > 180).all()
    assert (out[10, 25] < 60).all()


def test_the_plate_of_an_object_goes_before_that_of_a_region() -> None:
    boxes, labels = torch.tensor([[60.0, 60, 110, 90], [60, 60, 160, 160]]), torch.tensor([0, 1])
    image = np.zeros((200, 300, 3), np.uint8)
    objects = Objects(boxes, labels, crowd=torch.tensor([True, False]))
    of_both = draw(image, Annotation((200, 300), objects=objects), "ab")
    plate = (of_both[50:60, 60:70] == class_colour(1)).all(2)  # of the larger one, whose plate lay below before
    assert plate.mean() > 0.3


def test_rows_of_a_sheet_are_as_high_as_what_they_hold() -> None:
    wide, high = (Tile(np.full(shape, 90, np.uint8), "name") for shape in ((50, 200, 3), (200, 50, 3)))
    sheets = [
        draw_contact_sheet(tiles, columns=2, side=100).height for tiles in ([wide, wide], [wide, high], [wide] * 3)
    ]
    assert sheets == [25 + 30, 100 + 30, 2 * 25 + 54]


def test_boxes_that_are_not_finite_do_not_stop_the_drawing() -> None:
    boxes = torch.tensor([[float("nan"), 0, float("inf"), 10], [50.0, 50, 10, 10]])
    out = draw(_gray(64, 64), Annotation((64, 64), objects=Objects(boxes, torch.tensor([0, 1]))), ["a", "b"])
    assert out.shape == (64, 64, 3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="uint8"):
        draw(np.zeros((4, 4), np.uint8), Annotation((4, 4)), [])
    with pytest.raises(ValueError, match="class map is of size"):
        draw(_gray(4, 4), Annotation((4, 4), semantic=torch.zeros(5, 4, dtype=torch.uint8)), ["a"])
    masks = torch.zeros(1, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="masks are of size"):
        draw(_gray(4, 4), Annotation((4, 4), objects=Objects(torch.ones(1, 4), torch.tensor([0]), masks=masks)), ["a"])


def test_fit_moves_what_is_said_with_the_image() -> None:
    mask = torch.zeros(1, 20, 40, dtype=torch.bool)
    mask[0, 5:10, 10:30] = True
    points = torch.tensor([[[10.0, 5.0, 2.0]]])
    objects = Objects(torch.tensor([[10.0, 5, 30, 10]]), torch.tensor([0]), masks=mask, keypoints=points)
    image, fitted = fit(_gray(20, 40), Annotation((20, 40), objects=objects), 80)
    assert image.shape == (40, 80, 3)
    assert fitted.objects is not None
    assert fitted.objects.masks is not None
    assert fitted.objects.keypoints is not None
    assert fitted.objects.boxes.tolist() == [[20.0, 10, 60, 20]]
    assert fitted.objects.keypoints.tolist() == [[[20.0, 10.0, 2.0]]]
    ys, xs = torch.nonzero(fitted.objects.masks[0], as_tuple=True)
    assert (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) == (20, 10, 60, 20)
    assert objects.boxes.tolist() == [[10.0, 5, 30, 10]]


def test_caption() -> None:
    scores = torch.tensor([0.1, 0.7, 0.2])
    assert caption(Annotation((1, 1), label=1, probabilities=scores), ["a", "b", "c"]) == "b 0.70"
    assert caption(Annotation((1, 1), label=2), ["a", "b", "c"]) == "c"
    tags = torch.tensor([True, True, False])
    assert caption(Annotation((1, 1), tags=tags, probabilities=scores), ["a", "b", "c"]) == "b 0.70, a 0.10"
    assert caption(Annotation((1, 1), tags=~tags & tags), ["a", "b", "c"]) == "no tag"
    assert caption(Annotation((1, 1)), ["a"]) == ""


def test_text_fits_or_is_left_out() -> None:
    font = font_of(12)
    for name in HOSTILE:
        for width in (0, 3, 20, 100):
            assert font.getlength(shorten(name, font, width)) <= width
    assert shorten("wide enough", font, 500) == "wide enough"
    assert one_line("a\nb\x00\ud800") == "a b��"
    lines = wrap("one two three four five six seven", font, 60, 2)
    assert len(lines) == 2
    assert all(font.getlength(line) <= 60 for line in lines)
    assert lines[1].endswith("…")


def test_colours_differ_and_ink_can_be_read() -> None:
    colours = class_colours(40).astype(int)
    far = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert far.min() > 12
    assert far[:20, :20].min() > 40
    assert ink_on((240, 228, 66)) == (0, 0, 0)
    assert ink_on((0, 40, 90)) == (255, 255, 255)
    assert class_colours(0).shape == (0, 3)
