"""Images with masks: layouts, meanings of the values, and what is refused."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from saccade.data.dataset import DataSet, Thing
from saccade.data.formats import read
from saccade.data.formats.masks import _things
from saccade.data.truth import read_truth
from saccade.errors import DataError

SIZE = (6, 8)  # height, width


def _image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (90, 20, 30)).save(path)


def _mask(path: Path, values: list[int], size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> None:
    """A mask that holds each of `values`, the last in all that is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full(size, values[-1], dtype=dtype)
    array.ravel()[: len(values)] = values
    Image.fromarray(array).save(path)


def _pairs(root: Path, images: str, masks: str, values: list[int], count: int = 3, tail: str = "") -> None:
    for i in range(count):
        _image(root / images / f"{i}.jpg")
        _mask(root / masks / f"{i}{tail}.png", values)


@pytest.mark.parametrize(
    ("images", "masks", "tail"),
    [
        ("images", "masks", ""),
        ("image", "label", "_mask"),
        ("JPEGImages", "annotations", "_L"),
        ("img", "annot", "_gt"),
        ("Images", "Labels", "-seg"),
    ],
)
def test_folders_and_names_as_people_have_them(tmp_path: Path, images: str, masks: str, tail: str) -> None:
    _pairs(tmp_path, images, masks, [0, 1, 2], tail=tail)
    data = read(tmp_path)
    assert (data.format, data.task, data.classes) == ("masks", "segment", ["0", "1", "2"])
    assert data.mask_values == {0: 0, 1: 1, 2: 2, 255: 255}
    assert next((r.id, r.semantic) for r in data.records) == (f"{images}/0.jpg", f"{masks}/0{tail}.png")
    assert "classes.txt" in data.ledger.warnings[0]


def test_splits_above_below_and_beside(tmp_path: Path) -> None:
    _pairs(tmp_path / "above", "train/images", "train/masks", [0, 1])
    _pairs(tmp_path / "above", "val/images", "val/masks", [0, 1], count=2)
    _pairs(tmp_path / "below", "images/train", "masks/train", [0, 1])
    _pairs(tmp_path / "below", "images/validation", "masks/validation", [0, 1], count=2)
    _pairs(tmp_path / "beside", "train", "train_masks", [0, 1])
    _pairs(tmp_path / "beside", "val", "val_masks", [0, 1], count=2)
    for name in ("above", "below", "beside"):
        data = read(tmp_path / name)
        assert data.splits == {"train": 3, "val": 2}, name
        assert data.classes == ["background", "foreground"]


def test_gray_0_and_255_are_background_and_foreground(tmp_path: Path) -> None:
    _pairs(tmp_path, "image", "label", [0, 255])
    data = read(tmp_path)
    assert (data.classes, data.mask_values) == (["background", "foreground"], {0: 0, 255: 1})
    (tmp_path / "classes.txt").write_text("cell\nmembrane\n")
    assert read(tmp_path).classes == ["cell", "membrane"]


def test_a_class_list_names_values_and_void(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1, 3, 255])
    (tmp_path / "classes.txt").write_text("\ufeffroad\nsky\n<b>car</b>\nvoid\n")
    data = read(tmp_path)
    assert data.classes == ["road", "sky", "<b>car</b>"]
    assert data.mask_values == {0: 0, 1: 1, 2: 2, 3: 255, 255: 255}
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "config.yaml").write_text("classes:\n  0: unlabeled\n  1: road\n  3: sky\n")
    data = read(tmp_path)
    assert (data.classes, data.mask_values) == (["road", "sky"], {0: 255, 1: 0, 3: 1, 255: 255})
    (tmp_path / "config.yaml").write_text("names: [no, null, 010, on]\n")
    assert read(tmp_path).classes == ["no", "null", "010", "on"]


def test_segnet_folders_have_the_classes_of_camvid(tmp_path: Path) -> None:
    _pairs(tmp_path, "train", "trainannot", [0, 5, 11])
    data = read(tmp_path)
    assert (len(data.classes), data.classes[8], data.splits) == (11, "car", {"train": 3})
    assert data.mask_values is not None
    assert data.mask_values[11] == 255


def test_other_masks_in_segnet_folders_are_not_called_by_camvid_names(tmp_path: Path) -> None:
    _pairs(tmp_path, "train", "trainannot", [0, 255])
    assert read(tmp_path).classes == ["background", "foreground"]


