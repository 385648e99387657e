"""Commands in the manner of other tools are answered with the one that does it here."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from saccade import cli_habits
from saccade.cli import app
from saccade.cli_habits import advice
from saccade.models import catalogue
from saccade.models.other_names import _OTHERS, NEAREST, nearest_models

ANSWERS = [
    (
        "detect train data=coco8.yaml model=yolov8n.pt epochs=3 imgsz=320 half=True",
        "saccade train atss_small coco8.yaml --epochs 3 --size 320\n",
    ),
    ("yolo train model=yolo11n-seg.pt data=d.yaml", "saccade train mask_rcnn_small d.yaml\n"),
    ("classify train data=photos lr0=0.01 device=0", "train resnet18 photos --set lr=0.01 --device cuda:0"),
    ("train resnet18 photos epochs=3", "saccade train resnet18 photos --epochs 3"),
    ("train resnet18 photos width=32 --batch 8", "saccade train resnet18 photos --set width=32 --batch 8"),
    ("val runs/x photos", "saccade evaluate runs/x photos"),
    ("detect val model=best.pt data=d", "saccade evaluate RUN d\nRUN is the folder"),
    ("detect predict model=yolov8n.pt source=bus.jpg conf=0.5", "saccade predict RUN bus.jpg --threshold 0.5"),
    ("export model=runs/x format=onnx", "saccade export runs/x --to onnx"),
    ("train resnet18 photos --imgsz 64 --lr0=0.01 --epochs 3", "photos --size 64 --set lr=0.01 --epochs 3"),
    ("predict runs/x --save-txt a.jpg --conf 0.3", "saccade predict runs/x a.jpg --threshold 0.3 --save txt"),
    ("predict model=runs/x source=a save_txt=True save_crop=1 half=1", "predict runs/x a --save txt,crops\nwithout a"),
    ("export runs/x --format onnx", "saccade export runs/x --to onnx"),
    ("train --model resnet18 --data photos", "saccade train resnet18 photos"),
    ("train --weights yolov5s.pt --data d.yaml --img 640", "saccade train atss_small d.yaml --size 640\nyolov5s.pt is"),
    ("train resnet18 photos --pretrained", "saccade train resnet18 photos\npublished weights are asked for by name"),
    ("detect --weights runs/x --source a --conf-thres 0.3 --half", "predict runs/x a --threshold 0.3\nwithout a mean"),
    ("predict --model ./my.py runs/x --source a", "saccade predict runs/x a --model ./my.py"),
    ("val runs/x", "saccade evaluate runs/x"),
    ("track runs/x clip.mp4", "saccade predict runs/x clip.mp4\nobjects are not followed here"),
    ("obb train data=d", "saccade train atss_small d\nboxes are upright here"),
    ("tune", "'tune' is no command here: no settings are searched for"),
    ("version", "'version' is no command here: saccade --version"),
    ("info resnet18", "'info' is no command here; it is: saccade models"),
]


@pytest.mark.parametrize(("line", "says"), ANSWERS)
def test_habits_are_answered_with_the_command(line: str, says: str) -> None:
    answer = advice(shlex.split(line))
    assert answer is not None
    assert says in answer
    assert len(answer.splitlines()) <= 5


@pytest.mark.parametrize(
    "line",
    [
        "train resnet18 photos --set lr=0.1 --epochs 3 --debug",
        "train ./my_net.py photos",
        "predict runs/x a.jpg",
        "predict runs/x a.jpg --model ./my.py",
        "models",
        "export runs/x",
        "--version",
        "",
    ],
)
def test_our_own_commands_are_left_alone(line: str) -> None:
    assert advice(shlex.split(line)) is None


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data=1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert advice(["train", "resnet18", "data=1"]) is None


def test_words_in_the_wrong_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "resnet18", "data": "/my photos"}')
    for line, says in (
        ("train photos resnet18 --epochs 3", "the model stands first:\n  saccade train resnet18 photos --epochs 3"),
        ("evaluate photos run", "the run stands first:\n  saccade evaluate run photos"),
        ("predict photos run --threshold 0.5", "saccade predict run photos --threshold 0.5"),
    ):
        assert says in str(advice(shlex.split(line)))
    for line in ("train run --resume", "train --resume run", "train --resume --out run", "train --out=run --resume"):
        assert "\n  saccade train resnet18 '/my photos' --out run --resume" in str(advice(shlex.split(line))), line
    assert advice(["train", "--resume", "--out", "photos"]) is None
    for line in ("train resnet18 photos", "evaluate run photos", "predict run photos", "predict photos photos"):
        assert advice(shlex.split(line)) is None


def test_no_word_of_others_is_a_command_here() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert not commands & ({*cli_habits._VERBS, *cli_habits._TASKS, "val", "yolo"})
    assert {*cli_habits._VERBS.values(), *cli_habits._MODES.values()} <= commands
    for verb, options in cli_habits._TAKES.items():
        known = {o for p in typer.main.get_command(app).commands[verb].params for o in p.opts}  # type: ignore[attr-defined]
        assert options <= known


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("yolov8n", "atss_small"),
        ("yolov5s.pt", "atss_small"),
        ("yolo11m-seg.pt", "mask_rcnn_small"),
        ("ResNet-18", "resnet18"),
        ("resnet_18", "resnet18"),
        ("fasterrcnn_resnet50_fpn", "faster_rcnn_small"),
        ("yolo3_smal", "yolo3_small"),
        ("deeplabv3_resnet50", "unet_light"),
        ("efficientnet_b0", "resnet18"),
        ("rsenet50", "resnet50"),
        ("atss", "atss_small"),
        ("rcnn", "rcnn_small"),
    ],
)
def test_near_models_are_few(name: str, first: str) -> None:
    found = nearest_models(name, catalogue())
    assert found[0] == first
    assert len(found) <= NEAREST


def test_models_that_are_named_exist() -> None:
    assert {model for _, models in _OTHERS for model in models} <= set(catalogue())
    assert all(nearest_models(family, catalogue()) for family in cli_habits._TASKS.values())
    assert nearest_models("qqqqqqq", catalogue()) == []


def test_the_answer_is_one_error_with_code_2(shell: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = shell("detect", "train", "data=d", "epochs=3")
    assert (code, out) == (2, "")
    assert "saccade: error: that is another tool's way to say it; here it is\n  saccade train atss_small d" in err
    code, _, err = shell("train", "yolov8n", "photos")
    assert code == 2
    assert "unknown model 'yolov8n'; the nearest here: atss_small, yolo3_small, yolo3. `saccade models`" in err
