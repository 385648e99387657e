"""Pascal VOC: layouts, the counting of pixels, splits, and files that are wrong or hostile."""

from __future__ import annotations

import contextlib
import cProfile
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
    assert [(e.where, e.what[:6]) for e in dataset.ledger.refused] == [("ImageSets/Main/val.txt:3", "'gone'")]
    assert any("another split, such as b" in w for w in dataset.ledger.warnings)
    assert any("1 images with an XML file are in no list" in w for w in dataset.ledger.warnings)


def voc_set(root: Path, *names: str, page_at: str = "Annotations") -> Path:
    """Pictures JPEGImages/NAME.png with one cat each, whose box ends at 10, 11, ... in the order of names."""
    for i, name in enumerate(names):
        picture(root / "JPEGImages" / f"{name}.png")
        page(root / page_at / f"{name}.xml", obj(f"1 1 {10 + i} 9"))
    return root


def lines(root: Path, name: str, *rows: str, at: str = "ImageSets/Main") -> None:
    (root / at).mkdir(parents=True, exist_ok=True)
    (root / at / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))


def splits(dataset: DataSet) -> dict[str, str | None]:
    """Picture below JPEGImages, without suffix -> split."""
    return {r.id.partition("/")[2].removesuffix(".png"): r.split for r in dataset.records}


def test_names_that_end_like_flags(tmp_path: Path) -> None:
    """A last word 1, 0 or -1 is a flag only where the line with it is no picture, or in the list of one class."""
    names = ("0", "1", "-1", "photo 1", "photo 0", "photo", "a b -1", " c ", "d", "10.jpg")
    voc_set(tmp_path, *names)
    lines(tmp_path, "train", *names[:8])
    lines(tmp_path, "val", "d -1", "10.jpg")
    lines(tmp_path, "cat_val", "photo 1")
    dataset = voc.read(tmp_path)
    assert splits(dataset) == dict.fromkeys(names[:8], "train") | {"d": "val", "10.jpg": "val"}
    assert (dataset.ledger.refused, dataset.ledger.warnings) == ([], [])


def test_lists_of_single_classes_alone(tmp_path: Path) -> None:
    voc_set(tmp_path, "photo", "photo 1", "b")
    lines(tmp_path, "cat_train", "photo 1", "b -1")
    lines(tmp_path, "cat_val", "photo 1 1")
    assert splits(voc.read(tmp_path)) == {"photo": "train", "photo 1": "val", "b": "train"}


def test_labels_and_lists_go_by_path(tmp_path: Path) -> None:
    voc_set(tmp_path, "a/0", "b/0", "b/1")
    lines(tmp_path, "train", "a/0", "JPEGImages/b/1.jpg", "c/1")
    lines(tmp_path, "val", "/content/VOC/JPEGImages/b/0.png", "0")
    dataset = voc.read(tmp_path)
    assert splits(dataset) == {"a/0": "train", "b/0": "val", "b/1": "train"}
    assert [box[2] for box in boxes(dataset)] == [10, 11, 12]
    train, val = dataset.ledger.refused
    assert (train.where, val.where) == ("ImageSets/Main/train.txt:3", "ImageSets/Main/val.txt:2")
    assert "neither an image nor an XML file" in train.what
    assert "'0' is the name of 2 pictures" in val.what


def test_a_half_copied_set_gives_no_label_to_another_picture(tmp_path: Path) -> None:
    voc_set(tmp_path, "a/0", "b/0", "c/1", "d/2")
    for gone in ("JPEGImages/b/0.png", "JPEGImages/c/1.png", "Annotations/d/2.xml"):
        (tmp_path / gone).unlink()
    picture(tmp_path / "JPEGImages/d/1.png")
    dataset = voc.read(tmp_path)
    assert [(r.id, (r.things or [])[0].box[2]) for r in dataset.records] == [("JPEGImages/a/0.png", 10)]
    reasons = {e.where: e.what for e in dataset.ledger.refused}
    assert "JPEGImages/a/0.png is of another" in reasons["Annotations/b/0.xml"]
    assert "JPEGImages/d/1.png is of another" in reasons["Annotations/c/1.xml"]
    assert {"JPEGImages/d/1.png", "JPEGImages/d/2.png"} < set(reasons)


def test_flat_xml_files_for_pictures_in_folders(tmp_path: Path) -> None:
    """Where several pictures have the name, the path that the XML file states decides, or none is taken."""
    for name in ("a/0", "b/0", "b/1"):
        picture(tmp_path / "images" / f"{name}.png")
    for stem in ("0", "1"):
        page(tmp_path / "xmls" / f"{stem}.xml", obj("1 1 9 9"))
    dataset = voc.read(tmp_path)
    assert [r.id for r in dataset.records] == ["images/b/1.png"]
    assert "two images have this name: images/a/0.png and images/b/0.png" in dataset.ledger.refused[0].what
    text = (tmp_path / "xmls/0.xml").read_text()
    for stated in ("<filename>b/0.png</filename>", "<folder>b</folder><filename>0.png</filename>"):
        (tmp_path / "xmls/0.xml").write_text(text.replace("<filename>x.png</filename>", stated))
        assert [r.id for r in voc.read(tmp_path).records] == ["images/b/0.png", "images/b/1.png"]


