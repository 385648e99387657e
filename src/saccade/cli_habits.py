"""Commands as people type them who come from another tool: recognised, and answered with the command that does it here.

`saccade detect train data=... epochs=3 imgsz=320`, `saccade val`, settings without dashes, `--imgsz 320`; and RUN and
DATA that have changed places. Nothing is run: a word may
mean something else here, and whoever reads the answer knows the next command.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saccade.models import catalogue
from saccade.models.other_names import nearest_models

_TASKS = {  # its word for a task -> its family of models for that, which `other_names` knows
    "detect": "yolo", "segment": "yolo-seg", "classify": "yolo-cls", "pose": "yolo-pose", "obb": "yolo",
}  # fmt: skip
_MODES = {"train": "train", "val": "evaluate", "predict": "predict", "export": "export", "track": "predict"}
_VERBS = {  # words that are no command here -> the command
    "val": "evaluate", "test": "evaluate", "eval": "evaluate", "validate": "evaluate", "score": "evaluate",
    "fit": "train", "finetune": "train", "fine-tune": "train", "infer": "predict", "inference": "predict",
    "detect": "predict", "track": "predict", "info": "models", "summary": "models",
    "analyze": "check", "inspect": "check", "gradcam": "explain", "cam": "explain",
}  # fmt: skip
_ABSENT = {  # words that are no command, and what to do instead
    "benchmark": "`saccade compare RUN RUN` says how long an image takes, `saccade predict RUN VIDEO --fps` a frame",
    "tune": "no settings are searched for; train runs with other settings, and put them side by side: "
            "saccade compare RUN RUN",
    "serve": "a program of yours asks saccade.load(RUN).predict(PICTURE), from any of its threads, and "
             "`saccade export RUN` writes a file for a server of others",
    "version": "saccade --version",
    "help": "saccade --help, saccade COMMAND --help",
    "checks": "saccade --version; what a data set holds: saccade check DATA",
    "cfg": "saccade settings, and with what its recipe sets: saccade settings MODEL",
    "list": "saccade models",
    "resume": "to go on with a run: saccade train MODEL DATA --out RUN --resume",
    "report": "`saccade train` leaves report.html in the run; saccade evaluate RUN DATA --out DIR writes one of other "
              "images",
}  # fmt: skip
_OPTIONS = {  # NAME=VALUE of others -> option here; of which command
    "epochs": "--epochs", "imgsz": "--size", "img": "--size", "img_size": "--size", "image_size": "--size",
    "size": "--size", "batch": "--batch", "batch_size": "--batch", "workers": "--workers", "seed": "--seed",
    "device": "--device", "conf": "--threshold", "conf_thres": "--threshold", "threshold": "--threshold",
    "iou": "--iou", "iou_thres": "--iou", "format": "--to", "include": "--to", "out": "--out", "output": "--out",
    "output_dir": "--out", "save_dir": "--out", "project": "--out", "name": "--out",
    "freeze": "--freeze", "minutes": "--minutes", "classes": "--classes",
    "split": "--split", "weights": "--weights", "task": "--task", "recipe": "--recipe", "precision": "--precision",
}  # fmt: skip
_NOTES = {
    "track": "objects are not followed here: every frame is answered by itself",
    "obb": "boxes are upright here, never turned",
    "pretrained": "published weights are asked for by name: --weights imagenet, or coco (`saccade models` lists them)",
}
_SETTINGS = {
    "lr0": "lr", "lr": "lr", "learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay",
    "patience": "patience", "optimizer": "optimizer", "mosaic": "mosaic", "mixup": "mixup", "cutmix": "cutmix",
    "fliplr": "flip", "degrees": "rotate", "label_smoothing": "label_smoothing", "multi_scale": "multi_scale",
}  # fmt: skip
_FLAGS = {"resume": "--resume", "exist_ok": "--overwrite", "deterministic": "--deterministic", "show": "--show"}
_SAVES = {"save_txt": "txt", "save_crop": "crops", "save_json": "json"}  # what `predict --save` calls them
# Switches that say nothing here.
_SILENT = {"half", "save", "verbose", "plots", "cache", "val", "augment", "dynamic", "simplify", "nosave", "stream"}
_ALONE = {
    "--resume",
    "--overwrite",
    "--deterministic",
    "--json",
    "--debug",
    "--show",
    "--fps",
    "--agnostic-nms",
    "--help",
}
_TAKES = {
    "train": {"--epochs", "--minutes", "--size", "--batch", "--workers", "--seed", "--device", "--out", "--freeze",
              "--weights", "--task", "--recipe", "--precision", "--resume", "--overwrite", "--deterministic", "--set"},
    "evaluate": {"--batch", "--workers", "--device", "--out", "--iou", "--split", "--precision"},
    "predict": {"--threshold", "--iou", "--classes", "--save", "--batch", "--workers", "--device", "--out",
                "--precision", "--show"},
    "export": {"--to", "--batch", "--size", "--out"},
}  # fmt: skip
# Options that are none here: `--imgsz 320` is read as imgsz=320.
_DASHED = {"data", "source", "exist_ok", "pretrained", "opset", *_SETTINGS, *_SAVES, *_SILENT} | {
    name for name, option in _OPTIONS.items() if option != "--" + name.replace("_", "-")
}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@dataclass(slots=True)
class _Wanted:
    """What was asked for, in words of this command line."""

    verb: str
    family: str | None = None  # of the other tool's models, where its task is named
    model: str | None = None
    data: str | None = None
    source: str | None = None
    options: list[str] = field(default_factory=list)
    saves: list[str] = field(default_factory=list)  # what is written besides predictions.json
    aside: list[str] = field(default_factory=list)  # words that say nothing here
    notes: list[str] = field(default_factory=list)  # what is not as it is there


def advice(arguments: Sequence[str]) -> str | None:
    """What to answer to a command line of another tool's habits: the command here. None for any other.

    Args:
        arguments: those behind `saccade`.
    """
    plain, dashed = _parted(arguments)
    if not plain:
        return None
    if plain[0] == "yolo":
        plain = plain[1:]
    verb, family, rest = _verb(plain)
    if verb is None:
        return f"{plain[0]!r} is no command here: {_ABSENT[plain[0]]}" if plain[0] in _ABSENT else None
    loose = [(m[1], m[2]) for word in rest if (m := _ASSIGNMENT.fullmatch(word)) and not Path(word).exists()]
    foreign = plain[0] != verb or family is not None
    if verb not in _TAKES:
        return f"{plain[0]!r} is no command here; it is: saccade {verb}" if foreign else None
    if not foreign and not loose:
        return _in_place(verb, rest, dashed)
    wanted = _Wanted(verb, family)
    for name, value in loose:
        _take(wanted, name, value)
    for word in rest:
        if not _ASSIGNMENT.fullmatch(word) or Path(word).exists():
            _place(wanted, word)
    if wanted.model is None:
        dashed = _take_model(wanted, dashed)
    wanted.options += [*(["--save", ",".join(wanted.saves)] if wanted.saves else []), *dashed]
    wanted.notes += [_NOTES[word] for word in plain[:2] if word in _NOTES]
    return _answer(wanted)


def _verb(plain: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """The command here, the family of models where the task is named before it, and what follows."""
    first = plain[0] if plain else ""
    if first in _TASKS and len(plain) > 1 and plain[1] in _MODES:
        return _MODES[plain[1]], _TASKS[first], list(plain[2:])
    if first in _TASKS and any(word.startswith(("data=", "model=", "source=", "mode=")) for word in plain[1:]):
        usual = "predict" if any(word.startswith("source=") for word in plain) else "train"
        mode = next((word[5:] for word in plain if word.startswith("mode=")), usual)
        return _MODES.get(mode, "train"), _TASKS[first], list(plain[1:])
    if first in _MODES and first != "track":
        return _MODES[first], None, list(plain[1:])
    if first in _VERBS:
        return _VERBS[first], None, list(plain[1:])
    return (first if first in _TAKES else None), None, list(plain[1:])


def _in_place(verb: str, words: Sequence[str], dashed: Sequence[str]) -> str | None:
    """The command for words that are right and stand in the wrong place."""
    if verb == "train" and len(words) < 2 and "--resume" in dashed:
        return _going_on(words[0] if words else _out_of(dashed))
    if len(words) < 2 or not Path(words[0]).exists():
        return None
    if verb == "train":
        wrong, what = words[1] in catalogue() and words[0] not in catalogue(), "model"
    else:
        run, other = Path(words[0]), Path(words[1])
        wrong = run.is_dir() and not (run / "config.json").is_file() and (other / "config.json").is_file()
        what = "run"
    if not wrong:
        return None
    command = shlex.join([verb, words[1], words[0], *words[2:], *dashed])
    return f"the {what} stands first:\n  saccade {command}"


def _out_of(dashed: Sequence[str]) -> str | None:
    """What `--out` names."""
    pairs = zip(dashed, [*dashed[1:], ""], strict=True)
    return next((word.partition("=")[2] or value for word, value in pairs if word.partition("=")[0] == "--out"), None)


def _going_on(run: str | None) -> str | None:
    """The command that goes on with a run, by its `config.json`; None where there is none that can be read."""
    try:
        stated = json.loads((Path(str(run)) / "config.json").read_text(encoding="utf-8"))
        command = shlex.join(["train", str(stated["model"]), str(stated["data"]), "--out", str(run), "--resume"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"--resume goes on with the model and data of the run:\n  saccade {command}"


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that stand by themselves, those of options that are none here among them, and the options with their
    values."""
    plain: list[str] = []
    dashed: list[str] = []
    of_option, of_other = False, ""
    foreign = _DASHED | ({"model"} if "train" in arguments[:3] else set())  # which elsewhere names a file
    for word in arguments:
        name, _, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if of_other and not word.startswith("-"):
            plain.append(f"{of_other}={word}")
            of_other = ""
        elif word.startswith("--") and name in foreign:
            of_option = False
            alone = name in _SAVES or name in _FLAGS or name in _SILENT or name == "pretrained"
            of_other = "" if alone or value else name
            plain += [f"{name}={value or True}"] if alone or value else []
        elif word.startswith("-"):
            of_option = word not in _ALONE and "=" not in word
            dashed += [] if word == "--debug" else [word]
        else:
            (dashed if of_option else plain).append(word)
            of_option = False
    return plain, dashed


