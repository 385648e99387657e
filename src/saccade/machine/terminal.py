"""Text that came from files, as it may be shown on a terminal."""

from __future__ import annotations

import re

# C0 but for tab and line feed, DEL, C1; marks that turn or reorder what follows; separators that break lines unseen
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with every control character spelt out (`\\x1b`): names of files and classes are anyone's, and a
    terminal obeys them. Tab and line feed stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
