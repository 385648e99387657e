"""A tree of classes by their names, as a person writes it: read from a file, and given to a data set.

Three forms are read. Nested YAML: a mapping from a name to what lies below it, a mapping or a list, nothing for a leaf
(`animal: {dog: [terrier, hound], cat: }`). A flat YAML table, `child: parent` a line, whose top nodes have no parent.
Darknet's `.tree` file: a name and the line number of its parent, from 0 on, -1 at the top (Redmon & Farhadi 2017,
"YOLO9000", section 4, whose 9k.tree is such a file). Scalars are text, so that the class `no` stays `no`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saccade.data.dataset import DataSet
from saccade.errors import UsageError, suggest
from saccade.machine.files import open_regular

MOST = 100_000  # nodes
_BYTES = 10_000_000
_DEPTH = 64
_PARSER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NOTHING = ("", "~", "null")  # what stands for no value in YAML
_FORMS = "names nested as mappings and lists, or lines `child: parent`"


@dataclass(frozen=True, slots=True)
class Tree:
    """Classes and, of each, the number of its parent, or -1 at the top; as `layers.wordtree.WordTree` takes them."""

    names: tuple[str, ...]
    parents: tuple[int, ...]

    @property
    def leaves(self) -> list[str]:
        """The names below which there is no other."""
        inner = set(self.parents)
        return [name for i, name in enumerate(self.names) if i not in inner]

    def in_words(self) -> str:
        """`12 classes in a tree: 3 at the top (animal, food, vehicle), 8 leaves`."""
        top = [name for name, parent in zip(self.names, self.parents, strict=True) if parent < 0]
        named = ", ".join(top[:5]) + (", ..." if len(top) > 5 else "")
        return f"{len(self.names)} classes in a tree: {len(top)} at the top ({named}), {len(self.leaves)} leaves"


@dataclass(frozen=True, slots=True)
class _Row:
    """A name where it stands in the file, and its parent's."""

    name: str
    parent: str | None
    line: int


@dataclass(slots=True)
class _Node:
    """A value of YAML with the line that it begins in: text, entries of a list, or keys with values."""

    value: str | list[_Node] | list[tuple[_Node, _Node]]
    line: int
    mapping: bool = False


def read_tree(path: Path) -> Tree:
    """The tree that a file describes, its nodes in the order of the file.

    Raises:
        UsageError: the file cannot be read or has another form; no name in it; a name twice; a name that is its own
            ancestor. Names file and line.
    """
    text = _text(path)
    rows = list(_darknet(text, path.name) if path.suffix == ".tree" else _yaml(text, path.name))
    if not rows:
        raise UsageError(f"{path.name}: an empty tree; expected {_FORMS}")
    if len(rows) > MOST:
        raise UsageError(f"{path.name}: {len(rows)} names, at most {MOST} are read")
    places: dict[str, int] = {}
    for row in rows:
        if not row.name.strip():
            raise UsageError(f"{path.name}:{row.line}: a name without a letter")
        if row.name in places:
            raise UsageError(f"{path.name}:{row.line}: {row.name!r} stands twice, first in line {places[row.name]}")
        places[row.name] = row.line
    numbers = {row.name: i for i, row in enumerate(rows)}
    tree = Tree(tuple(numbers), tuple(-1 if row.parent is None else numbers[row.parent] for row in rows))
    _refuse_cycles(tree, path.name, [row.line for row in rows])
    return tree


def _text(path: Path) -> str:
    try:
        with open_regular(path, links=True) as file:
            content: bytes = file.read(_BYTES + 1)
        if len(content) > _BYTES:
            raise UsageError(f"{path.name}: more than {_BYTES} bytes; a tree of classes is smaller")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a tree of classes ({error})") from error


def _refuse_cycles(tree: Tree, name: str, lines: list[int]) -> None:
    finished = [False] * len(tree.names)
    for start in range(len(tree.names)):
        path, node = dict[int, None](), start
        while node >= 0 and not finished[node]:
            if node in path:
                ring = list(path)[list(path).index(node) :]
                words = " -> ".join(tree.names[i] for i in [*ring, node])
                raise UsageError(f"{name}:{lines[node]}: {tree.names[node]!r} is its own ancestor: {words}")
            path[node] = None
            node = tree.parents[node]
        for passed in path:
            finished[passed] = True


def _darknet(text: str, name: str) -> Iterator[_Row]:
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, words in lines:
        if len(words) != 2 or not words[1].removeprefix("-").isdecimal():
            found = repr(" ".join(words))
            raise UsageError(f"{name}:{number}: expected a name and the number of its parent, found {found}")
        parent = int(words[1])
        if not -1 <= parent < len(lines):
            raise UsageError(f"{name}:{number}: parent {parent} of {words[0]!r}; allowed: -1 to {len(lines) - 1}")
        yield _Row(words[0], None if parent < 0 else lines[parent][1][0], number)


