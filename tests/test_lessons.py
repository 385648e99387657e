"""What the lessons show is what the code has: quoted lines, files, drawings."""

from __future__ import annotations

import html
import importlib
import re
from pathlib import Path

import pytest
from matplotlib.text import Text

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs/figures"
LESSONS = sorted((ROOT / "docs/lessons").glob("[0-9]*.md"))
DRAWINGS = sorted(path.stem for path in FIGURES.glob("*.py") if "from sketch import" in path.read_text("utf-8"))
PARTS = ("The idea", "The file", "Run it", "What it gives", "A question to try")
LARGEST = 120_000  # bytes of a picture


def name(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", LESSONS, ids=name)
def test_a_lesson_has_its_parts(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tuple(re.findall(r"^## (.*)", text, re.M)) == PARTS
    assert re.search(r"```sh\n(.*\n)*?saccade |```sh\npython ", text)
    assert "**Hint.**" in text
    assert "core minutes" in text  # how long it took, on what, stands beside the score


@pytest.mark.parametrize("page", LESSONS, ids=name)
def test_quoted_code_stands_in_the_file_that_is_named(page: Path) -> None:
    """A block of Python is of the file whose name came last, line by line and in one piece."""
    file, quoted = "", 0
    for found in re.finditer(r"^File: `([^`]+)`$|^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        if found[1]:
            file = (ROOT / found[1]).read_text("utf-8")
        else:
            assert found[2] in file, found[2]
            quoted += 1
    assert quoted


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_a_drawing_is_what_its_script_draws(drawing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the words in it; lines and colours may differ between versions of matplotlib."""
    monkeypatch.syspath_prepend(FIGURES)
    figure = importlib.import_module(drawing).draw()
    words = {text.get_text() for text in figure.findobj(Text) if text.get_text().strip()}
    committed = html.unescape((FIGURES / f"{drawing}.svg").read_text("utf-8"))
    shown = set(re.findall(r"<text [^>]*>([^<]*)</text>", committed))
    ticks = re.compile(r"[\d.\u2212]+")  # made when the axes are drawn
    assert {line for word in words for line in word.split("\n") if not ticks.fullmatch(line)} <= shown


@pytest.mark.parametrize("page", LESSONS, ids=name)
def test_a_lesson_shows_a_drawing_and_small_pictures(page: Path) -> None:
    shown = re.findall(r"\.\./figures/([\w.]+)\)", page.read_text("utf-8"))
    assert sum(picture in {f"{drawing}.svg" for drawing in DRAWINGS} for picture in shown) == 1
    assert [picture for picture in shown if (FIGURES / picture).stat().st_size > LARGEST] == []
