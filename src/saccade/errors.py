"""The errors that Saccade raises on purpose, each with the exit code that the command line answers with.

A message is one line (or a few) that says what, where (file, line, image), what is allowed and what to do.
Anything else that escapes is a fault of ours and exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType


class SaccadeError(Exception):
    """Base of the errors below; `exit_code` is what `saccade` returns to the shell. Where pictures of a list cannot be
    read, `unreadable` says why, by the place of each."""

    exit_code = 1
    unreadable: Mapping[int, str] = MappingProxyType({})


class UsageError(SaccadeError):
    """Wrong argument, option, setting or configuration file; weights of another network than the one asked for."""

    exit_code = 2


class DataError(SaccadeError):
    """The user's images or labels cannot be used as they are."""

    exit_code = 3


class ModelFileError(SaccadeError):
    """A model file is missing, damaged, no model file at all, or does not agree with itself."""

    exit_code = 4


class ResourceError(SaccadeError):
    """Disk, permission, memory or device."""

    exit_code = 5


class DivergedError(SaccadeError):
    """The loss became NaN or infinite."""

    exit_code = 6


_NO_MEMORY = (
    "out of memory",  # CUDA, MPS
    "_status_alloc_failed",  # cuBLAS, cuDNN and their siblings, for memory of their own
    "can't allocate memory",  # torch on Linux
    "cannot allocate memory",  # the operating system
    "not enough memory",  # torch elsewhere
    "insufficient memory",  # OpenCV
)


MOST_LISTED = 30  # words in an error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; every library says so in its own words."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Out of memory becomes a ResourceError that says what needed it and what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SaccadeError) or not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory: {what} need more than there is. Use a smaller --batch (--batch 0 finds one) or --size, or "
            "split each batch (--set accumulate=4)"
        ) from error


def suggest(word: str, allowed: Iterable[str], listed: str = "") -> str:
    """A sentence that names the closest allowed word, or lists the allowed words: `did you mean 'resnet18'?`. Where
    they are too many to be read, it names the command `listed` that shows them, if there is one."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if listed and len(names) > MOST_LISTED:
        return f"none of the {len(names)} that `{listed}` lists"
    return "allowed: " + ", ".join(names)


def how_to_install(extra: str) -> str:
    """The command that brings an extra of pyproject.toml: of the checkout where this code lies in one, else of our
    distribution, which is `saccade-cv` (the name `saccade` on the package index is another project's)."""
    in_checkout = (Path(__file__).parents[2] / "pyproject.toml").is_file()
    return f"pip install '.[{extra}]' in the checkout" if in_checkout else f"pip install 'saccade-cv[{extra}]'"
