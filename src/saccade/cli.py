"""The command line. Torch is imported only by the verbs that need it, so that help answers at once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade import cli_data, cli_faces, cli_files
from saccade.cli_options import (
    HELP,
    METHODS,
    AgnosticNms,
    Assignments,
    CameraFile,
    CfgNames,
    CfgWeights,
    Data,
    Device,
    Explanations,
    Instances,
    Iou,
    Join,
    Json,
    Layers,
    Nms,
    OfClass,
    Overlap,
    OwnFile,
    Precision,
    Proposals,
    Rect,
    Regions,
    Run,
    Sigma,
    Svd,
    TaskName,
    Tile,
    TreeFile,
    Weights,
    Workers,
    events_of,
    known,
    settings_of,
    there,
    trust_file,
    words_of,
)
from saccade.cli_output import (
    comparison_lines,
    explained,
    map_lines,
    print_json,
    say,
    show_answers,
    show_evaluation,
    show_layers,
    show_models,
    show_settings,
    show_training,
    transfer_lines,
)
from saccade.config import parse_assignments
from saccade.version import __version__

app = typer.Typer(
    help="Train, evaluate, explain and export visual recognition on your own images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_data.app)
app.add_typer(cli_faces.app, name="faces")
app.add_typer(cli_files.app)


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    if version:
        say(f"saccade {__version__}")
        raise typer.Exit
    if debug:
        os.environ["SACCADE_DEBUG"] = "1"


@app.command(short_help="List the models that can be trained, or the layers of one.")
def models(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="show the layers of this one, or of ./my_net.py")
    ] = None,
    task: TaskName = None,
    size: Annotated[str | None, typer.Option(help="with MODEL: input pixels, a side or HxW")] = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """List the models that can be trained, with task, paper, year, size and cost; or the layers of one."""
    if model is not None:
        from saccade.models.summary import summarize

        summary = summarize(model, size, parse_assignments(assignments or []))
        return print_json(summary) if as_json else show_layers(summary)
    from saccade.models import find_models
    from saccade.tasks.table import find_task

    entries = find_models(None if task is None else find_task(task).name)
    if as_json:
        keys = ("name", "tasks", "paper", "year", "parameters", "macs", "size", "weights", "file")
        entries = [{k: e[k] for k in keys} | {"task": e["tasks"][0]} for e in entries]
    return print_json(entries) if as_json else show_models(entries)


@app.command(short_help="Train a model on a data set; leaves a folder with a report.")
def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", callback=known, help="a name of `saccade models`, or your file: ./my_net.py[:VARIANT]"
        ),
    ],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="run folder; by default runs/MODEL-DATA")] = None,
    epochs: Annotated[int | None, typer.Option(help=HELP["epochs"])] = None,
    minutes: Annotated[float | None, typer.Option(help=HELP["minutes"])] = None,
    batch: Annotated[int | None, typer.Option(help=HELP["batch"])] = None,
    size: Annotated[str | None, typer.Option(help=HELP["size"])] = None,
    weights: Weights = None,
    tree: TreeFile = None,
    join: Join = None,
    freeze: Annotated[int | None, typer.Option(help=HELP["freeze"])] = None,
    recipe: Annotated[str, typer.Option(help="default, paper, or probe: a classifier from --weights")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file of settings")] = None,
    assignments: Assignments = None,
    task: TaskName = None,
    seed: Annotated[int | None, typer.Option(help=HELP["seed"])] = None,
    deterministic: Annotated[bool | None, typer.Option("--deterministic", help=HELP["deterministic"])] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 (a GPU may round to TF32), bf16 or fp16")] = None,
    workers: Workers = None,
    device: Device = None,
    proposals: Proposals = None,
    tensorboard: Annotated[Path | None, typer.Option(help="folder for events of TensorBoard", metavar="DIR")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in --out")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on a data set; leaves checkpoints, log, metrics and a report in the run folder."""
    flags = {
        "epochs": epochs,
        "minutes": minutes,
        "batch": batch,
        "size": size,
        "freeze": freeze,
        "seed": seed,
        "deterministic": deterministic,
        "precision": precision,
        "workers": workers,
    }
    settings: dict[str, Any] = {"proposals": proposals} | {k: v for k, v in flags.items() if v is not None}
    from saccade.machine.processes import is_main_process
    from saccade.verbs.train import train as run

    settings |= settings_of(assignments, run) | events_of(tensorboard if is_main_process() else None)
    where = {"out": out, "task": task, "weights": weights, "tree": tree, "join": join, "device": device}
    how = {"recipe": recipe, "config": config, "resume": resume, "overwrite": overwrite}
    result = run(model, data, **where, **how, **settings)  # type: ignore[arg-type]
    if is_main_process():  # of several processes the first one speaks
        print_json(result) if as_json else show_training(result)


