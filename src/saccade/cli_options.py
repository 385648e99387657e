"""Arguments and options that several commands share, each with its words of help."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.config import Settings, parse_assignments
from saccade.errors import ModelFileError, UsageError
from saccade.machine.paths import at_home, not_there

METHODS = "svm,logistic,svm_depths,logistic_depths,last_block,layers,scratch"
HELP = {f.name: str(f.metadata["help"]) for f in dataclasses.fields(Settings)}


# What is not there is said before torch is loaded.
def known(model: str) -> str:
    """A model that a person names, if it may be one. Raises UsageError with suggestions."""
    from saccade.models import is_own, known_model

    return model if is_own(model) else known_model(model)


def there(run: Path) -> Path:
    """A run that a person names. Raises ModelFileError where there is nothing."""
    if run.suffix != ".json" and not at_home(run).exists():  # of a results file `evaluate` says more
        raise ModelFileError(not_there(at_home(run), "run folder or checkpoint"))
    return run


def placed(data: str) -> str:
    """A data set that a person names. Raises DataError, UsageError (`data.formats.place_of`)."""
    from saccade.data.formats import place_of

    place_of(at_home(data))
    return data


Data = Annotated[
    str, typer.Argument(metavar="DATA", callback=placed, help="folder whose format is recognised, or format:path")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", callback=there, help="run folder, checkpoint, or Darknet .cfg")]
CfgWeights = Annotated[Path | None, typer.Option("--weights", help="where RUN is a Darknet .cfg: its .weights")]
CfgNames = Annotated[Path | None, typer.Option("--names", help="where RUN is a Darknet .cfg: names of its classes")]
OwnFile = Annotated[
    Path | None, typer.Option("--model", metavar="FILE", help="where RUN's network is a file of yours: that file")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else there")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default the best there is")]
Precision = Annotated[
    str, typer.Option(help="auto, fp32 or bf16; auto: bf16 where the hardware multiplies it natively")
]
Proposals = Annotated[
    Path | None,
    typer.Option(help="boxes to look at: JSON, CSV, a detector's run, or selective_search", metavar="FILE"),
]
Instances = Annotated[
    bool, typer.Option("--instances", help="of a segmenter: the objects in its class maps, by watershed")
]
Regions = Annotated[
    str | None, typer.Option(metavar="CLASS", help="segment: are parts of CLASS kept apart: Rand and warping error")
]
Tile = Annotated[int | None, typer.Option(help="look at large images in tiles of so many pixels a side")]
Overlap = Annotated[
    int | None, typer.Option(help="with --tile: pixels that tiles share; by default 1/32 of them, for objects 1/4")
]
CameraFile = Annotated[
    Path | None,
    typer.Option("--camera", help="boxes3d: KITTI's calibration, or a folder of them; else ../calib/NAME.txt"),
]
Explanations = Annotated[
    str | None, typer.Option("--methods", help="of grad_cam,occlusion,saliency,features,stages; by default all")
]
Layers = Annotated[
    str | None, typer.Option("--layers", help="NAME,NAME: layers whose maps are shown; `list` says which there are")
]
OfClass = Annotated[list[str] | None, typer.Option("--class", metavar="NAME", help="class to explain, again for more")]
Svd = Annotated[str | None, typer.Option(help="of Fast R-CNN: ranks of its fully connected layers: 1024,256")]
Workers = Annotated[int | None, typer.Option(help=HELP["workers"])]
Nms = Annotated[str, typer.Option(help="boxes that overlap a better one: hard drops them, soft, soft_linear fade them")]
Iou = Annotated[float | None, typer.Option(help="with --nms hard, soft_linear: IoU from which boxes overlap")]
Sigma = Annotated[float | None, typer.Option(help="with --nms soft: larger fades less; by default 0.5")]
AgnosticNms = Annotated[bool, typer.Option("--agnostic-nms", help="boxes of different classes suppress each other too")]
Rect = Annotated[bool, typer.Option("--rect", help="of a detector: without most of the padding of images; faster")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="any of `saccade settings`; again for more"),
]
Weights = Annotated[
    str | None, typer.Option(help="start from a run, a weights file, or imagenet, imagenet_v2, coco, cifar10")
]
TreeFile = Annotated[Path | None, typer.Option("--tree", metavar="FILE", help="yolo9000: the classes as a tree")]
Join = Annotated[
    str | None, typer.Option("--join", metavar="CLASSDATA", help="yolo9000: also learn from images with a class alone")
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="classify, localize, tag, detect, instances, pose, boxes3d, segment")
]


def events_of(folder: Path | None) -> dict[str, Any]:
    """What `--tensorboard` gives to `train`. Raises UsageError where the package is missing."""
    if folder is None:
        return {}
    from saccade.training.tensorboard import TensorBoard

    return {"on_epoch": TensorBoard(folder)}


def trust_file(file: Path | None) -> None:
    """What `--model FILE` says: that this file may be run. Raises UsageError where there is none."""
    if file is not None:
        from saccade.models.own_file import trust

        trust(file)


def settings_of(assignments: Iterable[str] | None, verb: Callable[..., Any]) -> dict[str, Any]:
    """What `--set` gives to a verb that takes settings by name.

    Raises:
        UsageError: no NAME=VALUE, or the name of what the verb takes by itself: an argument or option of its own.
    """
    values = parse_assignments(assignments or [])
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in values and parameter.kind is not parameter.VAR_KEYWORD:
            own = name if parameter.default is parameter.empty else f"--{name.replace('_', '-')}"
            raise UsageError(f"--set {name}=...: {name} is no setting; the command has it as {own}")
    return values


def words_of(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