def test_palette_files_are_read_by_index(tmp_path: Path) -> None:
    _image(tmp_path / "JPEGImages" / "a.jpg")
    array = np.zeros(SIZE, dtype=np.uint8)
    array[0, :3] = (15, 20, 255)
    mask = Image.fromarray(array, mode="P")
    mask.putpalette([i for c in range(256) for i in (c, 255 - c, 7)])
    (tmp_path / "SegmentationClass").mkdir()
    mask.save(tmp_path / "SegmentationClass" / "a.png")
    data = read(tmp_path)
    assert (len(data.classes), data.classes[15], data.classes[20]) == (21, "person", "tvmonitor")
    assert data.mask_values is not None
    assert data.mask_values[255] == 255


def test_ids_become_things_with_box_and_area(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, dtype=np.uint16)
    ids[1:3, 2:5] = 700
    ids[4, 7] = 9
    ids[2, 4] = 9  # an id may lie in two places
    _image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    Image.fromarray(ids).save(tmp_path / "labels" / "a.png")
    data = read(tmp_path)
    assert (data.task, data.classes) == ("instances", ["object"])
    assert data.records[0].things == [
        Thing(0, (4.0, 2.0, 8.0, 5.0), mask=("labels/a.png", 9), area=2.0),
        Thing(0, (2.0, 1.0, 5.0, 3.0), mask=("labels/a.png", 700), area=5.0),
    ]
    assert read(tmp_path, "detect").records[0].things == data.records[0].things
    flat = read(tmp_path, "segment")
    assert (flat.classes, flat.mask_values) == (["background", "object"], {0: 0, 9: 1, 700: 1})


def test_a_mask_without_background_is_one_thing() -> None:
    assert _things(np.full((3, 4), 2, dtype=np.int32), "m.png") == [
        Thing(0, (0.0, 0.0, 4.0, 3.0), mask=("m.png", 2), area=12.0)
    ]


def test_small_ids_are_instances_in_pedmasks_and_on_demand(tmp_path: Path) -> None:
    _pairs(tmp_path / "ped", "PNGImages", "PedMasks", [0, 1, 2], tail="_mask")
    data = read(tmp_path / "ped")
    assert (data.task, data.classes, data.ledger.labels_used) == ("instances", ["person"], 6)
    _pairs(tmp_path / "any", "images", "masks", [0, 1, 2])
    assert read(tmp_path / "any").task == "segment"
    assert read(tmp_path / "any", "instances").ledger.labels_used == 6


def test_an_empty_id_mask_is_a_background_picture(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "PedMasks", [0, 1], count=2)
    _image(tmp_path / "images" / "none.jpg")
    _mask(tmp_path / "PedMasks" / "none.png", [0])
    assert [len(r.things or ()) for r in read(tmp_path).records] == [1, 1, 0]


def test_each_bad_mask_is_refused_with_its_values_and_sizes(tmp_path: Path) -> None:
    root = tmp_path
    _pairs(root, "images", "masks", [0, 1, 2, 3], count=6)
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    for name in ("turned", "small", "stray", "colour", "alpha", "cut", "deep", "jpeg", "alone"):
        _image(root / "images" / f"{name}.jpg")
    _mask(root / "masks" / "turned.png", [0], size=SIZE[::-1])
    _mask(root / "masks" / "small.png", [0], size=(3, 4))
    _mask(root / "masks" / "stray.png", [7, 0])
    _mask(root / "masks" / "deep.png", [1000, 0], dtype=np.uint16)
    Image.new("RGB", SIZE[::-1], "red").save(root / "masks" / "colour.png")
    Image.new("RGBA", SIZE[::-1], "green").save(root / "masks" / "alpha.png")
    Image.new("L", SIZE[::-1]).save(root / "masks" / "jpeg.jpg")
    (root / "masks" / "cut.png").write_bytes((root / "masks" / "0.png").read_bytes()[:40])
    _mask(root / "masks" / "orphan.png", [0])
    data = read(root)
    assert len(data.records) == 6
    why = {entry.where: entry.what for entry in data.ledger.refused}
    assert "8 x 6 pixels" in why["masks/turned.png"]
    assert "6 x 8 (turned?)" in why["masks/turned.png"]
    assert "3 x 4 pixels" in why["masks/small.png"]
    assert why["masks/stray.png"].startswith("value 7 (1 pixels) is no class; allowed: 0..3")
    assert why["masks/deep.png"].startswith("value 1000 (1 pixels)")
    assert "mode RGB" in why["masks/colour.png"]
    assert "mode RGBA" in why["masks/alpha.png"]
    assert "JPEG" in why["masks/jpeg.jpg"]
    assert "cannot be read" in why["masks/cut.png"]
    assert why["masks/orphan.png"] == "no image of this name in images/"
    assert why["images/alone.jpg"] == "no mask of this name in masks/"
    assert data.ledger.images_used + data.ledger.images_refused == 15


