"""`saccade demo`: the whole path on embedded data, so that a new user sees it work in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from saccade.data.scenes import write_scenes
from saccade.errors import UsageError, suggest
from saccade.paths import at_home
from saccade.verbs.evaluate import evaluate
from saccade.verbs.predict import predict
from saccade.verbs.train import train

MODELS = {"detect": "ssd_small", "classify": "resnet20", "segment": "unet_light"}
IMAGES = {"detect": 800, "classify": 1500, "segment": 600}
SIZES = {"detect": 192, "classify": 32, "segment": 128}
UNSEEN_SEED = 1  # scenes of another seed, and of the validation digits and photographs, which no training scene shows


def demo(
    task: Literal["detect", "classify", "segment"] = "detect", out: Path = Path("demo"), minutes: float = 2.5
) -> None:
    """Make scenes, train, evaluate, predict, and say where the pictures are.

    Raises:
        UsageError: no demonstration of that task, or `out` holds something else.
    """
    if task not in MODELS:
        raise UsageError(f"no demo of {task!r}: {suggest(task, MODELS)}")
    console = Console(stderr=True)
    out = at_home(out)
    data, run = out / f"{task}-scenes", out / f"{task}-run"
    console.print(f"1. scenes of handwritten digits on photographs: {data}")
    if not data.exists():
        write_scenes(data, task, IMAGES[task], seed=0)
    console.print(f"2. training {MODELS[task]} from scratch for {minutes:g} minutes")
    train(
        MODELS[task], data, out=run, overwrite=True, minutes=minutes, size=SIZES[task], flip=0
    )  # a mirrored 2 is no 2
    console.print("3. scoring scenes that it has never seen")
    scores = evaluate(run, data, split="val", bootstrap=200)
    for name, value in list(scores["metrics"].items())[:4]:
        console.print(f"   {name:<16} {value['value']:.3f}   (95 % interval {value['low']:.3f} to {value['high']:.3f})")
    console.print(f"4. predicting: pictures in {out / f'{task}-pictures'}")
    predict(run, data / "val" if (data / "val").is_dir() else data, out=out / f"{task}-pictures")
    console.print(
        f"Done. Open {run / 'report.html'} in a browser.\n"
        f"Now your own images: saccade check DATA, then saccade train {MODELS[task]} DATA --minutes 10"
    )
