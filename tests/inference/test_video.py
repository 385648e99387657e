"""Videos and cameras: the answers of pictures, every frame of a file, the newest of a camera, no thread left."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch
from saccade.data.video import Footage
from saccade.errors import DataError
from saccade.inference.predictor import Predictor
from saccade.inference.video import Pace, ahead, behind, predict_frames
from saccade.models import model_config, model_module

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("resnet20", {"width": 4, "depths": (1, 1, 1)}),
    "tag": ("resnet20", {"width": 4, "depths": (1, 1, 1), "task": "tag"}),
    "localize": ("localizer_small", {"trunk_width": 8}),
    "detect": ("atss_small", {"trunk_width": 8, "channels": 16}),
    "segment": ("unet_light", {}),
    "instances": ("mask_rcnn_small", {"trunk_width": 8, "channels": 8, "head_width": 16, "mask_width": 8}),
    "pose": ("keypoint_rcnn_small", {"trunk_width": 8, "channels": 8, "head_width": 16}),
}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [
        thread.name
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("saccade-video")
    ]
    assert not left


def predictor_of(task: str) -> Predictor:
    name, changes = MODELS[task]
    torch.manual_seed(0)
    model: Any = model_module(name).Model(model_config(name, classes=3, **changes))
    preprocessing = Preprocessing(size=(64, 64), resize="letterbox", scale=1.0)
    return Predictor(model.eval(), task, ["a", "b", "c"], preprocessing, "cpu", "fp32")


class Counting(nn.Module):
    """A network whose answer is the mean gray of the image, after some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds, self.batches = seconds, []  # type: ignore[var-annotated]

    def predict(self, batch: Batch) -> list[Annotation]:
        time.sleep(self.seconds)
        self.batches.append(len(batch))
        return [
            Annotation(size, label=0, probabilities=image.mean((1, 2))[:1])
            for image, size in zip(batch.images, batch.sizes, strict=True)
        ]


def counting(seconds: float = 0.0) -> Predictor:
    predictor = Predictor(Counting(), "classify", ["gray"], Preprocessing(size=(32, 32), resize="stretch", scale=1.0))
    predictor.network = Counting(seconds)  # its own, not a copy
    return predictor


def write_clip(path: Path, frames: list[np.ndarray], code: str = "FFV1", rate: float = 10.0) -> Path:
    """A film of BGR frames; FFV1 keeps every pixel."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def grays(count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(count)]


def clouds(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (80, 64)) for _ in range(count)]


def until_error(items: Iterable[Any]) -> tuple[list[Any], str]:
    """What comes before the DataError, and its text."""
    found = []
    try:
        for item in items:
            found.append(item)  # they are kept where the error comes
    except DataError as error:
        return found, str(error)
    pytest.fail("no error came")


def values(answer: Annotation) -> dict[str, torch.Tensor]:
    """All tensors of an answer by name."""
    parts = {"scores": answer.probabilities, "semantic": answer.semantic, "tags": answer.tags}
    if answer.objects is not None:
        names = ("boxes", "labels", "scores", "masks", "keypoints")
        parts |= {f"objects.{name}": getattr(answer.objects, name) for name in names}
    return {name: part for name, part in parts.items() if part is not None}


@pytest.mark.parametrize("task", MODELS)
def test_a_frame_has_the_answer_of_the_same_picture_alone(task: str, tmp_path: Path) -> None:
    predictor, pictures = predictor_of(task), clouds(3)
    frames = list(predictor.predict_video(write_clip(tmp_path / "clip.avi", pictures), threshold=0.0))
    assert [frame.number for frame in frames] == [0, 1, 2]
    for frame, picture in zip(frames, pictures, strict=True):
        cv2.imwrite(str(tmp_path / "frame.png"), picture)
        assert np.array_equal(frame.pixels, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        alone = predictor.predict(tmp_path / "frame.png", threshold=0.0)
        assert frame.answer.names == alone.names
        assert alone.size == frame.answer.size == (64, 80)
        assert values(alone)
        for name, value in values(alone).items():
            assert torch.equal(values(frame.answer)[name], value), name


def test_several_frames_at_once_answer_alike(tmp_path: Path) -> None:
    predictor, clip = predictor_of("classify"), write_clip(tmp_path / "clip.avi", clouds(5))
    one, three = (list(predictor.predict_video(clip, batch=batch)) for batch in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert a.number == b.number
        torch.testing.assert_close(values(a.answer)["scores"], values(b.answer)["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch", "batches"), [(1, [1] * 12), (5, [5, 5, 2])])
def test_a_file_is_answered_whole_and_in_order(batch: int, batches: list[int], tmp_path: Path) -> None:
    predictor = counting(0.002)
    found = list(predictor.predict_video(write_clip(tmp_path / "clip.avi", grays(12)), batch=batch))
    assert [frame.number for frame in found] == list(range(12))
    assert [frame.time for frame in found] == pytest.approx([i / 10 for i in range(12)])
    levels = [float(values(frame.answer)["scores"]) * 255 for frame in found]
    assert levels == pytest.approx([20 * i for i in range(12)], abs=0.1)
    assert all(frame.dropped == 0 for frame in found)
    assert all(0 < frame.rate < 5000 for frame in found)  # also of frames that are answered at once
    assert predictor.network.batches == batches


def test_frames_that_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", grays(12))
    predictor = counting()
    assert len(list(predictor.predict_video(clip, frames=4))) == 4
    frames = predict_frames(predictor, Footage(clip))
    assert next(frames).number == 0
    frames.close()
    assert predictor.network.batches == [1] * 5
    stopped = list(predict_frames(predictor, Footage(clip), Pace(stop=lambda: len(predictor.network.batches) >= 7)))
    assert len(stopped) == 2


def test_of_a_cut_film_all_is_answered_before_the_error(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", clouds(40), "MJPG")
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for batch in (1, 8):
        found, error = until_error(counting().predict_video(tmp_path / "cut.avi", batch=batch))
        assert [frame.number for frame in found] == list(range(len(found)))
        assert len(found) > 10
        assert f"cut.avi: ends after {len(found)} of about 40 frames; is it whole?" in error


class Camera:
    """A camera of 12 pictures whose gray is 20 times their number, one every `seconds`, then unplugged."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.given, self.released = seconds, 0, False

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(self.seconds)
        if self.given == 12:
            return False, None
        self.given += 1
        return True, np.full((48, 64, 3), 20 * (self.given - 1), np.uint8)

    def release(self) -> None:
        self.released = True