def test_without_a_class_list_a_lone_value_after_a_gap_is_refused(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1, 2, 3], count=6)
    _image(tmp_path / "images" / "x.jpg")
    _mask(tmp_path / "masks" / "x.png", [7, 0])
    data = read(tmp_path)
    assert data.classes == ["0", "1", "2", "3"]
    assert "value 7 (1 pixels) is no class; allowed: 0..3" in data.ledger.refused[0].what


def test_all_masks_refused_is_an_error_with_the_reason(tmp_path: Path) -> None:
    for i in range(3):
        _image(tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "masks" / f"{i}.png")
    with pytest.raises(DataError, match=r"(?s)all 3 pictures were refused.*masks/0.png: a mask of colours"):
        read(tmp_path)


def test_only_void_and_only_background_are_accepted(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1, 2], count=3)
    for name, value in (("void", 255), ("none", 0)):
        _image(tmp_path / "images" / f"{name}.jpg")
        _mask(tmp_path / "masks" / f"{name}.png", [value])
    assert len(read(tmp_path).records) == 5


def test_white_alone_is_void_where_classes_are_stated(tmp_path: Path) -> None:
    """What 255 means is settled for the whole set: one black pixel anywhere makes it the second of two classes."""
    _pairs(tmp_path, "images", "masks", [255])
    assert read(tmp_path).mask_values == {0: 0, 255: 1}  # nothing says that it is void
    (tmp_path / "classes.txt").write_text("soil\nplant\n")
    data = read(tmp_path)
    assert (data.classes, data.mask_values) == (["soil", "plant"], {0: 0, 1: 1, 255: 255})
    assert any(
        w.startswith("3 of 3 masks hold nothing but what is ignored, such as masks/0.png") for w in _warned(data)
    )
    _mask(tmp_path / "masks" / "1.png", [0, 255])
    data = read(tmp_path)
    assert (data.mask_values, _warned(data)) == ({0: 0, 255: 1}, [])
    (tmp_path / "classes.txt").write_text("soil\nvoid\n")  # of two names one class
    assert (read(tmp_path).classes, read(tmp_path).mask_values) == (["soil"], {0: 0, 1: 255, 255: 255})


def _warned(data: DataSet) -> list[str]:
    return [warning for warning in data.ledger.warnings if "ignored" in warning]


def test_a_mask_that_is_void_throughout_is_named(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1, 2, 255])
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert not _warned(read(tmp_path))
    _mask(tmp_path / "masks" / "2.png", [255])
    assert [w[:60] for w in _warned(read(tmp_path))] == ["1 of 3 masks hold nothing but what is ignored, such as masks"]


