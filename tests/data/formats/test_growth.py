"""Work grows with the size of the input: four times the input takes about four times the work, not sixteen times."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.formats import read
from saccade.data.formats.exports import describe_layout
from saccade.data.formats.listing import Pictures
from saccade.errors import DataError

_TOO_MUCH = 11  # between 4 (linear) and 16 (quadratic)


def _work(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of the processor, the least of three, as others share it; and the most bytes in use at a time, the less
    of two: the interpreter's own table of interned strings, which paths fill, doubles now and then, by megabytes."""
    seconds, peaks = [], []
    for _ in range(3):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    for _ in range(2):
        tracemalloc.start()
        run()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(seconds), min(peaks)


def _table(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    for i in range(2):
        Image.new("RGB", (8, 6)).save(root / f"{i}.png")
    (root / "labels.csv").write_text(text)
    return root


def _long_class_names(root: Path, n: int) -> Path:
    return _table(root, f"image,label\n0.png,{'a' * 30 * n}\n1.png,{'ab' * 15 * n}\n")


def _long_lists(root: Path, n: int) -> Path:
    return _table(root, f'image,tags\n0.png,"{",".join(f"{i:x}" for i in range(3 * n))}"\n1.png,a\n')


def _many_rows(root: Path, n: int) -> Path:
    return _table(root, "image,label\n0.png,a\n1.png,b\n" + "0.png,a\n" * n)


def _many_columns(root: Path, n: int) -> Path:
    return _table(root, f"image,{','.join(f'c{i}' for i in range(n))}\n0.png{',1' * n}\n1.png{',0' * n}\n")


def _many_digits(root: Path, n: int) -> Path:
    return _table(root, f"id,image,label\n{'9' * 30 * n},0.png,a\n{'8' * 30 * n},1.png,b\n")


def _wide_folder(root: Path, n: int) -> Path:
    _table(root, "what\n")
    content = (root / "0.png").read_bytes()
    for name in ("labels.csv", "0.png", "1.png"):
        (root / name).unlink()
    for i in range(n // 20):
        (root / f"class_{i}").mkdir()
        (root / f"class_{i}" / "0.png").write_bytes(content)
    return root


@pytest.mark.parametrize(
    "build", [_long_class_names, _long_lists, _many_rows, _many_columns, _many_digits, _wide_folder]
)
def test_reading_grows_with_the_input(tmp_path: Path, build: Callable[[Path, int], Path]) -> None:
    small, large = (build(tmp_path / str(n), n) for n in (500, 2000))
    (seconds, peak), (more_seconds, higher_peak) = _work(lambda: read(small)), _work(lambda: read(large))
    assert higher_peak < _TOO_MUCH * peak
    assert more_seconds < _TOO_MUCH * max(seconds, 0.005)


def _equal_names(n: int) -> Pictures:
    root = Path("/set")
    return Pictures(root, [root / f"f{i}" / "0.png" for i in range(n)])


@pytest.mark.parametrize("stated", ["0.png", "0", "x/y/f{}/0.png", "f{}/1.png"])
def test_finding_grows_with_the_number_of_names(stated: str) -> None:
    def find_all(n: int) -> None:
        pictures = _equal_names(n)
        for i in range(n):
            try:
                pictures.find(stated.format(i))
            except DataError:
                continue

    (seconds, peak), (more_seconds, higher_peak) = (_work(lambda n=n: find_all(n)) for n in (250, 1000))
    assert higher_peak < _TOO_MUCH * peak
    assert more_seconds < _TOO_MUCH * max(seconds, 0.005)


def test_a_few_tables_are_opened_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    _table(tmp_path, "what\nx\n")
    for i in range(100):
        (tmp_path / f"{i}.csv").write_text("what\nx\n")
    monkeypatch.setattr("saccade.data.formats.exports.head_of_table", lambda path: opened.append(path))
    describe_layout(tmp_path)
    assert 0 < len(opened) <= 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\n0.png," + "x" * 200_000 + "\n", "labels.csv:2: field larger than field limit"),
        ("image" + ",a" * 100_001 + "\n", "labels.csv:1: 100002 cells; a row has at most 100000"),
    ],
)
def test_what_is_beyond_measure_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(f"tags_csv:{_table(tmp_path / 'set', text)}")
