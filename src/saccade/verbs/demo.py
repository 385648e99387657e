"""`saccade demo`: the whole path on embedded data, so that a new user sees it work in a few minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from saccade.data.scenes import write_scenes
from saccade.errors import UsageError, suggest
from saccade.machine.files import make_folder
from saccade.machine.paths import at_home
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.verbs.evaluate import evaluate
from saccade.verbs.predict import predict
from saccade.verbs.train import train

MINUTES = 4.0  # of training at most: fast machines reach the epochs before


def demo(
    task: Literal["detect", "classify", "segment"] = "detect", out: Path = Path("demo"), minutes: float = MINUTES
) -> None:
    """Make scenes, train, evaluate, predict, and say where the pictures are.

    Args:
        minutes: of training at most; the run ends earlier where it has passed over the scenes often enough, and says so
            where the machine was too slow for that.

    Raises:
        UsageError: no demonstration of that task, or `out` holds something else.
    """
    shows = {name: show for name in TASKS if (show := task_of(name).DEMO) is not None}
    if task not in shows:
        raise UsageError(f"no demo of {task!r}: {suggest(task, shows)}")
    show = shows[task]
    console = Console(stderr=True, soft_wrap=True)
    out = at_home(out)
    data, run = out / f"{task}-scenes-{show.side}", out / f"{task}-run"
    console.print(f"1. scenes of handwritten digits on photographs: {data}")
    if not data.exists():
        make_folder(out)
        write_scenes(data, task, show.images, seed=0, size=show.side)
    console.print(
        f"2. training {show.model} from scratch: {show.epochs} passes over the scenes, {minutes:g} minutes at most"
    )
    settings: dict[str, Any] = {"epochs": show.epochs, "size": show.size, "flip": 0}  # a mirrored 2 is no 2
    train(show.model, data, out=run, overwrite=True, minutes=minutes, **settings)
    passes = _passes(run)
    if passes < show.epochs:
        console.print(
            f"   This machine is slow, or busy: {passes} of {show.epochs} passes in {minutes:g} minutes. Scores are "
            f"lower for it; more time gives better ones: saccade demo --task {task} --minutes {4 * minutes:g}"
        )
    console.print("3. scoring scenes that it has never seen")
    scores = evaluate(run, data, split="val", bootstrap=200)
    for name, value in list(scores["metrics"].items())[:4]:
        console.print(f"   {name:<16} {value['value']:.3f}   (95 % interval {value['low']:.3f} to {value['high']:.3f})")
    console.print(f"4. predicting: pictures in {out / f'{task}-pictures'}")
    predict(run, data / "val" if (data / "val").is_dir() else data, out=out / f"{task}-pictures")
    console.print(
        f"Done. Open {run / 'report.html'} in a browser.\n"
        f"Now your own images: saccade check DATA, then saccade train {show.model} DATA --minutes 10"
    )


def _passes(run: Path) -> int:
    """Whole passes over its training images that a run has made."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    last = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return int(json.loads(last)["step"]) // max(1, config["images"]["train"] // config["settings"]["batch"])
