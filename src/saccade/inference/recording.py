"""What `predict` leaves in its folder, and how far it is with a video: pictures and all answers as JSON; of a video the
film with the answers drawn in and a line a frame; frames/s."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from saccade.data.video import Film
from saccade.inference.masks import CocoFile
from saccade.inference.video import Frame
from saccade.machine.files import disk_errors, write_whole
from saccade.machine.terminal import printable

LINES, WHOLE = "predictions.jsonl", "predictions.json"


def lines_name(film: str) -> str:
    """The file of the answers beside a film: `clip.mp4` has `clip.mp4.jsonl`."""
    return f"{film}.jsonl"


class AnswerFile:
    """The answers in a folder: a line each in predictions.jsonl as they come, and all in predictions.json at the end,
    however the work ends. Where that cannot be written, the lines stay. With `coco` their polygons in its file too."""

    def __init__(self, folder: Path, coco: CocoFile | None = None) -> None:
        self.coco = coco
        self.lines, self.whole = folder / LINES, folder / WHOLE
        with disk_errors(self.lines):
            self.lines.unlink(missing_ok=True)  # then a new file, never one that a link leads to
            self._file = self.lines.open("x", encoding="ascii")

    def add(self, answer: dict[str, Any]) -> None:
        """Add one answer."""
        with disk_errors(self.lines):
            self._file.write(json.dumps(answer, allow_nan=False) + "\n")
            self._file.flush()
        if self.coco is not None:
            self.coco.add(answer)

    def close(self) -> None:
        """Put predictions.json at its place. Raises ResourceError where the disk is full."""
        if self.coco is not None:
            self.coco.close()
        with disk_errors(self.lines):
            self._file.close()
        write_whole(self.whole, self._join)
        self.lines.unlink()

    def _join(self, whole: Path) -> None:
        with self.lines.open(encoding="ascii") as lines, whole.open("w", encoding="ascii") as joined:
            joined.write("[")
            for number, line in enumerate(lines):
                if line.endswith("\n"):  # otherwise the disk was full in the middle of it
                    joined.write(("," if number else "") + "\n" + line.rstrip())
            joined.write("\n]\n")


class Recording:
    """The film of a video with the answers drawn in, and beside it a line of JSON a frame. Both stand at their places
    when they are whole, of the frames that there were until then.

    Args:
        target: the film to make or replace; without one nothing is written.
        rate: frames a second.
    """

    def __init__(self, target: Path | None, rate: float) -> None:
        self.film = Film(target, rate)
        self.lines = None if target is None else target.with_name(lines_name(target.name))
        self._file: Any = None

    def add(self, picture: np.ndarray, times: int, row: dict[str, Any]) -> dict[str, list[str]]:
        """A frame with its answer, which the film shows so many times; gives {"notes"} where there is one to make.
        Raises ResourceError where the disk is full."""
        if self.lines is None:
            return {}
        with disk_errors(self.lines):
            if self._file is None:
                self._temporary.unlink(missing_ok=True)
                self._file = self._temporary.open("x", encoding="ascii")
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
        notes = self.film.add(picture, times)
        return {"notes": notes} if notes else {}

    def close(self) -> None:
        """Put film and lines at their places. Raises ResourceError where one of them cannot be written whole."""
        if self._file is not None and self.lines is not None:
            with disk_errors(self.lines):
                try:
                    self._file.close()
                    self._temporary.replace(self.lines)
                finally:
                    self._temporary.unlink(missing_ok=True)
            self._file = None
        self.film.close()

    @property
    def _temporary(self) -> Path:
        assert self.lines is not None
        return self.lines.with_name(f".{self.lines.name}.{os.getpid()}.tmp")


class Meter:
    """How far a video is and how many frames/s are answered: a bar on stderr where that is a terminal, and a line at
    the end.

    Args:
        name: of the video or camera.
        promised: frames that it has, as far as is known; 0 where it is not.
        wanted: nothing is said without.
    """

    def __init__(self, name: str, promised: float, wanted: bool) -> None:
        self.name, self.wanted = name, wanted
        self.console = Console(stderr=True, quiet=not wanted, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[news]}"),
            console=self.console,
            transient=True,
            disable=not (wanted and self.console.is_terminal),
            redirect_stdout=sys.stdout.isatty(),  # what goes elsewhere stays there
        )
        self.task = self.bar.add_task(printable(name), total=promised or None, news="")
        self.frames = self.dropped = 0
        self.begun = time.monotonic()

    def __enter__(self) -> Meter:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.frames:
            rate = self.frames / max(1e-9, time.monotonic() - self.begun)
            text = f"{self.name}: {self.frames} frames answered, {rate:.1f} frames/s{self._lost()}"
            with suppress(OSError):  # the terminal may be gone
                self.console.print(printable(text), highlight=False, markup=False)

    def watch(self, frames: Iterator[Frame]) -> Generator[Frame]:
        """The same frames, counted on their way."""
        for frame in frames:
            self.frames += 1
            self.dropped += frame.dropped
            news = f"{self.frames} frames  {frame.rate:.1f} frames/s{self._lost()}"
            self.bar.update(self.task, completed=self.frames, news=news)
            yield frame

    def _lost(self) -> str:
        return f", {self.dropped} dropped: the network is slower than the camera" if self.dropped else ""


def film_names(videos: list[str]) -> list[str]:
    """A file name for every video and camera; videos of one name in several folders are numbered."""
    stems = [Path(video.replace("camera:", "camera")).stem for video in videos]
    earlier = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [f"{stem}-{n + 1}.mp4" if n else f"{stem}.mp4" for stem, n in zip(stems, earlier, strict=True)]
