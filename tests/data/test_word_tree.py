"""Trees of classes as people write them, what is wrong with some, and what a data set becomes with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.word_tree import Tree, grow_into, read_tree
from saccade.errors import UsageError

BOX = (0.0, 0.0, 4.0, 4.0)
ANIMALS = Tree(("animal", "dog", "terrier", "hound", "cat"), (-1, 0, 1, 1, 0))


def written(folder: Path, text: str, name: str = "tree.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "animal: {dog: [terrier, hound], cat: }",
        "animal:\n  - dog:\n      - terrier\n      - hound\n  - cat\n",
        "- animal: {dog: {terrier: , hound: null}, cat: []}",
        "animal:\ndog: animal\nterrier: dog\nhound: dog\ncat: animal\n",
    ],
)
def test_forms_of_one_tree(text: str, tmp_path: Path) -> None:
    assert read_tree(written(tmp_path, text)) == ANIMALS


def test_a_table_need_not_list_what_is_at_the_top(tmp_path: Path) -> None:
    tree = read_tree(written(tmp_path, "dog: animal\nno: word\nyes: word\n"))
    assert tree == Tree(("animal", "dog", "word", "no", "yes"), (-1, 0, -1, 2, 2))
    assert tree.leaves == ["dog", "no", "yes"]
    assert tree.in_words() == "5 classes in a tree: 2 at the top (animal, word), 3 leaves"


def test_darknet_counts_parents_from_0(tmp_path: Path) -> None:
    text = "animal -1\ndog 0\nterrier 1\nhound 1\ncat 0\n"
    assert read_tree(written(tmp_path, text, "small.tree")) == ANIMALS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "tree.yaml: an empty tree"),
        ("{}", "tree.yaml: an empty tree"),
        ("animal: {dog: , cat: }\nthing:\n  - dog\n", "tree.yaml:3: 'dog' stands twice, first in line 1"),
        ("dog: cat\ncat: fox\nfox: dog\n", "'dog' is its own ancestor: dog -> cat -> fox -> dog"),
        ("dog: dog\n", "'dog' is its own ancestor: dog -> dog"),
        ("animal: {dog: terrier}", "'dog' holds the word 'terrier'; write a list: [terrier]"),
        ("dog: animal\ncat: [tabby]\n", "tree.yaml:2: below 'cat' stands a list or mapping"),
        ("- [dog, cat]\n", "a list within a list has no name"),
        ("animal: [dog, '']\n", "tree.yaml:1: a name without a letter"),
        ("a: &x [b]\nc: *x\n", "aliases"),
        ("a: [b\n", "not YAML"),
        ("just words", "the file holds the word 'just words'"),
        ("[" * 70 + "a" + "]" * 70, "nested over 64 deep"),
    ],
)
def test_what_is_no_tree_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_tree(written(tmp_path, text))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("animal\n", "small.tree:1: expected a name and the number of its parent"),
        ("animal -1\ndog 7\n", "small.tree:2: parent 7 of 'dog'; allowed: -1 to 1"),
        ("animal 1\ndog 0\n", "'animal' is its own ancestor"),
    ],
)
def test_faults_of_a_darknet_file(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_tree(written(tmp_path, text, "small.tree"))
    assert says in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read as a tree"):
        read_tree(tmp_path / "none.yaml")


def dataset(classes: list[str], labels: list[int]) -> DataSet:
    things = [Thing(label, BOX) for label in labels]
    return DataSet(Path("boxes"), "coco", "detect", classes, [Record("a.png", (8, 8), things=things)])


def test_classes_become_the_nodes_and_labels_follow() -> None:
    boxes = dataset(["cat", "nothing", "dog"], [0, 2, 0])
    boxes.category_ids = [17, 0, 18]
    kinds = DataSet(Path("kinds"), "folder", "classify", ["hound", "terrier"], [Record("h.png", (8, 8), label=0)])
    grow_into(ANIMALS, [boxes, kinds], "tree.yaml")
    assert boxes.classes == kinds.classes == list(ANIMALS.names)
    assert [thing.label for thing in boxes.records[0].things or ()] == [4, 1, 4]
    assert kinds.records[0].label == 3
    assert boxes.category_ids == ["animal", 18, "terrier", "hound", 17]
    assert boxes.ledger.warnings == [
        "classes without a label that the tree lacks are left out: nothing",
        "1 of 3 leaves of the tree have no label in the data: terrier",
    ]


def test_a_class_that_the_tree_lacks_and_a_leaf_that_no_data_has() -> None:
    with pytest.raises(UsageError, match=r"t\.yaml: the tree lacks 1 classes of boxes: hounds; .* mean 'hound'"):
        grow_into(ANIMALS, [dataset(["cat", "hounds"], [0, 1])], "t.yaml")
    with pytest.raises(UsageError, match=r"no data has 2 leaves of the tree: terrier, hound; .*--join"):
        grow_into(ANIMALS, [dataset(["cat", "dog"], [0, 1])], "t.yaml")
