"""One run, one process: an operating-system lock on `RUN/lock`, held as long as the run lasts.

The kernel gives it up when the process ends, however it ends, and knows it across containers and, on network folders
that pass locks on, across machines. The content of the file (process id, host, boot id, start time) is for the message;
it decides only where a file system has no locks: a process of the same boot that still lives then holds the folder,
anything else counts as left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from saccade.errors import UsageError
from saccade.machine.files import disk_errors, make_folder, open_regular, remove_empty
from saccade.machine.processes import is_main_process

NAME = "lock"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[bool]:
    """Hold the folder `run`, which is made if need be, until the block ends; of several processes of one run
    (`accelerate launch`) the first, for which the value is true, holds it for all.

    Raises:
        UsageError: another process, or another block of this one, holds it.
        ResourceError: the folder cannot be made or written to, or its lock is a link.
    """
    if not is_main_process():
        yield False
        return
    path = run / NAME
    new = [folder for folder in (run, *run.parents) if not folder.exists()]
    make_folder(run)
    try:
        with disk_errors(path):
            file = _hold(path)
        try:
            yield True
        finally:
            if _is_in_place(file, path):
                path.unlink()
            file.close()
    finally:
        remove_empty(*new)  # where the run failed before it wrote anything


def is_held(run: Path) -> bool:
    """Whether a process of this machine is training in a folder, by its name in the lock: a look takes no lock, so that
    it never stands in the way of one."""
    try:
        with open_regular(run / NAME) as file:
            holder = _holder(file.read(4096))
    except OSError:
        return False
    return holder is not None and _lives(holder)


def _hold(path: Path) -> FileIO:
    """The locked file, with this process's name in it. Raises UsageError where it is held."""
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_regular(path, "a+b"))
            file.seek(0)
            holder = _holder(file.read(4096))
            locked = _lock(file)
            if locked is False or (locked is None and holder is not None and _lives(holder)):
                who = "another process" if holder is None else f"process {holder['pid']}{_elsewhere(holder)}"
                raise UsageError(
                    f"{path.parent}: {who} is training in this folder; wait until it has ended, or choose another --out"
                )
            if not _is_in_place(file, path):  # its holder has removed it in between
                continue
            file.truncate(0)
            file.write(json.dumps(_identity(os.getpid())).encode())
            if hasattr(os, "register_at_fork"):  # a loader's process that outlives this one must not hold the lock
                os.register_at_fork(after_in_child=file.close)
            stack.pop_all()
            return file


def _lock(file: FileIO) -> bool | None:
    """Whether this process now has the lock; None where the system or the file system knows no locks."""
    try:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_in_place(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _holder(content: bytes) -> dict[str, Any] | None:
    """The process that a lock names; None where it is empty, or cut short when the power failed."""
    try:
        holder = json.loads(content)
        return holder if isinstance(holder, dict) and isinstance(holder["pid"], int) else None
    except (ValueError, KeyError, RecursionError):
        return None


def _elsewhere(holder: dict[str, Any]) -> str:
    host = holder.get("host")
    return f" on {host!r:.60}" if host != platform.node() else ""


def _lives(holder: dict[str, Any]) -> bool:
    return holder == _identity(holder["pid"])


def _identity(pid: int) -> dict[str, Any] | None:
    """What tells a process from all others before and after it; None where there is none, or one that has ended and
    that nobody has asked for its exit code."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it lives, and belongs to somebody else
    except (OSError, OverflowError):
        return None
    boot, stat = (_text(Path("/proc") / name) for name in ("sys/kernel/random/boot_id", f"{pid}/stat"))
    fields = stat.rpartition(")")[2].split()
    if fields[:1] in (["Z"], ["X"]):
        return None
    started = fields[19] if len(fields) > 19 else ""
    return {"pid": pid, "host": platform.node(), "boot": boot.strip(), "started": started}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
