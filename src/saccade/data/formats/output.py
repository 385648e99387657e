"""What the writers share: a folder that appears whole or not at all, names of the images in it, a count of losses."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from saccade.data.dataset import DataSet, Record
from saccade.data.pictures import decode_picture
from saccade.errors import DataError, ResourceError, UsageError

Images = Literal["copy", "link", "none"]  # what becomes of the image files: copied, symbolic links, or left alone

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff\\:]")  # ends of lines, drives, no text
_LONGEST = 240  # bytes of a stem; a file name may have 255 with its suffix


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to write into; it takes the name `out` when the block ends well, else it vanishes.

    Raises:
        UsageError: `out` exists and is not an empty folder.
        ResourceError: no permission, disk full and the like.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out}: exists already; give the name of a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            whole = place / "whole"  # mkdtemp's folder is private, this one has the usual permissions
            whole.mkdir()
            yield whole
            whole.replace(out)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise ResourceError(
            f"{error.filename or out}: {error.strerror or error}; nothing was written to {out}"
        ) from None


def place_image(dataset: DataSet, record: Record, target: Path, images: Images) -> None:
    """Put the image of a record at `target`, as `images` says; a region of a file as a picture of its own. Raises
    DataError where the image has gone."""
    if images == "none":
        return
    source = dataset.root / record.path
    if not source.is_file():
        raise DataError(f"{source}: the image is not there; --images none converts the labels alone")
    target.parent.mkdir(parents=True, exist_ok=True)
    if record.region is not None:
        Image.fromarray(decode_picture(record, dataset.root)[0]).save(target, format="PNG")
    elif images == "link":
        target.symlink_to(os.path.abspath(source))
    else:
        shutil.copyfile(source, target)


def file_names(records: list[Record]) -> dict[str, str]:
    """Record id -> file name that any system and any format can hold. Stems are unique, whatever their case and their
    Unicode form; folders enter the name where they must."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for record in records:
        path = PurePosixPath(record.id)
        for stem in _stems(path):
            plain = unicodedata.normalize("NFC", stem).casefold()
            if plain not in taken:
                taken.add(plain)
                suffix = PurePosixPath(record.path).suffix if record.region is None else ".png"
                names[record.id] = stem + _UNSAFE.sub("_", suffix)
                break
    return names


def _stems(path: PurePosixPath) -> Iterator[str]:
    flat = "_".join([*path.parts[:-1], path.stem])
    yield _safe(path.stem)
    yield _safe(flat)
    for number in itertools.count(2):
        yield f"{_safe(flat)}_{number}"


def _safe(stem: str) -> str:
    """Without blanks at its ends, which lists lose; not hidden; short enough for a name of a file."""
    text = _UNSAFE.sub("_", stem).strip() or "_"
    text = f"_{text}" if text.startswith(".") else text
    return text if len(text.encode()) <= _LONGEST else text.encode()[-_LONGEST:].decode(errors="ignore").lstrip()


def sentences(lost: Counter[str]) -> list[str]:
    """`{"polygons (boxes are kept)": 3}` -> `["3 polygons (boxes are kept)"]`."""
    return [f"{count} {what}" for what, count in sorted(lost.items()) if count]
