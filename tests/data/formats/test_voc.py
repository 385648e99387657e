"""Pascal VOC: layouts, the counting of pixels, splits, and files that are wrong or hostile."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.dataset import DataSet
from saccade.data.formats import voc
from saccade.errors import DataError


def picture(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def obj(box: str, name: str = "cat", difficult: int = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def page(path: Path, *objects: str, size: tuple[int, int] = (40, 30), head: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(f"{head}<annotation><filename>x.png</filename>{text}{''.join(objects)}</annotation>")


def boxes(dataset: DataSet) -> list[tuple[float, ...]]:
    return [t.box for r in dataset.records for t in r.things or []]


@pytest.mark.parametrize(
    ("images", "labels"), [("JPEGImages", "Annotations"), ("images", "annots"), ("Images", "xmls"), (".", ".")]
)
def test_layouts(tmp_path: Path, images: str, labels: str) -> None:
    for stem in "ab":
        picture(tmp_path / images / f"{stem}.png")
        page(tmp_path / labels / f"{stem}.xml", obj("1 2 10 20"), obj("11 2 20 20", "dog", 1))
    assert voc.looks_like(tmp_path)
    dataset = voc.read(tmp_path)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.task == "detect"
    assert boxes(dataset)[:2] == [(0, 1, 10, 20), (10, 1, 20, 20)]
    assert [t.difficult for t in dataset.records[0].things or []] == [False, True]
    assert dataset.records[0].size == (30, 40)
    assert (dataset.ledger.images_used, dataset.ledger.labels_used) == (2, 4)


def test_lists_give_the_split(tmp_path: Path) -> None:
    for stem in "abcd":
        picture(tmp_path / "JPEGImages" / f"{stem}.png")
        page(tmp_path / "Annotations" / f"{stem}.xml", obj("1 1 9 9"))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb.png\n")
    (lists / "val.txt").write_text("c 1\nb\ngone\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    (lists / "cat_train.txt").write_text("d -1\n")
    dataset = voc.read(tmp_path)
    assert {r.id[-5]: r.split for r in dataset.records} == {"a": "train", "b": "train", "c": "val"}
    assert [e.where for e in dataset.ledger.refused] == ["gone"]
    assert any("another split, such as b" in w for w in dataset.ledger.warnings)
    assert any("1 images with an XML file are in no list" in w for w in dataset.ledger.warnings)


def test_folders_give_the_split_and_tell_equal_names_apart(tmp_path: Path) -> None:
    for split, right in (("train", 9), ("valid", 19)):
        picture(tmp_path / split / "a.png")
        page(tmp_path / split / "a.xml", obj(f"1 1 {right} 9"))
    dataset = voc.read(tmp_path)
    assert [(r.split, (r.things or [])[0].box[2]) for r in dataset.records] == [("train", 9), ("val", 19)]


def test_a_set_that_counts_from_zero(tmp_path: Path) -> None:
    for stem, box in (("a", "5 5 10 10"), ("b", "0 3 10 10")):
        picture(tmp_path / f"{stem}.png")
        page(tmp_path / f"{stem}.xml", obj(box))
    dataset = voc.read(tmp_path)
    assert boxes(dataset) == [(5, 5, 10, 10), (0, 3, 10, 10)]
    assert "b.xml: object 1 starts at 0" in dataset.ledger.warnings[0]


def test_what_is_clipped_and_what_is_silent(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("1 1 40.5 30"), obj("31 21 50 29"), obj("1.5 1.5 40 30", "dog"), size=(0, 0))
    dataset = voc.read(tmp_path)
    assert boxes(dataset) == [(0, 0, 40, 30), (30, 20, 40, 29), (0.5, 0.5, 40, 30)]
    assert [e.where for e in dataset.ledger.repaired] == ["a.xml: object 2"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (obj("10 5 5 10"), "swapped"),
        (obj("5 5 5 10"), "no area"),
        (obj("50 5 60 10"), "outside"),
        (obj("nan 5 6 10"), "finite"),
        (obj("1 5 inf 10"), "finite"),
        (obj("1 5 1e308 10"), "finite"),
        (obj("1 5 ten 10"), "'ten'"),
        (obj("1 5 9"), "finite"),
        (obj("1 5 9 9", ""), "name"),
        (obj("1 1 9 9"), "repeats"),
    ],
)
def test_bad_objects_are_refused_by_number(tmp_path: Path, bad: str, says: str) -> None:
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("1 1 9 9"), bad)
    dataset = voc.read(tmp_path)
    (entry,) = dataset.ledger.refused
    assert entry.where == "a.xml: object 2"
    assert says in entry.what
    assert (dataset.ledger.labels_used, dataset.ledger.labels_refused) == (1, 1)


def test_every_image_and_file_is_accounted_for(tmp_path: Path) -> None:
    for stem in ("good", "empty", "unlabelled", "damaged", "wrong_size"):
        picture(tmp_path / f"{stem}.png")
    page(tmp_path / "good.xml", obj("1 1 9 9"))
    page(tmp_path / "empty.xml")
    page(tmp_path / "wrong_size.xml", obj("1 1 9 9"), size=(30, 40))
    page(tmp_path / "alone.xml", obj("1 1 9 9"), obj("1 1 8 8"))
    (tmp_path / "damaged.xml").write_text("<annotation><object>")
    page(tmp_path / "broken_image.xml", obj("1 1 9 9"))
    (tmp_path / "broken_image.png").write_bytes(b"no picture")
    ledger = voc.read(tmp_path).ledger
    assert (ledger.images_used, ledger.labels_used) == (2, 1)
    assert (ledger.images_refused, ledger.labels_refused) == (5, 4)
    reasons = {e.where: e.what for e in ledger.refused}
    assert "no XML" in reasons["unlabelled.png"]
    assert "not well-formed" in reasons["damaged.png"]
    assert "30 x 40" in reasons["wrong_size.png"]
    assert "40 x 30" in reasons["wrong_size.png"]
    assert "no image" in reasons["alone.xml"]
    assert "1 background" in " ".join(ledger.warnings)


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">',
    ],
)
def test_entities_are_not_let_in(tmp_path: Path, head: str) -> None:
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("1 1 9 9"), head=head)
    with pytest.raises(DataError, match=r"a\.xml:1: a document type"):
        voc.read(tmp_path)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no VOC annotation"):
        voc.read(tmp_path)
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("9 9 1 1"))
    with pytest.raises(DataError, match=r"no objects in 1 images .*a\.xml: object 1"):
        voc.read(tmp_path)
    assert not voc.looks_like(tmp_path / "a.xml")


def test_flipped_bytes_never_break_the_reader(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("1 1 9 9"), obj("2 2 8 8", "dog"))
    whole = (tmp_path / "a.xml").read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "a.xml").write_bytes(raw)
        with contextlib.suppress(DataError):
            ledger = voc.read(tmp_path).ledger
            assert ledger.labels_used + ledger.labels_refused <= 2


@pytest.mark.shared
def test_counts_of_real_sets(shared_data: Path) -> None:
    cells = voc.read(shared_data / "bccd")
    assert cells.splits == {"train": 205, "val": 87}
    counts = Counter(cells.classes[t.label] for r in cells.records for t in r.things or [])
    assert counts == {"RBC": 3350 - 2, "WBC": 301, "Platelets": 292}  # two boxes are points in the source
    assert sorted(e.where for e in cells.ledger.refused) == [
        "Annotations/BloodImage_00338.xml: object 13",
        "Annotations/BloodImage_00343.xml: object 4",
    ]
    raccoons = voc.read(shared_data / "raccoon")
    assert raccoons.splits == {"train": 160, "test": 40}
    assert Counter(r.split for r in raccoons.records for _ in r.things or []) == {"train": 173, "test": 44}
    assert not raccoons.ledger.refused
