"""Archives given in place of what is in them: recognised by their first bytes, so that the message can say what they
hold and how to unpack them. Nothing is unpacked here."""

from __future__ import annotations

import re
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from saccade.data.picture_kinds import SUFFIXES, TAR, archive_kind

_HEAD = 1024  # bytes of a file that are looked at
_END = 66_000  # bytes at the end of a ZIP archive in which its list of names is announced
_LONGEST = 64_000_000  # bytes of a list that is read: of half a million names
_LABELS = {  # a file's name, or its end, in what a tool exports; what it holds
    "annotations.xml": "CVAT's labels",
    "_annotations.coco.json": "Roboflow's labels in COCO's form",
    "result.json": "Label Studio's labels in COCO's form",
    "data.yaml": "YOLO's description",
    "classes.txt": "names of classes",
}
_SUFFIXES = re.compile(r"(\.(zip|tar|gz|tgz|bz2|tbz2?|xz|txz|zst|rar|7z))+", re.IGNORECASE)


def describe_archive(path: Path) -> str | None:
    """What the archive at `path` is, what it holds as far as that can be told, and how to unpack it; None for a file
    that is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    kind = archive_kind(head)
    if kind is None:
        return None
    names = _names(path) if kind == "a ZIP archive" else None
    if names is not None and "xl/workbook.xml" in names:
        return "an Excel workbook, which is not read; save its table as .csv"
    is_tar = kind == "a tar archive" or _is_tar_inside(head) or ".tar." in path.name.lower()
    kind = f"{kind} of a tar archive" if is_tar and kind != "a tar archive" else kind
    holds = "" if names is None else f" with {_content(names)}"
    return f"{kind}{holds}; archives are not read. {_advice(path, names, is_tar)}"


def archive_in(folder: Path) -> str | None:
    """The first archive that lies in a folder, with what `describe_archive` says of it; None where there is none."""
    for path in sorted(path for path in folder.iterdir() if _SUFFIXES.fullmatch(path.suffix) and path.is_file()):
        if says := describe_archive(path):
            return f"{path.name} is {says}"
    return None


def _is_tar_inside(head: bytes) -> bool:
    """Whether a file that begins with `head` is a tar archive, compressed by gzip."""
    try:
        return archive_kind(zlib.decompressobj(wbits=31).decompress(head, TAR.stop)) == "a tar archive"
    except zlib.error:
        return False


def _names(path: Path) -> list[str] | None:
    """The files in a ZIP archive; None where their list cannot be read, or is too long to be looked at."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END))
            end = file.read(_END)
        place = end.rfind(b"PK\x05\x06")
        if place < 0 or int.from_bytes(end[place + 12 : place + 16], "little") > _LONGEST:
            return None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]


def _pictures(names: Sequence[str]) -> int:
    return sum(PurePosixPath(name).suffix.lower() in SUFFIXES for name in names)


def _content(names: Sequence[str]) -> str:
    """`292 pictures, CVAT's labels (annotations.xml), 292 .xml files`."""
    pictures = _pictures(names)
    parts = [f"{pictures:,} picture{'' if pictures == 1 else 's'}" if pictures else "no picture"]
    for end, what in _LABELS.items():
        parts += [f"{what} ({name})" for name in names if PurePosixPath(name).name.lower().endswith(end)][:1]
    endings = Counter(PurePosixPath(name).suffix.lower() for name in names)
    many = [(suffix, count) for suffix, count in endings.most_common() if suffix not in ("", *SUFFIXES)]
    return ", ".join(parts + [f"{count:,} {suffix} file{'' if count == 1 else 's'}" for suffix, count in many[:3]])


def _advice(path: Path, names: Sequence[str] | None, is_tar: bool) -> str:
    """How to unpack it, and what to give then."""
    if names is not None and not _pictures(names):
        return (
            "Unpack it into the folder of the pictures that it is about and give that folder, or export again with the "
            "pictures"
        )
    name = _SUFFIXES.sub("", path.name)
    folder = path.with_name(name if name not in ("", path.name) else f"{path.name}-unpacked")
    module = "zipfile" if names is not None else "tarfile" if is_tar else None
    if module is None:
        return f"Unpack it and give what comes out, such as the folder {folder}"
    return f"Unpack it (python -m {module} -e {shlex.join([str(path), str(folder)])}) and give the folder {folder}"
