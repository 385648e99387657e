"""The data.yaml (or config.yaml) of a YOLO data set: names, folders of the splits, keypoint shape.

Everything is read as text (class `no` stays `no`), and neither tags nor aliases are let in: they are of no use here,
and they are how a YAML file runs code or fills the memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from saccade.data.formats.class_names import refuse_repeats
from saccade.errors import UsageError

NAMES = ("data.yaml", "data.yml", "config.yaml", "dataset.yaml")
MAX_CLASSES = 100_000
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # key -> split
_MAX_BYTES = 2_000_000
_MAX_DEPTH = 10
_MAX_KEYPOINTS = 1_000
_EMPTY: tuple[object, ...] = (None, "", "null", "~", [])
_PARSER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's is 20 times faster, where PyYAML was built with it


@dataclass(slots=True)
class Layout:
    """What a data.yaml, or the files of darknet in its place, say."""

    place: str  # the file's name, for messages
    names: dict[int, str]  # id in the label files -> class name, in order of id
    splits: dict[str, list[str]] = field(default_factory=dict)  # train, val, test -> folders or lists, as written
    path: str = ""  # where the splits' folders start, as written
    keypoints: tuple[int, int] | None = None  # (points, 2 or 3 numbers a point)
    flip: list[int] | None = None  # for each keypoint the one that it becomes in a mirror
    only_labelled: bool = False  # images without a label file are left out instead of being background
    lines: bool = False  # ids are the numbers of lines in a list of names
    positions: dict[int, int] = field(init=False)  # id in the label files -> index of the class
    allowed: str = field(init=False)  # the ids in words, for messages

    def __post_init__(self) -> None:
        self.positions = {i: position for position, i in enumerate(self.names)}
        self.allowed = ranges(list(self.names)) if self.names else "0 and above"


def ranges(ids: list[int]) -> str:
    """[1, 2, 3, 7] -> "1..3, 7"; of many gaps the first are named."""
    parts: list[list[int]] = []
    for i in sorted(ids):
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    more = [f"... {parts[-1][1]}"] if len(parts) > 20 else []
    return ", ".join([f"{a}..{b}" if a != b else str(a) for a, b in parts[:20]] + more)


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, every scalar a string.

    Raises:
        UsageError: not YAML (with line and column), not a mapping, too large or deep, a key twice, tags or aliases.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{path.name}: {path.stat().st_size} bytes, at most {_MAX_BYTES} are read")
    try:
        text = path.read_text(encoding="utf-8-sig")
        documents = _compose(yaml.parse(text, Loader=_PARSER), path.name)
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: not UTF-8 text at byte {error.start}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise UsageError(f"{path.name}: expected keys such as 'names' and 'train', found no mapping")
    return documents[0]


def _compose(events: Iterable[yaml.Event], name: str) -> list[Any]:
    """The documents that YAML events describe, as dictionaries, lists and text; one pass, whatever they hold."""
    opened: list[list[Any]] = [[]]  # the documents, then every collection that is open: its values, or keys and values
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise UsageError(f"{name}:{line}: aliases (*name) and tags (!name) are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            opened[-1].append(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(opened) > _MAX_DEPTH:
                raise UsageError(f"{name}:{line}: nested over {_MAX_DEPTH} deep")
            opened.append([])
        elif isinstance(event, yaml.CollectionEndEvent):
            values = opened.pop()
            opened[-1].append(_mapping(values, f"{name}:{line}") if isinstance(event, yaml.MappingEndEvent) else values)
    return opened[0]


def _mapping(values: list[Any], where: str) -> dict[str, Any]:
    keys = values[0::2]
    if not all(isinstance(key, str) for key in keys):
        raise UsageError(f"{where}: a key must be text or a number")
    if len(set(keys)) < len(keys):
        raise UsageError(f"{where}: the key {repeated(keys)!r} stands twice above")
    return dict(zip(keys, values[1::2], strict=True))


def repeated(values: Iterable[str]) -> str:
    """The first, in order of the alphabet, of the values that stand there more than once."""
    return min(value for value, count in Counter(values).items() if count > 1)


def is_layout(path: Path) -> bool:
    """True where the file is YAML with `names` or `nc`, and with folders of splits where its name is none of NAMES."""
    try:
        content = parse_yaml(path)
    except (UsageError, OSError):
        return path.name in NAMES[:2]  # let `read` say what is wrong with a file that claims to be one
    if path.name in NAMES:
        return "names" in content or {"nc", "train"} <= set(content)
    return not {"names", "nc"}.isdisjoint(content) and not set(_SPLITS).isdisjoint(content)


def read_layout(path: Path) -> Layout:
    """Read and check a data.yaml.

    Raises:
        UsageError: as `parse_yaml`; a key with a value of the wrong kind; names that disagree with nc.
    """
    content = parse_yaml(path)
    names = _names(path, content.get("names"), content.get("nc"))
    splits = {}
    for key, split in _SPLITS.items():
        value = content.get(key)
        if value in _EMPTY:
            continue
        if isinstance(value, str):
            splits[split] = [value]
        elif isinstance(value, list) and all(isinstance(v, str) for v in value):
            splits[split] = value
        else:
            raise UsageError(f"{path.name}: key '{key}' must be a folder, a list file or a list of them")
    start = content.get("path", "")
    if not isinstance(start, str):
        raise UsageError(f"{path.name}: key 'path' must be a folder")
    layout = Layout(path.name, names, splits, start)
    layout.only_labelled = content.get("skip_if_label_file_missing") == "true"
    if "kpt_shape" in content:
        shape = _whole_numbers(path, "kpt_shape", content["kpt_shape"])
        if len(shape) != 2 or not 1 <= shape[0] <= _MAX_KEYPOINTS or shape[1] not in (2, 3):
            found = str(content["kpt_shape"])[:60]
            raise UsageError(
                f"{path.name}: key 'kpt_shape' must be [1 to {_MAX_KEYPOINTS} points, 2 or 3], found {found}"
            )
        layout.keypoints = shape[0], shape[1]
        if "flip_idx" in content:
            layout.flip = _whole_numbers(path, "flip_idx", content["flip_idx"])
            if sorted(layout.flip) != list(range(shape[0])):
                raise UsageError(f"{path.name}: key 'flip_idx' must hold each of 0..{shape[0] - 1} once")
            if any(layout.flip[j] != i for i, j in enumerate(layout.flip)):
                raise UsageError(f"{path.name}: key 'flip_idx' must lead back: a joint's partner has it as partner")
    return layout


def _names(path: Path, names: object, count: object) -> dict[int, str]:
    if isinstance(names, list):
        table = dict(enumerate(names))
    elif isinstance(names, dict):
        ids = _whole_numbers(path, "names", list(names))
        table = dict(zip(ids, names.values(), strict=True))
        if len(table) < len(ids):
            raise UsageError(f"{path.name}: key 'names' holds the id {repeated(map(str, ids))} more than once")
    elif names is None and isinstance(count, str) and count.isdecimal() and 0 < float(count) <= MAX_CLASSES:
        return {i: f"class {i}" for i in range(int(count))}
    else:
        raise UsageError(f"{path.name}: key 'names' must be a list of class names, or a mapping from id to name")
    if not table or any(not isinstance(name, str) or not name.strip() for name in table.values()):
        raise UsageError(f"{path.name}: key 'names' must hold at least one name, each of them a text")
    table = {i: table[i].strip() for i in sorted(table)}
    refuse_repeats(table.values(), f"{path.name}: key 'names'")
    wrong = next((i for i in (min(table), max(table)) if not 0 <= i < MAX_CLASSES), None)
    if wrong is not None:
        raise UsageError(f"{path.name}: key 'names' has the id {str(wrong)[:20]}, allowed 0..{MAX_CLASSES - 1}")
    if count is not None and str(len(table)) != count:
        stated = str(count)[:20]
        raise UsageError(f"{path.name}: key 'nc' is {stated}, but 'names' holds {len(table)} names; make them agree")
    return table


def _whole_numbers(path: Path, key: str, values: object) -> list[int]:
    try:
        return [int(v) for v in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UsageError(f"{path.name}: key '{key}' needs whole numbers, found {str(values)[:60]}") from None