def _take(wanted: _Wanted, name: str, value: str) -> None:
    """One NAME=VALUE."""
    if name in ("data", "model", "source", "mode"):
        if name != "mode":
            setattr(wanted, name, value)
    elif name in _OPTIONS and _OPTIONS[name] in _TAKES[wanted.verb]:
        option = _OPTIONS[name]
        value = f"cuda:{value}" if name == "device" and value.isdigit() else value
        if option in wanted.options:  # project=... name=...
            place = wanted.options.index(option) + 1
            wanted.options[place] = f"{wanted.options[place]}/{value}"
        else:
            wanted.options += [option, value]
    elif name in _SAVES and wanted.verb == "predict":
        wanted.saves += [_SAVES[name]] if value.lower() in ("true", "1") else []
    elif name in _FLAGS and _FLAGS[name] in _TAKES[wanted.verb]:
        wanted.options += [_FLAGS[name]] if value.lower() in ("true", "1") else []
    elif wanted.verb == "train" and name in _SETTINGS:
        value = value.lower() if name == "optimizer" else value
        wanted.options += ["--set", f"{_SETTINGS[name]}={value}"]
    elif name == "pretrained" and wanted.verb == "train":
        wanted.notes.append(_NOTES[name])
    elif wanted.verb == "train" and name not in _SILENT:
        wanted.options += ["--set", f"{name}={value}"]
    else:
        wanted.aside.append(f"{name}={value}")


