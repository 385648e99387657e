"""COCO: layouts, ids, segments, keypoints, and files that are wrong."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data.formats import coco, coco_write, read
from saccade.data.joints import COCO_PERSON, Joints
from saccade.data.rle import decode_rle, encode_mask
from saccade.data.truth import read_truth
from saccade.errors import DataError, UsageError

Content = dict[str, Any]


def content(
    *annotations: Content, names: tuple[str, ...] = ("cat", "dog"), files: tuple[str, ...] = ("a.png",)
) -> Content:
    """Images with ids 100, 101, ... of 40 x 30, categories with ids 1, 7, 13, ..."""
    return {
        "images": [{"id": 100 + i, "file_name": f, "width": 40, "height": 30} for i, f in enumerate(files)],
        "categories": [{"id": 1 + 6 * i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1000 + i, "image_id": 100, "category_id": 1} | a for i, a in enumerate(annotations)],
    }


def build(root: Path, made: Content | str | bytes, labels: str = "annotations/instances_train.json") -> Path:
    file = root / labels
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, dict):
        for image in made.get("images", []):
            picture = root / "images" / Path(str(image.get("file_name"))).name
            picture.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 30)).save(picture.with_suffix(".png"))
        made = json.dumps(made)
    file.write_bytes(made if isinstance(made, bytes) else made.encode())
    return root


def test_boxes_polygons_run_lengths_and_crowds(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[3:9, 5:20] = True
    rle = encode_mask(mask)
    runs = {"size": [30, 40], "counts": [0, 1200]}
    made = content(
        {"bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]], "area": 200.5},
        {"bbox": [5, 3, 15, 6], "segmentation": rle, "category_id": 7},
        {"bbox": [0, 0, 40, 30], "segmentation": runs, "iscrowd": 1},
        {"segmentation": rle},
        files=("a.png", "b.png"),
    )
    root = build(tmp_path, made)
    assert coco.looks_like(root)
    for place in (root, root / "annotations/instances_train.json"):
        dataset = coco.read(place)
        assert (dataset.root, dataset.task, dataset.classes, dataset.category_ids) == (
            root,
            "instances",
            ["cat", "dog"],
            [1, 7],
        )
        assert dataset.splits == {"train": 2}
        assert [(r.id, r.source_id) for r in dataset.records] == [("images/a.png", 100), ("images/b.png", 101)]
        one, two, crowd, bare = dataset.records[0].things or []
        assert (one.box, one.area, one.id, one.label) == ((1, 2, 11, 22), 200.5, 1000, 0)
        assert one.polygons == [[1, 2, 11, 2, 11, 22, 1, 22]]
        assert (two.label, crowd.crowd, one.crowd) == (1, True, False)
        assert (decode_rle(two.rle or {}) == mask).all()
        assert bare.box == (5, 3, 20, 9)
        assert "1 background" in dataset.ledger.warnings[0]


def test_outlines_that_do_not_match_their_box_are_counted(tmp_path: Path) -> None:
    square = [[1, 2, 11, 2, 11, 22, 1, 22]]
    beyond = [[-30, 2, 5, 2, 5, 22, -30, 22]]  # of which the image shows 0 to 5
    mask = np.zeros((30, 40), dtype=bool)
    mask[3:9, 5:20] = True
    made = content(
        {"bbox": [1, 2, 10, 20], "segmentation": square},
        {"bbox": [0, 2, 5, 20], "segmentation": beyond},
        {"bbox": [5, 5, 1, 1], "segmentation": [[5, 5, 7, 5, 7, 7, 5, 7]]},  # within a pixel
        {"segmentation": encode_mask(mask)},
    )
    assert not any("outline" in line for line in coco.read(build(tmp_path, made)).ledger.warnings)
    made["annotations"][0]["bbox"] = [25, 2, 10, 20]
    made["annotations"][3]["bbox"] = [5, 10, 15, 6]
    dataset = coco.read(build(tmp_path, made))
    [line] = [line for line in dataset.ledger.warnings if "outline" in line]
    assert line.startswith("2 objects have an outline that does not match their box")
    assert "(first: images/a.png, annotation 1000)" in line
    assert len(dataset.records[0].things or []) == 4


def test_only_crowds_ignore_flag_and_text_ids(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 10, 20], "ignore": 1, "image_id": "x", "category_id": "k"})
    made["images"][0]["id"] = "x"
    made["categories"] = [{"id": "k", "name": "cat"}, {"id": 0, "name": "dog"}]
    dataset = coco.read(build(tmp_path, made))
    assert (dataset.classes, dataset.category_ids) == (["dog", "cat"], [0, "k"])
    assert (dataset.records[0].source_id, dataset.task) == ("x", "detect")
    assert [(t.crowd, t.label) for t in dataset.records[0].things or []] == [(False, 1)]
    assert "all 1 objects are marked iscrowd" in dataset.ledger.warnings[0]


def test_where_all_are_crowds_they_are_objects_and_else_crowds(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 3, 4], "iscrowd": 1}, {"bbox": [9, 9, 9, 9], "iscrowd": 1}, files=("a.png", "b.png"))
    dataset = coco.read(build(tmp_path, made))
    assert [t.crowd for t in dataset.records[0].things or []] == [False, False]
    assert any("all 2 objects are marked iscrowd" in w for w in dataset.ledger.warnings)
    made["annotations"][1]["iscrowd"] = 0
    dataset = coco.read(build(tmp_path, made))
    assert [t.crowd for t in dataset.records[0].things or []] == [True, False]
    assert not any("iscrowd" in w for w in dataset.ledger.warnings)


def test_exports_with_a_file_beside_the_images(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        made = content({"bbox": [1, 2, 3, 4]})
        made["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "pets"},
        ]
        build(tmp_path / split, made, "_annotations.coco.json")
        (tmp_path / split / "images/a.png").rename(tmp_path / split / "a.png")
    dataset = coco.read(tmp_path)
    assert [(r.id, r.split) for r in dataset.records] == [("train/a.png", "train"), ("valid/a.png", "val")]
    assert (dataset.classes, dataset.category_ids) == (["cat"], [1])


def test_keypoint_files_are_read_for_pose_alone(tmp_path: Path) -> None:
    build(tmp_path, content({"bbox": [1, 2, 3, 4]}))
    made = content(
        {"bbox": [1, 2, 3, 4], "keypoints": [2, 3, 2, 3, 3, 1, 0, 0, 0]}, {"bbox": [1, 2, 9, 9], "keypoints": [1]}
    )
    made["categories"][0]["keypoints"] = ["left_eye", "nose", "right_eye"]
    build(tmp_path, made, "annotations/person_keypoints_train.json")
    assert coco.read(tmp_path).joints is None
    dataset = coco.read(tmp_path, "pose")
    assert dataset.joints == Joints(("left_eye", "nose", "right_eye"), ((0, 2),))
    assert dataset.task == "pose"
    assert (dataset.records[0].things or [])[0].keypoints == [(2, 3, 2), (3, 3, 1), (0, 0, 0)]
    assert "keypoints left out: keypoints hold 1 numbers" in dataset.ledger.repaired[0].what


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"bbox": [5, 5, -2, 4]}, "negative"),
        ({"bbox": [5, 5, 0, 4]}, "no area"),
        ({"bbox": [50, 5, 4, 4]}, "outside"),
        ({"bbox": [float("nan"), 5, 4, 4]}, "finite"),
        ({"bbox": [1, 5, 1e308, 4]}, "finite"),
        ({"bbox": [1, 5, 10**400, 4]}, "finite"),
        ({"bbox": [1, 5, "ten", 4]}, "'ten'"),
        ({"bbox": None}, "None"),
        ({"bbox": []}, "needed are 4"),
        ({"bbox": [1, 2, 3]}, "needed are 4"),
        ({"image_id": 999}, "image 999"),
    ],
)
def test_bad_annotations_are_refused_by_id(tmp_path: Path, bad: Content, says: str) -> None:
    root = build(tmp_path, content({"bbox": [1, 2, 20, 20]}, {"bbox": [2, 2, 9, 9]} | bad))
    ledger = coco.read(root).ledger
    (entry,) = ledger.refused
    assert entry.where == "annotations/instances_train.json: annotation 1001"
    assert says in entry.what
    assert (ledger.labels_used, ledger.labels_refused) == (1, 1)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"segmentation": [[1, 1, 5, 5]]}, "2 points"),
        ({"segmentation": [[1, 1, 5, 5, 9, 9, 3]]}, "even count"),
        ({"segmentation": [[1, 1, 1e300, 5, 9, 9]]}, "finite"),
        ({"segmentation": [[100, 100, 200, 100, 200, 200]]}, "outside"),
        ({"segmentation": "x"}, "list of lists"),
        ({"segmentation": {"size": [30, 40], "counts": [1, 2]}}, "sum to 3"),
        ({"segmentation": {"size": [30, 40], "counts": [1300, -100]}}, "below 0"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "limit"),
        ({"segmentation": {"size": [40, 30], "counts": [1200]}}, "differs"),
        ({"segmentation": {"size": [30, 40], "counts": [1200]}}, "empty"),
        ({"area": "big"}, "area left out"),
        ({"area": float("nan")}, "area left out"),
        ({"area": -5}, "area left out: it is -5"),
    ],
)
def test_what_is_bad_beside_a_sound_box_is_left_out_and_named(tmp_path: Path, bad: Content, says: str) -> None:
    outline = [[1, 2, 21, 2, 21, 22]]
    rows = ({"bbox": [1, 2, 20, 20], "segmentation": outline}, {"bbox": [2, 2, 9, 9], "segmentation": outline} | bad)
    dataset = coco.read(build(tmp_path, content(*rows)))
    (entry,) = dataset.ledger.repaired
    assert entry.where == "annotations/instances_train.json: annotation 1001"
    assert says in entry.what
    assert (dataset.ledger.labels_used, dataset.ledger.refused) == (2, [])
    thing = (dataset.records[0].things or [])[1]
    assert (thing.box, thing.area, thing.rle) == ((2, 2, 11, 11), None, None)
    if "segmentation" in bad:
        assert thing.polygons is None
        assert coco.read(tmp_path, "instances").ledger.refused[0].where == "images/a.png: object 2"


def test_an_empty_outline_is_none_and_a_bad_part_leaves_the_others(tmp_path: Path) -> None:
    part = [5, 5, 25, 5, 25, 25]
    rows = [{"bbox": [2, 2, 9, 9], "segmentation": s} for s in ([], [[]], [part, [7, 7, 8, 8]], [part, []])]
    dataset = coco.read(build(tmp_path, content(*rows)))
    assert [t.polygons for t in dataset.records[0].things or []] == [None, None, [part], [part]]
    assert [entry.what for entry in dataset.ledger.repaired] == [
        "1 of 2 polygons left out: a polygon has 2 points, at least 3 are needed"
    ]


def test_corners_outside_of_the_picture_do_not_move(tmp_path: Path) -> None:
    """A triangle that covers the whole picture of 40 x 30: moved to the border its corners would cover half of it."""
    outlines = [[[0, 0, 80, 0, 0, 60]], [[0, 0, 8e8, 0, 0, 6e8]], [[-0.5, 0, 40.5, 0, 40, 30, 0, 30]]]
    rows: list[Content] = [{"segmentation": outline} for outline in outlines]
    dataset = coco.read(build(tmp_path, content(*rows)))
    truth = read_truth(dataset.records[0], dataset, "instances").objects
    assert truth is not None
    assert truth.masks is not None
    assert truth.masks.sum((1, 2)).tolist() == [1200] * 3
    assert truth.boxes.tolist() == [[0, 0, 40, 30]] * 3
    assert [entry.what for entry in dataset.ledger.repaired] == [
        "polygon cut at the border of the image, it sticks out by 40.0 pixels",
        "polygon cut at the border of the image, it sticks out by 799999960.0 pixels",
    ]
    assert (dataset.records[0].things or [])[0].polygons == outlines[0]


def change(key: str, row: int, **values: object) -> Content:
    made = content({"bbox": [1, 2, 20, 20]}, {"bbox": [2, 2, 9, 9]}, files=("a.png", "b.png"))
    made[key][row] |= values
    return made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (change("images", 1, id=100), "two of image have the id 100"),
        (change("annotations", 1, id=1000), "two of annotation have the id 1000"),
        (change("annotations", 1, category_id=5), "annotation 1001: category 5 is not"),
        (change("annotations", 1, image_id=[1]), "image_id is"),
        (change("categories", 1, name=None), "category 7 has no name"),
        (change("images", 1, file_name="../../b.png"), "file_name '../../b.png'"),
        (change("images", 1, file_name="/etc/b.png"), "file_name"),
        (change("images", 1, file_name="http://localhost/b.png"), "file_name"),
        (change("images", 1, file_name="b\0.png"), "file_name"),
        (change("images", 1, file_name="C:\\b.png"), "file_name"),
        (content(*({"bbox": [0.1, 0.1 * i, 0.5, 0.5]} for i in range(4))), "all 4 boxes lie within 0..1"),
        (change("categories", 1, name="\ud800"), r"line 1: \ud800 is half of a character"),
        (change("categories", 1, keypoints=["a", "x\udcffy"]), r"line 1: \udcff is half of a character"),
        (change("images", 1, file_name="\ud800.png"), "half of a character"),
        (change("images", 1, id=10**400), "the id of image number 1 is '1000"),
        (content(), "no objects"),
        (b"", "empty file"),
        (b'{"images": [', "line 1, column 13"),
        (b"[]", "the top is a list"),
        (b'{"images": [], "annotations": []}', "'categories' is missing"),
        (b"[" * 100_000, "nested too deep"),
        ('{"images": "é'.encode("latin-1"), "not UTF-8 text at byte 12"),
    ],
)
def test_bad_files_say_where(tmp_path: Path, made: Content | bytes, says: str) -> None:
    with contextlib.suppress(ValueError):  # the picture with NUL in its name cannot be made
        build(tmp_path, made)
    text = made if isinstance(made, bytes) else json.dumps(made).encode()
    build(tmp_path, text)
    with pytest.raises(DataError) as error:
        coco.read(tmp_path / "annotations/instances_train.json")
    assert says in str(error.value)


def test_few_objects_smaller_than_a_pixel_are_no_fractions(tmp_path: Path) -> None:
    dataset = coco.read(build(tmp_path, content({"bbox": [0, 0, 0.01, 0.01]})))
    assert dataset.ledger.labels_used == 1
    assert "all 1 boxes lie within 0..1: if these are fractions" in dataset.ledger.warnings[0]


def test_what_we_wrote_is_not_doubted(tmp_path: Path) -> None:
    rows = ({"bbox": [0.1, 0.1, 0.1 * i, 0.5]} for i in range(1, 9))
    made = content(*rows) | {"info": {"contributor": "saccade"}}
    assert coco.read(build(tmp_path / "a", made)).ledger.labels_used == 8
    coco_write.write(coco.read(tmp_path / "a"), tmp_path / "b")
    assert coco.read(tmp_path / "b").ledger.warnings == []


def test_whole_characters_as_escapes_are_text(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 20, 20]}, names=("\U0001f99d", "\\ud800"))
    assert "\\ud83e\\udd9d" in json.dumps(made)
    assert coco.read(build(tmp_path, made)).classes == ["\U0001f99d", "\\ud800"]


def test_twice_the_categories_take_twice_the_time(tmp_path: Path) -> None:
    """And not four times: every name looked for in a list of all names took minutes for a hundred thousand."""

    def seconds(count: int) -> float:
        made = content(*({"bbox": [1, 2, 20, 20], "category_id": 1 + 6 * i} for i in range(count)))
        made["categories"] = content(names=tuple(f"class {i}" for i in range(count)))["categories"]
        root = build(tmp_path / str(count), made)
        taken = []
        for _ in range(3):
            start = time.process_time()
            coco.read(root)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(8_000) < 3 * seconds(4_000)


def test_byte_order_mark(tmp_path: Path) -> None:
    build(tmp_path, content({"bbox": [1, 2, 20, 20]}))
    file = tmp_path / "annotations/instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert coco.read(tmp_path).ledger.labels_used == 1


def test_images_that_are_missing_broken_or_of_another_size(tmp_path: Path) -> None:
    files = ("a.png", "gone.png", "broken.png", "turned.png")
    made = content(*({"bbox": [1, 2, 20, 20], "image_id": 100 + i} for i in range(4)), files=files)
    made["images"][3] |= {"width": 30, "height": 40}
    build(tmp_path, made)
    (tmp_path / "images/gone.png").unlink()
    (tmp_path / "images/broken.png").write_bytes(b"no picture")
    Image.new("RGB", (5, 5)).save(tmp_path / "images/extra.png")
    ledger = coco.read(tmp_path).ledger
    assert (ledger.images_used, ledger.labels_used) == (1, 1)
    assert (ledger.images_refused, ledger.labels_refused) == (3, 3)
    assert any("30 x 40" in e.what and "40 x 30" in e.what for e in ledger.refused)
    assert any("1 images below" in w for w in ledger.warnings)


def test_labels_alone_serve_for_scoring(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(content({"bbox": [1, 2, 20, 20]})))
    dataset = coco.read(tmp_path / "labels.json")
    assert (dataset.records[0].size, dataset.records[0].split) == ((30, 40), None)
    assert "labels alone" in dataset.ledger.warnings[0]
    with pytest.raises(DataError, match="no image"):
        coco.read(tmp_path)


def test_boxes_that_look_like_corners(tmp_path: Path) -> None:
    corners = [[1, 2, 30, 20], [20, 10, 39, 29], [15, 15, 30, 25]]
    dataset = coco.read(build(tmp_path, content(*({"bbox": c} for c in corners))))
    assert any("look like x1 y1 x2 y2" in w for w in dataset.ledger.warnings)


def test_files_of_several_splits_must_agree(tmp_path: Path) -> None:
    build(tmp_path, content({"bbox": [1, 2, 20, 20]}, files=("a.png",)))
    other = content({"bbox": [1, 2, 20, 20], "category_id": 7}, names=("bird", "cat"), files=("b.png",))
    del other["categories"][0]
    build(tmp_path, other, "annotations/instances_val.json")
    dataset = coco.read(tmp_path)
    assert [(r.split, (r.things or [])[0].label) for r in dataset.records] == [("train", 0), ("val", 0)]
    assert any("other ids" in w for w in dataset.ledger.warnings)
    build(
        tmp_path, content({"bbox": [1, 2, 20, 20]}, names=("cats",), files=("b.png",)), "annotations/instances_val.json"
    )
    with pytest.raises(DataError, match=r"instances_val\.json: category 'cats' is not in"):
        coco.read(tmp_path)
    build(tmp_path, content({"bbox": [1, 2, 20, 20]}), "annotations/instances_val.json")
    with pytest.raises(DataError, match=r"images/a\.png: named by image 100 of train"):
        coco.read(tmp_path)


def test_flipped_bytes_never_break_the_reader(tmp_path: Path) -> None:
    made = content(
        {"bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 11, 22]], "area": 200.5}, {"bbox": [5, 3, 15, 6]}
    )
    root = build(tmp_path, made)
    file = root / "annotations/instances_train.json"
    whole = file.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] = rng.choice(b'0123456789[]{}",:.eabc-\xff')
        file.write_bytes(raw)
        with contextlib.suppress(DataError):
            assert coco.read(file).ledger.labels_used >= 1


@pytest.mark.shared
def test_counts_of_pose_samples(shared_data: Path) -> None:
    file = shared_data / "pose_samples" / "coco" / "test_coco.json"
    assert coco.looks_like(file)
    dataset = coco.read(file)
    assert (len(dataset.records), dataset.ledger.labels_used, dataset.classes) == (4, 14, ["person"])
    assert dataset.joints == COCO_PERSON
    assert {r.source_id for r in dataset.records} == {785, 40083, 197388, 196141}
    assert not dataset.ledger.refused
    with pytest.raises(DataError, match="give the path of one"):
        coco.read(file.parent)


JSON_THAT_IS_NOT_COCO: list[object] = [
    {"categories": [{"id": 0, "name": "cat"}], "info": {"contributor": "Label Studio"}},
    {"images": 10, "categories": ["cat", "dog"]},
    {"name": "site", "version": "1.0.0", "scripts": {"images": "make images"}},
    {"images": ["cat/0.png"], "annotations": {"cat/0.png": "cat"}},
    [{"image": "0.png", "annotations": [{"label": "cat"}]}],
    {"categories": [], "note": "x" * 100_000},
]


@pytest.mark.parametrize("note", JSON_THAT_IS_NOT_COCO)
def test_other_json_does_not_make_a_set_coco(tmp_path: Path, note: object) -> None:
    (tmp_path / "notes.json").write_text(json.dumps(note))
    assert not coco.looks_like(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / name / "0.png")
    assert read(tmp_path).format == "folder"


def test_coco_is_recognised_wherever_its_lists_stand(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 3, 4]})
    far = {"categories": made["categories"], "licenses": ["y" * 3_000_000], "images": made["images"]} | made
    for number, text in enumerate(
        [
            json.dumps(made, indent=4),
            json.dumps(far),
            json.dumps({"categories": made["categories"] * 3000} | made),
            json.dumps(made)[:120],  # cut: the reader says so
            '{"images": [], "annotations": [], "categories": []}',
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert coco.looks_like(path), number


def test_names_of_label_files_are_splits_as_a_whole_or_beside_each_other(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 3, 4]})
    build(tmp_path / "one", made, "my_test_labels.json")
    assert coco.read(tmp_path / "one").splits == {}
    build(tmp_path / "val", made, "annotations/instances_val2017.json")
    assert coco.read(tmp_path / "val").splits == {"val": 1}
    build(tmp_path / "test/inner", made, "labels.json")
    assert coco.read(tmp_path / "test/inner").splits == {}
    for split in ("train", "val"):
        build(tmp_path / "lvis", made | {"images": content(files=(f"{split}.png",))["images"]}, f"lvis_v1_{split}.json")
    assert coco.read(tmp_path / "lvis").splits == {"train": 1, "val": 1}
    build(tmp_path / "lvis", made, "lvis_v1_more.json")
    with pytest.raises(DataError, match=r"3 COCO files for one split.*call them train.json"):
        coco.read(tmp_path / "lvis")


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / name)


def found(root: Path, *stated: str) -> dict[str, str]:
    """Which picture each image of the label file is taken for: source id by record id."""
    made = content(
        {"bbox": [1, 2, 3, 4]}, *({"bbox": [1, 2, 3, 4], "image_id": 100 + i} for i in range(1, len(stated)))
    )
    made["images"] = content(files=stated)["images"]
    (root / "labels.json").write_text(json.dumps(made))
    return {r.id: stated[int(r.source_id or 0) - 100] for r in coco.read(root).records}


def test_a_label_belongs_to_the_path_that_it_states(tmp_path: Path) -> None:
    put(tmp_path / "two", "a/0.png", "b/0.png", "b/1.png")
    assert found(tmp_path / "two", "a/0.png", "b/0.png", "b/1.png") == {n: n for n in ("a/0.png", "b/0.png", "b/1.png")}
    put(tmp_path / "half", "b/0.png", "b/1.png")
    assert found(tmp_path / "half", "a/0.png", "a/1.png", "b/0.png", "b/1.png") == {
        n: n for n in ("b/0.png", "b/1.png")
    }
    put(tmp_path / "near", "images/0.png", "copy/images/0.png")
    assert found(tmp_path / "near", "0.png") == {"images/0.png": "0.png"}
    put(tmp_path / "bare", "a/0.png", "b/0.png", "b/1.png")
    assert found(tmp_path / "bare", "0.png", "1.png") == {"b/1.png": "1.png"}
    refused = coco.read(tmp_path / "bare").ledger.refused
    assert "2 image files may be '0.png': a/0.png, b/0.png; state the folder" in refused[0].what


def test_pictures_in_another_place_are_found_with_a_warning(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    assert found(tmp_path, "content/data/a/0.png", "content/data/b/0.png") == {
        "a/0.png": "content/data/a/0.png",
        "b/0.png": "content/data/b/0.png",
    }
    assert any("2 are found without the first 2 folders" in w for w in coco.read(tmp_path).ledger.warnings)


def test_files_with_the_names_of_the_pictures_are_not_taken_for_them(tmp_path: Path) -> None:
    cases = (("images", "thumbnails"), ("photos", "masks"), ("left", "thumbs"), (".", "masks"))
    for number, (pictures, others) in enumerate(cases):
        root = tmp_path / str(number)
        names = [f"{pictures}/{i}.png" for i in range(2)]
        put(root, *names, *(f"{others}/{i}.png" for i in range(2)))
        assert found(root, "0.png", "1.png") == {name.removeprefix("./"): name[-5:] for name in names}


def test_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    put(tmp_path, "ou\u0308.png")
    assert found(tmp_path, "o\u00fc.png") == {"ou\u0308.png": "o\u00fc.png"}


def test_the_group_of_one_class_is_left_out(tmp_path: Path) -> None:
    made = content({"bbox": [1, 2, 3, 4]}, names=("raccoon",))
    made["categories"] = [
        {"id": 0, "name": "raccoon", "supercategory": "none"},
        {"id": 1, "name": "raccoon", "supercategory": "raccoon"},
    ]
    dataset = coco.read(build(tmp_path, made))
    assert (dataset.classes, dataset.category_ids) == (["raccoon"], [1])
    assert "category 0 'raccoon' is the group of all others" in dataset.ledger.warnings[0]
    made["annotations"][0]["category_id"] = 0
    with pytest.raises(UsageError, match="categories 0 and 1 have the same name"):
        coco.read(build(tmp_path, made))