def _yaml(text: str, name: str) -> Iterator[_Row]:
    try:
        documents = _compose(yaml.parse(text, Loader=_PARSER), name)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    if len(documents) > 1:
        raise UsageError(f"{name}:{documents[1].line}: a second document; a file holds one tree")
    if not documents or documents[0].value in _NOTHING:
        return iter(())
    pairs = _pairs(documents[0])
    if pairs is not None and any(isinstance(v.value, str) and v.value not in _NOTHING for _, v in pairs):
        return _table(pairs, name)
    return _nested(documents[0], None, name)


def _compose(events: Iterable[yaml.Event], name: str) -> list[_Node]:
    """The documents that YAML events describe, in one pass."""
    opened: list[list[_Node]] = [[]]
    starts: list[int] = []
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise UsageError(f"{name}:{line}: aliases (*name) and tags (!name) are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            opened[-1].append(_Node(event.value, line))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(opened) > _DEPTH:
                raise UsageError(f"{name}:{line}: nested over {_DEPTH} deep")
            opened.append([])
            starts.append(line)
        elif isinstance(event, yaml.CollectionEndEvent):
            values, mapping = opened.pop(), isinstance(event, yaml.MappingEndEvent)
            held: Any = list(zip(values[0::2], values[1::2], strict=True)) if mapping else values
            opened[-1].append(_Node(held, starts.pop(), mapping))
    return opened[0]


def _pairs(node: _Node) -> list[tuple[_Node, _Node]] | None:
    return node.value if node.mapping else None  # type: ignore[return-value]  # a mapping holds pairs


def _table(pairs: list[tuple[_Node, _Node]], name: str) -> Iterator[_Row]:
    """Lines `child: parent`; a parent that has no line of its own is at the top."""
    listed = {key.value for key, _ in pairs if isinstance(key.value, str)}
    for key, value in pairs:
        child, parent = _word(key, name), value.value
        if not isinstance(parent, str):
            raise UsageError(
                f"{name}:{value.line}: below {child!r} stands a list or mapping, in other lines a word; a file is "
                f"nested or a table: {_FORMS}"
            )
        if parent not in _NOTHING and parent not in listed:
            listed.add(parent)
            yield _Row(parent, None, value.line)
        yield _Row(child, None if parent in _NOTHING else parent, key.line)


def _nested(node: _Node, parent: str | None, name: str) -> Iterator[_Row]:
    """The names of a nested list or mapping, each before what lies below it."""
    if isinstance(node.value, str):
        if node.value not in _NOTHING:
            above = "the file" if parent is None else repr(parent)
            raise UsageError(f"{name}:{node.line}: {above} holds the word {node.value!r}; write a list: [{node.value}]")
        return
    for entry in node.value:
        if isinstance(entry, tuple):
            key = _word(entry[0], name)
            yield _Row(key, parent, entry[0].line)
            yield from _nested(entry[1], key, name)
        elif isinstance(entry.value, str):
            yield _Row(entry.value, parent, entry.line)
        elif entry.mapping:
            yield from _nested(entry, parent, name)
        else:
            raise UsageError(f"{name}:{entry.line}: a list within a list has no name")


def _word(node: _Node, name: str) -> str:
    if not isinstance(node.value, str):
        raise UsageError(f"{name}:{node.line}: a name must be text or a number")
    return node.value


def grow_into(tree: Tree, datasets: list[DataSet], file: str) -> None:
    """Make the classes of data sets the nodes of a tree, by name.

    Nodes above others need no data. A class of which a data set has no label, and which the tree lacks, is left out,
    and its ledger says so.

    Args:
        file: name of the tree's file, for messages.

    Raises:
        UsageError: a class with labels that the tree lacks, or a leaf that no data set has as a class.
    """
    counts: Counter[str] = Counter()
    known = set(tree.names)
    for dataset in datasets:
        own: Counter[str] = Counter()
        for record in dataset.records:
            own.update(dataset.classes[label] for label in record.labels())
        lacking = [name for name in dataset.classes if name not in known]
        used = [name for name in lacking if own[name]]
        if used:
            raise UsageError(
                f"{file}: the tree lacks {len(used)} classes of {dataset.root}: {_few(used)}; {used[0]!r}: "
                f"{suggest(used[0], tree.names)}"
            )
        if lacking:
            dataset.ledger.warnings.append(f"classes without a label that the tree lacks are left out: {_few(lacking)}")
        counts += own
    named = {name for dataset in datasets for name in dataset.classes}
    foreign = [name for name in tree.leaves if name not in named]
    if foreign:
        rest = sorted(named - known) or sorted(named)
        raise UsageError(
            f"{file}: no data has {len(foreign)} leaves of the tree: {_few(foreign)}; {foreign[0]!r}: "
            f"{suggest(foreign[0], rest)}. Only names above others need no data; other images with these classes are "
            "given by --join"
        )
    empty = [name for name in tree.leaves if not counts[name]]
    if empty:
        datasets[0].ledger.warnings.append(
            f"{len(empty)} of {len(tree.leaves)} leaves of the tree have no label in the data: {_few(empty)}"
        )
    for dataset in datasets:
        dataset.take_classes(tree.names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
