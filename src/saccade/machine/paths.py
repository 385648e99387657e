"""Paths as people write them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Given = TypeVar("Given", bound=str | Path | None)

_HOME = re.compile(r"(?P<format>[a-z_]+:)?(?P<path>~.*)", re.DOTALL)


def at_home(given: Given) -> Given:
    """A path whose leading `~` or `~user` is that person's home, also behind the word of a format (`coco:~/photos`).

    Shells do this only where the tilde begins a word, which it does not in `--out=~/runs`, and notebooks, services and
    Python never do; a folder that is called `~` would be made, and homes are lost when it is removed. All else is
    given back as it is; `./~` is a file of that name.
    """
    found = _HOME.fullmatch(str(given)) if given is not None else None
    if found is None:
        return given
    text = (found["format"] or "") + os.path.expanduser(found["path"])
    return Path(text) if isinstance(given, Path) else text  # type: ignore[return-value]


def not_there(path: Path, what: str) -> str:
    """The sentence for a path at which there is nothing: no such `what`, and the name beside it that is nearest."""
    try:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:
        near = []
    return f"{path}: no such {what}" + (f"; did you mean {path.with_name(near[0])}?" if near else "")


def short_names_of(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell all of them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def cache_folder(kind: str) -> Path:
    """Where what can be made or brought again is kept: `kind` ("weights", "proposals") in SACCADE_CACHE, else in
    `saccade` of XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("SACCADE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return (Path(own) if own else Path(base) / "saccade") / kind
