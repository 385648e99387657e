"""Which names mean a split: one answer for every reader.

A name is a split as a whole (`train`, `val2017`, `training_set`, `seg_test`), never because the word occurs in it: the
pictures in `bus_stop`, `train_station` or `my_test_project` are of no split. Only names below the folder that the user
gives are asked, so that a data set reads the same from inside and from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLITS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "val",
    "evaluation": "val",
}
"""The words (lower case) that name a split, alone."""

_WORD = "|".join(sorted(SPLITS, key=len, reverse=True))
_KIND = "seg|images?|imgs?|pictures?|photos?|data|stage[-_ ]?\\d|jpe?g|png"
_FOLDER = re.compile(rf"(?:(?:{_KIND})[-_ ]?)?({_WORD})(?:[-_ ]?(?:{_KIND}|sets?|split|folder|v?\d{{1,4}}))*")
_LABELS = (
    "instances|person[-_ ]keypoints|keypoints|captions|panoptic|stuff|annotations?|annots?|labels?|coco|gt"
    "|ground[-_ ]truth|boxes|bbox(?:es)?|image[-_ ]info|meta(?:data)?|classes|default"
)
_FILE = re.compile(rf"(?:(?:{_LABELS})[-_. ]?)*({_FOLDER.pattern})(?:[-_. ]?(?:{_LABELS}))*")


def split_of_folder(name: str) -> str | None:
    """ "train", "val" or "test" where a folder of this name is a split of a data set, else None."""
    found = _FOLDER.fullmatch(name.strip().lower())
    return SPLITS[found[1]] if found else None


def split_of_file(stem: str) -> str | None:
    """ "train", "val" or "test" where a file of labels or a list of this name (without suffix) is of one split:
    `train`, `instances_val2017`, `test_annotations.coco`; None for any other, such as `my_test_labels`."""
    found = _FILE.fullmatch(stem.strip().lower().strip("_-. "))
    return SPLITS[found[2]] if found else None


def split_of_folders(names: Iterable[str]) -> str | None:
    """The split of a picture that lies in folders of these names below the data set: that of the first which is one."""
    return next((split for split in map(split_of_folder, names) if split), None)
