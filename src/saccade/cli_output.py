"""What the command line prints: results as JSON or in words, faults as one clear line. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saccade.errors import SaccadeError, is_out_of_memory
from saccade.machine.terminal import printable

if TYPE_CHECKING:
    from saccade.verbs.predict import Answer


def say(text: str, err: bool = False) -> None:
    """Everything that the command line says to people: a line on stdout or stderr, without control characters."""
    typer.echo(printable(text), err=err)


def print_json(value: Any) -> None:
    """One JSON value on stdout, as it is: JSON escapes what a terminal would obey."""
    typer.echo(json.dumps(value, allow_nan=False, default=str))


def show_models(entries: list[dict[str, Any]]) -> None:
    """The catalogue as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "tasks", "paper", "year", box=None, header_style="bold")
    for heading in ("parameters", "multiply-adds", "input"):
        table.add_column(heading, justify="right")
    table.add_column("weights")
    table.add_column("file", overflow="fold")
    for e in entries:
        macs = f"{e['macs'] / 1e9:.2f} G"
        numbers = str(e["year"]), f"{e['parameters']:,}", macs, str(e["size"])
        table.add_row(
            e["name"],
            ", ".join(e["tasks"]),
            e["paper"],
            *numbers,
            ", ".join(e["weights"]),
            e["file"].removeprefix("saccade/"),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def show_layers(result: dict[str, Any]) -> None:
    """The layers of a network as a table: name, kind, shapes of the output, parameters."""
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "kind", "output", box=None, header_style="bold")
    table.add_column("parameters", justify="right")
    for row in result["layers"]:
        shapes = list(dict.fromkeys(" x ".join(map(str, shape)) for shape in row["output"]))
        table.add_row(
            row["name"], row["kind"], ", ".join(shapes), f"{row['parameters']:,}" if row["parameters"] else ""
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    height, width = result["size"]
    console.print(f"{result['model']} for images of {height}x{width}: {result['parameters']:,} parameters")
    console.print(f"file: {Path(__file__).parents[1] / result['file']}", soft_wrap=True)  # an own file is absolute


def show_settings(rows: list[dict[str, Any]]) -> None:
    """Settings as `name value meaning` under the heading of their group; where a recipe sets one, it is named, and what
    it sets where a run starts from weights."""
    group = None
    for row in rows:
        if row["group"] != group:
            typer.echo(f"{'' if group is None else chr(10)}{row['group']}:")
            group = row["group"]
        source = "" if row["from"] == "default" else f" [{row['from']}]"
        source += "" if row["with_weights"] is None else f" [{_value(row['with_weights'])} with --weights]"
        typer.echo(f"{row['name']:<18} {_value(row['value']):<16} {row['help'] or row['type']}{source}")


def _value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def say_fault(error: Exception) -> int:
    """Print a fault on stderr and give its exit code."""
    if os.environ.get("SACCADE_DEBUG"):
        traceback.print_exc()
    from saccade.models.own_file import fault_in_own_file

    error = fault_in_own_file(error) or error
    code: int | None = getattr(error, "exit_code", None)
    if isinstance(error, SaccadeError):
        say(f"saccade: error: {error}", err=True)
    elif code is not None:  # stopped by a signal, after saving
        say(f"saccade: {error}", err=True)
    elif is_out_of_memory(error):
        code = 5
        say("saccade: error: out of memory; use a smaller --batch or --size", err=True)
    elif isinstance(error, OSError):
        code = 5
        say(f"saccade: error: {error.filename or ''}: {error.strerror or error}", err=True)
    else:
        text = f"{type(error).__name__}: {error}"
        say(f"saccade: this is a fault of ours: {text}\nRun again with `saccade --debug ...` and report it.", err=True)
    return 1 if code is None else code


def without_reader() -> int:
    """Send what is still to be printed nowhere; the exit code of a command whose reader has left (128 + SIGPIPE)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 141


def plain(result: dict[str, Any]) -> str:
    """A line a key."""
    return "\n".join(f"{name}: {value}" for name, value in result.items())


def comparison_lines(result: dict[str, Any], report: str | None) -> str:
    """Score and cost of each run, what differs between them, and the findings; `report` is the page with all of it."""
    metric = result["metric"]
    name, score = max([28, *(len(run["name"]) for run in result["runs"])]), max(10, len(metric))
    lines = [f"{'run':<{name}} {metric:>{score}}   {'parameters':>12} {'G multiply-adds':>16} {'ms an image':>12}"]
    for run in result["runs"]:
        value = run["metrics"][metric]["value"]
        shown = "-" if value is None else f"{value:.4f}"
        cost = f"{run['parameters']:>12,} {run['macs'] / 1e9:>16.3f} {1000 * run['seconds_per_image']:>12.1f}"
        lines.append(f"{run['name']:<{name}} {shown:>{score}}   {cost}")
    for row in result["settings"]:
        lines.append(f"{row['name']}: {' | '.join(_value(value) for value in row['values'])}")
    lines += [*(f"warning: {warning}" for warning in result["warnings"]), *result["findings"]]
    lines.append(f"{result['images']} validation images, {result['seconds']:.1f} s")
    return "\n".join(lines + ([] if report is None else [f"report: {report}"]))


def show_scores(result: dict[str, Any], footer: str) -> None:
    """A table of the metrics with their intervals."""
    for name, m in result["metrics"].items():
        if m["value"] is None:
            say(f"{name:<24}      -   (nothing of this kind in the truth)")
        else:
            interval = "" if m["low"] is None else f"   95 % interval {m['low']:.4f} to {m['high']:.4f}"
            say(f"{name:<24} {m['value']:.4f}{interval}")
    say(footer)


def show_evaluation(result: dict[str, Any], report: str | None) -> None:
    """The metrics of an evaluation, what of the network was compressed, and where the report is, if there is one."""
    if result["svd"] is not None:
        from saccade.inference.factors import saving_in_words

        say(saving_in_words(result["svd"]))
    show_scores(result, f"{result['images']} images of {result['split']}" + (f"; report: {report}" if report else ""))


def show_training(result: dict[str, Any]) -> None:
    """The metrics of the validation images, by which the checkpoint was chosen, and those of the test part."""
    report = f"report: {result['run']}/report.html"
    if "test" not in result:
        show_scores(result, report)
        return
    show_scores(result, f"{result['images']} validation images, which chose the checkpoint\n")
    show_scores(result["test"], f"{result['test']['images']} test images, scored once\n{report}")


def anchor_lines(result: dict[str, Any]) -> str:
    """What `anchors` found: the shapes in three units, how well they fit, and the curve."""
    height, width = result["size"]
    rows = [f"{result['boxes']:,} boxes of {result['images']:,} images, letterboxed to {height}x{width}"]
    if result["too_small"]:
        rows.append(f"{result['too_small']:,} boxes of less than a pixel were left out")
    rows.append(f"{'pixels':>18} {'shares':>18} {'cells of 32':>18}")
    for group in zip(result["pixels"], result["shares"], result["cells"], strict=True):
        rows.append(" ".join(f"{w:>8.4g}, {h:<8.4g}" for w, h in group))
    rows.append(f"average IoU {result['average_iou']:.3f}, above 0.5 for {result['good']:.1%} of the boxes")
    rows += [f"  k={row['k']:<3} {row['average_iou']:.3f}  {row['good']:.1%}" for row in result["curve"]]
    rows += [f"for {model}: --set '{setting}' --set fit_priors=false" for model, setting in result["settings"].items()]
    return "\n".join([*rows, *result["files"]])


def converted(result: dict[str, Any]) -> str:
    """What was written, and what of the source could not be, or not as it stood."""
    classes = len(result["classes"])
    lines = [f"{result['images']} images, {result['objects']} objects in {classes} classes written to {result['out']}"]
    lines += [f"not kept: {loss}" for loss in result["lost"]]
    lines += [f"refused: {entry['where']}: {entry['why']}" for entry in result["refused"]]
    lines += [f"repaired: {entry['where']}: {entry['what']}" for entry in result["repaired"]]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in result["warnings"])])


def map_lines(layers: Mapping[str, Sequence[int]]) -> str:
    """A line for each layer that gives maps: its name, and how many of which size."""
    return "\n".join(f"{name:<40} {c} maps of {w} x {h}" for name, (c, h, w) in layers.items())


def show_answers(answers: Iterable[Answer], as_json: bool) -> None:
    """What `predict` says: a line an image as it comes, or all as one JSON list, also where a signal or a video that is
    cut off ends the work; what else is to be known of an image on stderr."""
    known: list[dict[str, Any]] = []
    try:
        for answer in answers:
            image = answer.json["image"]
            for note in answer.json.get("notes", ()):
                say(f"warning: {image}: {note}", err=True)
            if as_json:
                known.append(answer.json)
            else:
                say(f"{image}: {answer.line}")
    except Exception as error:
        signal = getattr(error, "exit_code", 0) > 128
        if as_json and (signal or any("error" not in answer for answer in known)):
            print_json(known)
        raise
    if as_json:
        print_json(known)


def explained(result: dict[str, Any]) -> str:
    """A line an image on what was explained, and what could not be."""
    lines = []
    for entry in result["images"]:
        targets = ", ".join(f"{e['name']} {e['score']:.2f}" for e in entry.get("explained", ()))
        lines.append(f"{entry['image']}: {entry.get('error') or targets or 'nothing to explain'}")
        lines += [f"  {note}" for note in entry.get("notes", ())]
    return "\n".join([*lines, f"report: {result['report']}"])


def transfer_lines(result: dict[str, Any]) -> str:
    """The methods, best first, and which one is recommended why."""
    lines = [f"{'method':<16} {result['metric']:>8}  {'95 % interval':<18} {'seconds':>8}"]
    for row in sorted(result["methods"], key=lambda row: -row["mean"]):
        interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        lines.append(f"{row['method']:<16} {row['mean']:>8.4f}  {interval:<18} {row['seconds']:>8.1f}")
    best = result["recommended"]
    return "\n".join([*lines, *best["why"], f"ready: {best['run']}", f"report: {result['report']}"])


def show_weights(model: str, done: dict[str, Any]) -> None:
    """What a checkpoint of published weights is, and whose."""
    say(f"{done['checkpoint']}: {model} to {done['task']} {done['classes']} classes, from {done['source']}")
    if facts := "; ".join(done[name] for name in ("owner", "licence", "score") if done[name]):
        say(facts)
