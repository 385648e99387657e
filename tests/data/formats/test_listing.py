"""Which files are images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from saccade.data.dataset import Ledger
from saccade.data.formats.listing import Pictures, images_to_look_at, list_folders, list_images, measure
from saccade.data.picture_kinds import OTHER_SUFFIXES, SUFFIXES
from saccade.errors import DataError


def _names(root: Path) -> list[str]:
    return [p.relative_to(root).as_posix() for p in list_images(root)]


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_foreign_files_are_ignored_and_order_is_that_of_code_points(tmp_path: Path) -> None:
    _touch(tmp_path, "b/2.jpg", "b/10.JPG", "a.png", "B.tiff", "é.webp", "b.txt", "nosuffix")
    _touch(tmp_path, ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "b/._2.jpg", "b/Thumbs.db", ".x/y.png")
    assert _names(tmp_path) == ["B.tiff", "a.png", "b/10.JPG", "b/2.jpg", "é.webp"]
    assert [p.name for p in list_folders(tmp_path)] == ["b"]


def test_a_link_to_the_parent_ends_and_each_picture_counts_once(tmp_path: Path) -> None:
    _touch(tmp_path, "set/zz/a.png", "set/b.png")
    (tmp_path / "set/zz/up").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set/again").symlink_to(tmp_path / "set/zz", target_is_directory=True)
    assert _names(tmp_path / "set") == ["b.png", "zz/a.png"]


def test_broken_links_with_the_name_of_a_picture_are_refused_not_overlooked(tmp_path: Path) -> None:
    _touch(tmp_path, "text")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    ledger = Ledger()
    assert measure(tmp_path, list_images(tmp_path), ledger) == {}
    assert [entry.where for entry in ledger.refused] == ["broken.png", "loop.png"]


def test_a_folder_outside_is_reached_by_a_link(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert _names(tmp_path / "set") == ["images/a.png"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jfif", "JPEG"), ("b.JPE", "JPEG"), ("c.pbm", "PPM"), ("d.pnm", "PPM"), ("e", "PNG"), ("f.download", "JPEG"),
     ("g.heic", "JPEG"), ("h.apng", "PNG"), ("i.jpg_large", "WEBP")],
)  # fmt: skip
def test_a_picture_is_used_whatever_its_suffix(tmp_path: Path, name: str, kind: str) -> None:
    Image.new("RGB", (9, 5), (200, 9, 9)).save(tmp_path / name, kind)
    ledger = Ledger()
    assert measure(tmp_path, list_images(tmp_path), ledger) == {tmp_path / name: (5, 9)}
    assert ledger.refused == []


def test_every_picture_of_a_format_that_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    heads = {
        "a.heic": b"\0\0\0\x18ftypheic",
        "b.jxl": b"\xff\x0a",
        "c": b"\0\0\0\x0cJXL \r\n\x87\n",
        "d.svg": b"<svg/>",
    }
    for name, head in heads.items():
        (tmp_path / name).write_bytes(head + bytes(100))
    Image.new("RGB", (9, 5)).save(tmp_path / "e.dng", "TIFF")  # a preview is all that could be read of it
    _touch(tmp_path, "f.avif", "g.jp2", "notes.txt", "no_picture", "weights.pth")
    ledger = Ledger()
    assert measure(tmp_path, images_to_look_at(tmp_path), ledger) == {}
    assert [e.where for e in ledger.refused] == [*sorted(heads), "e.dng", "f.avif", "g.jp2"]
    assert "raw file" in ledger.refused[4].what


def test_the_suffixes_are_those_of_the_formats_that_are_decoded() -> None:
    Image.init()
    known = {s for s, kind in Image.registered_extensions().items() if kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF",
             "GIF", "PPM", "MPO")}  # fmt: skip
    assert known <= set(SUFFIXES)
    assert not set(SUFFIXES) & set(OTHER_SUFFIXES)


def test_folders_without_end_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 70)).mkdir(parents=True)
    with pytest.raises(DataError, match="more than 64 folders in each other"):
        list_images(tmp_path)


def _find(stated: str, *names: str) -> str:
    """What `Pictures` says of pictures of these names below /set."""
    root = Path("/set")
    try:
        return Pictures(root, [root / name for name in names]).find(stated).relative_to(root).as_posix()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize(
    ("stated", "names", "wanted"),
    [
        ("train/0.jpg", ["train/0.jpg", "valid/0.jpg", "0.jpg"], "train/0.jpg"),
        ("0.jpg", ["train/0.jpg", "0.jpg"], "0.jpg"),
        ("0.jpg", ["train/0.jpg"], "train/0.jpg"),
        ("/content/data/train/0.jpg", ["train/0.jpg", "valid/0.jpg"], "train/0.jpg"),
        ("C:\\me\\train\\0.jpg", ["train/0.jpg", "valid/0.jpg"], "train/0.jpg"),
        ("./images//0.jpg", ["data/images/0.jpg"], "data/images/0.jpg"),
        ("images/0.jpg", ["0.jpg"], "0.jpg"),
        ("0", ["a/0.jpg", "1.jpg"], "a/0.jpg"),
        ("0_jpg.rf.abc", ["0_jpg.rf.abc.jpg"], "0_jpg.rf.abc.jpg"),
        ("A.JPG", ["a.jpg"], "a.jpg"),
        ("A.JPG", ["a.jpg", "A.JPG"], "A.JPG"),
        ("cafe\u0301.png", ["caf\u00e9.png"], "caf\u00e9.png"),
    ],
)
def test_a_label_goes_to_the_picture_that_it_states(stated: str, names: list[str], wanted: str) -> None:
    assert _find(stated, *names) == wanted


@pytest.mark.parametrize(
    ("stated", "names", "words"),
    [
        ("0.jpg", ["train/0.jpg", "valid/0.jpg"], "is the name of several pictures: train/0.jpg, valid/0.jpg"),
        ("valid/0.jpg", ["train/0.jpg", "valid/1.jpg", "0.jpg"], "no picture 'valid/0.jpg'"),
        ("test/0.jpg", ["train/0.jpg"], "there is train/0.jpg"),
        ("0", ["0.jpg", "0.png"], "several pictures: 0.jpg, 0.png"),
        ("0.png", ["0.jpg"], "there is 0.jpg"),
        ("", ["0.jpg"], "no picture ''"),
        ("../../0.jpg", ["0.jpg"], "no picture '../../0.jpg'"),
    ],
)
def test_and_to_no_other(stated: str, names: list[str], words: str) -> None:
    assert words in _find(stated, *names)


def test_sixteen_bits_of_which_twelve_are_used_are_told(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 54).astype(np.uint16).reshape(6, 9)
    for i in range(50):
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    ledger = Ledger()
    measure(tmp_path, list_images(tmp_path), ledger)
    assert len(ledger.warnings) == 1
    assert "50 files of 16 bits, such as 0.png, use values up to about 4112 of 65535" in ledger.warnings[0]
    assert "If they hold 12 bits, multiply their values by 16" in ledger.warnings[0]
    Image.fromarray(values * 16).save(tmp_path / "0.png")
    ledger = Ledger()
    measure(tmp_path, list_images(tmp_path), ledger)
    assert ledger.warnings == []


def test_colour_of_sixteen_bits_is_told_too(tmp_path: Path) -> None:
    dark = np.full((6, 9, 3), 4095, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), dark)
    cv2.imwrite(str(tmp_path / "b.tiff"), dark)
    (tmp_path / "c.ppm").write_bytes(b"P6 9 6 65535\n" + dark.astype(">u2").tobytes())
    for path in list_images(tmp_path):
        ledger = Ledger()
        measure(tmp_path, [path], ledger)
        assert "nearly black" in ledger.warnings[0]
