"""What `saccade predict` is asked to look at: images, folders, patterns, videos and cameras."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from saccade.data.formats.listing import images_to_look_at
from saccade.data.video import SUFFIXES, camera_number
from saccade.errors import DataError, UsageError
from saccade.machine.paths import not_there

_ADDRESS = re.compile("[a-z][a-z0-9+.-]*://.*", re.DOTALL | re.IGNORECASE)


def refuse_address(source: str | os.PathLike[str]) -> None:
    """Raises UsageError for an address, unless a file has that name."""
    text = os.fspath(source)
    if _ADDRESS.fullmatch(text) and not Path(text).exists():
        raise UsageError(f"{text}: addresses are not opened; save what stands there, or let a stream be a camera here")


def paths_of(sources: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """The sources one by one, a camera's number as text. Raises UsageError for what is no path."""
    several = isinstance(sources, Iterable) and not isinstance(sources, str | bytes | bytearray | memoryview)
    every: list[Any] = list(cast("Iterable[Any]", sources)) if several else [sources]
    for source in every:
        if not isinstance(source, str | Path | int):
            raise UsageError(
                f"{type(source).__name__} is no source; allowed: paths of pictures, folders and videos, and cameras. "
                "Bytes, arrays and PIL images are answered by saccade.load(RUN).predict(PICTURE)"
            )
    return [str(source) if isinstance(source, int) else source for source in every]


def expand(sources: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Image files, and videos or cameras, in the order given. A number alone is a camera where no file has that name.

    Raises:
        DataError: a source matches nothing.
        UsageError: a camera without a number; an address, for what stands there is anyone's, and a playlist names
            files and servers of its own.
    """
    images: list[Path] = []
    videos: list[str] = []
    for source in sources:
        path, text = Path(source), str(source)
        refuse_address(source)
        if re.fullmatch("[0-9]{1,3}", text) and not path.exists():
            videos.append(f"camera:{int(text)}")
        elif text.startswith("camera:") and not path.exists():
            if camera_number(text) is None:
                raise UsageError(f"{text}: a camera is named by its number, such as camera:0")
            videos.append(text)
        elif path.is_dir():
            images += images_to_look_at(path)
        else:
            found = [path] if path.is_file() else [Path(m) for m in sorted(glob.glob(text, recursive=True))]
            files = [match for match in found if match.is_file()]
            if not files:
                raise DataError(not_there(path, "image, folder or video, and no file matches it as a pattern"))
            videos += [str(file) for file in files if file.suffix.lower() in SUFFIXES]
            images += [file for file in files if file.suffix.lower() not in SUFFIXES]
    return images, videos
