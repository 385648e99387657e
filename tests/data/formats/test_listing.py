"""Which files are images."""

from __future__ import annotations

from pathlib import Path

from saccade.data.dataset import Ledger
from saccade.data.formats.listing import list_folders, list_images, measure


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
