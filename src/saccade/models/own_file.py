"""A network of the user's own, named by the path of its file: `saccade train ./my_net.py[:VARIANT] DATA`.

This is the only place of the package that runs what a file says, and it runs a file that the user named: `known_model`
(the word behind `train`) and `trust` (`--model FILE`) remember its SHA-256. A checkpoint names its file and hash and
runs nothing by itself: `confirmed` finds the file only where its bytes have that hash and the user has named a file of
this hash before, on this machine. What a file imports is looked for where Python looks, not beside the file, so that
the hash covers what lies there.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from saccade.errors import ModelFileError, ResourceError, SaccadeError, UsageError, suggest
from saccade.machine.files import write_whole
from saccade.machine.paths import at_home, cache_folder
from saccade.models.contract import Room
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS

MODULES = "saccade_own_"  # the names of modules made here begin so
COPY = "network.py"  # in a run folder: the file as it was when the run began
_NAME = re.compile(r"(?P<file>.+\.py)(?::(?P<variant>\w+))?", re.DOTALL)


def is_own(name: str) -> bool:
    """Whether the name of a model is the path of a file, `my_net.py` or `my_net.py:VARIANT`."""
    return _NAME.fullmatch(name) is not None


def named_by_user(text: str) -> str:
    """The model's name by which everything else finds a file that the user names now: its whole path, and the variant.
    Reads and runs the file, again where it was changed.

    Raises:
        UsageError: no such file; it fails, with its line; it holds no network, or several; no such variant.
    """
    path, variant = _parts(text)
    room = _load(path, _read(path))
    _remember(digest_of(room), path)
    name = _joined(path, variant)
    if name not in room.VARIANTS:
        known = [key.rpartition(":")[2] for key in room.VARIANTS if key != str(path)]
        if variant:
            raise UsageError(f"{path.name} holds no network {variant!r}: {suggest(variant, known)}")
        raise UsageError(
            f"{path.name} holds {', '.join(known)}: say which, as {path.name}:{known[-1]} (or call it Model)"
        )
    return name


def own_room(name: str) -> Room:
    """The room of a name of `named_by_user` or `confirmed`, as it was read then. Raises UsageError."""
    path, _ = _parts(name)
    module = sys.modules.get(_module_name(path))
    return _load(path, _read(path)) if module is None else cast("Room", module.__dict__["_saccade_room"])


def trust(file: str | Path) -> None:
    """Say that a file of Python may be run as the network of checkpoints that were made with it: what `--model FILE`
    does. Remembered by its SHA-256; nothing is run here.

    Raises:
        UsageError: no such file.
    """
    path, _ = _parts(str(file))
    _remember(hashlib.sha256(_read(path)).hexdigest(), path)


def confirmed(name: str, sha256: str, checkpoint: Path) -> str:
    """The name by which the network of a checkpoint may be run: its file where the checkpoint says, or where the user
    said (`trust`), with the bytes that it was trained with.

    Raises:
        ModelFileError: there is none, or the user has not named it on this machine.
    """
    path, variant = _parts(name)
    loaded = sys.modules.get(_module_name(path))
    if loaded is not None and digest_of(loaded.__dict__["_saccade_room"]) == sha256:
        return name  # what this process runs already, whatever became of the file since
    trusted = _trusted(sha256)
    for place in (path, trusted):
        source = None if place is None or not place.is_file() else place.read_bytes()
        if source is not None and place is not None and hashlib.sha256(source).hexdigest() == sha256:
            if trusted is None:
                raise ModelFileError(
                    f"{checkpoint}: its network is the file {place}, which would be run as Python, and you have not "
                    f"named it on this machine. Look into it, then say so: --model {place}"
                )
            _load(place, source)
            return _joined(place, variant)
    kept = checkpoint.parent / COPY
    state = "was changed since" if path.is_file() else "is gone"
    copy = f"; a copy as it was lies in the run: look into it, then --model {kept}" if kept.is_file() else ""
    raise ModelFileError(
        f"{checkpoint}: its network is the file {path} with SHA-256 {sha256[:12]}..., which {state}. Name the file "
        f"as it was by --model FILE (in Python saccade.trust(FILE)){copy}"
    )


def digest_of(room: Room) -> str:
    """SHA-256 of the file of a room that is the user's own; "" for those of the catalogue."""
    return str(getattr(room, "SHA256", ""))


def source_of(room: Room) -> bytes | None:
    """The bytes of such a file, as they were run; None for rooms of the catalogue."""
    return getattr(room, "SOURCE", None)


def short_name(model: str) -> str:
    """A model's name without the folders of its file, for titles and for the folder of a run: `my_net-wide`."""
    found = _NAME.fullmatch(model)
    if found is None:
        return model
    return Path(found["file"]).stem + (f"-{found['variant']}" if found["variant"] else "")


