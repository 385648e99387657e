"""One run, one process: `RUN/lock` names the process that trains there.

It holds the process id, the boot id of the machine, and the start time of the process, so that a lock that a kill or a
power cut left behind is told from a living one, also where process ids are used again (containers). Between machines
that share a folder a lock of the other one counts as left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saccade.errors import UsageError
from saccade.files import disk_errors, make_folder

NAME = "lock"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[bool]:
    """Hold the folder `run`, which is made if need be, until the block ends; of several processes of one run
    (`accelerate launch`) the first, for which the value is true, holds it for all.

    Raises:
        UsageError: a living process holds it.
        ResourceError: the folder cannot be made or written to.
    """
    if os.environ.get("RANK", "0") != "0":
        yield False
        return
    path = run / NAME
    new = [folder for folder in (run, *run.parents) if not folder.exists()]
    make_folder(run)
    own = _identity(os.getpid())
    try:
        with disk_errors(path), _guarded(path) as file:
            holder = _holder(file.read())
            if holder is not None:
                raise UsageError(
                    f"{run}: process {holder['pid']} is training in this folder; wait until it has ended, or choose "
                    "another --out"
                )
            file.seek(0)
            file.truncate()
            file.write(json.dumps(own))
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty
            for folder in new:
                folder.rmdir()  # where the run failed before it wrote anything


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[Any]:
    """The lock file, open for reading and writing by one process at a time."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            _wait_for_turn(file.fileno())
            try:
                current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                current = False
            if current:  # else its holder has removed it in between
                file.seek(0)
                yield file
                return


def _wait_for_turn(handle: int) -> None:
    """A lock of the operating system for the moment between reading and writing; given up when the file is closed."""
    try:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):  # a system or a network folder that has none: two starts in one moment may collide
        return


def _holder(text: str) -> dict[str, Any] | None:
    """The living process that a lock names, if any."""
    try:
        said = json.loads(text)
        alive = said == _identity(int(said["pid"]))
    except (ValueError, KeyError, TypeError):
        return None  # empty, or cut short when the power failed
    return said if alive else None


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
    return {"pid": pid, "boot": boot.strip(), "started": fields[19] if len(fields) > 19 else ""}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
