"""The folder of a run: whether it may be made, gone on with or replaced."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from saccade.data.formats import format_and_place
from saccade.errors import ModelFileError, ResourceError, SaccadeError, UsageError
from saccade.machine.files import DISK_FULL, disk_errors, error_number, make_folder, remove_empty
from saccade.machine.processes import from_first, is_main_process
from saccade.models.own_file import COPY, short_name
from saccade.training.state import read_config

# what a new run removes or writes over in its folder
FILES = (
    *("log.jsonl", "best.safetensors", "last.safetensors", "metrics.json", "report.html", "data_report.json"),
    COPY,
)
REPLACED = (*FILES, "state", "stages", "plots")
COMMON = {"data", "dataset", "annotations", "labels"}  # names of files that say nothing of what is in them
PLANNED = {"begun": False}  # in `config.json` while the proposals of a new run are computed


@contextmanager
def agreed_run_folder(
    out: str | Path | None, model: str, data: str | Path, resume: bool, overwrite: bool
) -> Iterator[Path]:
    """The folder of a run, chosen by the first process for all. Where `out` is none it is a new one, made at once so
    that of two runs that begin together each has its own, and gone at the end if nothing was written to it.

    Raises:
        UsageError: in all processes, as `run_folder`.
        ResourceError: likewise, where it cannot be made.
    """
    answer: Path | SaccadeError = Path()
    if is_main_process():
        try:
            answer = run_folder(out, model, data, resume, overwrite)
        except SaccadeError as error:
            answer = error
    answer = from_first(answer)
    if isinstance(answer, SaccadeError):
        raise answer
    try:
        yield answer
    finally:
        if out is None and is_main_process():
            remove_empty(answer, answer.parent)


def run_folder(out: str | Path | None, model: str, data: str | Path, resume: bool, overwrite: bool) -> Path:
    """The folder of a run; where `out` is none a new one, which is made. Raises UsageError where it holds another run,
    none to go on with, or other files that a run would replace."""
    if out is None:
        if resume:
            raise UsageError("--resume needs --out, the folder of the run to go on with")
        return _new_folder(f"{short_name(model)}-{_name_of(format_and_place(data)[1].resolve())}")
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file, not a folder")
    has_run = (path / "config.json").is_file()
    if resume and not has_run:
        raise UsageError(f"--resume: {path} holds no run (no config.json)")
    taken = [name for name in REPLACED if (path / name).exists()]
    if taken and not has_run and not overwrite:
        raise UsageError(
            f"{path} holds no run, but {', '.join(taken)}, which a run would replace; choose another --out, or add "
            "--overwrite"
        )
    if has_run and not resume and not overwrite and not is_planned(path):
        raise UsageError(f"{path} holds a run already; add --resume to go on with it, or --overwrite to replace it")
    return path


def _new_folder(name: str) -> Path:
    """`runs/NAME`, or with the first number behind it that no folder has, made."""
    make_folder(Path("runs"))
    path, number = Path("runs") / name, 1
    with disk_errors(path):
        while True:
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1
                path = path.with_name(f"{name}-{number}")


def _name_of(data: Path) -> str:
    """What data are called: a folder by its name, a file by its own, or where many are called so by its folder's."""
    return data.parent.name if data.stem.strip("_").split(".")[0] in COMMON else data.stem


def is_planned(run: Path) -> bool:
    """Whether a folder holds a run that ended before its first stage, as far as it can be read: nothing is lost where
    it begins anew."""
    try:
        return read_config(run).items() >= PLANNED.items()
    except ModelFileError:
        return False


def resume_command(model: str, data: str | Path, run: Path) -> str:
    """The command that goes on with a run."""
    return shlex.join(["saccade", "train", model, str(data), "--out", str(run), "--resume"])


def how_to_go_on(model: str, data: str | Path, run: Path) -> str:
    """What to do with a stopped run."""
    return f"go on with: {resume_command(model, data, run)}"


def what_to_do(model: str, data: str | Path, run: Path, resume: bool) -> Callable[[], str]:
    """What to say of a run that is stopped outside its training loop: how to go on with it, or that nothing of it is
    kept yet, as long as it has not written its own `config.json` since this call.

    Args:
        resume: it goes on with what is there.
    """
    before = _identity(run / "config.json")

    def say() -> str:
        now = _identity(run / "config.json")
        if now is not None and (resume or now != before):
            return f"stopped; {how_to_go_on(model, data, run)}"
        return "stopped before the run had begun: nothing of it is kept; the same command begins it again"

    return say


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that takes its place; None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def full_disk(advice: str) -> Iterator[None]:
    """What to do about a disk that is full in mid-run: a ResourceError that says how to go on."""
    try:
        yield
    except ResourceError as error:
        if error_number(error.__cause__) not in DISK_FULL:
            raise
        raise ResourceError(f"{error}; what was saved is whole, {advice}") from error
