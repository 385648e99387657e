"""Pictures with answers drawn in, as files: what they are called, and in which formats they are written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from saccade.errors import DataError
from saccade.machine.files import write_whole

WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Suffixes (lower case) of the formats that are written."""
LONGEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels of a side that a format can hold


def write_picture(path: Path, image: np.ndarray) -> tuple[Path, list[str]]:
    """Write [H, W, 3] uint8 RGB as a file of the format that the suffix names, or as `path`.png where it cannot hold
    so large a picture. Gives its place, and what is to be said of that: a note, or none.

    Raises:
        DataError: the format cannot hold it.
        ResourceError: no space or permission.
    """
    notes, longest = [], LONGEST.get(path.suffix.lower(), max(image.shape))
    if max(image.shape) > longest:
        path = path.with_name(f"{path.name}.png")
        notes = [f"the picture with the answer is {path.name}: sides above {longest} pixels need another format"]
    encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise DataError(f"{path}: {image.shape[1]} x {image.shape[0]} pixels cannot be written as {path.suffix}")
    write_whole(path, data.tobytes())
    return path, notes


def picture_names(images: list[Path]) -> dict[Path, str]:
    """A file name for every picture; images of one name in several folders are numbered."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(images):
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else ".png"
        name, number = f"{path.stem}{suffix}", 2
        while not taken.isdisjoint((name, f"{name}.png")):
            name, number = f"{path.stem}-{number}{suffix}", number + 1
        taken |= {name, f"{name}.png"}  # what `write_picture` may write
        names[path] = name
    return names
