"""Which picture an XML file or a line of a list means.

A label belongs to the path that it states: `Annotations/b/0.xml` and the line `b/0` to `JPEGImages/b/0.jpg`, never to
`JPEGImages/a/0.jpg`. What states only a name may match only where that name is unique.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from saccade.data.formats.listing import is_image, relative
from saccade.data.formats.splits import split_of_folder
from saccade.errors import DataError

Parts = tuple[str, ...]

_FLAG = re.compile(r"(.*\S)\s+(?:0|1|-1)\s*")

_DEEPEST = 100  # folders of a path of another machine that are compared


class Places:
    """The pictures and XML files below a root, found by what a label or a list states.

    The key of a file is its folders below the root and its stem, without the folder that sets pictures and XML files
    apart (`JPEGImages`, `annots`): the topmost in which all files are of one kind, unless it is a split's.
    """

    def __init__(self, root: Path, images: Sequence[Path], pages: Sequence[Path]) -> None:
        self._root = root
        image_folders, page_folders = _folders(root, images), _folders(root, pages)
        self._folders = image_folders | page_folders
        self._keys = {path: self._key(path, page_folders) for path in images}
        self._keys |= {path: self._key(path, image_folders) for path in pages}
        self._images: dict[Parts, list[Path]] = defaultdict(list)  # by key
        self._bare: dict[str, list[Path]] = defaultdict(list)
        for path in images:
            self._images[self._keys[path]].append(path)
            for name in (path.stem, path.name):
                self._bare[name].append(path)
        self._named = {(*self._keys[path][:-1], path.name): [path] for path in images}  # as 10.jpg.xml states it
        self._page_stems = Counter(path.stem for path in pages)
        self._ends: dict[Parts, list[Path]] = defaultdict(list)  # every end of a path, with and without suffix
        self._whole: dict[Parts, list[Path]] = defaultdict(list)
        for path in (*images, *pages):
            folders = path.relative_to(root).parts[:-1]
            forms = {(*folders, path.stem), self._keys[path]}
            if is_image(path.name):
                forms |= {(*form[:-1], path.name) for form in forms}
            for form in forms:
                self._whole[form].append(path)
            for end in {form[i:] for form in forms for i in range(len(form))}:
                self._ends[end].append(path)

    def _key(self, path: Path, others: set[Parts]) -> Parts:
        folders = path.relative_to(self._root).parts[:-1]
        for i, name in enumerate(folders):
            if folders[: i + 1] not in others:
                folders = folders if split_of_folder(name) else folders[:i] + folders[i + 1 :]
                break
        return (*folders, path.stem)

    def picture_of(self, page: Path, stated: Sequence[str]) -> Path:
        """The picture of an XML file; `stated` are the paths that it holds, asked where several have its name.

        Raises:
            DataError: there is none, or several; the reason alone.
        """
        key = self._keys[page]
        found = self._images.get(key) or self._named.get(key, [])
        elsewhere = self._bare.get(page.stem, [])
        if not found and self._page_stems[page.stem] == 1:
            found = [path for path in elsewhere if _agree(key[:-1], self._keys[path][:-1])]
        for parts in [PurePosixPath(text.replace("\\", "/")).parts for text in stated if text]:
            exact = [path for path in found if path.relative_to(self._root).parts[-len(parts) :] == parts]
            found = exact if len(exact) == 1 else found
        if len(found) > 1:
            raise DataError(f"two images have this name: {self._show(found[0])} and {self._show(found[1])}")
        if not found:
            other = f" at this path; {self._show(elsewhere[0])} is of another" if elsewhere else " of this name"
            raise DataError(f"no image{other}")
        return found[0]

    def stated(self, line: str, scope: Parts, flagged: bool = False) -> list[Path]:
        """The pictures and XML files of one name that the line of a list means, below the folders `scope`; [] where
        there are none.

        `2008_000008`, `b/2008_000008.jpg`, `JPEGImages/b/2008_000008.jpg`, `/content/JPEGImages/b/2008_000008.jpg`. A
        last word 1, 0 or -1 is a flag where the line with it is no picture and without it is one, or is `flagged`.

        Raises:
            DataError: files in several folders have the name; the reason alone.
        """
        scope = scope if scope in self._folders else ()
        short = _FLAG.fullmatch(line)
        forms = [line, line.strip(), *([short[1].strip()] if short else [])]
        for form in reversed(forms) if flagged else forms:
            parts = PurePosixPath(form.replace("\\", "/")).parts
            found = self._find(parts, scope)
            found = [path for path in found if path.stem == parts[-1]] or found  # of a.jpg and a.jpg.png the second
            keys = {self._keys[path] for path in found if is_image(path.name)} or {self._keys[path] for path in found}
            if len(keys) > 1:
                raise DataError(
                    f"is the name of {len(keys)} pictures, such as {self._show(found[0])}; state the folder"
                )
            if found:
                return found
        return []

    def _find(self, parts: Parts, scope: Parts) -> list[Path]:
        found = self._below(self._ends.get(parts, []), scope)
        for i in range(
            max(1, len(parts) - _DEEPEST), len(parts)
        ):  # a path of another machine: what follows its first folders must be a whole path
            found = found or self._below(self._whole.get(parts[i:], []), scope)
        if not found and parts and is_image(parts[-1]):  # the list says .jpg, the picture is a .png
            return self._find((*parts[:-1], PurePosixPath(parts[-1]).stem), scope)
        return found

    def _below(self, paths: Iterable[Path], scope: Parts) -> list[Path]:
        return [path for path in paths if path.relative_to(self._root).parts[: len(scope)] == scope]

    def _show(self, path: Path) -> str:
        return relative(path, self._root)


def _folders(root: Path, paths: Iterable[Path]) -> set[Parts]:
    """All folders in which, at any depth, one of the files lies."""
    folders = {path.relative_to(root).parts[:-1] for path in paths}
    return {parts[: i + 1] for parts in folders for i in range(len(parts))}


def _agree(one: Parts, other: Parts) -> bool:
    """True where the shorter path of folders begins or ends the longer one."""
    short, long = sorted((one, other), key=len)
    return long[: len(short)] == short or long[len(long) - len(short) :] == short
