"""OKS average precision and PCK: worked numbers, a second accumulation, published results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.formats import read
from saccade.data.joints import COCO_PERSON, LSP, Joints
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics.coco_results import ResultRows, holds_poses, read_results
from saccade.metrics.pose import Pose, _resampled, correct_keypoints, head_size, oks, torso_size
from saccade.tasks.contract import task_of

PAIR = Joints(("nose", "left_hip"))


def people(*poses: list[tuple[float, float, float]], scores: list[float] | None = None, **columns: object) -> Objects:
    points = torch.tensor(poses, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]]).repeat(len(poses), 1)
    column = None if scores is None else torch.tensor(scores)
    return Objects(boxes, torch.zeros(len(poses), dtype=torch.int64), column, keypoints=points, **columns)  # type: ignore[arg-type]


def annotation(objects: Objects, joints: Joints = PAIR) -> Annotation:
    return Annotation((200, 200), objects=objects, joints=joints)


def test_oks_by_hand() -> None:
    truth = np.array([[[10.0, 10.0, 2.0], [50.0, 50.0, 0.0]]])
    found = np.array([[[13.0, 14.0, 0.9], [0.0, 0.0, 0.1]]])
    area, box = np.array([900.0]), np.array([[0.0, 0.0, 30.0, 30.0]])
    expected = math.exp(-25 / (2 * 900 * (2 * 0.026) ** 2))  # the hip is not labelled
    assert oks(truth, found, area, box, PAIR)[0, 0] == pytest.approx(expected, rel=1e-12)
    truth[0, 1, 2] = 1
    both = (expected + math.exp(-5000 / (2 * 900 * (2 * 0.107) ** 2))) / 2
    assert oks(truth, found, area, box, PAIR)[0, 0] == pytest.approx(both, rel=1e-12)
    truth[..., 2] = 0  # the box, doubled: -30 .. 60
    away = np.array([[[60.0, -30.0, 1.0], [70.0, -30.0, 1.0]]])
    by_box = (1 + math.exp(-100 / (2 * 900 * (2 * 0.107) ** 2))) / 2
    assert oks(truth, away, area, box, PAIR)[0, 0] == pytest.approx(by_box, rel=1e-12)


def test_sizes_of_head_and_torso() -> None:
    pose = np.zeros((14, 3))
    pose[[13, 12], :2], pose[[13, 12], 2] = [[3, 4], [0, 0]], 2
    assert head_size(pose, LSP) == 5
    assert math.isnan(torso_size(pose, np.array([0, 0, 40, 90]), LSP))
    pose[[8, 3], :2], pose[[8, 3], 2] = [[0, 0], [6, 8]], 1  # right shoulder, left hip
    assert torso_size(pose, np.array([0, 0, 40, 90]), LSP) == 10
    assert torso_size(pose, np.array([0, 0, 40, 90]), Joints(("a", "b"))) == 90
    assert math.isnan(head_size(pose[:2], Joints(("a", "b"))))


def test_pck_counts_the_people_who_are_missed() -> None:
    metric = Pose(["person"])
    true = people([(10, 10, 2), (60, 60, 2)], [(10, 10, 2), (60, 60, 0)])
    true.boxes[1] += 100
    found = people([(10, 29, 0.9), (60, 81, 0.9)], scores=[0.9])
    metric.add("a", annotation(true), annotation(found))
    result = metric.result(0)
    assert result.metrics["pck"].value == pytest.approx(1 / 3)  # a fifth of the box's side is 20
    assert result.metrics["pckh"].value is None
    assert result.curves["joints"] == [
        {"joint": "nose", "labelled": 2, "pck": 0.5, "pckh": None},
        {"joint": "left_hip", "labelled": 1, "pck": 0.0, "pckh": None},
    ]
    assert result.curves["pck"]["pck"][-1] == pytest.approx(2 / 3)


def test_exact_poses_score_one_and_people_without_joints_are_ignored() -> None:
    metric = task_of("pose").make_metric(["person"])
    none = annotation(people([(0, 0, 0), (0, 0, 0)]))
    metric.add(
        "a",
        annotation(people([(10, 10, 2), (60, 60, 1)])),
        annotation(people([(10, 10, 1), (60, 60, 1)], scores=[0.4])),
    )
    metric.add("b", none, annotation(people([(50, 50, 1), (60, 60, 1)], scores=[0.9])))
    metric.add("c", none, Annotation((200, 200), objects=Objects.empty(scored=True), joints=PAIR))
    values = {name: value.value for name, value in metric.result(50).metrics.items()}
    assert [values[n] for n in ("oks_ap", "oks_ap_large", "oks_ar", "pck")] == pytest.approx([1.0] * 4)
    assert values["oks_ap_medium"] is None
    assert next(iter(values)) == "oks_ap"


def test_nothing_to_count() -> None:
    result = task_of("pose").make_metric(["person"]).result(10)
    assert result.metrics["oks_ap"].value is None
    metric = Pose(["person"])
    metric.add(
        "a", annotation(people([(0, 0, 0), (0, 0, 0)])), annotation(people([(1, 1, 1), (2, 2, 1)], scores=[1.0]))
    )
    assert metric.result(10).metrics["pck"].value is None


def test_bad_input() -> None:
    good, found = annotation(people([(1, 1, 2), (2, 2, 2)])), annotation(people([(1, 1, 1), (2, 2, 1)], scores=[1.0]))
    metric = Pose(["person"])
    with pytest.raises(DataError, match="no named joints"):
        metric.add("a", Annotation((9, 9), objects=good.objects), found)
    other = Annotation((200, 200), objects=found.objects, joints=Joints(("nose", "tail")))
    with pytest.raises(
        DataError, match=r"2 joints \(nose, left_hip, ...\) are not those of the prediction: 2 \(nose, tail"
    ):
        metric.add("a", good, other)
    bare = Objects(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([0.5]))
    with pytest.raises(DataError, match=r"keypoints of the prediction are None, needed \[1, 2, 3\]"):
        metric.add("b", good, annotation(bare))
    broken = people([(1, float("nan"), 1), (2, 2, 1)], scores=[1.0])
    with pytest.raises(DataError, match="object 0 of the prediction has joints that are not finite"):
        metric.add("c", good, annotation(broken))


def noisy(seed: int, spread: float) -> Pose:
    rng = np.random.default_rng(seed)
    metric = Pose(["person", "other"])
    for image in range(12):
        n, m = int(rng.integers(0, 4)), int(rng.integers(0, 26))
        points = rng.uniform(0, 200, (n, 17, 3))
        points[..., 2] = rng.integers(0, 3, (n, 17))
        points[rng.random(n) < 0.2, :, 2] = 0
        corner, side = rng.uniform(0, 100, (n, 2)), rng.uniform(10, 150, (n, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        true = Objects(
            torch.from_numpy(boxes),
            torch.from_numpy(rng.integers(0, 2, n)),
            keypoints=torch.from_numpy(points),
            crowd=torch.from_numpy(rng.random(n) < 0.1),
            area=torch.from_numpy(side.prod(1) * 0.5),
        )
        rows = rng.integers(0, max(n, 1), m if n else 0)
        moved = points[rows] + rng.normal(0, spread, (len(rows), 17, 3)) * rng.random((len(rows), 1, 1))
        found = Objects(
            torch.from_numpy(boxes[rows]),
            torch.from_numpy(true.labels.numpy()[rows]),
            torch.from_numpy(rng.random(len(rows)).round(1)),  # with ties
            keypoints=torch.from_numpy(moved),
        )
        metric.add(f"{image:02d}", annotation(true, COCO_PERSON), annotation(found, COCO_PERSON))
    return metric


@pytest.mark.parametrize("seed", range(6))
def test_accumulation_for_the_intervals_equals_the_reference(seed: int) -> None:
    metric = noisy(seed, 60.0)
    ids = sorted(metric._images)
    ap, recall = metric._reference(ids)
    own_ap, own_recall = _resampled([m.table(ids) for m in metric._matches], np.ones((1, len(ids))))
    assert np.allclose(ap, own_ap[0], atol=1e-12, equal_nan=True)
    assert np.allclose(recall, own_recall[0], atol=1e-12, equal_nan=True)
    assert 0 < np.nanmean(ap) < 1


def test_results_files_hold_joints(tmp_path: Path) -> None:
    from saccade.data.dataset import DataSet, Record

    record = Record("a.png", (200, 200), source_id=7)
    dataset = DataSet(tmp_path, "coco", "pose", ["person"], [record], joints=PAIR, category_ids=[1])
    answer = annotation(people([(10, 11, 0.5), (60, 61, 0.25)], scores=[0.75]))
    rows = ResultRows(dataset)
    rows.add(record, answer, answer)
    assert rows.rows[0]["keypoints"] == [10, 11, 0.5, 60, 61, 0.25]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows.rows))
    assert holds_poses(path)
    back = read_results(path, dataset)
    assert back.keypoints
    assert back["a.png"].joints == PAIR
    objects = back["a.png"].objects
    assert objects is not None
    assert objects.keypoints is not None
    assert objects.keypoints.tolist() == [[[10, 11, 0.5], [60, 61, 0.25]]]
    alone = {name: value for name, value in rows.rows[0].items() if name != "bbox"}
    path.write_text(json.dumps([alone]))
    objects = read_results(path, dataset)["a.png"].objects
    assert objects is not None
    assert objects.boxes.tolist() == [[10, 11, 60, 61]]
    path.write_text(json.dumps([rows.rows[0] | {"keypoints": [1, 2]}]))
    with pytest.raises(DataError, match=r"entry 0: keypoints are 2 values; x, y and confidence of 2 joints are 6"):
        read_results(path, dataset)
    path.write_text(json.dumps([{"bbox": [1, 2, 3, 4]}]))
    assert not holds_poses(path)
    assert not holds_poses(tmp_path / "none.json")


@pytest.mark.shared
def test_pckh_of_mpii(shared_data: Path) -> None:
    place = shared_data / "metric_fixtures" / "mpii_valid_pckh"
    truth, found = np.load(place / "annotations.npz"), np.load(place / "predictions_valid-example.npz")["preds"]
    distances = np.linalg.norm(found - truth["part"], axis=2) / truth["normalize"][:, None]
    distances[~(truth["part"] > 1).all(2)] = np.nan  # the rule of the published evaluation
    hits, counted = correct_keypoints(distances, 0.5)
    expected = json.loads((place / "expected.json").read_text())["valid-example"]
    groups = json.loads((place / "joints.json").read_text())["groups"]
    rates = {name: 100 * float(np.mean(hits[rows] / counted[rows])) for name, rows in groups.items()}
    assert rates == pytest.approx({name: expected[name] for name in groups}, abs=6e-4)
    assert np.mean(list(rates.values())) == pytest.approx(expected["mean_of_7"], abs=6e-3)
    assert 100 * hits.sum() / counted.sum() == pytest.approx(expected["pooled"], abs=6e-4)


@pytest.mark.shared
def test_truth_of_coco_scores_one(shared_data: Path) -> None:
    dataset = read(shared_data / "pose_samples" / "coco" / "test_coco.json", "pose")
    metric = Pose(dataset.classes)
    for record in dataset.records:
        truth, answer = read_truth(record, dataset, "pose"), read_truth(record, dataset, "pose")
        assert answer.objects is not None
        assert answer.objects.keypoints is not None
        answer.objects = answer.objects[(answer.objects.keypoints[..., 2] > 0).any(1)]
        answer.objects.scores = torch.ones(len(answer.objects))
        metric.add(record.id, truth, answer)
    values = {name: value.value for name, value in metric.result(20).metrics.items()}
    assert [values[n] for n in ("oks_ap", "oks_ap_medium", "oks_ap_large", "oks_ar", "ap_large")] == pytest.approx(
        [1] * 5
    )
    assert values["pck"] == 1


@pytest.mark.shared
def test_poses_beside_the_truth_score_what_pycocotools_says(shared_data: Path) -> None:
    """The numbers are those of pycocotools 2.0.11 for the same people, moved by the same rule."""
    dataset = read(shared_data / "pose_samples" / "coco" / "test_coco.json", "pose")
    page = json.loads((shared_data / "pose_samples" / "coco" / "test_coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in page["images"]}
    found: dict[str, list[tuple[list[list[float]], float]]] = {}
    for i, row in enumerate(page["annotations"]):
        reach = 0.01 * (1 + i % 5) * row["area"] ** 0.5
        x, y = row["keypoints"][::3], row["keypoints"][1::3]
        pose = [
            [x[j] + reach * ((7 * i + 3 * j) % 11 - 5), y[j] + reach * ((5 * i + 2 * j) % 7 - 3), 1] for j in range(17)
        ]
        if row["num_keypoints"]:
            found.setdefault(names[row["image_id"]], []).append((pose, (37 * i % 101) / 101))
    metric = Pose(dataset.classes)
    for record in dataset.records:
        poses, scores = zip(*found[Path(record.path).name], strict=True)
        objects = people(*poses, scores=list(scores))
        answer = Annotation(record.size, objects=objects, joints=dataset.joints)
        metric.add(record.id, read_truth(record, dataset, "pose"), answer)
    values = {name: value.value for name, value in metric.result(0).metrics.items()}
    expected = {
        "oks_ap": 0.28271727172717276,
        "oks_ap50": 0.7860286028602863,
        "oks_ap75": 0.1947194719471947,
        "oks_ap_medium": 0.4265346534653465,
        "oks_ap_large": 0.2154125412541254,
        "oks_ar": 0.4416666666666667,
        "oks_ar50": 0.8333333333333334,
        "oks_ar75": 0.4166666666666667,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-5)