def test_class_lists_that_cannot_be_right(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1], count=1)
    (tmp_path / "classes.txt").write_text("0 a\n0 b\n")
    with pytest.raises(DataError, match="2 lines give 1 values"):
        read(tmp_path)
    (tmp_path / "classes.txt").unlink()
    for text, message in (
        ("classes: {x: 1}\n", "mapping of values"),
        ("a: &a [x, x]\nclasses: [*a, *a]\n", "config.yaml:2: aliases"),
        ("classes: !!python/object/apply:os.getcwd []\n", "aliases, tags"),
        ("[" * 5000, "more than 10 levels"),
        ("classes: [a\n", "not readable as YAML"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            read(f"masks:{tmp_path}")


def _scene(number: int, size: tuple[int, int] = (120, 160)) -> Image.Image:
    """A white disc and a white triangle on black."""
    image = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(image)
    draw.ellipse((20 + 4 * number, 20, 80 + 4 * number, 90), fill=255)
    draw.polygon([(110, 10), (150, 60), (120, 110)], fill=255)
    return image


def _recompressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


SOFTENED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": lambda m: m.filter(ImageFilter.GaussianBlur(4)),
    "resize": lambda m: m.resize((80, 60), Image.Resampling.BILINEAR).resize((160, 120), Image.Resampling.BICUBIC),
    "jpeg 50": lambda m: _recompressed(m, 50),
    "jpeg 95": lambda m: _recompressed(m, 95),
    "colour": lambda m: m.filter(ImageFilter.BoxBlur(1)).convert("RGB"),
}


@pytest.mark.parametrize("how", SOFTENED)
def test_black_and_white_with_soft_edges_are_two_classes(tmp_path: Path, how: str) -> None:
    for i in range(4):
        _image(tmp_path / "images" / f"{i}.png", (120, 160))
        (tmp_path / "masks").mkdir(exist_ok=True)
        SOFTENED[how](_scene(i)).save(tmp_path / "masks" / f"{i}.png")
    data = read(tmp_path)
    assert (data.classes, len(data.records)) == (["background", "foreground"], 4)
    (warning,) = data.ledger.warnings
    assert re.search(r"soft edges: [\d.]+ % of the pixels lie between 0 and 255; below 128", warning)
    truth = read_truth(data.records[0], data, "segment").semantic
    assert truth is not None
    assert (truth.numpy() != (np.asarray(_scene(0)) > 127)).mean() < 0.03
    with pytest.raises(DataError, match="save them without soft edges"):
        read(tmp_path, "instances")


def test_jpeg_masks_are_read_where_they_have_two_levels_and_else_refused(tmp_path: Path) -> None:
    for name, paint in (("two", lambda m: m), ("three", lambda m: m.point(lambda v: v // 2))):
        for i in range(4):
            _image(tmp_path / name / "images" / f"{i}.png", (120, 160))
            (tmp_path / name / "masks").mkdir(exist_ok=True)
            paint(_scene(i)).save(tmp_path / name / "masks" / f"{i}.jpg", quality=90)
    assert read(tmp_path / "two").classes == ["background", "foreground"]
    with pytest.raises(DataError, match="a JPEG mask: compression changes the values"):
        read(tmp_path / "three")


def test_a_third_level_is_a_class_and_what_is_ignored_is_said(tmp_path: Path) -> None:
    for i in range(4):
        _image(tmp_path / "images" / f"{i}.png", (40, 60))
        plane = np.zeros((40, 60), np.uint8)
        plane[10:25, 10:40], plane[25:30] = 128, 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(plane).save(tmp_path / "masks" / f"{i}.png")
    data = read(tmp_path)
    assert data.classes == ["0", "128"]
    assert "the value 255 (12.5 % of the pixels) is taken for 'ignore'" in data.ledger.warnings[0]
    (tmp_path / "classes.txt").write_text("0 grass\n128 sand\n255 road\n")
    data = read(tmp_path)
    assert (data.classes, data.mask_values) == (["grass", "sand", "road"], {0: 0, 128: 1, 255: 2})
    assert data.ledger.warnings == []


def test_borders_of_void_between_classes_are_no_soft_edges(tmp_path: Path) -> None:
    for i in range(4):
        _image(tmp_path / "images" / f"{i}.png", (120, 160))
        mask = _scene(i)
        ImageDraw.Draw(mask).ellipse((24 + 4 * i, 24, 76 + 4 * i, 86), fill=1)
        ImageDraw.Draw(mask).polygon([(113, 20), (144, 60), (122, 100)], fill=2)
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{i}.png")
    assert read(tmp_path).classes == ["0", "1", "2"]


def test_colours_of_a_labelmap(tmp_path: Path) -> None:
    """As CVAT writes them; a gray class, and one whose colour would be an index, are colours all the same."""
    colours = {"background": (0, 0, 0), "cat": (0, 0, 7), "dog": (128, 128, 128), "void": (224, 224, 192)}
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\n" + "".join(f"{n}:{r},{g},{b}::\n" for n, (r, g, b) in colours.items())
    )
    for i, name in enumerate([*colours, "background"]):
        _image(tmp_path / "JPEGImages" / f"{i}.png")
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask = Image.new("RGB", SIZE[::-1], colours[name])
        (mask if i else mask.convert("P", palette=Image.Palette.ADAPTIVE)).save(tmp_path / f"SegmentationClass/{i}.png")
    data = read(tmp_path)
    assert (data.classes, len(data.records)) == (["background", "cat", "dog"], 5)
    maps = [read_truth(r, data, "segment").semantic for r in data.records]
    assert [int(m.flatten()[0]) for m in maps if m is not None] == [0, 1, 2, 255, 0]
    Image.new("RGB", SIZE[::-1], (9, 8, 7)).save(tmp_path / "SegmentationClass/4.png")
    why = read(tmp_path).ledger.refused[0].what
    assert why == (
        "value (9, 8, 7) (48 pixels) is no class; allowed: (0, 0, 0), (0, 0, 7), (128, 128, 128); "
        "name it in labelmap.txt if it is one"
    )
    for i in range(5):
        _mask(tmp_path / f"SegmentationClass/{i}.png", [0, 1, 2])
    assert read(tmp_path).mask_values == {0: 0, 1: 1, 2: 2, 3: 255, 255: 255}
    for line in ("cat 1 2 3", "cat:1,2,300::", ":1,2,3::", "a:1,2,3::\nb:1,2,3::"):
        (tmp_path / "labelmap.txt").write_text(line + "\n")
        with pytest.raises(DataError, match=r"labelmap\.txt"):
            read(tmp_path)


@pytest.mark.parametrize("colour", [(0, 0, 9), (0, 3, 0), (9, 9, 8), (9, 8, 9)])
def test_no_colour_is_taken_for_an_index(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1])
    Image.new("RGB", SIZE[::-1], colour).save(tmp_path / "masks" / "1.png")
    Image.new("RGB", SIZE[::-1], (1, 1, 1)).save(tmp_path / "masks" / "2.png")  # gray, saved in colour
    data = read(tmp_path)
    assert [r.id for r in data.records] == ["images/0.jpg", "images/2.jpg"]
    assert "a mask of colours (mode RGB" in data.ledger.refused[0].what
    Image.fromarray(np.full(SIZE, 1 << 25, np.int32)).save(tmp_path / "masks" / "1.png", "TIFF")
    assert "value 33554432; allowed: 0..65535" in read(tmp_path).ledger.refused[0].what


def test_a_mask_is_never_shared_by_two_pictures(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1])
    _image(tmp_path / "images" / "1.png")
    _image(tmp_path / "images" / "2.png")
    _image(tmp_path / "images" / "2_rgb.png")
    _mask(tmp_path / "masks" / "2.png.png", [0, 1])
    _mask(tmp_path / "masks" / "0_gt.png", [0, 1])
    data = read(tmp_path)
    assert {r.id: r.semantic for r in data.records} == {
        "images/0.jpg": "masks/0.png",
        "images/2.jpg": "masks/2.png",
        "images/2.png": "masks/2.png.png",
    }
    why = {entry.where: entry.what for entry in data.ledger.refused}
    assert why["images/1.jpg"] == why["images/1.png"]
    assert "2 images may have the mask 1.png: 1.jpg, 1.png" in why["images/1.jpg"]
    assert why["masks/1.png"] == "of several images of this name in images/"
    assert "2 images may have the mask 2.png" in why["images/2_rgb.png"]
    assert why["masks/0_gt.png"] == "no image of this name in images/"
    assert (data.ledger.images_refused, data.ledger.labels_refused) == (3, 2)


def test_two_masks_of_one_picture_are_refused_by_name(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1], tail="_mask")
    _mask(tmp_path / "masks" / "0_gt.png", [0, 1])
    data = read(tmp_path)
    assert len(data.records) == 2
    assert "2 masks of this name (0_gt.png, 0_mask.png)" in data.ledger.refused[0].what


