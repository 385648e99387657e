"""`saccade faces` from the command line, on made people and a stand-in for an embedder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from saccade.data.alignment import align
from saccade.data.joints import Joints
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.inference.predictor import Predictor

Shell = Callable[..., tuple[int, str, str]]


class Grid(nn.Module):
    """A picture's 4 x 4 colours less their mean, at length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def predict(self, batch: Batch) -> list[Annotation]:
        rows = F.adaptive_avg_pool2d(batch.images, 4).flatten(1)
        rows = F.normalize(self.scale * (rows - rows.mean(1, keepdim=True)))
        return [Annotation(size, embedding=row) for size, row in zip(batch.sizes, rows, strict=True)]


class Finder(nn.Module):
    """Finds a face in the upper left quarter, and another where the last pixel is white; none where the first is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def predict(self, batch: Batch) -> list[Annotation]:
        found = []
        for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
            count = 0 if image[:, 0, 0].min() > 0.99 else 2 if image[:, -1, -1].min() > 0.99 else 1
            boxes = torch.tensor([[0.0, 0.0, width / 2, height / 2], [0.0, height / 2, width, height]])[:count]
            labels, scores = torch.ones(count, dtype=torch.int64), torch.full((count,), 0.9)
            found.append(Annotation((height, width), objects=Objects(boxes, labels, scores)))
        return found


class Eyes(nn.Module):
    """Finds the eyes of one person at 3 and 7 tenths of what it is shown, halfway down."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def predict(self, batch: Batch) -> list[Annotation]:
        found = []
        for height, width in batch.sizes:
            points = torch.tensor([[[0.3 * width, height / 2, 1.0], [0.7 * width, height / 2, 1.0]]])
            box = torch.tensor([[0.0, 0.0, width, height]])
            objects = Objects(box, torch.zeros(1, dtype=torch.int64), torch.ones(1), keypoints=points)
            found.append(Annotation((height, width), objects=objects))
        return found


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(run: str | Path, *_: Any, **__: Any) -> Predictor:
        name = Path(run).name
        if name == "finder":
            return Predictor(
                Finder(), "detect", ["body", "face"], Preprocessing((64, 64), "letterbox"), precision="fp32"
            )
        if name == "eyes":
            shape = Preprocessing((32, 32), "letterbox", joints=Joints(("right_eye", "left_eye")), one_person=True)
            return Predictor(Eyes(), "pose", ["face"], shape, precision="fp32")
        task = "classify" if name == "classifier" else "embed"
        return Predictor(Grid(), task, ["a", "b"], Preprocessing((32, 32), "stretch"), precision="fp32")

    monkeypatch.setattr("saccade.inference.faces.load", load)
    monkeypatch.setattr("saccade.verbs.pairs.load", load)
    monkeypatch.setattr("saccade.verbs.faces.model_of", lambda run: Path(run).name)


def picture(person: int, number: int, noise: float = 25.0) -> np.ndarray:
    colours = np.random.default_rng(person).uniform(40, 200, (4, 4, 3))
    rng = np.random.default_rng(1000 * person + number)
    moved = colours + rng.normal(0, noise, colours.shape)
    return np.clip(np.kron(moved, np.ones((8, 8, 1))) + rng.normal(0, 4, (32, 32, 3)), 0, 250).astype(np.uint8)


def people(root: Path, persons: range, each: int = 4) -> Path:
    for person in persons:
        folder = root / f"person {person}"
        folder.mkdir(parents=True)
        for number in range(each):
            Image.fromarray(picture(person, number)).save(folder / f"{number}.png")
    return root


