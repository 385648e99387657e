"""`saccade predict`: sources, what is said of each task, and that batch and front make no difference."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.data.rle import decode_rle, draw_polygons
from saccade.data.types import Annotation
from saccade.errors import DataError, ResourceError, UsageError
from saccade.models import model_config, model_module
from saccade.verbs.predict import Options, answers
from saccade.verbs.predict import _of_images as answers_of

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("resnet20", {"width": 4, "depths": (1, 1, 1)}),
    "tag": ("resnet20", {"width": 4, "depths": (1, 1, 1), "task": "tag"}),
    "localize": ("localizer_small", {"trunk_width": 8, "per_class": True}),
    "detect": ("atss_small", {"trunk_width": 8, "channels": 16}),
    "segment": ("unet_light", {}),
    "instances": ("mask_rcnn_small", {"trunk_width": 8, "channels": 8, "head_width": 16, "mask_width": 8}),
}
CLASSES = ["cat", "dog", "<owl>"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained networks of every task as run folders."""
    root, made = tmp_path_factory.mktemp("runs"), {}
    for task, (name, changes) in MODELS.items():
        torch.manual_seed(0)
        config = model_config(name, classes=len(CLASSES), **changes)
        model: Any = model_module(name).Model(config)
        if task == "instances":  # masks that are neither empty nor whole
            torch.nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight)
        resize = "stretch" if task != "segment" else "letterbox"
        shape = Preprocessing(size=(64, 64), resize=resize, scale=1.0)  # type: ignore[arg-type]
        state = checkpoint.Checkpoint(
            name, dataclasses.asdict(config), CLASSES, task, shape.to_json(), model.state_dict()
        )
        (root / task).mkdir()
        checkpoint.save(state, root / task / "best.safetensors")
        made[task] = root / task
    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five pictures of different sizes in a folder, in the middle of the alphabet one that cannot be read."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "d.png", "deeper/a.png", "e.png")):
        pixels = np.random.default_rng(i).integers(0, 255, (50 + 7 * i, 90 - 9 * i, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def test_every_task_says_what_it_should(runs: dict[str, Path], images: Path) -> None:
    for task, run in runs.items():
        (answer,) = saccade.predict(run, images / "a.png", threshold=0.0, precision="fp32")
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        assert answer["size"] == [50, 90]
        if task == "classify":
            assert set(answer) == {"image", "size", "label", "scores"}
            assert sorted(row["name"] for row in answer["scores"]) == sorted(CLASSES)
            assert answer["label"] == answer["scores"][0]["name"]
        elif task == "localize":
            assert set(answer) == {"image", "size", "label", "scores", "objects"}
            assert answer["objects"]["names"] == [answer["label"]]  # one, though there is a box for each class
        elif task == "tag":
            assert [tag["name"] for tag in answer["tags"]] == CLASSES
        elif task in ("detect", "instances"):
            objects = answer["objects"]
            assert set(objects) == {"boxes", "labels", "scores", "names"} | ({"masks"} & set(objects))
            assert ("masks" in objects) == (task == "instances")
            assert all(decode_rle(mask).shape == (50, 90) for mask in objects.get("masks", ()))
            assert len(objects["boxes"]) == len(objects["labels"]) == len(objects["scores"]) > 0
            assert all(objects["names"][i] == CLASSES[label] for i, label in enumerate(objects["labels"]))
            assert all(0 <= x1 <= x2 <= 90 and 0 <= y1 <= y2 <= 50 for x1, y1, x2, y2 in objects["boxes"])
            assert objects["scores"] == sorted(objects["scores"], reverse=True)
        else:
            assert set(answer["mask"]) <= set(CLASSES)
            planes = [decode_rle(part["rle"]) for part in answer["mask"].values()]
            assert np.sum(planes, axis=0).tolist() == np.ones((50, 90)).tolist()  # every pixel has one class
            assert [int(p.sum()) for p in planes] == [part["pixels"] for part in answer["mask"].values()]


def test_masks_as_polygons_and_as_a_map(runs: dict[str, Path], images: Path) -> None:
    """All three ways say the same of the surest object that has a mask; others may be partly under it, or have holes.

    An untrained network marks no pixel of some objects.
    """
    run, picture, out = runs["instances"], images / "a.png", images.parent / "masked"
    lengths = saccade.predict(run, picture, threshold=0.0)[0]["objects"]
    polygons = saccade.predict(run, picture, threshold=0.0, masks="polygons")[0]["objects"]
    mapped = saccade.predict(run, picture, threshold=0.0, masks="png", out=out)[0]["objects"]
    assert len(lengths["masks"]) == len(polygons["polygons"]) == len(mapped["boxes"]) > 1
    assert not {"masks"} & (set(polygons) | set(mapped))
    masks = [decode_rle(mask) for mask in lengths["masks"]]
    number = next(i for i, mask in enumerate(masks) if mask.any())
    first = masks[number]
    assert (draw_polygons(polygons["polygons"][number], (50, 90)) >= first).all()
    numbers = cv2.imread(str(out / mapped["map"]), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16
    assert ((numbers == number + 1) == first).all()
    assert json.loads((out / "predictions.json").read_text())[0]["objects"] == mapped


@pytest.mark.parametrize(
    ("task", "form", "message"),
    [
        ("instances", "png", "into --out DIR"),
        ("instances", "polygon", "did you mean 'polygons'"),
        ("detect", "polygons", "answers to detect, without masks"),
    ],
)
def test_masks_that_cannot_be_had(
    runs: dict[str, Path], images: Path, task: str, form: str, message: str, shell: Shell
) -> None:
    code, out, err = shell("predict", runs[task], images / "a.png", "--masks", form, "--json")
    assert (code, out) == (2, "")
    assert message in err


def test_thresholds(runs: dict[str, Path], images: Path) -> None:
    everything = saccade.predict(runs["detect"], images / "a.png", threshold=0.0)[0]["objects"]["scores"]
    middle = sorted(everything)[len(everything) // 2]
    some = saccade.predict(runs["detect"], images / "a.png", threshold=middle)[0]["objects"]["scores"]
    assert 0 < len(some) < len(everything)
    assert min(some) >= middle - 1e-5
    for nms in ("hard", "soft"):  # boxes that nobody will see change nothing of the others
        whole, part = (
            saccade.predict(runs["detect"], images / "a.png", threshold=least, nms=nms)[0]["objects"]
            for least in (0.0, middle)
        )
        assert 0 < len(part["boxes"]) < len(whole["boxes"])
        assert part == {name: column[: len(part["boxes"])] for name, column in whole.items()}
    assert saccade.predict(runs["tag"], images / "a.png", threshold=1.0)[0]["tags"] == []
    with pytest.raises(UsageError, match=r"threshold is 1\.5, allowed: 0 to 1"):
        saccade.predict(runs["tag"], images / "a.png", threshold=1.5)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_order_unreadable_pictures_and_unique_names(runs: dict[str, Path], images: Path, batch: int) -> None:
    out = images.parent / "out"
    sources = [str(images / "e.png"), images, str(images / "*.jpg")]
    answers = saccade.predict(runs["classify"], sources, out=out, batch=batch, workers=0)
    names = [Path(answer["image"]).relative_to(images).as_posix() for answer in answers]
    assert names == ["e.png", "a.png", "b.jpg", "c.png", "d.png", "deeper/a.png", "e.png", "b.jpg"]
    assert ["error" in answer for answer in answers] == [name == "c.png" for name in names]
    assert str(images / "c.png") in answers[3]["error"]
    assert json.loads((out / "predictions.json").read_text()) == answers
    assert sorted(os.listdir(out)) == ["a-2.png", "a.png", "b.jpg", "d.png", "e.png", "predictions.json"]
    assert numbers(answers[0]) == pytest.approx(numbers(answers[6]), abs=1e-4)


def test_sources_are_never_written_over(runs: dict[str, Path], images: Path, tmp_path: Path, shell: Shell) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    for out in (images, tmp_path / "link", images / "deeper"):
        code, _, err = shell("predict", runs["classify"], images / "a.png", images / "deeper", "--out", out)
        assert code == 2, err
        assert "would take the place of" in err
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before
    saccade.predict(runs["classify"], images / "a.png", out=images / "answers", workers=0)
    assert (images / "answers" / "a.png").is_file()


def test_sources_that_are_not_there(
    runs: dict[str, Path], images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for source, says in (("nothing.png", "no such image"), ("*.gif", "pattern"), (tmp_path / "empty", "no image in")):
        with pytest.raises(DataError, match=says):
            saccade.predict(runs["classify"], source)
    with pytest.raises(DataError, match=r"no image could be read.*c\.png"):
        saccade.predict(runs["classify"], images / "c.png")
    with pytest.raises(UsageError, match="save crops: of pictures alone; the answers for camera:0"):
        saccade.predict(runs["detect"], "camera:0", out=tmp_path, save="crops")
    with pytest.raises(UsageError, match="camera:0"):
        saccade.predict(runs["classify"], "camera:front")
    for wrong in (b"bytes", [b"bytes"], 2.5, np.zeros((2, 2, 3), np.uint8)):
        with pytest.raises(UsageError, match="is no source; allowed: paths"):
            saccade.predict(runs["classify"], wrong)
    for name in ("batch", "frames"):
        with pytest.raises(UsageError, match="batch and frames are at least 1, not 0"):
            saccade.predict(runs["classify"], images, **{name: 0})
    with pytest.raises(UsageError, match="is the folder of a run"):
        saccade.predict(runs["classify"], images, out=tmp_path / "run")
    with pytest.raises(DataError, match="camera:99: no such camera"):
        saccade.predict(runs["classify"], "camera:99")
    assert capfd.readouterr().err == ""  # of OpenCV


def test_class_maps_as_polygons_coco_and_palette(runs: dict[str, Path], images: Path) -> None:
    """All ways say the same of every pixel; coco.json is of the images that were read, objects and class maps alike."""
    run, out = runs["segment"], images.parent / "maps"
    lengths = saccade.predict(run, images, precision="fp32")
    polygons = saccade.predict(run, images, masks="polygons", out=out, precision="fp32")
    mapped = saccade.predict(run, images, masks="png", out=out, precision="fp32")
    coco = json.loads((out / "coco.json").read_text())
    assert [row["file_name"] for row in coco["images"]] == [a["image"] for a in polygons if "error" not in a]
    assert [row["name"] for row in coco["categories"]] == CLASSES
    numbers = {image["file_name"]: image["id"] for image in coco["images"]}
    for first, second, third in zip(lengths, polygons, mapped, strict=True):
        if "error" in first:
            continue
        picture = Image.open(out / third["map"])
        assert picture.mode == "P"
        plane, size = np.array(picture), tuple(first["size"])
        rows = [row for row in coco["annotations"] if row["image_id"] == numbers[first["image"]]]
        assert len(rows) == len(first["mask"]) == len(second["mask"])
        for (name, part), row in zip(first["mask"].items(), rows, strict=True):
            mask = decode_rle(part["rle"])
            assert CLASSES[row["category_id"] - 1] == name
            assert (mask == (plane == CLASSES.index(name))).all()
            drawn = np.sum([draw_polygons([p], size) for p in second["mask"][name]["polygons"]], axis=0)
            assert (drawn == mask).all()
            assert row["segmentation"] == second["mask"][name]["polygons"]
            assert row["area"] == mask.sum() == part["pixels"]
            ys, xs = np.nonzero(mask)
            assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    saccade.predict(runs["instances"], images / "a.png", threshold=0.0, masks="polygons", out=out)
    objects = json.loads((out / "coco.json").read_text())
    assert objects["annotations"]
    assert all(0 <= row["score"] <= 1 and row["image_id"] == 1 for row in objects["annotations"])
    with pytest.raises(UsageError, match="answers to detect, without masks of objects or classes"):
        saccade.predict(runs["detect"], images, masks="polygons")


def test_videos(runs: dict[str, Path], tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4")
    answers = saccade.predict(runs["detect"], film, out=tmp_path / "out", threshold=0.0)
    assert [answer["image"] for answer in answers] == [f"{film}#{i}" for i in range(6)]
    assert all(answer["size"] == [48, 64] for answer in answers)
    assert [(answer["frame"], answer["time"]) for answer in answers] == [(i, pytest.approx(i / 10)) for i in range(6)]
    lines = [json.loads(line) for line in (tmp_path / "out" / "film.mp4.jsonl").read_text().splitlines()]
    assert lines == [{name: value for name, value in answer.items() if name != "image"} for answer in answers]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    assert len(saccade.predict(runs["detect"], film, frames=2)) == 2
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(DataError, match=r"text\.mp4: cannot be opened as a video"):
        saccade.predict(runs["detect"], tmp_path / "text.mp4")


def test_files_that_are_no_videos_are_never_shown_to_ffmpeg(
    runs: dict[str, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"ffconcat version 1.0\nfile '{images / 'a.png'}'\n"
    for name, content in (("script.mp4", script), ("list.mkv", "#EXTM3U\nhttp://127.0.0.1/a.ts\n"), ("empty.avi", "")):
        (tmp_path / name).write_text(content)
    os.mkfifo(tmp_path / "pipe.mp4")
    os.symlink(tmp_path / "pipe.mp4", tmp_path / "link.mp4")

    def open_nothing(*_: object) -> None:
        raise AssertionError("OpenCV was asked to open it")

    monkeypatch.setattr(cv2, "VideoCapture", open_nothing)
    for name in ("script.mp4", "list.mkv", "empty.avi"):
        with pytest.raises(DataError, match=f"{name}: cannot be opened as a video: its content is none; allowed: MP4"):
            saccade.predict(runs["classify"], tmp_path / name)
    for name in ("pipe.mp4", "link.mp4"):
        with pytest.raises(DataError, match=f"{name}: no such image"):
            saccade.predict(runs["classify"], tmp_path / name)
    undecodable = tmp_path / os.fsdecode(b"\xff.mp4")  # OpenCV would end the process
    undecodable.write_bytes(b"\0\0\0\x1cftypisom")
    with pytest.raises(DataError, match="must be UTF-8; rename it"):
        saccade.predict(runs["classify"], undecodable)


def write_film(path: Path, code: str = "mp4v", frames: int = 6) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 6 * i, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("name", ["tcp:127.0.0.1:1.mp4", "12:30:00.mp4", "concat:a.mp4", "%03d.avi", "a.mkv", "a.mov"])
def test_the_name_of_a_video_is_no_address(
    name: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(tmp_path / f"film{Path(name).suffix}", "MJPG" if name.endswith("avi") else "mp4v").rename(
        tmp_path / name
    )
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    answers = saccade.predict(runs["classify"], name, out="out", frames=3)
    assert [answer["image"] for answer in answers] == [f"{name}#{i}" for i in range(3)]
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1
    assert dict(os.environ) == before


def test_a_video_that_cannot_be_drawn_is_noted(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "film.mp4", frames=2)
    writer = cv2.VideoWriter()  # of no file
    monkeypatch.setattr(cv2, "VideoWriter", type("Closed", (), {"__new__": lambda *_: writer, "fourcc": lambda *_: 0}))
    one, two = saccade.predict(runs["classify"], film, out=tmp_path / "out")
    (note,) = one["notes"]
    assert "frames of 64 x 48 pixels" in note
    assert str(tmp_path / "out" / "film.mp4") in note
    assert "notes" not in two
    assert sorted(os.listdir(tmp_path / "out")) == ["film.mp4.jsonl", "predictions.json"]


def test_a_drawn_video_that_is_not_whole_is_an_error(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, writer = write_film(tmp_path / "film.mp4", frames=3), cv2.VideoWriter

    class Full:
        """Of a disk that is full after two frames; OpenCV does not say so."""

        def __init__(self, *given: Any) -> None:
            self.writer, self.frames = writer(*given), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.writer, name)

        def write(self, frame: np.ndarray) -> None:
            self.frames += 1
            if self.frames <= 2:
                self.writer.write(frame)

        fourcc = staticmethod(writer.fourcc)

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(ResourceError, match=r"film\.mp4: not written whole \(2 of 3 frames\).*disk"):
        saccade.predict(runs["classify"], film, out=tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["film.mp4.jsonl", "predictions.json"]
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 3


def test_a_broken_video_does_not_end_the_batch(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.avi", "MJPG", frames=40)
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no film")
    films = [tmp_path / name for name in ("text.mp4", "cut.avi", "whole.avi")]
    answers = saccade.predict(runs["classify"], [images / "a.png", *films], out=tmp_path / "out")
    errors = [answer["error"] for answer in answers if "error" in answer]
    assert len(answers) - len(errors) > 41
    assert len(errors) == 2
    assert "text.mp4: cannot be opened as a video" in errors[0]
    assert re.search(r"cut\.avi: ends after [0-9]+ of about 40 frames", errors[1])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == answers


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cut", r"ends after [0-9]+ of about 40 frames; is it whole\?.*[0-9]+ frames are answered; they are in"),
        ("empty", "no frame could be read"),
        ("codec", "cannot be opened as a video; is it whole, and of a codec that FFmpeg knows"),
    ],
)
def test_a_faulty_video_alone_ends_with_the_code_of_data(
    fault: str, says: str, runs: dict[str, Path], tmp_path: Path, shell: Shell
) -> None:
    """What was answered before is kept, and printed."""
    film = write_film(tmp_path / "film.avi", "MJPG", frames=0 if fault == "empty" else 40)
    content = film.read_bytes()
    if fault == "cut":
        film.write_bytes(content[: len(content) // 2])
    if fault == "codec":
        film.write_bytes(content.replace(b"MJPG", b"ZQZQ"))
    code, out, err = shell("predict", runs["classify"], film, "--out", tmp_path / "out", "--json")
    assert code == 3, err
    assert re.search(says, err)
    kept = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "error" in kept[-1]
    if fault != "cut":
        assert (out, len(kept)) == ("", 1)
        return
    assert json.loads(out) == kept
    assert len(kept) > 2
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == len(kept) - 1
    assert saccade.predict(runs["classify"], film, frames=3)[-1]["frame"] == 2  # asked for less than there is


@pytest.mark.parametrize("address", ["rtsp://127.0.0.1/live", "http://127.0.0.1/a.mp4", "file:///a.mp4"])
def test_addresses_are_not_opened(
    address: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("OpenCV was asked to open it"))
    code, _, err = shell("predict", runs["classify"], address)
    assert code == 2
    assert f"{address}: addresses are not opened" in err


def test_the_rate_is_drawn_where_it_is_asked_for(runs: dict[str, Path], tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (256, 192))
    for _ in range(3):
        writer.write(np.full((192, 256, 3), 255, np.uint8))
    writer.release()
    pictures = {}
    for fps in (False, True):
        saccade.predict(runs["detect"], tmp_path / "film.avi", out=tmp_path / "out", threshold=1.0, fps=fps)
        pictures[fps] = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4")).read()[1]
    corner = np.s_[:12, -60:]
    assert pictures[False][corner].mean() > 250
    assert pictures[True][corner].mean() < 150
    assert pictures[True][20:, :].mean() > 250


def test_windows_where_opencv_has_them(
    runs: dict[str, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    film = write_film(tmp_path / "film.mp4")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    code, _, err = shell("predict", runs["detect"], film, "--show", "--json")
    assert (code, "headless build, which has no windows" in err) == (2, True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           GTK3\n")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if sys.platform == "linux":
        with pytest.raises(UsageError, match="there is no display"):
            saccade.predict(runs["detect"], film, show=True)
    monkeypatch.setenv("DISPLAY", ":9")
    with pytest.raises(UsageError, match="--show is for videos and cameras"):
        saccade.predict(runs["detect"], images, show=True)
    shown: list[tuple[int, ...]] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 2 else -1)
    found = saccade.predict(runs["detect"], write_film(tmp_path / "long.mp4", frames=40), show=True)
    assert set(shown) == {(48, 64, 3)}
    assert 2 <= len(found) < 20  # q ends it, but for what was on its way


class Camera:
    """An endless camera; a signal comes with picture number 3."""

    def __init__(self, number: int) -> None:
        self.pictures, self.signal = 0, signal.SIGINT if number == 0 else signal.SIGTERM

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.005)
        self.pictures += 1
        if self.pictures == 3:
            os.kill(os.getpid(), self.signal)
        return True, np.zeros((48, 64, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_leaves_the_answers_whole(
    number: int, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    capture = cv2.VideoCapture  # the drawn video is looked at when it is written
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda *given: Camera(*given) if isinstance(given[0], int) else capture(*given)
    )
    name, folder = f"camera{number}.mp4", tmp_path / "out"
    code, out, err = shell("predict", runs["detect"], number, "--out", folder)
    assert code == 130 + 13 * number
    count = len(out.splitlines())
    assert f"stopped after {count} answers; they are in" in err
    assert f"camera:{number}: {count} frames answered" in err
    written = json.loads((folder / "predictions.json").read_text())
    assert len(written) == count > 0
    assert [answer["image"] for answer in written] == [f"camera:{number}#{answer['frame']}" for answer in written]
    assert sorted(os.listdir(folder)) == [name, f"{name}.jsonl", "predictions.json"]
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert lines == [{k: v for k, v in answer.items() if k != "image"} for answer in written]
    assert capture(str(folder / name)).get(cv2.CAP_PROP_FRAME_COUNT) == written[-1]["frame"] + 1  # it keeps time
    code, out, _ = shell("predict", runs["detect"], f"camera:{number}", "--json")
    assert code == 130 + 13 * number
    assert json.loads(out)[0]["objects"] == written[0]["objects"]


def test_answers_are_written_as_they_come(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "victim").write_text("mine")
    (out / "predictions.jsonl").symlink_to(tmp_path / "victim")
    found = answers(runs["classify"], images, out, Options(batch=1, workers=0))
    seen = [next(found).json for _ in range(3)]
    assert [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()] == seen
    found.close()  # the reader went away
    assert json.loads((out / "predictions.json").read_text()) == seen
    assert not (out / "predictions.jsonl").exists()
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_full_disk_ends_with_advice_for_predict(
    runs: dict[str, Path], images: Path, tmp_path: Path, shell: Shell
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # files end there as on a full disk
    try:
        code, _, err = shell("predict", runs["classify"], images, "--out", tmp_path / "out", "--workers", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 5
    assert "no space left on the disk" in err
    assert "--resume" not in err


@pytest.mark.parametrize(("suffix", "size"), [(".jpg", (70000, 40)), (".webp", (16384, 4))])
def test_a_picture_too_long_for_its_format_becomes_png(
    suffix: str, size: tuple[int, int], runs: dict[str, Path], tmp_path: Path
) -> None:
    Image.new("RGB", size, "white").save(tmp_path / f"long{suffix}", format="PNG")
    Image.new("RGB", (64, 64)).save(tmp_path / f"long{suffix}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "z.png")
    names = [f"long{suffix}", f"long{suffix}.png", "z.png"]
    found = saccade.predict(runs["classify"], [tmp_path / name for name in names], out=tmp_path / "out")
    (note,) = found[0]["notes"]
    assert note.startswith(f"the picture with the answer is long{suffix}.png: sides above")
    assert sorted(os.listdir(tmp_path / "out")) == [
        f"long{suffix}-2.png",
        f"long{suffix}.png",
        "predictions.json",
        "z.png",
    ]
    with Image.open(tmp_path / "out" / f"long{suffix}.png") as drawn:
        assert drawn.size == size


def test_two_videos_of_one_name_do_not_overwrite_each_other(runs: dict[str, Path], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        writer = cv2.VideoWriter(str(tmp_path / folder / "f.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    films = [tmp_path / "one" / "f.avi", tmp_path / "two" / "f.avi"]
    saccade.predict(runs["classify"], films, out=tmp_path / "out")
    names = ["f-2.mp4", "f-2.mp4.jsonl", "f.mp4", "f.mp4.jsonl", "predictions.json"]
    assert sorted(os.listdir(tmp_path / "out")) == names


def numbers(value: Any) -> list[float]:
    """All numbers of an answer, in order."""
    if isinstance(value, dict):
        return [n for key in value for n in numbers(value[key])]
    if isinstance(value, list):
        return [n for inner in value for n in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_batch_says_what_each_picture_alone_says(runs: dict[str, Path], images: Path, task: str) -> None:
    one, eight = (saccade.predict(runs[task], images, batch=b, precision="fp32", workers=0) for b in (1, 8))
    for alone, together in zip(one, eight, strict=True):
        assert numbers(alone) == pytest.approx(numbers(together), abs=1e-4)


def test_the_number_of_threads_makes_no_difference_that_counts(runs: dict[str, Path], images: Path) -> None:
    before, printed = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            printed.append(saccade.predict(runs["classify"], images, precision="fp32", workers=0))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*printed, strict=True):
        assert numbers(one) == pytest.approx(numbers(two), rel=1e-5, abs=1e-6)


def test_command_line_and_library_agree(runs: dict[str, Path], images: Path, shell: Shell) -> None:
    code, out, err = shell("predict", runs["detect"], images, "--json", "--workers", 0, "--batch", 1)
    assert code == 3, err  # one of the images is none; the others are answered
    assert "c.png: not an image" in err
    assert "others are answered" in err
    assert json.loads(out) == saccade.predict(runs["detect"], images, batch=1, workers=0)
    loaded = saccade.load(runs["classify"]).predict(images / "a.png")
    (shown,) = saccade.predict(runs["classify"], images / "a.png", batch=1)
    assert loaded.probabilities is not None
    likely = sorted(loaded.probabilities.tolist(), reverse=True)
    assert [row["score"] for row in shown["scores"]] == pytest.approx(likely, abs=1e-5)
    assert loaded.scores.tolist() == pytest.approx(likely[:1])
    with pytest.raises(UsageError, match=r"\[H, W, 3\] uint8"):
        saccade.load(runs["classify"]).predict(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_the_command_and_a_loaded_model_compute_the_same_bits(task: str, runs: dict[str, Path], images: Path) -> None:
    predictor = saccade.load(runs[task])
    paths = [path for path in sorted(images.rglob("*.*")) if path.name != "c.png"]
    for path, one, _ in answers_of(predictor, paths, 1, 0):
        other = predictor.predict(path, threshold=0.0)
        assert isinstance(one, Annotation)
        for name in ("probabilities", "semantic"):
            assert (getattr(one, name) is None) == (getattr(other, name) is None)
            if getattr(one, name) is not None:
                assert torch.equal(getattr(one, name), getattr(other, name))
        if one.objects is not None and other.objects is not None:
            assert torch.equal(one.objects.boxes, other.objects.boxes)
            assert torch.equal(one.objects.labels, other.objects.labels)


def test_a_reader_that_stops_early_ends_the_command_by_its_own_code(runs: dict[str, Path], images: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "saccade", "predict", str(runs["classify"]), str(images), "--json"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        printed = process.stderr.read()
    assert process.returncode == 141, printed
    assert "Traceback" not in printed
    assert "BrokenPipe" not in printed


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_suppression_as_one_asks_for_it(runs: dict[str, Path], images: Path, task: str, shell: Shell) -> None:
    """Of every detector, without code of its own: fewer boxes where classes suppress each other, more where IoU must
    be larger, and by Soft-NMS the same boxes with scores that only fall."""

    def objects(nms: saccade.NmsRule | str) -> dict[str, Any]:
        (answer,) = saccade.predict(runs[task], images / "a.png", threshold=0.0, precision="fp32", nms=nms)
        return dict(answer["objects"])

    hard = objects("hard")
    agnostic, loose = objects(saccade.NmsRule(agnostic=True)), objects(saccade.NmsRule(iou=1.0))
    assert len(agnostic["boxes"]) < len(hard["boxes"]) <= len(loose["boxes"])
    soft = objects("soft_linear")
    assert soft["scores"] == sorted(soft["scores"], reverse=True)
    assert soft["scores"][0] == hard["scores"][0]
    faded = objects(saccade.NmsRule("soft", sigma=5.0))  # so little that an untrained network's scores stay in sight
    assert faded["scores"] not in (hard["scores"], loose["scores"])
    place = runs[task], images / "a.png", "--threshold", 0, "--precision", "fp32", "--json"
    code, out, err = shell("predict", *place, "--nms", "soft_linear")
    assert code == 0, err
    assert json.loads(out)[0]["objects"]["scores"] == soft["scores"]
    code, out, err = shell("predict", *place, "--agnostic-nms", "--iou", 1.0)
    assert len(json.loads(out)[0]["objects"]["boxes"]) >= len(agnostic["boxes"])
    code, _, err = shell("predict", *place, "--nms", "soft", "--iou", 0.4)
    assert (code, "iou is for hard and soft_linear" in err) == (2, True)


def test_suppression_is_for_models_that_find_objects(runs: dict[str, Path], images: Path) -> None:
    for task in ("classify", "localize", "segment"):
        with pytest.raises(UsageError, match=f"this one is to {task}"):
            saccade.predict(runs[task], images / "a.png", nms="soft")
