"""Text in pictures: one font for every script it has (DejaVu, which comes with matplotlib), shortened to fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

_LONGEST = 300  # characters looked at; no plate holds more


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of `size` pixels."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def one_line(text: str) -> str:
    """`text` without line breaks, control characters and half surrogates, which fonts cannot show."""
    words = " ".join(text[:_LONGEST].split())
    return "".join(c if c.isprintable() else "\ufffd" for c in words)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The longest start of `text`, with an ellipsis where it is cut, that is at most `width` pixels wide; or ""."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # `low` characters and the ellipsis fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if font.getlength(text[:middle] + "…") <= width:
            low = middle
        else:
            high = middle
    return text[:low] + "…" if low else ""


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """`text` in at most `lines` lines of at most `width` pixels, broken between words; the last is shortened."""
    words, out = one_line(text).split(" "), [""]
    for i, word in enumerate(words):
        longer = f"{out[-1]} {word}".strip()
        if font.getlength(longer) <= width or not out[-1]:
            out[-1] = longer
        elif len(out) < lines:
            out.append(word)
        else:
            out[-1] = " ".join([out[-1], *words[i:]])
            break
    return [line for line in (shorten(line, font, width) for line in out) if line]
