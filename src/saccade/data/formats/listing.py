"""Which files below a folder are images: one answer for every reader."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saccade.data.dataset import Ledger
from saccade.data.image import Probe, probe
from saccade.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm"})
"""Suffixes (lower case) of files that are taken for images; what is inside is judged when the file is opened."""

_FOREIGN = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


def is_foreign(name: str) -> bool:
    """True for what notebooks, archives and desktops leave behind: hidden names (`.ipynb_checkpoints`, `._x.jpg`),
    `__MACOSX`, `Thumbs.db` and the like. They are no part of a data set."""
    return name.startswith(".") or name.lower() in _FOREIGN


def is_image(name: str) -> bool:
    """True where the suffix, in any case, is that of an image and the file is not foreign (see `is_foreign`)."""
    return not is_foreign(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def list_folders(root: Path) -> list[Path]:
    """Folders directly below `root` that are not foreign, sorted by code point of the name; [] where `root` is none."""
    if not root.is_dir():
        return []
    return sorted(
        (root / e.name for e in os.scandir(root) if os.path.isdir(e.path) and not is_foreign(e.name)), key=str
    )


def list_files(root: Path) -> list[Path]:
    """All files below `root` that are not foreign, sorted by code point of the path relative to `root` (with '/').

    Links are followed. A folder is entered once, however many links lead to it, so that a link to a parent ends
    the walk and no picture is counted twice; the real place wins over links. Pipes, sockets and broken links are
    left out, but for those with the suffix of an image, which are refused by name when they are opened.
    """
    found: list[Path] = []
    seen: set[str] = {os.path.realpath(root)}
    waiting = [root]
    links: list[Path] = []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        if folder != root:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if is_foreign(entry.name):
                continue
            path = folder / entry.name
            if os.path.isdir(entry.path):  # not entry.is_dir(), which raises on a link to itself
                (links if entry.is_symlink() else waiting).append(path)
            elif os.path.isfile(entry.path) or is_image(entry.name):
                found.append(path)
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def list_images(root: Path) -> list[Path]:
    """The images below `root`, at any depth, sorted by code point of the path relative to `root`; see `list_files`."""
    return [p for p in list_files(root) if is_image(p.name)]


def images_to_look_at(folder: Path) -> list[Path]:
    """`list_images` of a folder that a user names. Raises DataError where it holds none."""
    found = list_images(folder)
    if not found:
        raise DataError(f"{folder}: no image in this folder ({', '.join(sorted(SUFFIXES))})")
    return found


def measure(root: Path, paths: Iterable[Path], ledger: Ledger) -> dict[Path, tuple[int, int]]:
    """The upright (height, width) of each image that can be opened, in the order given, without decoding.

    One that cannot is refused in the ledger under its path relative to `root`, and the run goes on. Files of several
    images, of which the first is taken, get a warning.
    """

    def look_at(path: Path) -> Probe | str:
        try:
            return probe(path)
        except DataError as error:
            return str(error)

    paths = list(paths)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(paths, pool.map(look_at, paths), strict=True))
    for path, told in found.items():
        if isinstance(told, str):
            ledger.refuse_image(relative(path, root), told)
    known = {path: told for path, told in found.items() if isinstance(told, Probe)}
    several = [path for path, told in known.items() if told.animated]
    if several:
        files = "1 file holds" if len(several) == 1 else f"{len(several)} files hold"
        ledger.warnings.append(
            f"{files} several images, such as {relative(several[0], root)}: of each the first is taken"
        )
    return {path: told.size for path, told in known.items()}


def relative(path: Path, root: Path) -> str:
    """`path` relative to `root` with '/', as ids and messages name files."""
    return path.relative_to(root).as_posix()
