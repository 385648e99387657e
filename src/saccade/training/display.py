"""What a person sees of a training run: a bar with losses, images/s and time left, and a line an epoch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from saccade.machine.terminal import printable

LOGGER = logging.getLogger("saccade.train")
WAITING = 0.2  # share of an epoch's time spent waiting for images from which on its line says so


class LastingStderr:
    """stderr for a run that outlives its reader: after a terminal was closed, what is written is lost, and no error."""

    def __init__(self) -> None:
        self.stream = sys.stderr  # a bar puts a stream of its own in that place, which comes back to this one

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        return self.stream.encoding


class Display:
    """Progress on stderr; nothing at all if not `shown`. The bar appears on terminals only. Lines also go to the logger
    `saccade.train`, shown or not.

    Args:
        on_epoch: called with each row of log.jsonl; what it raises ends the run.
    """

    def __init__(self, shown: bool, on_epoch: Callable[[dict[str, Any]], object] | None = None) -> None:
        self.on_epoch = on_epoch
        self.console = Console(file=LastingStderr(), quiet=not shown, soft_wrap=True)  # type: ignore[arg-type]
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}% {task.fields[news]}"),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("training", total=1.0, news="")
        self.stage = ""  # the one of several that is made, with a comma
        self.advice = ": see --workers, cache"  # on waiting for images; said once
        self.begun = time.monotonic()
        self.from_progress: float | None = None

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        LOGGER.info("%s", printable(text))
        self.console.print(printable(text), highlight=False, markup=False)

    def begin(self, stage: str) -> None:
        """Of a run's next stage: its name stands before what the bar says, which begins anew."""
        self.say(stage)
        self.stage, self.from_progress = f"{stage}, ", None

    def work(self, what: str, progress: float) -> None:
        """Show how much of some work without steps is done."""
        self.bar.update(self.task, completed=progress, description=f"{self.stage}{what}", news="")

    def step(self, epoch: int, progress: float, losses: dict[str, float], rate: float) -> None:
        """Show the mean losses of the epoch, images/s and the time left at this pace."""
        if self.from_progress is None:
            self.from_progress, self.begun = progress, time.monotonic()
        done = progress - self.from_progress
        left = (time.monotonic() - self.begun) / done * (1 - progress) if done > 0 else 0.0
        parts = [f"{name} {value:.3f}" for name, value in losses.items()]
        news = f"{'  '.join(parts)}  {rate:.0f} images/s  {left / 60:.1f} min left"
        self.bar.update(self.task, completed=progress, description=f"{self.stage}epoch {epoch + 1}", news=news)

    def epoch(self, row: dict[str, Any], metric: str) -> None:
        """A line of what an epoch's row of the log holds; `metric` is the one of `metrics` that ranks the task."""
        losses = "  ".join(f"{name} {value:.4f}" for name, value in row["losses"].items())
        value = row.get("metrics", {}).get(metric)
        held_out = row.get("validation_losses", {})
        scored = f"  validation loss {sum(held_out.values()):.4f}" if held_out else ""
        scored += "" if value is None else f"  {metric} {value:.4f}"
        rate, waiting = row["images_per_second"], row["waiting"]
        held_up = "" if waiting < WAITING else f" (waits for images {waiting:.0%} of the time{self.advice})"
        self.advice = "" if held_up else self.advice
        self.say(f"epoch {row['epoch']}  {row['minutes']:.1f} min  {losses}  {rate:.1f} images/s{held_up}{scored}")
        if self.on_epoch is not None:
            self.on_epoch(dict(row))
