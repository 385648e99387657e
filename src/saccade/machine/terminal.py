"""What is shown on a terminal: text that came from files, and bars."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# C0 but for tab and line feed, DEL, C1; marks that turn or reorder what follows; separators that break lines unseen
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with every control character spelt out (`\\x1b`): names of files and classes are anyone's, and a
    terminal obeys them. Tab and line feed stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def note(text: str, shown: bool = True) -> None:
    """Say on stderr, in one line, what was chosen for somebody who did not say it; nothing unless `shown`."""
    from rich.console import Console

    Console(stderr=True, quiet=not shown, soft_wrap=True).print(printable(text), highlight=False, markup=False)


def bar(shown: bool = True) -> Progress:
    """A bar on stderr, which is gone when its work is done; nothing at all where stderr is no terminal, to which rich
    would write an empty line."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (shown and console.is_terminal))