def test_lists_of_voc_hold_whole_lines(tmp_path: Path) -> None:
    for name in ("a 1", "b", "c"):
        _image(tmp_path / "JPEGImages" / f"{name}.jpg")
        _mask(tmp_path / "SegmentationClass" / f"{name}.png", [0, 1])
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a 1\nb\n")
    (lists / "val.txt").write_text("c\n")
    assert read(tmp_path).splits == {"train": 2, "val": 1}
    (lists / "val.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"val\.txt: not UTF-8"):
        read(tmp_path)


def test_what_is_no_sound_picture_is_no_mask(tmp_path: Path) -> None:
    """Only the formats of pictures are opened, regular files only, and the size comes before the pixels."""
    _pairs(tmp_path, "images", "masks", [0, 1], count=8)
    masks = tmp_path / "masks"
    Image.new("RGB", SIZE[::-1]).save(masks / "0.png", "DDS")
    Image.new("L", SIZE[::-1]).save(masks / "1.png", "EPS")
    (masks / "2.png").unlink()
    os.mkfifo(masks / "2.png")
    (masks / "3.png").unlink()
    (masks / "3.png").symlink_to("nowhere.png")
    Image.new("1", (20_000, 20_000)).save(masks / "4.png")
    (masks / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (masks / os.fsdecode(b"\xff.png")).write_bytes((masks / "7.png").read_bytes())
    data = read(tmp_path)
    assert [r.id for r in data.records] == ["images/6.jpg", "images/7.jpg"]
    why = {entry.where: entry.what for entry in data.ledger.refused}
    for name, says in (("0", "allowed: JPEG"), ("1", "EPS"), ("2", "pipe"), ("3", "leads nowhere"), ("4", "Mpixel")):
        assert says in why[f"masks/{name}.png"], name
    assert why["masks/" + os.fsdecode(b"\xff.png")] == "no image of this name in images/"


def test_paths_of_a_yaml_file_may_be_mixed_and_are_named_where_they_lead_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pairs(tmp_path / "set", "images", "masks", [0, 1])
    _pairs(tmp_path, "far", "far_masks", [0, 1])
    monkeypatch.chdir(tmp_path)
    file = Path("set/masks.yaml")
    file.write_text(f"train: {{images: images, masks: masks}}\nval: {{images: {tmp_path}/far, masks: ../far_masks}}\n")
    data = read(file)
    assert data.splits == {"train": 3, "val": 3}
    assert data.ledger.warnings[0] == f"masks.yaml leads out of its folder: {tmp_path}/far, far_masks"


@pytest.mark.shared
def test_real_sets(shared_data: Path) -> None:
    camvid = read(shared_data / "camvid")
    assert (camvid.task, camvid.splits, len(camvid.classes)) == ("segment", {"train": 367, "val": 101}, 11)
    membrane = read(shared_data / "isbi2012_membrane")
    assert (membrane.task, len(membrane.records)) == ("segment", 22)
    nuclei = read(shared_data / "dsb2018_nuclei")
    assert (nuclei.task, len(nuclei.records)) == ("instances", 120)
    coco = read(shared_data / "coco128" / "semantic_segmentation")
    assert (coco.task, len(coco.records), len(coco.classes)) == ("segment", 100, 129)
    assert {e.what for e in coco.ledger.refused} == {"no mask of this name in semantic_segmentation/masks/train2017/"}
    for data in (camvid, membrane, nuclei):
        assert data.ledger.refused == []


@pytest.mark.shared
def test_penn_fudan_agrees_with_its_text_files(shared_data: Path) -> None:
    """The set states its boxes in text as well (corners from 1): the boxes of the pixels lie within a few pixels."""
    data = read(shared_data / "penn_fudan")
    assert (data.task, data.classes, len(data.records)) == ("instances", ["person"], 119)
    off: Counter[int] = Counter()
    for record in data.records:
        text = (shared_data / "penn_fudan" / "Annotation" / f"{Path(record.id).stem}.txt").read_text()
        boxes = re.findall(r": \((\d+), (\d+)\) - \((\d+), (\d+)\)", text)
        things = {thing.mask[1]: thing.box for thing in record.things or () if thing.mask}
        assert sorted(things) == list(range(1, len(boxes) + 1))
        for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
            wanted = (int(x1) - 1, int(y1) - 1, int(x2), int(y2))
            off[max(abs(int(a) - b) for a, b in zip(things[number], wanted, strict=True)) <= 3] += 1
    assert off[True] / (off[True] + off[False]) > 0.9


def test_a_value_of_thousands_of_digits_is_a_name_at_most(tmp_path: Path) -> None:
    _pairs(tmp_path, "images", "masks", [0, 1])
    (tmp_path / "classes.txt").write_text(f"0 soil\n{'9' * 5000} crop\n")
    assert read(tmp_path).classes[0] == "0 soil"
