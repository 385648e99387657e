"""A leading `~` is the home of the person, wherever a path may be given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import saccade
from saccade.machine.paths import at_home, short_names_of

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a picture, and another folder to work in."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(tmp_path / "elsewhere")
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    return folder


def test_what_is_expanded(home: Path) -> None:
    assert at_home("~/x") == f"{home}/x"
    assert at_home(Path("~/x")) == home / "x"
    assert at_home("~") == str(home)
    assert at_home("coco:~/x") == f"coco:{home}/x"
    for plain in ("x~", "./~/x", "a/~/b", "imagenet", "~~nobody~~/x", "camera:0", "", None):
        assert at_home(plain) == plain


def test_every_verb_knows_where_home_is(
    home: Path, run: Path, colours: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "run").symlink_to(run, target_is_directory=True)
    (home / "data").symlink_to(colours, target_is_directory=True)
    (home / "names.txt").write_text("\n".join(map(str, range(10))))
    (home / "some.yaml").write_text("epochs: 1")
    boxes = home / "boxes"
    (boxes / "images").mkdir(parents=True)
    (boxes / "labels").mkdir()
    Image.new("RGB", (32, 32)).save(boxes / "images" / "a.png")
    (boxes / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (boxes / "data.yaml").write_text("train: images\nval: images\nnames: [thing]\n")
    made = {
        "new": ["train", "resnet20", "~/data", "--out=~/new", "--config=~/some.yaml", "--weights=~/run"],
        "scores/report.html": ["evaluate", "~/run", "folder:~/data", "--out=~/scores", "--workers=0"],
        "answers/a.png": ["predict", "~/run", "~/a.png", "--out=~/answers"],
        "maps/report.html": ["explain", "~/run", "~/a.png", "--out=~/maps", "--methods=grad_cam"],
        "m.pt2": ["export", "~/run", "--to=torch", "--out=~/m.pt2"],
        "sheet/contact_sheet.png": ["check", "~/data", "--out=~/sheet"],
        "voc": ["convert", "yolo:~/boxes", "--to=voc", "--out=~/voc"],
    }
    small = ["--workers=0", "--batch=8", "--set=width=4", "--set=depths=[1,1,1]"]
    for name, words in made.items():
        code, _, err = shell(*words, *(small if words[0] == "train" else ()))
        assert code == 0, (words, err)
        assert (home / name).exists(), words
    assert os.listdir() == []
    assert saccade.load("~/run").predict("~/a.png").label is not None
    assert saccade.predict(Path("~/run"), "~/*.png")[0]["size"] == [32, 32]


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names_of([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert short_names_of([Path("/a/run"), Path("/b/run")]) == ["a/run", "b/run"]
    assert short_names_of([]) == []
