"""Every bad input of tests/corpus.py through the command line: exit code, the file named, no traceback, nothing of the
user's changed, nothing run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from corpus import (
    ARGUMENTS,
    COPY,
    HOSTILE_NAMES,
    PICKLE,
    SETS,
    SETTINGS,
    Case,
    encoded,
    folders,
    model_files,
    pictures,
    pixels,
    put,
)

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
PICTURES = pictures()
TINY = ["--set", "width=4", "--set", "depths=[1,1,1]", "--batch", "4", "--workers", "0", "--precision", "fp32"]


def contents(folder: Path) -> dict[str, str]:
    """Hash of every regular file, and where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "no file"
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_answered_for_or_refused_by_name(name: str, run: Path, tmp_path: Path, shell: Shell) -> None:
    content, refusal = PICTURES[name]
    path = put(tmp_path / name, content)
    code, out, err = shell("predict", run, path, "--json", "--workers", 0, "--out", tmp_path / "out")
    assert path.read_bytes() == content
    if refusal is None:
        assert code == 0, err
        (answer,) = json.loads(out)
        assert answer["image"] == str(path)
        assert sum(row["score"] for row in answer["scores"]) == pytest.approx(1, abs=1e-3)
        assert len(list((tmp_path / "out").iterdir())) == 2
        several = name in ("moving.gif", "moving.png", "moving.webp", "pages.tif")
        note = "holds 3 images (frames or pages); only the first was looked at"
        assert answer.get("notes", []) == ([note] if several else [])
        assert err.count(f"warning: {path}: {note}\n") == several
    else:
        assert (code, out) == (3, "")
        assert str(path) in err
        assert re.search(refusal, err), err


def test_the_same_pictures_in_a_data_set_are_accounted_for(tmp_path: Path, shell: Shell) -> None:
    """Those that can be read are used; of the others each is named with its reason, and the check goes on."""
    root = tmp_path / "data"
    for i, (name, (content, _)) in enumerate(PICTURES.items()):
        put(root / ("a", "b")[i % 2] / name, content)
    before = contents(root)
    code, out, _ = shell("check", root, "--json")
    assert contents(root) == before
    assert code == 0
    result = json.loads(out)
    named = {entry["where"].split("/")[-1]: entry["why"] for entry in result["refused"]}
    bad = {name: refusal for name, (_, refusal) in PICTURES.items() if refusal is not None}
    assert named.keys() == bad.keys()
    for name, why in named.items():
        assert re.search(bad[name], why), why
    assert result["images"] == result["used"]["images"] == len(PICTURES) - len(bad)
    assert any("4 files hold several images, such as" in warning for warning in result["warnings"])


def test_a_picture_without_a_suffix_is_known_by_its_content(run: Path, tmp_path: Path, shell: Shell) -> None:
    path = put(tmp_path / "photo", encoded(pixels(0)))
    code, out, err = shell("predict", run, path, "--json", "--workers", 0)
    assert code == 0, err
    assert json.loads(out)[0]["image"] == str(path)


def test_model_files_are_refused_by_name(
    run: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = put(tmp_path / "photo.png", encoded(pixels(0)))
    for name, (content, says) in model_files((run / "best.safetensors").read_bytes()).items():
        path = put(tmp_path / "model.safetensors", content)
        code, out, err = shell("predict", path, photo, "--json", "--workers", 0)
        assert (code, out) == (4, ""), f"{name}: {err}"
        assert str(path) in err, name
        assert says in err, f"{name}: {err}"
        assert err.count("\n") == 1, f"{name}: {err}"
        assert len(err) < 1500, name
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "photo.png"]


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
def test_public_weights_that_are_code_are_refused(
    suffix: str, colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / f"model.{suffix}", PICKLE)
    code, _, err = shell("train", "resnet20", colours, "--weights", path, "--out", tmp_path / "run", *TINY)
    assert code == 4, err
    assert str(path) in err
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["folder", "missing", "broken", "loop", "pipe"])
def test_what_is_no_file_is_refused_by_name(kind: str, run: Path, tmp_path: Path, shell: Shell) -> None:
    path = tmp_path / "a.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path.symlink_to("a.jpg" if kind == "loop" else "nothing.jpg")
    code, _, err = shell("predict", run, path, "--json", "--workers", 0)
    assert code == 3
    assert str(path) in err


def test_upright_pictures_have_the_same_answer_as_turned_ones(run: Path, tmp_path: Path, shell: Shell) -> None:
    image, exif = Image.fromarray(pixels(0)), Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    put(tmp_path / "turned.png", encoded(image, "PNG", exif=exif))
    put(tmp_path / "upright.png", encoded(image.rotate(-90, expand=True)))
    words = ["--json", "--batch", 1, "--precision", "fp32"]
    _, out, _ = shell("predict", run, tmp_path / "turned.png", tmp_path / "upright.png", *words)
    one, two = json.loads(out)
    assert [row["name"] for row in one["scores"]] == [row["name"] for row in two["scores"]]
    for first, second in zip(one["scores"], two["scores"], strict=True):
        assert first["score"] == pytest.approx(second["score"], abs=1e-4)
    assert one["size"] == two["size"] == [60, 40]


