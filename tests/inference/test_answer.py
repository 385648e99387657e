"""`saccade.load(run).predict(picture)`: any kind of picture, an answer with names, our errors, and threads that share a
predictor."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from models.forms import all_forms
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError, SaccadeError, UsageError
from saccade.inference.answer import Answer, answer_of
from saccade.inference.predictor import Predictor
from saccade.models import create

NAMES = ["cat", "dog", "owl"]
BOX = torch.ones(1, 4)


def detector(thresholds: tuple[float, ...] = (), **more: Any) -> Predictor:
    """A small detector with random weights that finds something in noise."""
    form = all_forms()["atss"]
    torch.manual_seed(0)
    model = create(form.name, **{"classes": 3} | form.changes | more).eval()
    return Predictor(model, "detect", NAMES, Preprocessing((64, 64), "letterbox"), "cpu", "fp32", thresholds)


@pytest.fixture(scope="module")
def finds() -> Predictor:
    return detector()


def noise(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def same(a: Answer, b: Answer) -> bool:
    assert a.objects is not None
    assert b.objects is not None
    assert a.objects.scores is not None
    assert b.objects.scores is not None
    return (
        a.names == b.names
        and torch.allclose(a.objects.boxes, b.objects.boxes, atol=1e-3)
        and torch.allclose(a.objects.scores, b.objects.scores, atol=1e-5)
    )


def kinds(path: Path) -> dict[str, Any]:
    pixels = noise()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "PIL": Image.fromarray(pixels),
        "PIL file": Image.open(path),
        "array": pixels,
        "tensor": tensor,
        "float tensor": tensor.float() / 255,
    }


def closed() -> io.BytesIO:
    file = io.BytesIO(b"picture")
    file.close()
    return file


def test_every_kind_of_picture_has_the_same_answer(finds: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    wanted = finds.predict(path, threshold=0.0)
    assert len(wanted) > 3
    for name, picture in kinds(path).items():
        assert same(finds.predict(picture, threshold=0.0), wanted), name
    together = finds.predict(list(kinds(path).values()), threshold=0.0)
    assert [same(answer, wanted) for answer in together] == [True] * 9
    assert finds.predict([]) == []


def test_a_turned_photograph_is_upright_whatever_brings_it(finds: Predictor, tmp_path: Path) -> None:
    path, turned = tmp_path / "a.jpg", Image.Exif()
    turned[274] = 6
    Image.fromarray(noise()).save(path, exif=turned)
    assert finds.predict(path).size == (64, 48)
    assert finds.predict(Image.open(path)).size == (64, 48)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), np.uint8), r"\[H, W, 3\] uint8 RGB, got \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got \[2, 4, 4, 3\]"),
        (torch.zeros(4, 4, 3), r"\[3, H, W\] RGB, got \[4, 4, 3\]"),
        (torch.zeros(3, 0, 4), "got"),
        (torch.full((3, 4, 4), 200.0), r"\[0, 1\], got 200 to 200"),
        (torch.full((3, 4, 4), torch.nan), r"\[0, 1\], got nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (io.StringIO("text"), "binary mode"),
        (42, "int is no picture"),
        (closed(), "closed file"),
        ("https://example.org/a.jpg", "addresses are not opened"),
        (None, "NoneType is no picture"),
        ([np.zeros((0, 5, 3), np.uint8)], "no pixels"),
    ],
)
def test_what_is_no_picture_is_our_error(finds: Predictor, picture: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        finds.predict(picture)


def test_gray_values_without_a_scale_are_refused_as_in_a_file(finds: Predictor) -> None:
    for scale in ("F", "I"):
        with pytest.raises(DataError, match=f"a PIL image of mode {scale}: .*300000"):
            finds.predict(Image.new(scale, (4, 4), 300_000))


def test_a_folder_and_a_pattern_are_no_picture(finds: Predictor, tmp_path: Path) -> None:
    """A name that only looks like a pattern is one."""
    for path, what in ((tmp_path, "a folder"), (tmp_path / "*.png", "a pattern")):
        with pytest.raises(
            DataError, match=rf"{what}, not a picture; give a list of files, or ask saccade.predict\(RUN"
        ):
            finds.predict(path)
    Image.fromarray(noise()).save(tmp_path / "a[1].png")
    assert finds.predict(tmp_path / "a[1].png").size == (48, 64)


def test_bytes_that_are_no_image(finds: Predictor, tmp_path: Path) -> None:
    for broken in (b"", b"not an image at all", tmp_path / "none.png"):
        with pytest.raises(DataError):
            finds.predict(broken)


def test_the_answer_has_names(finds: Predictor) -> None:
    answer = finds.predict(noise(), threshold=0.0)
    found = list(answer)
    assert len(found) == len(answer) > 3
    assert [each.name for each in found] == answer.names
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert all(0 <= each.box[0] <= each.box[2] <= 64 for each in found)
    assert found[0].name in str(found[0])
    stated = answer.to_json()
    assert stated["size"] == [48, 64]
    assert stated["objects"]["names"] == answer.names
    assert repr(answer).startswith("<answer to detect, 64x48 pixels: ")
    assert answer.names[0] in repr(answer)
    drawn = answer.draw()
    assert drawn.mode == "RGB"
    assert drawn.size == (320, 240)  # enlarged, so that there is room for letters
    assert answer.label_name is None
    assert answer.boxes.tolist() == [list(each.box) for each in found]
    assert answer.scores.tolist() == [each.score for each in found]
    assert [NAMES[k] for k in answer.labels] == answer.names
    assert (answer.boxes.dtype, answer.scores.dtype, answer.labels.dtype) == (np.float32, np.float32, np.int64)
    assert answer.masks is None
    assert answer.keypoints is None


@pytest.mark.parametrize(
    ("changes", "names", "scores"),
    [
        ({"label": 2, "probabilities": torch.tensor([0.25, 0.0, 0.75])}, ["owl"], [0.75]),
        (
            {"tags": torch.tensor([True, False, True]), "probabilities": torch.tensor([0.75, 0.25, 0.5])},
            ["cat", "owl"],
            [0.75, 0.5],
        ),
        (
            {"semantic": torch.tensor([[0, 0, 0, 255], [0, 1, 255, 255]], dtype=torch.uint8)},
            ["cat", "dog"],
            [0.5, 0.125],
        ),
        ({"embedding": torch.ones(4) / 2}, [], []),
        (
            {
                "objects": Objects(
                    torch.ones(1, 4), torch.tensor([1]), None, torch.ones(1, 2, 4) > 0, torch.ones(1, 5, 3)
                )
            },
            ["dog"],
            [1.0],
        ),
    ],
)
def test_arrays_stand_in_the_order_of_the_names(changes: dict[str, Any], names: list[str], scores: list[float]) -> None:
    """Whatever the task; where there are no objects there is no box."""
    answer = answer_of(Annotation((2, 4), **changes), "detect", NAMES, noise())
    assert answer.names == [NAMES[k] for k in answer.labels] == names
    assert answer.scores.tolist() == scores
    assert answer.boxes.shape == (len(answer), 4)
    assert (answer.masks is None, answer.keypoints is None) == (("objects" not in changes),) * 2


def test_an_answer_is_saved_as_a_picture(finds: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    answer = finds.predict(path, threshold=0.0)
    for name in ("drawn.png", "new/drawn.JPG"):
        assert answer.save(tmp_path / name) == tmp_path / name
        assert Image.open(tmp_path / name).size == (320, 240)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn.png")), np.asarray(answer.draw()))
    with pytest.raises(UsageError, match=r"a.txt: a picture is written as .png, .jpg"):
        answer.save(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="is the picture itself, which would be replaced"):
        answer.save(tmp_path / "new" / ".." / "a.png")
    wide = finds.predict(np.zeros((2, 65_600, 3), np.uint8))
    assert wide.save(tmp_path / "wide.jpg") == tmp_path / "wide.jpg.png"


def test_all_that_cannot_be_read_of_a_list_is_named(finds: Predictor, tmp_path: Path) -> None:
    """By places, which the error holds too, so that the others can be asked for; in tiles as well."""
    path, broken = tmp_path / "a.png", tmp_path / "broken.png"
    Image.fromarray(noise(0, 80, 96)).save(path)
    broken.write_bytes(path.read_bytes()[:200])
    pictures: list[Any] = [path, b"no image", noise(), tmp_path / "none.png", *[path] * 9, broken]
    for tile in (None, 64):
        with pytest.raises(DataError) as caught:
            finds.predict(pictures, tile=tile)
        for words in (
            "3 of 14 pictures cannot be read, by place in the list:\n  1 (bytes): ",
            f"\n  3 (none.png): {tmp_path / 'none.png'}: ",
            f"\n  13 (broken.png): {broken}: ",
            "if i not in error.unreadable]",
        ):
            assert words in str(caught.value)
        assert list(caught.value.unreadable) == [1, 3, 13]
        others = [each for i, each in enumerate(pictures) if i not in caught.value.unreadable]
        assert len(finds.predict(others, tile=tile)) == 11
    with pytest.raises(UsageError, match=r"2 of 3 pictures .*\n  1 \(NoneType\): NoneType is no picture") as refused:
        finds.predict([path, None, broken])  # type: ignore[list-item]
    assert list(refused.value.unreadable) == [1, 2]
    with pytest.raises(UsageError, match=r"25 of 25(.|\n)* 19 \(int\): int is no picture.*\n  ... and 5 more"):
        finds.predict([7] * 25)  # type: ignore[list-item]
    assert UsageError("other").unreadable == {}


def test_the_answer_of_a_classifier(run: Path, colours: Path) -> None:
    answer = saccade.load(run).predict(colours / "val" / "red" / "0.png")
    assert answer.label_name == "red"
    assert answer.names == ["red"]
    assert "red" in repr(answer)
    assert list(answer) == []
    assert answer
    assert answer.draw().size
    with pytest.raises(UsageError, match="finds none"):
        answer.to_supervision()
    with pytest.raises(UsageError, match="iou is for models that find objects"):
        saccade.load(run).predict(colours / "val" / "red" / "0.png", iou=0.5)


def test_threshold_iou_and_classes_of_one_call(finds: Predictor) -> None:
    every = finds.predict(noise(), threshold=0.0)
    assert every.objects is not None
    assert every.objects.scores is not None
    middle = float(every.objects.scores[len(every) // 2])
    assert len(finds.predict(noise(), threshold=middle)) == int((every.objects.scores >= middle).sum())
    assert len(finds.predict(noise(), threshold=0.0, iou=0.05)) < len(every)
    assert same(finds.predict(noise(), threshold=0.0), every)  # nothing stays of a call
    owls = finds.predict(noise(), threshold=0.0, classes=["owl"])
    assert set(owls.names) <= {"owl"}
    number = finds.classes.index("owl")
    for way in ("owl", number, [number], str(number)):
        assert same(finds.predict(noise(), threshold=0.0, classes=way), owls)
    for way in (2.5, [-1], [None], 99):
        with pytest.raises(UsageError, match="is none of this model; allowed: "):
            finds.predict(noise(), classes=way)
    for wrong in (
        {"threshold": 2.0},
        {"threshold": "high"},
        {"iou": -1.0},
        {"iou": "x"},
        {"tile": "x"},
        {"camera": 3},
        {"classes": ["cow"]},
    ):
        with pytest.raises(UsageError):
            finds.predict(noise(), **wrong)  # type: ignore[arg-type]


def test_the_models_own_thresholds_hold_unless_others_are_given(finds: Predictor) -> None:
    every = finds.predict(noise(), threshold=0.0)
    scores = {name: [each.score for each in every if each.name == name] for name in NAMES}
    limits = tuple(sorted(scores[name])[len(scores[name]) // 2] if scores[name] else 0.5 for name in NAMES)
    own = detector(limits).predict(noise())
    expected = {name: sum(score >= limit for score in scores[name]) for name, limit in zip(NAMES, limits, strict=True)}
    assert {name: own.names.count(name) for name in NAMES} == expected
    assert 0 < len(own) < len(every)


def test_a_model_says_what_it_is(finds: Predictor) -> None:
    assert repr(finds) == f"<model to detect {len(NAMES)} classes ({', '.join(NAMES)}), inputs of 64x64 pixels>"


def test_threads_share_a_predictor(finds: Predictor) -> None:
    """Each call has its own picture, size, threshold and IoU, and the answer that it has alone."""
    calls = [
        {"image": noise(i, 40 + 8 * (i % 3), 64), "threshold": 0.0, "iou": (None, 0.1, 0.9)[i % 3]} for i in range(9)
    ]
    alone = [finds.predict(**call) for call in calls]  # type: ignore[call-overload]
    found: dict[int, list[Answer]] = {i: [] for i in range(9)}

    def work(first: int) -> None:
        for i in range(first, 9, 3):
            found[i].append(finds.predict(**calls[i]))  # type: ignore[call-overload]

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(found[i]) == 2 and all(same(each, alone[i]) for each in found[i]) for i in range(9))


def test_detections_of_supervision(finds: Predictor) -> None:
    pytest.importorskip("supervision")
    answer = finds.predict(noise(), threshold=0.0)
    detections = answer.to_supervision()
    assert len(detections) == len(answer)
    assert list(detections.data["class_name"]) == answer.names
    np.testing.assert_allclose(detections.confidence, [each.score for each in answer], atol=1e-6)


def test_the_package_shows_what_is_public() -> None:
    shown = dir(saccade)
    assert {"train", "predict", "load", "export", "SaccadeError", "DataError", "Annotation", "Objects"} <= set(shown)
    for name in shown:
        assert getattr(saccade, name) is not None
    assert issubclass(saccade.UsageError, saccade.SaccadeError)
    assert issubclass(SaccadeError, Exception)
