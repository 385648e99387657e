"""Lists of pairs: LFW's pairs.txt and pairs.csv, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.formats.pairs import read_pairs
from saccade.errors import DataError


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    root = tmp_path_factory.mktemp("lfw")
    for name, count in (("Ada_Lovelace", 3), ("Alan_Turing", 2), ("Grace_Hopper", 2)):
        (root / name).mkdir()
        for i in range(1, count + 1):
            Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(root / name / f"{name}_{i:04d}.png")
    return read(root, "embed")


def test_lfw_s_list(people: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text(
        "2\t1\nAda_Lovelace\t1\t2\nAda_Lovelace\t3\tAlan_Turing\t1\nAlan_Turing\t1\t2\nAda_Lovelace 1 Grace_Hopper 2\n"
    )
    pairs = read_pairs(file, people)
    assert list(zip(pairs.first, pairs.second, pairs.same, pairs.folds, strict=True)) == [
        ("Ada_Lovelace/Ada_Lovelace_0001.png", "Ada_Lovelace/Ada_Lovelace_0002.png", True, 0),
        ("Ada_Lovelace/Ada_Lovelace_0003.png", "Alan_Turing/Alan_Turing_0001.png", False, 0),
        ("Alan_Turing/Alan_Turing_0001.png", "Alan_Turing/Alan_Turing_0002.png", True, 1),
        ("Ada_Lovelace/Ada_Lovelace_0001.png", "Grace_Hopper/Grace_Hopper_0002.png", False, 1),
    ]


def test_a_table_of_pairs(people: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    rows = ["Ada_Lovelace_0001.png,Ada_Lovelace_0002.png,yes", "Ada_Lovelace_0001,Alan_Turing_0001,0"] * 6
    file.write_text("\n".join(["first, second, same", *rows]))
    pairs = read_pairs(file, people)
    assert pairs.same == [True, False] * 6
    assert pairs.folds == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]  # each kind is dealt by itself
    folded = [f"{row},{7 + i // 6}" for i, row in enumerate(rows)]
    file.write_text("\n".join(["first,second,same,fold", *folded]))
    assert read_pairs(file, people).folds == [7] * 6 + [8] * 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", "neither a CSV file"),
        ("", "neither a CSV file"),
        ("a,b,c\n1,2,3", "first, second, same and perhaps fold are needed"),
        ("first,second,same\nAda_Lovelace_0001,Ada_Lovelace_0002,maybe", "pairs:2: same is 'maybe'"),
        ("first,second,same,fold\nAda_Lovelace_0001,Ada_Lovelace_0002,1,x", "pairs:2: fold is 'x'"),
        ("first,second,same\nAda_Lovelace_0001,Nobody_0001,0", "pairs:2: no picture 'Nobody_0001'"),
        (
            "first,second,same\nAda_Lovelace_0001,Ada_Lovelace_0001,1",
            "pairs:2: a pair of 'Ada_Lovelace_0001' with itself",
        ),
        ("first,second,same\nAda_Lovelace_0001,Ada_Lovelace_0002,1", "there are 1 of one kind"),
        ("2\t1\nAda_Lovelace\t1\t2", "1 pairs, where the first line promises 4"),
        ("1\t1\nAda_Lovelace\t1\t2\nAda_Lovelace\tone\tAlan_Turing\t1", "pairs:3: 'Ada_Lovelace one Alan_Turing 1'"),
        ("1\t1\nAda_Lovelace\t1\t2\nAda_Lovelace\t9\tAlan_Turing\t1", "pairs:3: no picture"),
    ],
)
def test_a_list_that_is_none(people: DataSet, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(DataError, match=words):
        read_pairs(tmp_path / "pairs", people)


def test_a_list_that_is_not_there(people: DataSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no list of pairs"):
        read_pairs(tmp_path / "pairs.txt", people)