@pytest.mark.parametrize("case", SETS, ids=lambda case: case.name.replace(" ", "_"))
def test_a_data_set_is_checked_to_the_end_or_refused(case: Case, tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "data").mkdir()
    data = case.build(tmp_path / "data")
    before = contents(tmp_path)
    code, out, err = shell("check", data, "--json")
    assert contents(tmp_path) == before
    assert code == case.code, err
    if code:
        output = err
        assert out == ""
    else:
        result = json.loads(out)
        ledger = [*result["refused"], *result["repaired"], *result["warnings"]]
        output = "\n".join(" ".join(e.values()) if isinstance(e, dict) else e for e in ledger)
        if case.refused is not None:
            assert len(result["refused"]) == case.refused, output
    for part in case.says:
        assert part in output, output


@pytest.mark.parametrize(("line", "code", "says"), ARGUMENTS, ids=[a[0] for a in ARGUMENTS])
def test_wrong_arguments_leave_nothing_behind(
    line: str,
    code: int,
    says: tuple[str, ...],
    colours: Path,
    tmp_path: Path,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = shell("train", "resnet20", colours, *line.split())
    assert (got, out) == (code, ""), err
    for part in says:
        assert part in err, err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("content", "code", "says"), SETTINGS, ids=range(len(SETTINGS)))
def test_wrong_settings_files(
    content: bytes, code: int, says: tuple[str, ...], colours: Path, tmp_path: Path, shell: Shell
) -> None:
    path = put(tmp_path / "settings.yaml", content)
    got, _, err = shell("train", "resnet20", colours, "--config", path, "--out", tmp_path / "run")
    assert got == code, err
    for part in says:
        assert part in err, err[:2000]
    assert len(err) < 5000
    assert os.listdir(tmp_path) == ["settings.yaml"]


def test_hostile_names(run: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the ledger and in JSON as they are, in the report escaped, and never run."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    for i, name in enumerate(HOSTILE_NAMES):
        for split in ("train", "val"):
            put(root / split / ("red", "blue")[i % 2] / name, encoded(pixels(i + 100 * (split == "val"))))
    code, out, _ = shell("check", root, "--json", "--out", tmp_path / "sheet")
    result = json.loads(out)
    assert (code, result["refused"], result["images"]) == (0, [], 2 * len(HOSTILE_NAMES))
    code, out, err = shell("predict", run, root / "val", "--json", "--out", tmp_path / "pictures", "--batch", 4)
    assert code == 0, err
    assert sorted(Path(answer["image"]).name for answer in json.loads(out)) == sorted(HOSTILE_NAMES)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(HOSTILE_NAMES)
    code, out, err = shell("evaluate", run, root, "--json", "--out", tmp_path / "scores")
    assert code == 0, err
    page = (tmp_path / "scores/report.html").read_text(encoding="utf-8")
    assert "onerror=alert(1)>" not in page
    assert not list(tmp_path.rglob("canary"))
    assert sorted(os.listdir(tmp_path)) == ["data", "pictures", "scores", "sheet"]


def test_names_that_look_like_options_or_patterns_are_files(
    run: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(HOSTILE_NAMES):
        put(tmp_path / name, encoded(pixels(i)))
    code, out, err = shell("predict", run, "--json", "--", *HOSTILE_NAMES)
    if "camera:0.png" in HOSTILE_NAMES:
        assert code == 0, err
    assert [answer["image"] for answer in json.loads(out)] == list(HOSTILE_NAMES)


@pytest.mark.parametrize("form", ["{0}/", "{0}/../data", "link", "./data"])
def test_paths_in_any_form(form: str, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders()(tmp_path / "data")
    (tmp_path / "link").symlink_to("data")
    assert shell("check", form.format(tmp_path / "data"), "--json")[0] == 0


def test_a_leak_is_told_before_training_and_in_the_run(tmp_path: Path, shell: Shell) -> None:
    data = folders(("val/cat/7.jpg", COPY))(tmp_path / "data")
    code, _, err = shell("train", "resnet20", data, "--out", tmp_path / "run", "--epochs", 1, *TINY)
    assert code == 0, err
    assert "warning: leak: 1 of 5 pictures of val are also in train" in err
    assert json.loads((tmp_path / "run/data_report.json").read_text())["warnings"][0].startswith("leak")
    assert "leak: 1 of 5" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_training_goes_on_without_corrupt_pictures_up_to_a_share(share: float, tmp_path: Path, shell: Shell) -> None:
    data = folders()(tmp_path / "data")
    order = ["train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "val/cat/0", "val/dog/0", "val/cat/1"]
    for name in order[: round(10 * share)]:
        (data / f"{name}.png").write_bytes(b"\x89PNG not really")
    code, _, err = shell("train", "resnet20", data, "--out", tmp_path / "run", "--epochs", 1, *TINY)
    if share <= 0.5:
        assert code == 0, err
        config = json.loads((tmp_path / "run/config.json").read_text())
        assert config["images"] == {"train": 2, "val": 3}
    else:
        assert code == 3
        assert "7 of 10 images are refused" in err
        assert "train/cat/0.png" in err
