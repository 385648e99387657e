"""The commands about data sets: what is in one, another form of it, anchors for its boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli_options import Data, Json, TaskName
from saccade.cli_output import anchor_lines, converted, print_json, say

app = typer.Typer()


@app.command(short_help="Say what a data set holds and what is wrong with it.")
def check(
    data: Data,
    task: TaskName = None,
    out: Annotated[Path | None, typer.Option(help="folder for contact_sheet.png, or a .png file")] = None,
    as_json: Json = False,
) -> None:
    """Say what a data set holds and what is wrong with it: every image and label accounted for."""
    from saccade.verbs.check import check as run
    from saccade.verbs.check import in_words

    result = run(data, task=task, out=out)
    print_json(result) if as_json else say(in_words(result))


@app.command(short_help="Rewrite a data set of boxes or masks in another format.")
def convert(
    data: Data,
    to: Annotated[str, typer.Option("--to", help="coco, voc, yolo or kitti")],
    out: Annotated[Path, typer.Option(help="folder to write; must not exist")],
    images: Annotated[str, typer.Option(help="copy, link or none")] = "copy",
    as_json: Json = False,
) -> None:
    """Rewrite a detection or instance data set as COCO, VOC or YOLO."""
    from saccade.verbs.convert import convert as run

    done = run(data, to, out, images)  # type: ignore[arg-type]  # convert checks the word
    summary = {"out": str(done.out), "format": done.format, "images": done.images, "objects": done.objects}
    summary |= {"splits": done.splits, "classes": done.classes, "lost": done.lost}
    summary |= done.ledger.to_json()
    print_json(summary) if as_json else say(converted(summary))


@app.command(short_help="Fit anchors to the boxes of a data set.")
def anchors(
    data: Data,
    k: Annotated[int, typer.Option("--k", help="number of anchors")] = 5,
    size: Annotated[str, typer.Option(help="input pixels, a side or HxW")] = "416",
    out: Annotated[Path | None, typer.Option(help="folder for anchors.png and curve.png")] = None,
    as_json: Json = False,
) -> None:
    """Fit anchors to the boxes of a data set, for detectors that draw boxes from priors."""
    from saccade.verbs.anchors import anchors as run

    result = run(data, k=k, size=size, out=out)
    print_json(result) if as_json else say(anchor_lines(result))