@app.command(short_help="Find by experiment how given weights serve a data set best.")
def transfer(
    data: Data,
    weights: Annotated[str, typer.Option(help="run, weights file, or imagenet, imagenet_v2, cifar10 to start from")],
    model: Annotated[str | None, typer.Option(help="network of published weights or of a public file")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; by default runs/transfer-DATA")] = None,
    seeds: Annotated[int, typer.Option(help="splits to try every method on", min=1)] = 3,
    methods: Annotated[str, typer.Option(help="some of: " + METHODS)] = METHODS,
    assignments: Assignments = None,
    task: TaskName = None,
    workers: Workers = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find by experiment how existing weights serve a data set best; leaves the best model ready."""
    from saccade.verbs.transfer import transfer as run

    flags = ({} if workers is None else {"workers": workers}) | settings_of(assignments, run)
    tried = words_of(methods)
    result = run(
        data, weights=weights, model=model, out=out, task=task, methods=tried, seeds=seeds, device=device, **flags
    )
    print_json(result) if as_json else say(transfer_lines(result))


@app.command(short_help="Score a trained model, or any tool's results, on a data set.")
def evaluate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", callback=there, help="run, checkpoint, .cfg, or COCO results (.json)")
    ],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="by default what RUN was trained on")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all; by default val")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for report.html, metrics.json and plots")] = None,
    batch: Annotated[int | None, typer.Option(help="images a forward pass; by itself 8, on a GPU more", min=1)] = None,
    crops: Annotated[int, typer.Option(help="classify, tag: mean over 1, 2, 10 or 144 parts of every image")] = 1,
    instances: Instances = False,
    regions: Regions = None,
    tile: Tile = None,
    overlap: Overlap = None,
    corners: Annotated[str, typer.Option(help="results file: coco, or voc where its boxes count from 1")] = "coco",
    nms: Nms = "hard",
    iou: Iou = None,
    sigma: Sigma = None,
    agnostic_nms: AgnosticNms = False,
    rect: Rect = False,
    weights: CfgWeights = None,
    names: CfgNames = None,
    model: OwnFile = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = "auto",
    proposals: Proposals = None,
    svd: Svd = None,
    as_json: Json = False,
) -> None:
    """Score a trained model, or any tool's COCO results file, on a data set."""
    from saccade.ops.suppression import NmsRule
    from saccade.verbs.evaluate import evaluate as score

    trust_file(model)
    result = score(
        run,
        data,
        split=split,
        batch=batch,
        workers=workers,
        device=device,
        precision=precision,
        crops=crops,
        instances=instances,
        regions=regions,
        tile=tile,
        overlap=overlap,
        corners=corners,
        nms=NmsRule(nms, iou, sigma, agnostic_nms),
        rect=rect,
        proposals=proposals,
        svd=svd,
        weights=weights,
        names=names,
        out=out,
        progress=not as_json,
    )
    print_json(result) if as_json else show_evaluation(result, None if out is None else f"{out}/report.html")


@app.command(short_help="Put runs beside each other: settings, scores, cost, pictures.")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="run folders that have ended; the first is the measure")
    ],
    out: Annotated[Path | None, typer.Option(help="folder for report.html, compare.json and plots")] = None,
    model: OwnFile = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Put runs beside each other: settings, curves, scores with the interval of their difference, cost, pictures."""
    from saccade.verbs.compare import compare as run

    trust_file(model)
    result = run(runs, out=out, workers=workers, device=device, precision=precision, progress=not as_json)
    print_json(result) if as_json else say(comparison_lines(result, None if out is None else f"{out}/report.html"))


@app.command(short_help="Answer for images, videos or a camera; draws the answers.")
def predict(
    run: Run,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="image, folder, glob, video, camera:0")],
    out: Annotated[Path | None, typer.Option(help="folder for pictures, videos and predictions.json")] = None,
    threshold: Annotated[float | None, typer.Option(help="smallest score of a box or tag, or similarity")] = None,
    classes: Annotated[str | None, typer.Option(help="only these, comma-separated")] = None,
    save: Annotated[str | None, typer.Option(help="pictures, txt, csv, crops or json; several by commas")] = None,
    proposals: Proposals = None,
    camera: CameraFile = None,
    masks: Annotated[str, typer.Option(help="masks and class maps: rle, polygons or png (in --out)")] = "rle",
    instances: Instances = False,
    tile: Tile = None,
    overlap: Overlap = None,
    batch: Annotated[int, typer.Option(help="images a forward pass", min=1)] = 8,
    frames: Annotated[int | None, typer.Option(help="stop a video or camera after so many frames", min=1)] = None,
    fps: Annotated[bool, typer.Option("--fps", help="draw into videos how many frames/s are answered")] = False,
    show: Annotated[bool, typer.Option("--show", help="open a window that shows videos; q in it ends one")] = False,
    nms: Nms = "hard",
    iou: Iou = None,
    sigma: Sigma = None,
    agnostic_nms: AgnosticNms = False,
    rect: Rect = False,
    weights: CfgWeights = None,
    names: CfgNames = None,
    model: OwnFile = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Answer for images, folders, videos or a camera; draws the answers into pictures."""
    from saccade.inference.tiles import tiling_of
    from saccade.ops.suppression import NmsRule
    from saccade.verbs.predict import Options, answers

    trust_file(model)
    folder = out if out is not None or as_json else Path("predictions")
    rule, tiling = NmsRule(nms, iou, sigma, agnostic_nms), tiling_of(tile, overlap)
    how = Options(threshold, proposals, masks, batch, workers, device, precision, frames, rule, fps, show, not as_json)
    options = dataclasses.replace(how, weights=weights, names=names, instances=instances, tiling=tiling, camera=camera)
    options = dataclasses.replace(
        options, classes=None if classes is None else classes.split(","), save=save, rect=rect
    )
    show_answers(answers(run, sources, folder, options), as_json)
    if not as_json:
        say(f"pictures and predictions.json: {folder}")


