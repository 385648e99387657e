"""Which files below a folder are images, and which of them a label states: one answer for every reader."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saccade.data.dataset import Ledger
from saccade.data.image import Probe, decode, probe
from saccade.data.picture_kinds import OTHER_SUFFIXES, SUFFIXES, is_picture_head
from saccade.errors import DataError

_MAX_DEPTH = 64  # folders below each other; a path may have some 4000 characters
_EQUALS = 100  # pictures of one name among which an exact spelling is looked for
_NO_PICTURES = frozenset(
    {".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".md", ".names", ".data", ".py", ".ipynb",
     ".npy", ".npz", ".mat", ".h5", ".pkl", ".pt", ".pth", ".safetensors", ".onnx", ".zip", ".gz", ".tar", ".cache",
     ".log", ".html", ".mp4", ".mov", ".avi", ".mkv", ".wav"}
)  # fmt: skip
"""Suffixes of by far the most files that are no pictures: these are not opened to see whether they are."""
_FOREIGN = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


def is_foreign(name: str) -> bool:
    """True for what notebooks, archives and desktops leave behind: hidden names (`.ipynb_checkpoints`, `._x.jpg`),
    `__MACOSX`, `Thumbs.db` and the like. They are no part of a data set."""
    return name.startswith(".") or name.lower() in _FOREIGN


def is_image(name: str) -> bool:
    """True where the suffix, in any case, is that of an image and the file is not foreign (see `is_foreign`).

    That includes formats that are not read (HEIC, SVG, ...): such files are refused by name when they are opened.
    """
    suffix = os.path.splitext(name)[1].lower()
    return not is_foreign(name) and (suffix in SUFFIXES or suffix in OTHER_SUFFIXES)


def _is_picture(path: Path) -> bool:
    """`is_image` of the name; a file of an unknown suffix or of none is judged by its first bytes."""
    if is_image(path.name) or path.suffix.lower() in _NO_PICTURES:
        return is_image(path.name)
    try:
        with path.open("rb") as file:  # regular files only: `list_files` leaves out the others
            return is_picture_head(file.read(16))
    except OSError:
        return False


def list_folders(root: Path) -> list[Path]:
    """Folders directly below `root` that are not foreign, sorted by code point of the name; [] where `root` is none."""
    if not root.is_dir():
        return []
    return sorted(
        (root / e.name for e in os.scandir(root) if os.path.isdir(e.path) and not is_foreign(e.name)), key=str
    )


def list_files(root: Path, suffix: str = "") -> list[Path]:
    """All files below `root` that are not foreign, sorted by code point of the path relative to `root` (with '/').

    With a suffix (`.json`, in any case) those alone that end in it; of the others nothing is asked but their names,
    so that a folder of many pictures is soon searched for its few label files.

    Links are followed. A folder is entered once, however many links lead to it, so that a link to a parent ends
    the walk and no picture is counted twice; the real place wins over links. Pipes, sockets and broken links are
    left out, but for those with the suffix of an image, which are refused by name when they are opened.

    Raises:
        DataError: folders lie in each other more than 64 deep.
    """
    found: list[Path] = []
    seen: set[str] = {os.path.realpath(root)}
    waiting = [root]
    links: deque[Path] = deque()
    deepest = len(root.parts) + _MAX_DEPTH + 1
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        if folder != root:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if is_foreign(entry.name):
                continue
            if suffix and not entry.name.lower().endswith(suffix) and not _may_be_folder(entry):
                continue
            path = folder / entry.name
            if len(path.parts) > deepest:
                raise DataError(f"{folder}: more than {_MAX_DEPTH} folders in each other; give a folder further down")
            if os.path.isdir(entry.path):  # not entry.is_dir(), which raises on a link to itself
                (links if entry.is_symlink() else waiting).append(path)
            elif path.suffix.lower().endswith(suffix) and (os.path.isfile(entry.path) or is_image(entry.name)):
                found.append(path)
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    """False where the folder's own list says that the entry is a file, without a look at it."""
    return entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def files_with(root: Path, suffix: str, depth: int) -> list[Path]:
    """`list_files` of a suffix, at most `depth` names below `root`; [] where that is no folder."""
    if not root.is_dir():
        return []
    return [path for path in list_files(root, suffix) if len(path.relative_to(root).parts) <= depth]


def list_images(root: Path) -> list[Path]:
    """The images below `root`, at any depth, sorted by code point of the path relative to `root`; see `list_files`.

    A file is an image by its suffix or, where the suffix says nothing, by its first bytes. Formats that are not read
    are among them, so that a reader uses or refuses every picture by name.
    """
    return [p for p in list_files(root) if _is_picture(p)]


def images_to_look_at(folder: Path) -> list[Path]:
    """`list_images` of a folder that a user names. Raises DataError where it holds none."""
    found = list_images(folder)
    if not found:
        raise DataError(f"{folder}: no image in this folder ({', '.join(sorted(SUFFIXES))})")
    return found


