"""The names of classes as a file lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from saccade.errors import UsageError


def refuse_repeats(names: Iterable[str], where: str) -> None:
    """Names are the key of classes: a list that a person wrote, such as `data.yaml` or a row of columns, has each once.

    Raises:
        UsageError: one stands there twice.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UsageError(
            f"{where}: names of classes that repeat: {', '.join(map(repr, twice[:5]))}; each class needs its own"
        )
