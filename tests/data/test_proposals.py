"""Boxes from files, whose images they are, and boxes that are computed once for an image and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data.dataset import DataSet, Record
from saccade.data.image import decode
from saccade.data.loader import Loader, Work, iter_images
from saccade.data.orders import InOrder
from saccade.data.pipelines import PROPOSALS, Preprocessing
from saccade.data.proposals import SOURCES, SelectiveSearch, proposals_for, propose, read_proposals
from saccade.data.types import Objects
from saccade.data.views import inference_view
from saccade.errors import DataError

COCO = [
    {"image_id": 139, "category_id": 3, "bbox": [1, 2, 10, 20.5], "score": 0.5},
    {"file_name": "val/cat.jpg", "bbox": [0, 0, 4, 4], "score": 0.25},
    {"image_id": 139, "bbox": [5, 5, 1, 1], "score": 1},
]


def written(folder: Path, content: Any, name: str = "boxes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_coco_list_keeps_its_order_in_each_image(tmp_path: Path) -> None:
    found = read_proposals(written(tmp_path, COCO))
    assert list(found.images) == ["139", "val/cat.jpg"]
    objects = found.images["139"]
    assert objects.boxes.tolist() == [[1, 2, 11, 22.5], [5, 5, 6, 6]]
    assert objects.scores.tolist() == [0.5, 1]
    assert objects.labels.tolist() == [0, 0]


def test_scores_are_there_where_every_box_of_an_image_has_one(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "bbox": [0, 0, 1, 1]}, {"image_id": "b", "bbox": [0, 0, 1, 1], "score": 0.5}]
    found = read_proposals(written(tmp_path, [*rows, {"image_id": "a", "bbox": [0, 0, 2, 1], "score": 0.5}])).images
    assert found["a"].scores is None
    assert found["b"].scores.tolist() == [0.5]


def test_a_table_and_the_answers_of_predict(tmp_path: Path) -> None:
    table = written(tmp_path, "image;x1;y1;x2;y2\na.png;1;2;3;4.5\nb.png;0;0;9;9\n", "boxes.csv")
    assert read_proposals(table).images["a.png"].boxes.tolist() == [[1, 2, 3, 4.5]]
    assert read_proposals(table).images["a.png"].scores is None
    answers = [
        {"image": "../in/a.png", "size": [9, 9], "objects": {"boxes": [[1, 2, 3, 4]], "scores": [0.75], "labels": [7]}},
        {"image": "b.png", "error": "b.png: no image"},
        {"image": "c.png", "size": [9, 9], "objects": {"boxes": [], "scores": []}},
    ]
    found = read_proposals(written(tmp_path, answers)).images
    assert list(found) == ["in/a.png"]
    assert found["in/a.png"].scores.tolist() == [0.75]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("boxes.json", "[", "damaged or truncated JSON"),
        ("boxes.json", {"images": []}, "the top is a dict; proposals are a JSON list"),
        ("boxes.json", [], "no boxes in it"),
        ("boxes.json", [COCO[0], {"bbox": [0, 0, 1, 1]}], "entry 1: no image_id or file_name"),
        ("boxes.json", [COCO[0], 7], "entry 1: no image_id or file_name"),
        ("boxes.json", [{"image_id": True, "bbox": [0, 0, 1, 1]}], "entry 0: no image_id or file_name"),
        ("boxes.json", [{"image_id": 1, "bbox": [0, 0, 1]}], "entry 0: bbox is .* four numbers x, y, width, height"),
        ("boxes.json", [{"image_id": 1, "bbox": [0, 0, 1, "2"]}], "entry 0: bbox is"),
        ("boxes.json", [{"image_id": 1, "bbox": [0, 0, 0, 5]}], "entry 0: no box of finite numbers with width"),
        ("boxes.json", [{"image_id": 1, "bbox": [0, 0, 1, 5], "score": "high"}], "entry 0: no box of finite numbers"),
        ("boxes.json", '[{"image_id": 1, "bbox": [0, 0, Infinity, 5]}]', "entry 0: no box of finite numbers"),
        ("boxes.json", [{"image": "a", "objects": {"boxes": [[0, 0, 1, 1]]}}], "entry 0: 'objects' has no boxes, or"),
        ("boxes.json", [{"image": "a", "objects": {"boxes": [[0, 1]], "scores": [1]}}], "entry 0: a box is"),
        ("boxes.csv", "image,x1,y1,x2\na.png,1,2,3\n", "has no y2; proposals are"),
        ("boxes.csv", "image,x1,y1,x2,y2\na.png,1,2,3,4\nb.png,1,2,3\n", "csv:3: 4 cells, or no image"),
        ("boxes.csv", "image,x1,y1,x2,y2\na.png,1,2,three,4\n", "csv:2: .*three"),
        ("boxes.csv", "image,x1,y1,x2,y2\na.png,3,2,1,4\n", "csv:2: no box of finite numbers"),
        ("boxes.csv", "image,x1,y1,x2,y2\na.png,1,2,nan,4\n", "csv:2: no box of finite numbers"),
    ],
)
def test_faults_are_named_by_file_and_entry(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_proposals(written(tmp_path, content, name))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_proposals(tmp_path / "boxes.json")


def test_names_find_their_images(tmp_path: Path) -> None:
    found = read_proposals(written(tmp_path, COCO))
    images = [Path("in/000000000139.jpg"), Path("in/val/cat.jpg"), Path("in/train/cat.jpg"), Path("in/val/cat.jpg")]
    matched = found.match(images)
    assert {path: len(boxes) for path, boxes in matched.items()} == {images[0]: 2, images[1]: 1, images[2]: 0}
    with pytest.raises(DataError, match=r"names none of the 1 images, such as dog\.jpg; it names '139', 'val/cat"):
        found.match([Path("dog.jpg")])
    with pytest.raises(DataError, match=r"'139' may be .*a.139\.png or .*b.139\.png"):
        found.match([Path("a/139.png"), Path("b/139.png")])


class Halves:
    """The left and the right half of an image; counts how often it was asked."""

    name = "halves"
    version = "1"

    def __init__(self, scored: bool = True) -> None:
        self.asked, self.scored = 0, scored

    def __call__(self, image: np.ndarray) -> Objects:
        self.asked += 1
        height, width = image.shape[:2]
        boxes = torch.tensor([[0, 0, width / 2, height], [width / 2, 0, width, height]], dtype=torch.float64)
        return Objects(boxes, torch.tensor([4, 2]), torch.tensor([0.5, 0.25]) if self.scored else None)


def test_proposals_have_the_classes_that_their_source_gives() -> None:
    found = propose(np.zeros((4, 6, 3), np.uint8), Halves())
    assert found.labels.tolist() == [4, 2]
    assert found.boxes.dtype == torch.float32


def test_classes_are_numbered_as_they_are_wanted(tmp_path: Path) -> None:
    rows = [{"image": "a", "bbox": [0, 0, 1, 1], "class": name} for name in ("cat", "dog", "owl")]
    found = read_proposals(written(tmp_path, rows), ["owl", "cat"]).images["a"]
    assert found.labels.tolist() == [1, 0]
    assert read_proposals(written(tmp_path, rows), ["bird"]).images["a"].labels.tolist() == [0, 0, 0]
    table = written(tmp_path, "image,x1,y1,x2,y2,class\na,0,0,2,2,owl\n", "boxes.csv")
    assert read_proposals(table, ["cat", "owl"]).images["a"].labels.tolist() == [1]
    answer = {"image": "a", "objects": {"boxes": [[0, 0, 2, 2]], "scores": [0.5], "names": ["cat"]}}
    assert read_proposals(written(tmp_path, [answer]), ["cat", "owl"]).images["a"].labels.tolist() == [0]
    with pytest.raises(DataError, match="entry 0: no class, which this model needs: one of cat, owl"):
        read_proposals(written(tmp_path, COCO), ["cat", "owl"])


@pytest.mark.parametrize("scored", [True, False])
def test_an_image_is_computed_once_by_what_it_holds(tmp_path: Path, scored: bool) -> None:
    cache, source = tmp_path / "cache", Halves(scored)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    for name in ("a.png", "copy.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    first = proposals_for(tmp_path / "a.png", source, cache)
    again = proposals_for(tmp_path / "copy.png", source, cache)
    assert source.asked == 1
    assert torch.equal(first.boxes, again.boxes)
    assert (again.scores is None) if not scored else torch.equal(first.scores, again.scores)
    Image.fromarray(255 - pixels).save(tmp_path / "a.png")
    proposals_for(tmp_path / "a.png", source, cache)
    assert source.asked == 2
    source.version = "2"
    proposals_for(tmp_path / "a.png", source, cache)
    assert source.asked == 3
    for kept in cache.rglob("*.npy"):
        kept.write_bytes(kept.read_bytes()[:-5])
    assert torch.equal(proposals_for(tmp_path / "copy.png", source, cache).boxes, first.boxes)
    assert source.asked == 4
    assert proposals_for(tmp_path / "copy.png", source, cache).boxes.tolist() == first.boxes.tolist()
    assert source.asked == 4


def test_what_is_no_image_is_refused_and_nothing_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            proposals_for(tmp_path / name, Halves(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


SHAPE = Preprocessing((32, 32), "letterbox", proposals="selective_search")


def squares(folder: Path) -> list[Path]:
    """Images of 64 x 80 pixels with a bright square each, at another place."""
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 60, (64, 80, 3), np.uint8)
        pixels[10 + 5 * i : 40 + 5 * i, 20 : 50 + 5 * i] = 230
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


def test_selective_search_is_a_source_whose_version_tells_its_arguments(tmp_path: Path) -> None:
    path = squares(tmp_path)[0]
    found = proposals_for(path, SOURCES["selective_search"], tmp_path / "kept")
    assert found.boxes.dtype == torch.float32
    assert len(found) > 1
    assert (found.boxes[:, 2:] <= torch.tensor([80.0, 64.0])).all()
    near = (found.boxes - torch.tensor([20.0, 10, 50, 40])).abs().amax(1)
    assert near.min() < 4  # the square
    assert len({SelectiveSearch(mode, seed).version for mode in ("fast", "quality") for seed in (0, 1)}) == 4


def test_the_quality_mode_is_a_source_of_its_own(tmp_path: Path) -> None:
    """`--proposals selective_search_quality`, which a checkpoint may name too."""
    path, word = squares(tmp_path)[0], "selective_search_quality"
    shape = Preprocessing.from_json(replace(SHAPE, proposals=word).to_json())
    view = inference_view("detect", shape)
    assert set(SOURCES) < set(PROPOSALS)
    found, fast = (
        proposals_for(path, SOURCES[word], tmp_path),
        proposals_for(path, SOURCES["selective_search"], tmp_path),
    )
    assert len(found) > len(fast)
    pixels = decode(path)
    given = view.propose(pixels)
    assert given is not None
    assert torch.equal(given.boxes, found.boxes)


def test_a_region_of_a_picture_has_boxes_of_its_own(tmp_path: Path) -> None:
    path, kept = squares(tmp_path)[0], tmp_path / "kept"
    whole = proposals_for(path, SelectiveSearch(), kept)
    part = proposals_for(path, SelectiveSearch(), kept, (10, 0, 60, 64))
    assert part.boxes.max(0).values.tolist()[2:] <= [50, 64]
    assert torch.equal(proposals_for(path, SelectiveSearch(), kept, (10, 0, 60, 64)).boxes, part.boxes)
    assert torch.equal(proposals_for(path, SelectiveSearch(), kept).boxes, whole.boxes)
    assert len(list(kept.rglob("*.npy"))) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_the_view_of_a_model_gives_its_boxes_whoever_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Prediction of files and arrays and the loader give equal boxes, in the pixels of the input."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    view = inference_view("detect", SHAPE)
    paths = squares(tmp_path)
    records = [Record(path.name, (64, 80), things=[]) for path in paths]
    dataset = DataSet(tmp_path, "coco", "detect", ["square"], records)
    read = [view.read(path).given for path in paths]
    batches = list(iter_images(paths, view, 2, workers))
    loaded = list(Loader(dataset, records, "detect", view, InOrder(), 2, Work(workers)).epoch(0))
    for group in (batches, loaded):
        given = [each for batch in group for each in batch.given or ()]
        assert len(given) == len(read)
        for own, other in zip(read, given, strict=True):
            assert torch.equal(own.boxes, other.boxes)
    array = view.propose(np.array(Image.open(paths[0]).convert("RGB")))
    assert len(array) == len(read[0])
    assert read[0].boxes.max() <= 32
