"""Files that are whole or absent: written beside their place under a temporary name, flushed, then renamed.

What stands in a run folder may come from a stranger: nothing in it is read or written through a link (`inside`,
`open_regular`), and nothing is opened that could make the reader wait, such as a named pipe.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from saccade.errors import ModelFileError, ResourceError, UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def inside(folder: Path, *parts: str) -> Path:
    """`folder`/parts, whether it is there or not. `folder` is the user's word and may itself be a link.

    Raises:
        ModelFileError: one of the parts is a link, or neither a file nor a folder.
    """
    path = folder
    for part in parts:
        path = path / part
        try:
            kind = path.lstat().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            what = "a symbolic link" if stat.S_ISLNK(kind) else "a pipe, socket or device"
            raise ModelFileError(f"{path}: {what}; in a folder of results only files and folders are used: remove it")
    return path


def open_regular(path: Path, mode: str = "rb", links: bool = False) -> FileIO:
    """Open a regular file, unbuffered; what else stands there is refused at once, where a pipe would have to be waited
    for.

    Args:
        mode: "rb", or "ab" and "a+b", which make the file.
        links: follow a symbolic link: for files that the user names, not for those of a folder of results.

    Raises:
        OSError: no such file, no permission, a link, a pipe, a device, a folder.
    """

    def opener(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NONBLOCK", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
        try:
            handle = os.open(name, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP and path.is_symlink():
                raise OSError(errno.ELOOP, "a symbolic link is not followed here; remove it", name) from None
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a regular file", name)
        return handle

    return FileIO(str(path), mode, opener=opener)


def read_names(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without white space around them: names of classes.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is no text in UTF-8.
    """
    with open_regular(path, links=True) as file:
        lines = file.read().decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


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
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # a new file: never one that a link leads to
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # as the umask has it
                if not callable(content):
                    file.write(content.encode() if isinstance(content, str) else content)
            if callable(content):
                content(temporary)
                if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors makes files for their owner alone
                    temporary.chmod(mode)
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


def remove_empty(*folders: Path) -> None:
    """Remove folders, the inner ones first, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def results_folder(path: Path) -> Path:
    """`make_folder(path)` for results. Raises UsageError for the folder of a run, which holds the files of the run
    alone."""
    if (path / "config.json").is_file():
        raise UsageError(
            f"--out {path} is the folder of a run, among whose own files these would lie; choose another, such as "
            f"{path / 'results'}"
        )
    return make_folder(path)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Faults of the disk become a ResourceError that names the file and what to do."""
    try:
        yield
    except Exception as error:
        number = error_number(error)
        if number in DISK_FULL:
            raise ResourceError(f"{path}: no space left on the disk; free some and try again") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(f"{path}: no permission to write there; choose another folder with --out") from error
        if number is None and not isinstance(error, OSError):
            raise
        raise ResourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def error_number(error: BaseException | None) -> int | None:
    """The number of a fault of the operating system; libraries written in Rust, safetensors among them, have it only in
    their text: "No space left on device (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return None if found is None else int(found[1])


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
