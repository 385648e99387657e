"""The commands about people: `saccade faces enroll | verify | identify | remove | list | crop | evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli_options import Data, Device, Json, Precision, Workers
from saccade.cli_output import print_json, say, show_scores

app = typer.Typer(no_args_is_help=True, help="Enroll people in a database, verify and identify them.")

DatabaseFile = Annotated[Path, typer.Argument(metavar="DATABASE", help="file of people; `enroll` makes it")]
Embedder = Annotated[Path, typer.Argument(metavar="RUN", help="run or checkpoint of a model to embed")]
Detector = Annotated[Path | None, typer.Option(help="run of a detector that finds the face in each picture")]
LandmarksOf = Annotated[
    Path | None,
    typer.Option("--landmarks", help="align faces by these: a .json or .csv file, or the run of a pose model"),
]
Limit = Annotated[float | None, typer.Option(help="smallest similarity that counts, instead of one chosen for --far")]
Calibrate = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="people not trained on, from whom the threshold is chosen")
]


@app.command()
def enroll(
    database: DatabaseFile,
    run: Embedder,
    sources: Annotated[list[Path], typer.Argument(metavar="PEOPLE", help="folder of people; with --name, pictures")],
    name: Annotated[str | None, typer.Option(help="whose pictures they are")] = None,
    detector: Detector = None,
    landmarks: LandmarksOf = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Add people to a database."""
    from saccade.verbs.faces import enroll as run_enroll

    done = run_enroll(database, run, sources, name=name, detector=detector, landmarks=landmarks, device=device)
    if as_json:
        return print_json(done)
    for entry in done["refused"]:
        say(f"refused: {entry['where']}: {entry['why']}", err=True)
    if done["one_picture"]:
        say(f"of {len(done['one_picture'])} people there is one picture, such as {done['one_picture'][0]}", err=True)
    known = f", {done['known']} were there already" if done["known"] else ""
    say(
        f"{done['added']} pictures enrolled{known}; {database} has {done['people']} people, {done['pictures']} pictures"
    )
    return None


@app.command()
def verify(
    run: Embedder,
    first: Annotated[Path, typer.Argument(metavar="IMAGE", help="a picture")],
    second: Annotated[Path, typer.Argument(metavar="IMAGE", help="another")],
    far: Annotated[float, typer.Option(help="false-accept rate that the threshold is chosen for")] = 1e-3,
    threshold: Limit = None,
    calibrate: Calibrate = None,
    detector: Detector = None,
    landmarks: LandmarksOf = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say whether two pictures show one person."""
    from saccade.verbs.faces import verify as run_verify

    options = {"far": far, "threshold": threshold, "calibrate": calibrate, "detector": detector}
    found = run_verify(run, first, second, **options, landmarks=landmarks, device=device)  # type: ignore[arg-type]
    if as_json:
        return print_json(found)
    answer = "one person" if found["same"] else "different people"
    say(f"{answer}: similarity {found['similarity']:.4f}, threshold {found['threshold']:.4f}")
    say(_rate(found))
    return None


@app.command()
def identify(
    database: DatabaseFile,
    run: Embedder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="pictures, or folders of them")],
    top: Annotated[int, typer.Option(help="people to name for each picture", min=1)] = 5,
    far: Annotated[float, typer.Option(help="share of strangers who may be taken for someone")] = 1e-2,
    threshold: Limit = None,
    calibrate: Calibrate = None,
    detector: Detector = None,
    landmarks: LandmarksOf = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say whose pictures these are, among the people of a database."""
    from saccade.verbs.faces import identify as run_identify

    options: dict[str, Any] = {"top": top, "far": far, "threshold": threshold, "calibrate": calibrate}
    found = run_identify(database, run, images, **options, detector=detector, landmarks=landmarks, device=device)
    if as_json:
        return print_json(found)
    for answer in found["answers"]:
        if "error" in answer:
            say(answer["error"], err=True)
            continue
        others = ", ".join(f"{each['name']} {each['similarity']:.4f}" for each in answer["candidates"])
        say(f"{answer['image']}: {answer['name'] or 'nobody of the database'} ({others})")
    rate = found["strangers_let_in"]
    stated = "a threshold that was given" if rate is None else f"which lets in {rate:.2%} of strangers"
    say(f"{found['people']} people; threshold {found['threshold']:.4f}, {stated}")
    return None


@app.command()
def remove(
    database: DatabaseFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="people, as `list` names them")],
    as_json: Json = False,
) -> None:
    """Remove people and every trace of them from a database."""
    from saccade.verbs.faces import remove as run_remove

    done = run_remove(database, names)
    people = ", ".join(done["removed"])
    print_json(done) if as_json else say(
        f"removed {people} ({done['pictures']} pictures); {done['people']} people stay"
    )


@app.command("list")
def list_people(database: DatabaseFile, as_json: Json = False) -> None:
    """List the people of a database."""
    from saccade.verbs.faces import list_people as run_list

    found = run_list(database)
    lines = [f"{each['pictures']:>6}  {each['name']}" for each in found["people"]]
    total = f"{len(lines)} people; embeddings of {found['length']} numbers of the model {found['model'][:12]}"
    print_json(found) if as_json else say("\n".join([*lines, total]))


@app.command()
def crop(
    source: Annotated[Path, typer.Argument(metavar="PEOPLE", help="folder of people, or boxes of them")],
    out: Annotated[Path, typer.Option(help="folder of people that is written, to train on")],
    detector: Detector = None,
    landmarks: LandmarksOf = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Cut faces out of pictures of people, as the other commands do, to train on them."""
    from saccade.verbs.faces import crop as run_crop

    done = run_crop(source, out, detector=detector, landmarks=landmarks, device=device)
    if as_json:
        return print_json(done)
    for entry in done["refused"]:
        say(f"refused: {entry['where']}: {entry['why']}", err=True)
    say(f"{done['pictures']} faces of {done['people']} people: {done['folder']}")
    return None


@app.command()
def evaluate(
    run: Embedder,
    data: Data,
    pairs: Annotated[Path, typer.Option(metavar="FILE", help="pairs.txt of LFW, or a CSV: first, second, same, fold")],
    out: Annotated[Path | None, typer.Option(help="folder for metrics.json")] = None,
    batch: Annotated[int | None, typer.Option(help="images a forward pass; by itself 8, on a GPU more", min=1)] = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on given pairs of pictures, by folds; `saccade evaluate` scores it on all pairs of a split."""
    from saccade.verbs.pairs import evaluate_pairs

    found = evaluate_pairs(
        run,
        data,
        pairs,
        batch=batch,
        workers=workers,
        device=device,
        precision=precision,
        out=out,
        progress=not as_json,
    )
    footer = f"{len(found['per_class'])} folds of pairs of {found['images']} images"
    print_json(found) if as_json else show_scores(found, footer)


def _rate(found: dict[str, Any]) -> str:
    """What a threshold stands for."""
    if "far" not in found:
        return "the threshold was given, so nothing is known of its errors here"
    low, high = found["far_low"], found["far_high"]
    return (
        f"At this threshold {found['far']:.2%} of {found['different']} pairs of different people were taken for one "
        f"(95 % interval {low:.2%} to {high:.2%}, {found['interval']}), and {found['tar']:.1%} of pairs of one person "
        "were recognised."
    )