def test_two_pictures_of_one_stem(tmp_path: Path) -> None:
    """The one that the XML file names has the label; 10.jpg.xml is of 10.jpg."""
    for name in ("0.png", "0.jpg", "1.jpg", "1.png"):
        picture(tmp_path / name)
    page(tmp_path / "0.xml", obj("1 1 10 9"))
    for i, name in enumerate(("1.jpg", "1.png")):
        page(tmp_path / f"{name}.xml", obj(f"1 1 {20 + i} 9"))
    dataset = voc.read(tmp_path)
    assert [(r.id, (r.things or [])[0].box[2]) for r in dataset.records] == [("1.jpg", 20), ("1.png", 21)]
    assert (dataset.ledger.images_refused, dataset.ledger.labels_refused) == (3, 1)
    (tmp_path / "0.xml").write_text((tmp_path / "0.xml").read_text().replace("x.png", "0.jpg"))
    assert [r.id for r in voc.read(tmp_path).records] == ["0.jpg", "1.jpg", "1.png"]


def test_copies_beside_the_pictures_are_left_out(tmp_path: Path) -> None:
    voc_set(tmp_path, "0")
    for folder in ("thumbnails", "masks", "SegmentationClass"):
        picture(tmp_path / folder / "0.png", 10, 10)
    dataset = voc.read(tmp_path)
    assert [r.id for r in dataset.records] == ["JPEGImages/0.png"]
    assert (dataset.ledger.refused, len(dataset.ledger.warnings)) == ([], 1)


def test_lists_of_several_years(tmp_path: Path) -> None:
    """Each list speaks of the folder in which it lies."""
    for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
        voc_set(tmp_path / year, "0", "1")
        lines(tmp_path / year, split, "0")
        lines(tmp_path / year, "trainval", "1")
    lines(tmp_path / "VOC2012", "test", "1")
    (tmp_path / "VOC2012/ImageSets/Main/val.txt").unlink()
    dataset = voc.read(tmp_path)
    assert {r.id: r.split for r in dataset.records} == {
        "VOC2007/JPEGImages/0.png": "train",
        "VOC2012/JPEGImages/1.png": "test",
    }


def test_the_set_reads_alike_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no folder above it names a split, nor a word in the name of a folder of it."""
    root = tmp_path / "test" / "SegmentationClass" / "ImageSets"
    voc_set(root, "train_station/a", "b")
    (root / "labels.txt").write_text("b\n")
    outside = voc.read(root)
    monkeypatch.chdir(root)
    for dataset in (outside, voc.read(Path())):
        assert splits(dataset) == {"train_station/a": None, "b": None}


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
        ("<object><name>cat</name></object>", "has no <bndbox>"),
        ("<object><name>cat</name><robndbox><cx>5</cx></robndbox></object>", "has <robndbox>, which is not read"),
        ("<object><name>cat</name><polygon><x1>5</x1></polygon></object>", "has <polygon>, which is not read"),
        (obj("2 2 9 9").replace("<name>cat</name>", "<name>cat</name><name>dog</name>"), "2 <name> (cat, dog)"),
        (obj("2 2 9 9").replace("<xmin>", "<xmin>4</xmin><xmin>"), "several <xmin>"),
        ("<objects>" + obj("2 2 2 9") + "</objects>", "no area"),
        ("<object><name>cat</name><part>" + obj("2 2 9 9")[8:-9] + "</part></object>", "has no <bndbox>"),
        (obj("1 5 " + "9" * 5000 + " 10"), "finite"),
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


def test_several_boxes_of_one_object(tmp_path: Path) -> None:
    """Some tools write an <object> a class: each <bndbox> is an object, and a bad one is refused by itself."""
    one, two, bad = (obj(box)[25:-9].partition("</difficult>")[2] for box in ("1 1 9 9", "11 1 19 9", "5 5 5 9"))
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", f"<object><name>cat</name><difficult>1</difficult>{one}{bad}{two}</object>")
    dataset = voc.read(tmp_path)
    assert boxes(dataset) == [(0, 0, 9, 9), (10, 0, 19, 9)]
    assert [t.difficult for t in dataset.records[0].things or []] == [True, True]
    assert [(e.where, e.what) for e in dataset.ledger.repaired] == [
        ("a.xml: object 1", "has 3 <bndbox>: read as 3 objects")
    ]
    assert [e.where for e in dataset.ledger.refused] == ["a.xml: object 1, box 2"]


def test_an_outline_beside_a_box_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    page(tmp_path / "a.xml", obj("1 1 9 9").replace("</object>", "<polygon><x1>1</x1></polygon></object>"))
    dataset = voc.read(tmp_path)
    assert boxes(dataset) == [(0, 0, 9, 9)]
    assert "outline beside" in dataset.ledger.repaired[0].what


def test_the_own_form_of_cvat_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "annotations.xml").write_text("<annotations><image name='a.png'/></annotations>")
    with pytest.raises(DataError, match=r"annotations\.xml holds <annotations>, CVAT's own form: it is read as cvat:"):
        voc.read(tmp_path)


def test_the_work_grows_with_the_input(tmp_path: Path) -> None:
    """Twice the pictures of one name, lines and classes cost about twice the calls, which are the same everywhere."""

    def calls(count: int) -> int:
        root = tmp_path / str(count)
        for i in range(count):
            page(root / f"Annotations/{i}/0.xml", obj("1 1 9 9", f"class {i}"))
        picture(root / "JPEGImages/0/0.png")
        lines(root, "train", *(f"/content/{i}/0.jpg" for i in range(count)), "a/" * 200_000 + "0.jpg")
        profile = cProfile.Profile()
        profile.runcall(voc.read, root)
        return sum(entry.callcount for entry in profile.getstats())

    calls(5)  # imports
    first, second = calls(40), calls(80)
    assert second < 2.3 * first


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
