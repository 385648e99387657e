"""Objects drawn as class maps with a border, and what such data refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.borders import as_class_maps, class_map_with_border, interiors
from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import read
from saccade.data.truth import read_truth
from saccade.errors import DataError, UsageError


def numbers(text: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in text.split()], np.int32)


TOUCHING = numbers("""
    0000000000
    0111122220
    0111122220
    0111122220
    0111122220
    0000000000
""")


def test_the_inside_is_far_from_all_else() -> None:
    inside = interiors(TOUCHING, 1)
    assert np.argwhere(inside).tolist() == [[y, x] for y in (2, 3) for x in (2, 3, 6, 7)]
    assert not (interiors(TOUCHING, 0) != (TOUCHING > 0)).any()


def test_small_objects_keep_an_inside() -> None:
    """A border of 2 pixels would leave nothing of 4 x 4, and none of 1 pixel anything of 2 x 2."""
    inside = interiors(TOUCHING, 2)
    assert (inside == interiors(TOUCHING, 1)).all()
    dots = numbers("0000 0110 0110 0002")
    assert (interiors(dots, 3) == (dots > 0)).all()


def test_the_edge_of_the_image_is_no_border() -> None:
    assert interiors(np.ones((4, 4), np.int32), 1).all()


def record(**facts: object) -> tuple[Record, DataSet]:
    square = [[1.0, 1, 7, 1, 7, 7, 1, 7]]
    things = [
        Thing(0, (1, 1, 7, 7), polygons=square),
        Thing(1, (7, 1, 13, 7), polygons=[[7.0, 1, 13, 1, 13, 7, 7, 7]]),
        Thing(0, (0, 8, 14, 10), polygons=[[0.0, 8, 14, 8, 14, 10, 0, 10]], crowd=True),
    ]
    found = Record("a.png", (10, 14), things=things)
    return found, DataSet(Path("."), "coco", "instances", ["cell", "dirt"], [found])


def test_class_maps_of_polygons() -> None:
    """0 background, 1 + label inside, the last class along the edge, 255 where a crowd is."""
    found, dataset = record()
    maps = as_class_maps(dataset, 1)
    assert maps.classes == ["background", "cell", "dirt", "border"]
    drawn = class_map_with_border(found, maps)
    assert drawn[3, 1:13].tolist() == [3, 1, 1, 1, 1, 3, 3, 2, 2, 2, 2, 3]
    assert (drawn[8:] == 255).all()
    assert (drawn[0] == 0).all()
    truth = read_truth(found, maps, "segment")
    assert truth.semantic is not None
    assert (truth.semantic.numpy() == drawn).all()
    assert dataset.task == "instances"
    assert dataset.border == 0  # the data set itself stays


def test_maps_of_ids_and_pictures_without_objects(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i, ids in enumerate((TOUCHING, 0 * TOUCHING)):
        Image.fromarray((ids * 300).astype(np.uint16)).save(tmp_path / "masks" / f"{i}.png")
        Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    maps = as_class_maps(read(tmp_path), 1)
    assert maps.classes == ["background", "object", "border"]
    with_things, without = (class_map_with_border(each, maps) for each in maps.records)
    assert np.bincount(with_things.ravel()).tolist() == [28, 8, 24]
    assert not without.any()


def test_data_that_have_no_border(tmp_path: Path) -> None:
    _, dataset = record()
    dataset.classes = ["cell", "border"]
    with pytest.raises(UsageError, match="has a class 'border' of its own"):
        as_class_maps(dataset, 1)
    with pytest.raises(UsageError, match="holds labels to detect; the border of objects is drawn from masks"):
        as_class_maps(DataSet(tmp_path, "voc", "detect", ["a"], []), 1)
    found, dataset = record()
    found.things = None
    with pytest.raises(DataError, match=r"a.png: the data set states no list of objects"):
        class_map_with_border(found, as_class_maps(dataset, 1))
