"""Files of labelling tools and tables of boxes and masks, in the layouts in which the tools leave them."""

from __future__ import annotations

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data.dataset import DataSet
from saccade.data.formats import read, recognise
from saccade.data.formats.label_studio import _Bits
from saccade.data.rle import decode_rle
from saccade.data.truth import read_truth
from saccade.errors import DataError

WIDTH, HEIGHT = 60, 40
BOX = (10.0, 5.0, 30.0, 25.0)
TRIANGLE = [[10, 5], [30, 5], [30, 25]]


def put(root: Path, files: dict[str, Any], *pictures: str) -> Path:
    """A data set: pictures of 60 x 40, and files as text or JSON."""
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 30, 30)).save(root / name)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def boxes(dataset: DataSet) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {r.id: [(dataset.classes[t.label], t.box) for t in r.things or []] for r in dataset.records}


def whys(dataset: DataSet) -> str:
    return "\n".join(f"{entry.where}: {entry.what}" for entry in dataset.ledger.refused)


def labelme(*shapes: dict[str, Any], path: str = "a.jpg", **more: Any) -> dict[str, Any]:
    size = {"imagePath": path, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": list(shapes)} | size | more


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def test_labelme(tmp_path: Path) -> None:
    window = io.BytesIO()
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(window, "PNG")
    mask = base64.b64encode(window.getvalue()).decode()
    files = {
        "train/a.json": labelme(
            shape("cat", [[30, 25], [10, 5]], "rectangle"),
            shape("cat", TRIANGLE, group_id=1),
            shape("cat", [[40, 5], [50, 5], [50, 15]], group_id=1),
            shape("sun", [[20, 20], [20, 30]], "circle"),
            shape("dog", [[7, 3], [12, 6]], "mask", mask=mask),
            shape("cat", [[1, 1], [9, 9]], "line"),
        ),
        "val/b.json": labelme(path="..\\val\\b.jpg"),
        "val/gone.json": labelme(shape("cat", TRIANGLE), path="gone.jpg"),
        "val/c.json": labelme(shape("cat", TRIANGLE), path="renamed.jpg", imageWidth=61),
    }
    root = put(tmp_path, files, "train/a.jpg", "val/b.jpg", "val/c.jpg", "val/d.jpg")
    assert recognise(root) == "labelme"
    found = read(root)
    (record, empty) = found.records
    assert (record.split, empty.split, empty.things) == ("train", "val", [])
    assert found.classes == ["cat", "dog", "sun"]
    cats, sun, dog = (record.things or [])[:2], (record.things or [])[2], (record.things or [])[3]
    assert [t.box for t in cats] == [BOX, (10.0, 5.0, 50.0, 25.0)]
    assert [len(p) for p in cats[1].polygons or []] == [6, 6]
    assert sun.box == pytest.approx((10, 10, 30, 30), abs=0.1)
    assert dog.box == (7, 3, 13, 7)
    assert found.ledger.labels_refused == 3
    assert "a line has no area" in whys(found)
    assert "no picture 'val/gone.jpg'" in whys(found)
    assert "says 61 x 40 (width x height), the image has 60 x 40" in whys(found)
    assert "1 of 4 pictures below" in " ".join(found.ledger.warnings)
    outlined = read(root, "instances")
    assert outlined.task == "instances"
    assert len(outlined.records[0].things or []) == 3
    assert read_truth(outlined.records[0], outlined, "instances").objects is not None


def test_flags_of_labelme_are_classes_of_pictures(tmp_path: Path) -> None:
    files = {f"{n}.json": labelme(path=f"{n}.png", flags={"ripe": n == "a", "raw": n == "b"}) for n in "ab"}
    found = read(put(tmp_path, files, "a.png", "b.png"))
    assert (found.task, found.classes, [r.label for r in found.records]) == ("classify", ["raw", "ripe"], [1, 0])


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>
  <image id="0" name="sub/a.jpg" subset="Train" width="60" height="40">
    <box label="cat" source="manual" occluded="0" xtl="10.0" ytl="5.0" xbr="30.0" ybr="25.0" z_order="0"></box>
    <box label="cat" xtl="20" ytl="10" xbr="40" ybr="20" rotation="90.0" z_order="0"/>
    <polygon label="cat" occluded="0" points="10.00,5.00;30.00,5.00;30.00,25.00" z_order="0"/>
    <ellipse label="dog" cx="30" cy="20" rx="10" ry="5"/>
    <mask label="dog" rle="2, 2, 2, 2" left="5" top="6" width="4" height="2"/>
    <points label="dog" points="1,2"/>
    <tag label="cat"/>
  </image>
  <image id="1" name="b.jpg" width="60" height="40"/>
  <image id="2" name="gone.jpg" width="60" height="40"><box label="cat" xtl="1" ytl="1" xbr="3" ybr="3"/></image>
</annotations>
"""


def test_cvat(tmp_path: Path) -> None:
    root = put(tmp_path, {"annotations.xml": CVAT}, "images/sub/a.jpg", "images/b.jpg")
    assert recognise(root) == "cvat"
    found = read(root)
    assert found.classes == ["dog", "cat"]
    assert {r.id: r.split for r in found.records} == {"images/b.jpg": None, "images/sub/a.jpg": "train"}
    things = found.records[1].things or []
    assert things[0].box == BOX
    assert things[1].box == pytest.approx((25, 5, 35, 25))
    assert things[2].polygons == [[10, 5, 30, 5, 30, 25]]
    assert things[3].box == pytest.approx((20, 15, 40, 25), abs=0.1)
    assert things[4].rle is not None
    assert np.argwhere(decode_rle(things[4].rle)).tolist() == [[6, 7], [6, 8], [7, 7], [7, 8]]
    assert found.ledger.labels_refused == 2
    assert "turned by 90 degrees" in found.ledger.repaired[0].what
    assert any("1 classes of whole pictures" in warning for warning in found.ledger.warnings)


def test_cvat_for_videos_is_named(tmp_path: Path) -> None:
    text = "<annotations><version>1.1</version><track id='0' label='cat'><box frame='0'/></track></annotations>"
    with pytest.raises(DataError, match="CVAT for video"):
        read(put(tmp_path, {"annotations.xml": text}, "a.jpg"))


def pack(mask: np.ndarray) -> list[int]:
    """The bytes of a brush, one run of each colour: what Label Studio's `encode_rle` writes."""
    values = np.repeat(mask.reshape(-1).astype(int) * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{n:04b}" for n in (2, 3, 7, 15))
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in itertools.pairwise(edges):
        bits += f"1{3:02b}{end - start - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def studio(number: int, image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    sides = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    full = [{"id": str(i), "from_name": "label", "to_name": "image"} | sides | r for i, r in enumerate(results)]
    return {"id": number, "data": {"image": image}, "annotations": [{"id": 1, "result": full, **more}]}


def test_label_studio(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:7, 8:20] = True
    percent = {"x": 100 * 10 / WIDTH, "y": 100 * 5 / HEIGHT, "width": 100 * 20 / WIDTH, "height": 100 * 20 / HEIGHT}
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in TRIANGLE]
    tasks = [
        studio(
            1,
            "/data/upload/1/0123abcd-a.jpg",
            {"type": "rectanglelabels", "value": percent | {"rotation": 0, "rectanglelabels": ["cat"]}},
            {"type": "rectanglelabels", "value": percent | {"rotation": 90, "rectanglelabels": ["cat"]}},
            {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["dog"]}},
            {"type": "brushlabels", "value": {"format": "rle", "rle": pack(mask), "brushlabels": ["dog"]}},
            {"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.2, "keypointlabels": ["eye"]}},
            {"type": "rectangle", "id": "x", "value": percent | {"rotation": 0, "x": 0}},
            {"type": "labels", "id": "x", "value": percent | {"rotation": 0, "x": 0, "labels": ["bird"]}},
        ),
        studio(2, "/data/local-files/?d=photos/b%20c.jpg"),
        studio(3, "s3://bucket/d.jpg", was_cancelled=True),
    ]
    root = put(tmp_path, {"project-1-at-2026.json": tasks}, "a.jpg", "photos/b c.jpg", "d.jpg")
    assert recognise(root) == "label_studio"
    found = read(root)
    assert [r.id for r in found.records] == ["a.jpg", "photos/b c.jpg"]
    things = {(found.classes[t.label], t.polygons is None): t for t in found.records[0].things or []}
    assert (found.records[0].things or [])[0].box == pytest.approx(BOX)
    assert (found.records[0].things or [])[1].box == pytest.approx((0, 5, 10, 25))  # around its upper left corner
    assert things["bird", True].box == pytest.approx((0, 5, 20, 25))
    assert things["dog", False].polygons == [pytest.approx([10, 5, 30, 5, 30, 25])]
    assert (decode_rle(things["dog", True].rle or {}) == mask).all()
    assert "needs" in whys(found) or "no area" in whys(found)
    assert any("skipped" in warning for warning in found.ledger.warnings)


def test_bits_come_highest_first() -> None:
    bits = _Bits(bytes([0b10110010, 0b01000000]))
    assert [bits.read(1), bits.read(3), bits.read(6)] == [1, 0b011, 0b001001]
    with pytest.raises(DataError, match="end early"):
        bits.read(7)


def test_label_studio_in_short_form(tmp_path: Path) -> None:
    label = {"x": 50, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["cat"],
             "original_width": WIDTH, "original_height": HEIGHT}  # fmt: skip
    rows = [{"image": "/data/upload/0123abcd-a.jpg", "id": 1, "label": [label], "annotator": 1, "annotation_id": 1}]
    assert boxes(read(put(tmp_path, {"min.json": rows}, "a.jpg"))) == {"a.jpg": [("cat", (30, 10, 45, 30))]}


def test_choices_of_label_studio_are_classes(tmp_path: Path) -> None:
    choice = {"type": "choices", "from_name": "choice", "value": {"choices": ["ripe"]}}
    many = choice | {"value": {"choices": ["ripe", "big"]}}
    found = read(put(tmp_path / "one", {"l.json": [studio(1, "a.jpg", choice)]}, "a.jpg"))
    assert (found.task, found.records[0].label) == ("classify", 0)
    found = read(put(tmp_path / "two", {"l.json": [studio(1, "a.jpg", many), studio(2, "b.jpg")]}, "a.jpg", "b.jpg"))
    assert (found.task, found.classes) == ("tag", ["big", "ripe"])
    assert [r.tags for r in found.records] == [[0, 1], []]


def region(attributes: dict[str, Any], **shape: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


@pytest.mark.parametrize("whole", [False, True])
def test_via(tmp_path: Path, whole: bool) -> None:
    xs, ys = zip(*TRIANGLE, strict=True)
    entries = {
        "a.jpg123": {
            "filename": "a.jpg",
            "size": 123,
            "regions": [
                region({"kind": "cat", "hidden": ""}, name="rect", x=10, y=5, width=20, height=20),
                region({"kind": {"dog": True, "cat": False}}, name="polygon", all_points_x=xs, all_points_y=ys),
                region({"kind": "dog"}, name="ellipse", cx=30, cy=20, rx=10, ry=5, theta=0),
                region({"kind": "dog"}, name="point", cx=3, cy=2),
            ],
            "file_attributes": {},
        },
        "b.jpg9": {
            "filename": "b.jpg",
            "size": 9,
            "regions": {"0": region({"kind": "cat"}, name="circle", cx=20, cy=20, r=5)},
        },
    }
    content = {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}} if whole else entries
    root = put(tmp_path, {"train/via_region_data.json": content}, "train/a.jpg", "train/b.jpg")
    assert recognise(root) == "via"
    found = read(root)
    assert found.classes == ["cat", "dog"]
    a, b = (record.things or [] for record in found.records)
    assert a[0].box == BOX
    assert a[1].polygons == [[10, 5, 30, 5, 30, 25]]
    assert b[0].box == pytest.approx((15, 15, 25, 25), abs=0.1)
    assert found.splits == {"train": 2}
    assert "a point has no area" in whys(found)


def test_via_asks_which_attribute_is_the_class(tmp_path: Path) -> None:
    rect = {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5}
    entry = {"filename": "a.jpg", "regions": [region({"a": "x", "b": "y"}, **rect)]}
    with pytest.raises(DataError, match="which attribute is the class: 'a', 'b'"):
        read(put(tmp_path, {"v.json": {"a.jpg1": entry}}, "a.jpg"))
    entry["regions"][0]["region_attributes"] = {}  # type: ignore[index]
    found = read(put(tmp_path, {"v.json": {"a.jpg1": entry}}))
    assert found.classes == ["object"]


TABLES = {
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,10,5,30,25\n",
    "other order": "image;class;x1;y1;x2;y2\nimages/a.jpg;cat;10;5;30;25\n",
    "sides": "image_path,x,y,width,height,label\n/content/set/images/a.jpg,10,5,20,20,cat\n",
    "retinanet": "images/a.jpg,10,5,30,25,cat\nimages/b.jpg,,,,,\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables_of_boxes(tmp_path: Path, text: str) -> None:
    root = put(tmp_path, {"labels.csv": text}, "images/a.jpg", "images/b.jpg")
    assert recognise(root) == "boxes_csv"
    found = boxes(read(root))
    assert found.pop("images/a.jpg") == [("cat", BOX)]
    assert found == ({"images/b.jpg": []} if text.startswith("images") else {})


def test_kaggles_table_with_a_box_in_one_cell(tmp_path: Path) -> None:
    text = 'image_id,width,height,bbox,source\na,60,40,"[10.0, 5.0, 20.0, 20.0]",x\na,60,40,"[0, 0, 9]",x\n'
    found = read(put(tmp_path, {"train.csv": text}, "train/a.jpg"))
    assert boxes(found) == {"train/a.jpg": [("object", BOX)]}
    assert "a box has 4 numbers, found 3" in whys(found)


def test_open_images(tmp_path: Path) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    row = "a,xclick,/m/01yrx,1,{},0.5,0.125,0.625,0,0,{}\n"
    rows = [row.format(x, int(x == "0.3")) for x in ("0.1", "0.2", "0.3", "0.4")]
    names = "/m/01yrx,Cat\n/m/0bt9lr,Dog\n"
    files = {"boxes.csv": head + "".join(rows), "class-descriptions-boxable.csv": names}
    found = read(put(tmp_path, files, "a.jpg"))
    assert found.classes == ["Cat"]
    things = found.records[0].things or []
    assert things[0].box == pytest.approx((6, 5, 30, 25))
    assert [t.crowd for t in things] == [False, False, True, False]


def test_roboflows_tables_lie_in_the_splits(tmp_path: Path) -> None:
    files = {f"{split}/_annotations.csv": TABLES["tensorflow"] for split in ("train", "valid", "test")}
    root = put(tmp_path, files, *(f"{split}/a.jpg" for split in ("train", "valid", "test")))
    found = read(root)
    assert found.splits == {"train": 1, "val": 1, "test": 1}
    assert set(boxes(found)["valid/a.jpg"]) == {("cat", BOX)}


def runs(mask: np.ndarray, rows: bool = False) -> str:
    flat = np.concatenate([[0], mask.reshape(-1) if rows else mask.T.reshape(-1), [0]])
    edges = np.flatnonzero(np.diff(flat)) + 1
    return " ".join(f"{a} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True))


@pytest.mark.parametrize("rows", [False, True])
def test_run_lengths_of_kaggle(tmp_path: Path, rows: bool) -> None:
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[4:12, 7:30] = 1
    text = f"ImageId,EncodedPixels\na.jpg,{runs(mask, rows)}\nb.jpg,\na.jpg,3 5 4 1\na.jpg,2400 2\n"
    root = put(tmp_path, {"train.csv": text}, "train/a.jpg", "train/b.jpg")
    assert recognise(root) == "runs_csv"
    found = read(root)
    assert found.task == "instances"
    (thing,) = found.records[0].things or []
    assert (decode_rle(thing.rle or {}) == mask.astype(bool)).all()
    assert found.records[1].things == []
    assert any("along the rows" in warning for warning in found.ledger.warnings) == rows
    assert "the runs overlap" in whys(found)
    assert "a run ends at pixel 2401, the picture has 2400" in whys(found)


def test_a_class_behind_the_name_of_the_picture(tmp_path: Path) -> None:
    text = "ImageId_ClassId,EncodedPixels\na_x.jpg_1,1 3\na_x.jpg_2,-1\na_x.jpg_3,50 4\n"
    found = read(put(tmp_path, {"train.csv": text}, "a_x.jpg"))
    assert found.classes == ["1", "3"]


def test_labelimgs_yolo_beside_the_pictures(tmp_path: Path) -> None:
    files = {"classes.txt": "dog\ncat\n", "a.txt": "1 0.333333 0.375 0.333333 0.5\n", "b.txt": ""}
    found = read(put(tmp_path, files, "a.jpg", "b.jpg"))
    assert (found.format, found.classes) == ("yolo", ["dog", "cat"])
    assert boxes(found)["a.jpg"][0][1] == pytest.approx(BOX, abs=1e-3)


def roboflow_coco() -> dict[str, Any]:
    group = {"id": 0, "name": "animals", "supercategory": "none"}
    cat = {"id": 1, "name": "cat", "supercategory": "animals"}
    image = {"id": 0, "license": 1, "file_name": "a_jpg.rf.0123.jpg", "height": HEIGHT, "width": WIDTH}
    box = {
        "id": 0,
        "image_id": 0,
        "category_id": 1,
        "bbox": [10, 5, 20, 20],
        "area": 400,
        "segmentation": [],
        "iscrowd": 0,
    }
    return {"info": {}, "licenses": [], "categories": [group, cat], "images": [image], "annotations": [box]}


VOC = (
    "<annotation><folder></folder><filename>a_jpg.rf.0123.jpg</filename><path>a_jpg.rf.0123.jpg</path><source>"
    "<database>roboflow.com</database></source><size><width>60</width><height>40</height><depth>3</depth></size>"
    "<object><name>cat</name><bndbox><xmin>11</xmin><xmax>30</xmax><ymin>6</ymin><ymax>25</ymax></bndbox></object>"
    "</annotation>"
)
YAML = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\nroboflow:\n  url: x\n"
)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_roboflows_exports(tmp_path: Path, kind: str) -> None:
    files: dict[str, Any] = {"README.roboflow.txt": "made by Roboflow", "README.dataset.txt": "animals"}
    pictures = []
    for split in ("train", "valid", "test"):
        folder = f"{split}/images" if kind == "yolo" else split
        pictures.append(f"{folder}/a_jpg.rf.0123.jpg")
        if kind == "coco":
            files[f"{split}/_annotations.coco.json"] = roboflow_coco()
        elif kind == "voc":
            files[f"{split}/a_jpg.rf.0123.xml"] = VOC
        else:
            files[f"{split}/labels/a_jpg.rf.0123.txt"] = "0 0.33333333 0.375 0.33333333 0.5\n"
            files["data.yaml"] = YAML
    found = read(put(tmp_path, files, *pictures))
    assert (found.format, found.classes) == (kind, ["cat"])
    assert found.splits == {"train": 1, "val": 1, "test": 1}
    assert all(things[0][1] == pytest.approx(BOX, abs=1e-3) for things in boxes(found).values())