@app.command(short_help="Show what a network used for its answers: heat maps, a report.")
def explain(
    run: Run,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="images or folders; by default of RUN's own data")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for report.html and pictures")] = None,
    classes: OfClass = None,
    top: Annotated[int, typer.Option(help="classes, regions or boxes an image to explain")] = 3,
    methods: Explanations = None,
    layers: Layers = None,
    proposals: Proposals = None,
    camera: CameraFile = None,
    device: Device = None,
    model: OwnFile = None,
    as_json: Json = False,
) -> None:
    """Show what a network used for its answers: heat maps over the images, maps of its layers, a report."""
    from saccade.verbs import explain as verb

    trust_file(model)
    if layers == "list":
        found = {
            name: list(shape) for name, shape in verb.list_layers(run, next(iter(images or ()), None), device).items()
        }
        print_json(found) if as_json else say(map_lines(found))
        return
    folder = out if out is not None or as_json else Path("explanations")
    result = verb.explain(
        run,
        images or (),
        out=folder,
        classes=classes or (),
        top=top,
        methods=None if methods is None else words_of(methods),
        layers=words_of(layers or ""),
        proposals=proposals,
        camera=camera,
        device=device,
        progress=not as_json,
    )
    print_json(result) if as_json else say(explained(result))


@app.command(short_help="Train, evaluate and predict on made scenes; no data needed.")
def demo(
    task: Annotated[str, typer.Option("--task", help="detect, classify or segment")] = "detect",
    out: Annotated[Path, typer.Option(help="folder for the scenes, the run and the pictures")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="training time at most", min=0.05)] = 4.0,
) -> None:
    """Train, evaluate and predict on scenes made of handwritten digits and photographs; no data needed."""
    from saccade.verbs.demo import demo as run

    run(task, out, minutes)  # type: ignore[arg-type]  # demo checks the name


@app.command(short_help="List every training setting; with MODEL also fields of its own.")
def settings(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="with its own fields and its recipe")] = None,
    recipe: Annotated[str, typer.Option(help="default, paper or probe; with MODEL")] = "default",
    as_json: Json = False,
) -> None:
    """List every training setting with its default; with MODEL what its recipe sets, and the fields of its own."""
    from saccade.models.configs import describe_settings

    rows = describe_settings(model, recipe)
    print_json(rows) if as_json else show_settings(rows)