def _take_model(wanted: _Wanted, dashed: list[str]) -> list[str]:
    """The model or run that stands behind `--model` or `--weights`, as other tools have it; the other options."""
    for name in ("--model", "--weights"):
        place = dashed.index(name) + 1 if name in dashed else len(dashed)
        if place < len(dashed) and not dashed[place].endswith((".py", ".weights")):
            wanted.model = dashed[place]
            return dashed[: place - 1] + dashed[place + 1 :]
    return dashed


def _place(wanted: _Wanted, word: str) -> None:
    """A word without a name: the model or run first, then the data or pictures."""
    if wanted.model is None:
        wanted.model = word
    elif wanted.verb == "predict":
        wanted.source = wanted.source or word
    else:
        wanted.data = wanted.data or word


def _answer(wanted: _Wanted) -> str:
    near: list[str] = []
    if wanted.verb == "train":
        first, near = _model(wanted)
        command = ["train", first, wanted.data or "DATA"]
    else:
        foreign = wanted.model is None or wanted.model.endswith((".pt", ".pth", ".yaml"))
        run = "RUN" if foreign or wanted.model is None else wanted.model
        last = {"evaluate": wanted.data, "predict": wanted.source or "IMAGES", "export": ""}[wanted.verb]
        command = [wanted.verb, run, *([last] if last else [])]
    lines = [f"that is another tool's way to say it; here it is\n  saccade {shlex.join(command + wanted.options)}"]
    if near:
        lines.append(f"{wanted.model} is not here; the nearest: {', '.join(near)} (`saccade models` lists all)")
    if wanted.verb != "train" and "RUN" in command:
        lines.append("RUN is the folder that `saccade train` left")
    if wanted.aside:
        lines.append(f"without a meaning here: {', '.join(wanted.aside[:5])}")
    lines += wanted.notes
    return "\n".join(lines)


def _model(wanted: _Wanted) -> tuple[str, list[str]]:
    """The model of a run, and those near one that is not here."""
    known = catalogue()
    name, usual = wanted.model, nearest_models(wanted.family or "", known)
    if name is None:
        return (usual[0] if usual else "MODEL"), []
    if name in known or name.endswith(".py") or ".py:" in name:
        return name, []
    served = set(known[usual[0]]["tasks"]) if usual else None
    near = [model for model in nearest_models(name, known) if served is None or served & set(known[model]["tasks"])]
    return next(iter(near or usual), "MODEL"), near
