"""Files of the web, kept in a cache folder: the only place of the package that opens a connection.

Only https, also after redirections. A file is checked against its SHA-256 before anything reads it; what came of one
that broke off is kept as `NAME.part` and gone on with. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
    getproxies,
)

from saccade.errors import ModelFileError, ResourceError

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # connections for one file, as long as each brings something
PIECE = 1 << 18  # bytes between two looks at the progress
LARGEST = 1 << 30  # bytes of a file whose size nobody states
Progress = Callable[[int, int | None], None]  # bytes that are there, bytes of the whole file where known


def fetch(
    url: str,
    sha256: str,
    folder: Path,
    progress: Progress | None = None,
    opener: OpenerDirector | None = None,
    largest: int = LARGEST,
) -> Path:
    """A file of the web as a file in `folder`, downloaded unless it is there; several processes get it once.

    Args:
        sha256: of its content: all hexadecimal digits or the first few.
        progress: is told now and then how much is there.
        opener: opens connections; by default https alone.
        largest: bytes from which on what comes cannot be the file; nothing beyond is taken.

    Raises:
        ResourceError: no connection, an answer that is not the file, no room or no permission in `folder`.
        ModelFileError: the content has another checksum.
    """
    path = folder / url.rpartition("/")[2]
    if not path.is_file():
        with _cache_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(path.name + ".part")) as part:
            if not path.is_file():  # another process may have brought it meanwhile
                _complete(url, part, progress or _silent, opener or https_only(), largest)
                found = digest(part)
                if not found.startswith(sha256):
                    part.unlink()
                    raise ModelFileError(
                        f"{url}: what came is damaged or another file: SHA-256 {found}, expected {sha256}. It is "
                        "removed; try again, and where a proxy changes what passes, give the file as --weights FILE"
                    )
                with _cache_errors(path):
                    os.replace(part, path)
                return path
    found = digest(path)
    if not found.startswith(sha256):
        raise ModelFileError(
            f"{path}: damaged or another file: SHA-256 {found}, expected {sha256}. Remove it, and it will be "
            "downloaded again"
        )
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal. Raises ResourceError."""
    with _cache_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def https_only() -> OpenerDirector:
    """Opens https and follows redirections to https; another scheme is an unknown one."""
    opener = OpenerDirector()
    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    opener.add_handler(ProxyHandler(proxies))
    for handler in (HTTPSHandler, HTTPRedirectHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler, UnknownHandler):
        opener.add_handler(handler())
    return opener


def _complete(url: str, part: Path, progress: Progress, opener: OpenerDirector, largest: int) -> None:
    """Bring what is missing of a file, with new connections where one breaks off."""
    for attempt in range(ATTEMPTS):
        before = _size(part)
        try:
            total = _continue(url, part, progress, opener, largest)
        except HTTPError as error:
            if error.code == 416 and before:  # nothing from there on: it is whole, or not the file of today
                return
            raise ResourceError(
                f"{urlsplit(url).hostname} answers {error.code} {error.reason} to {url}. {_by_hand(url, part)}"
            ) from error
        except (URLError, HTTPException, OSError) as error:
            if _size(part) > before and attempt + 1 < ATTEMPTS:
                continue
            reason = getattr(error, "reason", None) or error
            if str(reason).startswith("unknown url type"):
                raise ResourceError(f"{url}: it, or what it redirects to, is no https address ({reason})") from error
            raise ResourceError(
                f"cannot reach {urlsplit(url).hostname} ({reason}){_brought(part)}. {_by_hand(url, part)}"
            ) from error
        if total is None or _size(part) >= total:
            return
        if _size(part) == before:
            break
    raise ResourceError(f"{url}: the connection broke off again and again{_brought(part)}; try again later")


def _continue(url: str, part: Path, progress: Progress, opener: OpenerDirector, largest: int) -> int | None:
    """One connection: append what comes to `part`, or begin it anew where the server sends all. Bytes of the whole."""
    have = _size(part)
    request = Request(url, headers={"User-Agent": "saccade", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    answer: Any = opener.open(request, timeout=TIMEOUT)
    with answer:
        if have and answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if (total or 0) > largest:
            raise _too_large(url, part, largest)
        _check_room(part, (total or 0) - have)
        with _cache_errors(part):
            file = part.open("ab" if have else "wb")
        with file:
            for brought in _copy(answer, file, part):
                progress(have + brought, total)
                if have + brought > largest:
                    raise _too_large(url, part, largest)
    return total


def _too_large(url: str, part: Path, largest: int) -> ResourceError:
    part.unlink(missing_ok=True)
    return ResourceError(
        f"{url}: more than {largest / 2**20:.0f} MiB come, so it is not the file. {_by_hand(url, part)}"
    )


def _copy(answer: Any, file: BinaryIO, part: Path) -> Iterator[int]:
    """Write what comes to `file`; the bytes so far, piece by piece."""
    brought = 0
    while piece := answer.read(PIECE):
        with _cache_errors(part):
            file.write(piece)
            file.flush()
        brought += len(piece)
        yield brought


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise ResourceError(
            f"{part.parent}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free; make room, or set "
            "SACCADE_CACHE to another folder"
        )


@contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Hold a download for this process until the block ends, where the system has locks."""
    lock = part.with_name(f".{part.name}.lock")  # stays: a lock that is removed can be held twice
    with _cache_errors(lock):
        file = lock.open("a")
    with file:
        with suppress(ImportError, OSError):  # a system or a network folder without locks: two may load side by side
            import fcntl

            fcntl.lockf(file.fileno(), fcntl.LOCK_EX)
        yield part


@contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
    """Faults of the disk, told from those of the network, and what to do about them here."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path}: {error.strerror or error}; make room or set SACCADE_CACHE to a folder that can be written to"
        ) from error


def _by_hand(url: str, part: Path) -> str:
    return f"Download {url} on a machine that can, and give it as --weights FILE or put it into {part.parent}"


def _brought(part: Path) -> str:
    size = _size(part)
    return f"; {size / 1e6:.1f} MB are there and will be gone on with" if size else ""


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _silent(there: int, total: int | None) -> None:
    """Progress that nobody watches."""
