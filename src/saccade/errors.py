"""The errors that Saccade raises on purpose, each with the exit code that the command line answers with.

A message is one line (or a few) that says what, where (file, line, image), what is allowed and what to do.
Anything else that escapes is a fault of ours and exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SaccadeError(Exception):
    """Base of the errors below; `exit_code` is what `saccade` returns to the shell."""

    exit_code = 1


class UsageError(SaccadeError):
    """Wrong argument, option, setting or configuration file."""

    exit_code = 2


class DataError(SaccadeError):
    """The user's images or labels cannot be used as they are."""

    exit_code = 3


class ModelFileError(SaccadeError):
    """A checkpoint is missing, damaged, foreign or of another architecture."""

    exit_code = 4


class ResourceError(SaccadeError):
    """Disk, permission, memory or device."""

    exit_code = 5


class DivergedError(SaccadeError):
    """The loss became NaN or infinite."""

    exit_code = 6


def suggest(word: str, allowed: Iterable[str]) -> str:
    """A sentence that names the closest allowed word, or lists the allowed words: `did you mean 'resnet18'?`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "allowed: " + ", ".join(names)
