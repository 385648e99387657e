"""The data.yaml (or config.yaml) of a YOLO data set: names, folders of the splits, keypoint shape.

Everything is read as text (class `no` stays `no`), and neither tags nor aliases are let in: they are of no use here,
and they are how a YAML file runs code or fills the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from saccade.errors import UsageError

NAMES = ("data.yaml", "data.yml", "config.yaml", "dataset.yaml")
_MAX_BYTES = 2_000_000
_MAX_DEPTH = 10


@dataclass(slots=True)
class Layout:
    """What a data.yaml says."""

    place: str  # the file's name, for messages
    names: dict[int, str]  # id in the label files -> class name, in order of id
    splits: dict[str, list[str]] = field(default_factory=dict)  # train, val, test -> folders or lists, as written
    path: str = ""  # where the splits' folders start, as written
    keypoints: tuple[int, int] | None = None  # (points, 2 or 3 numbers a point)
    flip: list[int] | None = None  # for each keypoint the one that it becomes in a mirror
    only_labelled: bool = False  # images without a label file are left out instead of being background


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, every scalar a string.

    Raises:
        UsageError: not YAML (with line and column), not a mapping, too large, or with tags or aliases.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{path.name}: {path.stat().st_size} bytes, at most {_MAX_BYTES} are read")
    try:
        text = path.read_text(encoding="utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise UsageError(f"{path.name}: nested over {_MAX_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise UsageError(f"{path.name}:{line}: aliases (*name) and tags (!name) are not allowed")
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: not UTF-8 text at byte {error.start}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path.name}: expected keys such as 'names' and 'train', found no mapping")
    return content


def is_layout(path: Path) -> bool:
    """True where the file is YAML with `names`, or with `nc` and `train`."""
    try:
        content = parse_yaml(path)
    except (UsageError, OSError):
        return path.name in NAMES[:2]  # let `read` say what is wrong with a file that claims to be one
    return "names" in content or {"nc", "train"} <= set(content)


def read_layout(path: Path) -> Layout:
    """Read and check a data.yaml.

    Raises:
        UsageError: as `parse_yaml`; a key with a value of the wrong kind; names that disagree with nc.
    """
    content = parse_yaml(path)
    names = _names(path, content.get("names"), content.get("nc"))
    splits = {}
    for key, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("validation", "val"), ("test", "test")):
        value = content.get(key)
        if isinstance(value, str) and value not in ("", "null", "~"):
            splits[split] = [value]
        elif isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            splits[split] = value
        elif value not in (None, "", "null", "~", []):
            raise UsageError(f"{path.name}: key '{key}' must be a folder, a list file or a list of them")
    start = content.get("path", "")
    if not isinstance(start, str):
        raise UsageError(f"{path.name}: key 'path' must be a folder")
    layout = Layout(path.name, names, splits, start)
    layout.only_labelled = content.get("skip_if_label_file_missing") == "true"
    if "kpt_shape" in content:
        shape = _whole_numbers(path, "kpt_shape", content["kpt_shape"])
        if len(shape) != 2 or shape[0] < 1 or shape[1] not in (2, 3):
            raise UsageError(f"{path.name}: key 'kpt_shape' must be [points, 2 or 3], found {shape}")
        layout.keypoints = shape[0], shape[1]
        if "flip_idx" in content:
            layout.flip = _whole_numbers(path, "flip_idx", content["flip_idx"])
            if sorted(layout.flip) != list(range(shape[0])):
                raise UsageError(f"{path.name}: key 'flip_idx' must hold each of 0..{shape[0] - 1} once")
    return layout


def _names(path: Path, names: object, count: object) -> dict[int, str]:
    if isinstance(names, list):
        table = dict(enumerate(names))
    elif isinstance(names, dict):
        table = dict(zip(_whole_numbers(path, "names", list(names)), names.values(), strict=True))
    elif names is None and isinstance(count, str) and count.isdecimal() and 0 < int(count) <= 100_000:
        return {i: f"class {i}" for i in range(int(count))}
    else:
        raise UsageError(f"{path.name}: key 'names' must be a list of class names, or a mapping from id to name")
    if not table or any(not isinstance(name, str) or not name.strip() for name in table.values()):
        raise UsageError(f"{path.name}: key 'names' must hold at least one name, each of them a text")
    table = {i: table[i].strip() for i in sorted(table)}
    twice = {name for name in table.values() if list(table.values()).count(name) > 1}
    if twice:
        raise UsageError(f"{path.name}: key 'names' holds {sorted(twice)[0]!r} more than once")
    if min(table) < 0:
        raise UsageError(f"{path.name}: key 'names' has the id {min(table)}, ids start at 0")
    if count is not None and str(len(table)) != count:
        raise UsageError(f"{path.name}: key 'nc' is {count}, but 'names' holds {len(table)} names; make them agree")
    return table


def _whole_numbers(path: Path, key: str, values: object) -> list[int]:
    try:
        return [int(v) for v in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UsageError(f"{path.name}: key '{key}' needs whole numbers, found {str(values)[:60]}") from None
