"""The commands that write model files: a checkpoint of published weights, a file for an app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli_options import CfgNames, CfgWeights, Json, OwnFile, Run, Svd, trust_file
from saccade.cli_output import plain, print_json, say, show_weights

app = typer.Typer()


@app.command(short_help="Make a checkpoint from published weights.")
def weights(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a name of `saccade models`, ./my_net.py, or a Darknet .cfg")
    ],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="imagenet, imagenet_v2, coco, cifar10, or a public file")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="checkpoint to write; by default MODEL-SOURCE.safetensors")] = None,
    classes: Annotated[str | None, typer.Option(help="names of a file's classes: such a word, or a text file")] = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint from published weights, which predict, evaluate and export take."""
    from saccade.verbs.weights import weights as run

    done = run(model, source, out=out, classes=classes)
    print_json(done) if as_json else show_weights(model, done)


@app.command(short_help="Write a trained model as a file for an app, checked.")
def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="onnx or torch")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="file to write; by default beside the checkpoint")] = None,
    batch: Annotated[int | None, typer.Option(help="images a call; by default any number", min=1)] = None,
    size: Annotated[str | None, typer.Option(help="input pixels, a side or HxW, then fixed")] = None,
    nms: Annotated[bool, typer.Option(help="suppress boxes inside the file, or leave that to the app")] = True,
    images: Annotated[str | None, typer.Option(help="compare on these; by default on validation images")] = None,
    svd: Svd = None,
    weights: CfgWeights = None,
    names: CfgNames = None,
    model: OwnFile = None,
    as_json: Json = False,
) -> None:
    """Write a trained model as ONNX or torch.export file, checked to answer as the model does."""
    from saccade.verbs.export import export as run_export

    trust_file(model)
    what: dict[str, Any] = {"to": to, "out": out, "batch": batch, "size": size, "nms": nms, "images": images}
    result = run_export(run, **what, svd=svd, weights=weights, names=names)
    print_json(result) if as_json else say(plain(result))