def run_json(shell: Shell, *words: Any) -> Any:
    code, out, err = shell("faces", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_from_enrolling_to_removing(tmp_path: Path, shell: Shell) -> None:
    folder, database = people(tmp_path / "people", range(6)), tmp_path / "people.db"
    strangers = people(tmp_path / "strangers", range(50, 80))
    done = run_json(shell, "enroll", database, "embedder", folder)
    assert (done["added"], done["known"], done["people"], done["pictures"]) == (24, 0, 6, 24)
    again = run_json(shell, "enroll", database, "embedder", folder)
    assert (again["added"], again["known"], again["pictures"]) == (0, 24, 24)

    new = tmp_path / "new.png"
    Image.fromarray(picture(3, 99)).save(new)
    answer = run_json(
        shell, "identify", database, "embedder", new, "--calibrate", strangers, "--far", "0.05", "--top", 3
    )
    assert answer["answers"][0]["name"] == "person 3"
    assert answer["answers"][0]["candidates"][0]["name"] == "person 3"
    assert len(answer["answers"][0]["candidates"]) == 3
    assert answer["strangers_let_in"] <= 0.05
    let_in = run_json(shell, "identify", database, "embedder", strangers, "--threshold", answer["threshold"])
    rate = np.mean([each["name"] is not None for each in let_in["answers"]])
    assert rate == pytest.approx(answer["strangers_let_in"])  # as was stated of them
    assert let_in["strangers_let_in"] is None

    listed = run_json(shell, "list", database)
    assert listed["people"][0] == {"name": "person 0", "pictures": 4}
    done = run_json(shell, "remove", database, "person 3", "person 4")
    assert (done["pictures"], done["people"]) == (8, 4)
    answer = run_json(shell, "identify", database, "embedder", new, "--threshold", answer["threshold"])
    assert answer["answers"][0]["name"] is None
    code, out, _ = shell("faces", "list", database)
    assert (code, "person 3" in out, "person 5" in out) == (0, False, True)


def test_one_person_by_name(tmp_path: Path, shell: Shell) -> None:
    folder, database = people(tmp_path / "people", range(2)), tmp_path / "people.db"
    code, out, err = shell("faces", "enroll", database, "embedder", folder / "person 0" / "0.png", "--name", "Ada")
    assert code == 0
    assert "1 pictures enrolled" in out
    assert "there is one picture, such as Ada" in err
    copy = tmp_path / "copy.png"  # another file of the same pixels
    Image.open(folder / "person 0" / "0.png").save(copy, compress_level=0)
    assert run_json(shell, "enroll", database, "embedder", copy, "--name", "Ada")["known"] == 1
    code, _, err = shell("faces", "enroll", database, "embedder", copy, "--name", "Bea")
    assert (code, f"{copy}, given for 'Bea', is enrolled as one of 'Ada'" in " ".join(err.split())) == (3, True)
    assert run_json(shell, "enroll", database, "embedder", folder / "person 1", "--name", "Bea")["added"] == 4


def test_verification_states_its_error_rate(tmp_path: Path, shell: Shell) -> None:
    folder, others = people(tmp_path / "people", range(2)), people(tmp_path / "others", range(20, 40))
    one, two, other = (folder / f"person {p}" / f"{n}.png" for p, n in ((0, 0), (0, 1), (1, 0)))
    found = run_json(shell, "verify", "embedder", one, two, "--calibrate", others, "--far", "0.01")
    assert found["same"] is True
    assert found["far_low"] <= found["far"] <= found["far_high"]
    assert found["far"] <= 0.01
    assert found["interval"] == "bootstrap over people"
    code, out, _ = shell("faces", "verify", "embedder", one, other, "--calibrate", others, "--far", "0.01")
    assert code == 0
    assert out.startswith("different people")
    assert "95 % interval" in out
    assert run_json(shell, "verify", "embedder", one, two, "--threshold", "1")["same"] is False
    for limit in ("1.1", "nan", "-2"):
        code, _, err = shell("faces", "verify", "embedder", one, two, "--threshold", limit)
        assert (code, f"threshold is {limit}, allowed: -1 to 1" in err) == (2, True), err
    code, _, err = shell("faces", "verify", "embedder", one, two, "--calibrate", others, "--far", "1e-5")
    assert (code, "at least 100000 are needed" in err) == (3, True)
    code, _, err = shell("faces", "verify", "embedder", one, two)
    assert (code, "--calibrate FOLDER" in err) == (2, True)


def test_the_run_s_own_curve_gives_the_threshold(tmp_path: Path, shell: Shell) -> None:
    from saccade.metrics.identification import score_embeddings

    folder, run, database = people(tmp_path / "people", range(3)), tmp_path / "run", tmp_path / "people.db"
    run.mkdir()
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(30, 48)), 4, axis=0)
    rows = centres + 0.5 * rng.normal(size=centres.shape)
    result = score_embeddings([str(i) for i in range(120)], [str(i // 4) for i in range(120)], rows, bootstrap=0)
    (run / "metrics.json").write_text(json.dumps(result.to_json()))
    pair = [folder / "person 0" / f"{n}.png" for n in (0, 1)]
    assert run_json(shell, "verify", run, *pair, "--far", "0.01")["far"] <= 0.01
    run_json(shell, "enroll", database, run, folder)
    answer = run_json(shell, "identify", database, run, pair[0], "--far", "0.02")
    assert answer["strangers_let_in"] <= 0.02
    assert answer["far"] <= 0.02 / 2.9  # three comparisons share the rate
    code, _, err = shell("faces", "identify", database, run, pair[0], "--far", "1e-4")
    assert (code, "among 3 people" in err) == (3, True)


def test_faces_are_found_and_aligned(tmp_path: Path, shell: Shell) -> None:
    database, where = tmp_path / "people.db", {}
    for name, corner in (("good", None), ("none", (0, 0)), ("two", (-1, -1))):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:32, :32] = picture(5, 0)
        if corner is not None:
            pixels[corner] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        where[f"{name}.png"] = {"right_eye": [10, 14], "left_eye": [22, 14]}
    Image.fromarray(picture(5, 0)).save(tmp_path / "crop.png")
    sources = [tmp_path / f"{name}.png" for name in ("good", "none", "two")]
    done = run_json(shell, "enroll", database, "embedder", *sources, "--name", "Ada", "--detector", "finder")
    assert (done["added"], len(done["refused"])) == (1, 2)
    assert "no face found where one is expected" in done["refused"][0]["why"]
    assert "2 faces found where one is expected" in done["refused"][1]["why"]
    assert run_json(shell, "enroll", database, "embedder", tmp_path / "crop.png", "--name", "Ada")["known"] == 1
    landmarks = tmp_path / "landmarks.json"
    landmarks.write_text(json.dumps(where))
    words = ("--name", "Ada", "--landmarks", landmarks)
    assert run_json(shell, "enroll", database, "embedder", sources[1], *words)["added"] == 1
    code, _, err = shell("faces", "enroll", database, "embedder", tmp_path / "crop.png", *words)
    assert (code, "has no landmarks for it" in err) == (3, True)
    code, _, err = shell("faces", "enroll", database, "embedder", sources[1], "--name", "Bea", "--detector", "finder")
    assert (code, "no face found" in err) == (3, True)
    assert [each["name"] for each in run_json(shell, "list", database)["people"]] == ["Ada"]


def test_faces_are_cut_out_to_train_on(tmp_path: Path, shell: Shell) -> None:
    """By a detector into folders of people, as `enroll` sees them; what shows no face is named."""
    folder = tmp_path / "photos"
    for split, name, number, corner in (
        ("train", "Ada", 0, None),
        ("train", "Ada", 1, (0, 0)),
        ("val", "Bea", 2, None),
    ):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:32, :32] = picture(5, number)
        if corner is not None:
            pixels[corner] = 255
        Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    words = ("crop", folder, "--out", tmp_path / "faces", "--detector", "finder")
    done = run_json(shell, *words)
    assert (done["people"], done["pictures"]) == (2, 2)
    assert [(each["where"], "no face found" in each["why"]) for each in done["refused"]] == [("train/Ada/1.png", True)]
    assert run_json(shell, *words) == done
    assert np.array_equal(np.asarray(Image.open(tmp_path / "faces" / "train" / "Ada" / "0.png")), picture(5, 0))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "faces" / "val" / "Bea" / "2.png")), picture(5, 2))
    assert len(list((tmp_path / "faces").rglob("*.*"))) == 2


