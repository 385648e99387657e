"""Files that are whole or absent: written beside their place under a temporary name, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from saccade.errors import ResourceError, UsageError


def write_whole(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write `path` so that it is never seen half done, also after a crash or a power cut.

    Args:
        path: the file to make or replace; its folder must exist.
        content: the bytes or text (UTF-8), or a function that writes the file whose path it is given.

    Raises:
        ResourceError: no permission, no space; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make a folder and its parents. Raises ResourceError where that is not allowed."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def report_folder(path: Path) -> Path:
    """`make_folder(path)` for a report. Raises UsageError for the folder of a run, whose own it would replace."""
    if (path / "config.json").is_file():
        raise UsageError(f"--out {path} is the folder of a run, whose report would be replaced; choose another")
    return make_folder(path)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Faults of the disk become a ResourceError that names the file and what to do."""
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(f"{path}: no space left on the disk; free some and try again") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(f"{path}: no permission to write there; choose another folder with --out") from error
        if number is None and not isinstance(error, OSError):
            raise
        raise ResourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _errno(error: Exception) -> int | None:
    """The number of a fault of the operating system; libraries written in Rust, safetensors among them, have it only in
    their text: "No space left on device (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return None if said is None else int(said[1])


def remove_leftovers(*folders: Path) -> None:
    """Delete the temporary files that a killed process left in these folders, and nothing below them."""
    for leftover in (path for folder in folders for path in folder.glob(".*.tmp")):
        if re.fullmatch(r"\..+\.[0-9]+\.tmp", leftover.name):  # as `write_whole` names them
            leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
