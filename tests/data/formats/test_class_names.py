"""Every list of classes that a person writes has each name once; where it has not, that is wrong usage (exit 2)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.formats import read
from saccade.errors import UsageError

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "cat"}],
}
YOLO = {"images/a.png": "", "labels/a.txt": "0 .5 .5 .2 .2\n"}
MASKS = {"images/a.png": "", "masks/a.png": ""}


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"a.png": "", "train.json": json.dumps(COCO)}, "coco"),
        (YOLO | {"data.yaml": "names: [cat, cat]\ntrain: images\n"}, "yolo"),
        (YOLO | {"classes.txt": "cat\ncat\n"}, "yolo"),
        (YOLO | {"obj.data": "train = train.txt\nnames = obj.names\n", "obj.names": "cat\ncat\n",
                 "train.txt": "images/a.png\n"}, "yolo"),
        (MASKS | {"classes.txt": "cat\ncat\n"}, "masks"),
        (MASKS | {"config.yaml": "classes: {0: cat, 1: cat}\n"}, "masks"),
        (MASKS | {"labelmap.txt": "cat:0,0,0::\ncat:1,1,1::\n"}, "masks"),
        ({"a.png": "", "labels.csv": "image,cat,cat\na.png,0,1\n"}, "tags_csv"),
    ],
)  # fmt: skip
def test_a_class_that_stands_twice_is_wrong_usage(files: dict[str, str], word: str, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
        else:
            path.write_text(text)
    with pytest.raises(UsageError, match="cat") as error:
        read(f"{word}:{tmp_path}")
    assert "repeat" in str(error.value) or "same name" in str(error.value)