def test_of_a_camera_the_newest_frame_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the network has the first frame, all others come."""
    camera, predictor = Camera(0.01), counting()
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    at_once = predictor.network.predict

    def slow(batch: Batch) -> list[Annotation]:
        while camera.given < 12:
            time.sleep(0.01)
        return at_once(batch)

    predictor.network.predict = slow
    found, error = until_error(predictor.predict_video("camera:0"))
    assert error == "camera:0: gives no more pictures"
    assert 1 <= len(found) <= 2
    assert found[-1].number == 11  # the last is never dropped
    assert sum(frame.dropped for frame in found) + len(found) == 12
    levels = [float(values(frame.answer)["scores"]) * 255 for frame in found]
    assert levels == pytest.approx([20 * frame.number for frame in found], abs=0.1)
    assert camera.released


def test_a_camera_that_the_network_keeps_up_with_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(0.05)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    found = list(counting().predict_video("camera:0", frames=5))
    assert len(found) == 5
    assert [frame.time for frame in found] == sorted(frame.time for frame in found)
    assert found[0].time < 0.05
    assert camera.released


def test_a_camera_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = cv2.VideoCapture()
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: closed)
    with pytest.raises(DataError, match="camera:7: no such camera"):
        counting().predict_video("camera:7")
    with pytest.raises(DataError, match="camera:7: no such camera"):
        counting().predict_video(7)


def numbers(count: int, error: bool = False) -> Generator[int]:
    yield from range(count)
    if error:
        raise DataError("no more")


def test_a_thread_ahead_keeps_order_and_hands_on_errors() -> None:
    assert list(ahead(numbers(20), 2)) == list(range(20))
    assert until_error(ahead(numbers(5, error=True), 2)) == (list(range(5)), "no more")


def test_a_thread_ahead_is_only_so_far_ahead() -> None:
    made = []

    def slow() -> Generator[int]:
        for number in range(20):
            made.append(number)
            yield number

    items = ahead(slow(), 2)
    assert next(items) == 0
    time.sleep(0.1)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    items.close()
    assert len(made) <= 4


def test_work_behind_keeps_order_and_is_finished_before_the_error() -> None:
    def work(number: int) -> int:
        time.sleep(0.002)
        return number * number

    assert until_error(behind(numbers(6, error=True), work)) == ([0, 1, 4, 9, 16, 25], "no more")


def test_network_and_drawing_overlap(tmp_path: Path) -> None:
    predictor = counting()
    at_once, drawn, computed = predictor.network.predict, [], []

    def watched(work: Any, spans: list[tuple[float, float]], item: Any) -> Any:
        begun = time.monotonic()
        time.sleep(0.03)
        result = work(item)
        spans.append((begun, time.monotonic()))
        return result

    predictor.network.predict = lambda batch: watched(at_once, computed, batch)
    frames = predict_frames(predictor, Footage(write_clip(tmp_path / "clip.avi", grays(10))))
    assert list(behind(frames, lambda frame: watched(lambda f: f.number, drawn, frame))) == list(range(10))
    assert any(a < d and c < b for a, b in drawn for c, d in computed)