def fault_in_own_file(error: BaseException) -> UsageError | None:
    """An error that came out of a file of the user's own, as one that says where; None for others."""
    if isinstance(error, SaccadeError):
        return None
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [(f, line) for f, line in frames if str(f.f_globals.get("__name__")).startswith(MODULES)]
    if not own:
        return None
    frame, line = own[-1]
    return _fault(frame.f_code.co_filename, line, error, frame.f_code.co_name)


def _fault(file: str, line: int | None, error: BaseException, function: str = "<module>") -> UsageError:
    within = "" if function.startswith("<") else f", in {function}"
    shown = linecache.getline(file, line).strip() if line else ""
    quoted = f"\n    {shown}" if shown else ""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    return UsageError(f"{file} line {line}{within}: {type(error).__name__}: {error}{notes}{quoted}")


def _parts(name: str) -> tuple[Path, str]:
    found = _NAME.fullmatch(at_home(name))
    if found is None:
        raise UsageError(f"{name} is no file of Python: expected my_net.py or my_net.py:VARIANT")
    return Path(os.path.abspath(found["file"])), found["variant"] or ""


def _joined(path: Path, variant: str) -> str:
    return f"{path}:{variant}" if variant else str(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the file of your network cannot be read ({error.strerror})") from error


def _module_name(path: Path) -> str:
    return MODULES + hashlib.sha256(str(path).encode()).hexdigest()[:16]


def _load(path: Path, source: bytes) -> Room:
    """Run a file, once for the same bytes, and make a room of what it holds."""
    name, sha256 = _module_name(path), hashlib.sha256(source).hexdigest()
    there = sys.modules.get(name)
    if there is not None and digest_of(there.__dict__["_saccade_room"]) == sha256:
        return cast("Room", there.__dict__["_saccade_room"])
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.checkcache(str(path))
    sys.modules[name] = module  # dataclasses and type hints look there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        module.__dict__["_saccade_room"] = room = _room(module, path)
    except BaseException as error:
        sys.modules.pop(name)
        if isinstance(error, SyntaxError) and error.filename == str(path):
            raise _fault(str(path), error.lineno, SyntaxError(error.msg)) from error
        fault = fault_in_own_file(error)
        if fault is None:
            raise
        raise fault from error
    room.SHA256, room.SOURCE = sha256, source
    if there is None:
        _keep_lines(path, source)
    return cast("Room", room)


def _keep_lines(path: Path, source: bytes) -> None:
    """Tracebacks show the lines that are run, also once the file was edited."""
    text = source.decode("utf-8", "replace")
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))


def _room(module: ModuleType, path: Path) -> Any:
    """A room of a file's names: as they are where it has a Model with a Config, else made for plain networks."""
    own: dict[str, Any] = {key: value for key, value in vars(module).items() if not key.startswith("__")}
    if "Config" in own and "Model" in own:
        names = {"TASKS"} - set(own)
        if names:
            raise UsageError(f"{path} has Config and Model, but no TASKS, such as TASKS = ('classify',)")
        usual: dict[str, Any] = {
            "VARIANTS": {path.stem: own["Config"]()},
            "SIZE": 224,
            "RECIPES": {"default": {"*": PHOTOGRAPHS if own["TASKS"][0] in ("classify", "tag") else {}}},
        }
        own = usual | own
    else:
        from saccade.models.own_network import names_of_plain

        own |= names_of_plain(module, path)
    variants = list(own["VARIANTS"])
    first = path.stem if path.stem in variants else variants[0]
    place = _renamer(path, own.pop("FIRST", first))
    paper = Paper(f"the network of {path.name}", "your own", 0, str(path))
    own["PAPER"] = own.get("PAPER", paper)
    for key in ("VARIANTS", "SIZE", "PAPER"):
        own[key] = place(own[key]) if isinstance(own[key], dict) else own[key]
    own["RECIPES"] = {recipe: place(settings) for recipe, settings in own["RECIPES"].items()}
    return SimpleNamespace(**own, __name__=path.stem)


def _renamer(path: Path, first: str | None) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What gives a dictionary by variant the whole names: PATH:VARIANT, and PATH for the first."""

    def renamed(by_variant: Mapping[str, Any]) -> dict[str, Any]:
        found = {key if key == "*" else f"{path}:{key}": value for key, value in by_variant.items()}
        return found | ({} if first is None or first not in by_variant else {str(path): by_variant[first]})

    return renamed


@cache
def _of_this_process() -> dict[str, Path]:
    """Files that were named in this process, by SHA-256; where the cache folder cannot be written these alone."""
    return {}


def _remember(sha256: str, path: Path) -> None:
    _of_this_process()[sha256] = path
    try:
        folder = cache_folder("networks")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / sha256, str(path))
    except (OSError, ResourceError):
        return  # then it is asked for in each process


def _trusted(sha256: str) -> Path | None:
    """Where the user said that the file with this hash lies; None where it was never named."""
    if sha256 in _of_this_process():
        return _of_this_process()[sha256]
    try:
        return Path((cache_folder("networks") / sha256).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