def test_landmarks_by_a_model_for_one_person_are_those_of_the_face_that_was_found(tmp_path: Path, shell: Shell) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = picture(5, 0)
    for name in ("Ada", "Bea"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "0.png")
    words = ("--out", tmp_path / "faces", "--detector", "finder", "--landmarks", "eyes")
    assert run_json(shell, "crop", tmp_path / "photos", *words)["pictures"] == 2
    found = np.asarray(Image.open(tmp_path / "faces" / "Ada" / "0.png"))
    # the box of 32 pixels is seen enlarged by 1.25, from -4 to 36
    assert np.array_equal(found, align(pixels, {"right_eye": (8.0, 16.0), "left_eye": (24.0, 16.0)}))


def test_boxes_of_people_are_their_faces(tmp_path: Path, shell: Shell) -> None:
    """Two people in one picture are enrolled, and cut out, each by their own box."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = picture(1, 0), picture(2, 0)
    (tmp_path / "group").mkdir()
    Image.fromarray(pixels).save(tmp_path / "group" / "both.png")
    boxes = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [32 * (i - 1), 0, 32, 32], "area": 1024} for i in (1, 2)
    ]
    stated = {"images": [{"id": 1, "file_name": "both.png", "width": 64, "height": 32}], "annotations": boxes}
    stated["categories"] = [{"id": 1, "name": "Ada"}, {"id": 2, "name": "../Bea"}]
    (tmp_path / "group" / "people.json").write_text(json.dumps(stated))
    database = tmp_path / "people.db"
    assert run_json(shell, "enroll", database, "embedder", tmp_path / "group")["added"] == 2
    Image.fromarray(picture(1, 0)).save(tmp_path / "ada.png")
    answer = run_json(shell, "identify", database, "embedder", tmp_path / "ada.png", "--threshold", "0.99")
    assert answer["answers"][0]["name"] == "Ada"
    assert run_json(shell, "crop", tmp_path / "group", "--out", tmp_path / "faces")["pictures"] == 2
    assert np.array_equal(np.asarray(Image.open(tmp_path / "faces" / "Ada" / "both.png")), picture(1, 0))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "faces" / ".._Bea" / "both.png")), picture(2, 0))


def test_wrong_words_and_files(tmp_path: Path, shell: Shell) -> None:
    folder, database = people(tmp_path / "people", range(2)), tmp_path / "people.db"
    image = folder / "person 0" / "0.png"
    assert shell("faces", "enroll", database, "classifier", folder)[0] == 2
    assert shell("faces", "enroll", database, "embedder", folder, folder)[0] == 2
    assert shell("faces", "enroll", database, "embedder", tmp_path / "nothing", "--name", "Ada")[0] == 3
    assert shell("faces", "enroll", database, "embedder", image, "--name", "Ada", "--detector", "embedder")[0] == 2
    assert not database.exists()
    assert shell("faces", "list", database)[0] == 4
    run_json(shell, "enroll", database, "embedder", folder)
    code, _, err = shell("faces", "identify", database, "another", image, "--threshold", "0.5")
    assert (code, "cannot be compared" in err) == (2, True)
    code, _, err = shell("faces", "remove", database, "person 1", "nobody")
    assert (code, "nobody here is called 'nobody'" in err) == (3, True)
    run_json(shell, "remove", database, "person 0", "person 1")
    code, _, err = shell("faces", "identify", database, "embedder", image, "--threshold", "0.5")
    assert (code, "nobody is enrolled" in err) == (3, True)
    database.write_bytes(b"damaged")
    for words in (("list", database), ("remove", database, "x"), ("enroll", database, "embedder", folder)):
        assert shell("faces", *words)[0] == 4
    assert database.read_bytes() == b"damaged"


def test_pairs_are_scored_by_folds(tmp_path: Path, shell: Shell) -> None:
    folder = people(tmp_path / "people", range(10))
    rows = [f"person {p}/0.png,person {p}/{n}.png,1,{p % 5}" for p in range(10) for n in (1, 2)]
    rows += [f"person {p}/1.png,person {(p + n) % 10}/2.png,0,{p % 5}" for p in range(10) for n in (1, 3)]
    (tmp_path / "pairs.csv").write_text("\n".join(["first,second,same,fold", *rows]))
    words = ("faces", "evaluate", "embedder", folder, "--pairs", tmp_path / "pairs.csv", "--workers", 0)
    code, out, err = shell(*words, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"]["accuracy"]["value"] > 0.9
    assert found["metrics"]["auc"]["value"] > 0.95
    assert found["metrics"]["tar_at_far_1e-2"]["value"] is None  # twenty pairs of different people
    assert [row["pairs"] for row in found["per_class"]] == [8] * 5
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
    code, out, _ = shell(*words)
    assert (code, "accuracy" in out) == (0, True)
    assert shell("faces", "evaluate", "classifier", folder, "--pairs", tmp_path / "pairs.csv")[0] == 2