def measure(root: Path, paths: Iterable[Path], ledger: Ledger) -> dict[Path, tuple[int, int]]:
    """The upright (height, width) of each image that can be opened, in the order given, without decoding.

    One that cannot is refused in the ledger under its path relative to `root`, and the run goes on. Files of several
    images, of which the first is taken, get a warning, and so do files of 16 bits of which only dark values are used.
    """

    def look_at(path: Path) -> Probe | str:
        try:
            return probe(path)
        except DataError as error:
            return str(error)

    paths = list(paths)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(paths, pool.map(look_at, paths), strict=True))
    for path, probed in found.items():
        if isinstance(probed, str):
            ledger.refuse_image(relative(path, root), probed)
    known = {path: probed for path, probed in found.items() if isinstance(probed, Probe)}
    several = [path for path, probed in known.items() if probed.animated]
    if several:
        files = "1 file holds" if len(several) == 1 else f"{len(several)} files hold"
        ledger.warnings.append(
            f"{files} several images, such as {relative(several[0], root)}: of each the first is taken"
        )
    ledger.warnings += _dark_values(root, [path for path, probed in known.items() if probed.deep])
    return {path: probed.size for path, probed in known.items()}


def _dark_values(root: Path, deep: Sequence[Path]) -> list[str]:
    """A warning where files of 16 bits hold no value above a quarter of the range, as those of 12-bit cameras do. Some
    20 of them are decoded, spread over the whole."""
    looked_at = deep[:: max(1, len(deep) // 20)]
    brightest = 0
    for path in looked_at:
        try:
            brightest = max(brightest, int(decode(path).max()))
        except DataError:
            continue  # named when it is decoded for use
        if brightest >= 64:
            return []
    if not brightest:
        return []
    bits = (brightest * 257 - 128).bit_length()
    return [
        f"{len(deep)} files of 16 bits, such as {relative(looked_at[0], root)}, use values up to about "
        f"{brightest * 257} of 65535 ({len(looked_at)} were looked at) and are nearly black, as 65535 is white in "
        f"every file. If they hold {bits} bits, multiply their values by {1 << (16 - bits)} and save them again"
    ]


def relative(path: Path, root: Path) -> str:
    """`path` relative to `root` with '/', as ids and messages name files."""
    return path.relative_to(root).as_posix()


class Pictures:
    """Finds the picture that a label states, among `paths` below `root`.

    A label belongs to the path that it states. That path may begin above `root` (`/content/data/train/a.jpg`) or below
    it (`a.jpg` for `train/a.jpg`, where no other folder has an `a.jpg`), and its suffix may be missing; but a stated
    folder that the set has is never exchanged for another. Letters may differ in case and in their Unicode form.
    """

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self._root = root
        self._folders = {".."}  # nothing above a label's own place is guessed
        self._whole: dict[str, list[Path]] = defaultdict(list)  # the path from `root`, with and without suffix
        self._ends: dict[str, list[Path]] = defaultdict(list)  # each end of that path
        for path in paths:
            *folders, name = _folded(relative(path, root)).split("/")
            self._folders.update(folders)
            for last in {name, os.path.splitext(name)[0]}:
                parts = [*folders, last]
                self._whole["/".join(parts)].append(path)
                for i in range(len(parts)):
                    self._ends["/".join(parts[i:])].append(path)

    def find(self, stated: str) -> Path:
        """The picture of the path or name `stated` (with '/' or backslashes).

        Raises:
            DataError: there is none, or there are several; the reason alone, the reader knows the place.
        """
        name = "/".join(part for part in stated.strip().replace("\\", "/").split("/") if part not in ("", "."))
        rest = _folded(name)
        found = self._whole.get(rest) or self._ends.get(rest, [])
        while not found and "/" in rest and rest[: rest.index("/")] not in self._folders:
            rest = rest[rest.index("/") + 1 :]
            found = self._whole.get(rest, [])
        if not found:
            raise DataError(f"no picture {stated[:200]!r} in {self._root} or below{self._hint(rest)}")
        if 1 < len(found) <= _EQUALS:  # `a.jpg` goes before `A.jpg`, and `a` before `a.jpg`
            known = {path: f"/{relative(path, self._root)}" for path in found}
            exact = [path for path in found if known[path].endswith(f"/{name}")]
            found = exact or [p for p in found if os.path.splitext(known[p])[0].endswith(f"/{name}")] or found
        if len(found) > 1:
            several = ", ".join(relative(path, self._root) for path in found[:3])
            raise DataError(f"{stated[:200]!r} is the name of several pictures: {several}; write the path")
        return found[0]

    def _hint(self, name: str) -> str:
        last = name.split("/")[-1]
        near = self._ends.get(last) or self._ends.get(os.path.splitext(last)[0])
        return f"; there is {relative(near[0], self._root)}" if near else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
