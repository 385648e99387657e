"""Runs of `saccade train` that the scripts of this folder start: kept when finished, gone on with when stopped."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saccade.training.state import STATE, Log

DIVERGED = 6  # exit status of `saccade train`


def train(model: str, data: Path, run: Path, flags: Sequence[str]) -> dict[str, Any] | None:
    """Train a model in a process of its own, unless `run` holds the finished run already.

    What the process prints is added to log.txt of the run folder. A run that was stopped goes on from its last saved
    state; asked.json says what a folder was asked for, so that runs of other settings are not mixed up.

    Args:
        flags: of `saccade train`, beside model, data and --out.

    Returns:
        metrics.json of the run, its scores those of the test images, which chose no checkpoint, where the data have
        such; None where the training diverged.

    Raises:
        SystemExit: the training failed, or the folder holds a run that was asked for otherwise.
    """
    asked = {"model": model, "data": str(data.resolve()), "flags": list(flags)}
    note, summary, diverged = run / "asked.json", run / "metrics.json", run / "diverged.txt"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != asked:
        raise SystemExit(f"{run} was asked for otherwise, see {note.name} there; give another --out or delete it")
    if diverged.is_file():
        return None
    if not summary.is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_json(note, asked)
        stopped = (run / STATE).is_file()
        command = [sys.executable, "-m", "saccade", "train", model, str(data), "--out", str(run)]
        command += ["--resume"] if stopped else [*flags, "--overwrite"]
        print(" ".join(command), file=sys.stderr, flush=True)
        log = run / "log.txt"
        with log.open("ab") as file:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        if status == DIVERGED:
            diverged.write_text(end, encoding="utf-8")
            return None
        if status:
            raise SystemExit(f"{end}\n`{' '.join(command)}` ended with status {status}; all of it is in {log}")
    found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return found | found.get("test", {})


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl, one an epoch: {epoch, losses, minutes, metrics in some, ...}."""
    return Log(run / "log.jsonl").rows()


def settings_flags(settings: Iterable[str]) -> list[str]:
    """`["lr=0.1"]` as `["--set", "lr=0.1"]`."""
    return [part for setting in settings for part in ("--set", setting)]


def write_json(path: Path, state: Any) -> None:
    path.write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all scripts of this folder take: `data`, `--out` and `--set`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results; what is there is kept")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="handed to `saccade train`")
    return parser
