"""Same minutes, better score? A peer and Saccade in turn on one task, both from scratch, scored by one evaluator.

    python benchmarks/peers/same_minutes.py --task bccd --data DATA/bccd --out OUT --seeds 0 1 2

Both sides get the same images, split, input size, wall-clock minutes and threads. A side's validation passes lie inside
its minutes; imports, the reading of the data and the final scoring do not. The score is Saccade's (`saccade.metrics`)
for both: the best checkpoint of each against the truth as Saccade reads it, in pixels of the original images of `test`,
which chose nothing, or of `val` where the data have no test.

What is measured already in OUT (same model, minutes and seed) is not measured again, so that sides and seeds can be run
in separate calls; the table and OUT/TASK/summary.json hold everything that is there. `cores` is the processor time of a
run over its wall-clock time: well below that of its neighbours, the run was disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from environment import peers_python

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import coco_write, read, yolo_write
from saccade.data.formats.output import file_names
from saccade.data.outlines import instance_map
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.inference.score import records_of
from saccade.machine.device import describe_hardware
from saccade.models import model_module
from saccade.tasks.contract import task_of
from saccade.verbs.evaluate import evaluate
from saccade.version import __version__

HERE = Path(__file__).resolve().parent
ISBI_HELD_OUT = ("2", "4", "10", "16", "19")  # slices; of 22


@dataclass(frozen=True)
class Task:
    """A comparison: what each side is told, beside data, minutes, seed and threads."""

    minutes: float
    metrics: tuple[str, ...]  # of the table; the first one decides
    peers: Mapping[str, tuple[str, ...]]  # name -> options of the peers' script
    script: str
    models: tuple[str, ...]
    flags: tuple[str, ...]  # of `saccade train`


_DETECT = ("atss_small", "faster_rcnn_small")
_YOLO = {name: ("--size", "320", "--model", name) for name in ("yolo26n", "yolo11n")}
_MASK_RCNN = {f"maskrcnn_{trunk}_fpn": ("--size", "320", "--trunk", trunk) for trunk in ("resnet50", "resnet18")}
_OBJECTS = ("mask_ap", "mask_ap50", "ap", "ap50")
_320 = ("--size", "320")
TASKS = {
    "bccd": Task(15, ("ap", "ap50"), _YOLO, "train_yolo.py", _DETECT, _320),
    "raccoon": Task(8, ("ap", "ap50"), _YOLO, "train_yolo.py", _DETECT, _320),
    "penn_fudan": Task(8, _OBJECTS, _MASK_RCNN, "train_mask_rcnn.py", ("mask_rcnn_small",), _320),
    "nuclei": Task(8, _OBJECTS, _MASK_RCNN, "train_mask_rcnn.py", ("mask_rcnn_small", "unet"), _320),
    "camvid": Task(
        minutes=12,
        metrics=("mean_iou", "pixel_accuracy"),
        peers={"smp_unet_resnet18": ("--scale", "0.5", "--crop", "192", "256", "--batch", "8")},
        script="train_smp_unet.py",
        models=("unet_light",),
        flags=("--set", "scale=0.5", "--size", "192x256"),
    ),
    "isbi": Task(
        minutes=5,
        metrics=("mean_iou", "pixel_accuracy"),
        peers={"smp_unet_resnet18": ("--crop", "256", "256", "--batch", "4", "--turn")},
        script="train_smp_unet.py",
        models=("unet",),
        flags=(),
    ),
    "cifar": Task(8, ("top1", "top5"), {"resnet20_one_cycle": ()}, "train_cifar_resnet.py", ("resnet20",), ()),
}


def main() -> None:
    arguments = parse()
    task = TASKS[arguments.task]
    minutes = task.minutes if arguments.minutes is None else arguments.minutes
    out: Path = arguments.out.resolve() / arguments.task
    out.mkdir(parents=True, exist_ok=True)
    data = prepare(arguments.task, arguments.data.resolve(), out)
    names = [("peer", peer) for peer in arguments.peers or task.peers] if "peer" in arguments.sides else []
    names += [("saccade", m) for m in arguments.models or task.models] if "saccade" in arguments.sides else []
    for seed in arguments.seeds:
        for side, name in names:
            folder = out / f"{name}-{minutes:g}min-seed{seed}"
            if (folder / "result.json").is_file():
                print(f"{folder.name}: measured already, kept", file=sys.stderr)
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            given = [f"--minutes={minutes:g}", f"--seed={seed}"]
            if side == "peer":
                given += [*task.peers[name], *arguments.peer_flag]
                found = run_peer(task, data, out, folder, given, arguments.threads)
            else:
                given += [part for value in arguments.set for part in ("--set", value)]
                found = run_saccade(name, task, data, folder, given, arguments.threads)
            facts = {"task": arguments.task, "side": side, "name": name, "minutes": minutes, "seed": seed}
            write(folder / "result.json", facts | {"threads": arguments.threads} | found | circumstances())
    rows = summarise(task, out, minutes)
    write(out / "summary.json", {"task": arguments.task, "minutes": minutes, "rows": rows})
    print(table(arguments.task, task, minutes, rows))


def parse() -> argparse.Namespace:
    def sides(text: str) -> list[str]:
        given = text.split(",")
        if not set(given) <= {"peer", "saccade"}:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: peer, saccade, or both with a comma")
        return given

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results; a folder a task")
    parser.add_argument("--sides", type=sides, default=["peer", "saccade"], help="peer,saccade (default) or one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, help="of training; by default those of the task")
    parser.add_argument("--threads", type=int, default=2, help="OMP threads, and the peers' loader processes")
    parser.add_argument("--models", nargs="+", help="Saccade's models instead of the task's")
    parser.add_argument("--peers", nargs="+", help="some of the task's peers instead of all")
    parser.add_argument("--peer-flag", action="append", default=[], metavar="--NAME=VALUE", help="for its script")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="handed to `saccade train`")
    arguments = parser.parse_args()
    unknown = set(arguments.peers or ()) - set(TASKS[arguments.task].peers)
    if unknown:
        parser.error(f"--peers {' '.join(sorted(unknown))}; allowed: {', '.join(TASKS[arguments.task].peers)}")
    return arguments


def prepare(name: str, data: Path, out: Path) -> Path:
    """The folder that Saccade reads, and beside it what the peer reads: manifest.json, and masks or a YOLO set."""
    if name == "isbi":
        data = isbi_split(data, out / "data")
    if name == "cifar":
        data = test_as_val(data, out / "data")
    dataset = read(data)
    train, val = records_of(dataset, "train", 0), records_of(dataset, judged(dataset), 0)
    if dataset.task == "instances":  # the data sets have no split of their own; as COCO all seeds see the same one
        if not (out / "data").exists():
            coco_write.write(dataset, out / "data", "link")
        data = out / "data"
        dataset = read(data)
        train, val = records_of(dataset, "train", 0), records_of(dataset, "val", 0)
    images = {record.id: str(dataset.root / record.id) for record in dataset.records}
    if dataset.task == "detect":
        if not (out / "yolo").exists():
            yolo_write.write(dataset, out / "yolo", "copy")  # the peer's trainer may rewrite images that it mends
        names = file_names(dataset.records)
        images = {r.id: str(out / "yolo" / "images" / str(r.split) / names[r.id]) for r in dataset.records}
    manifest: dict[str, Any] = {"classes": dataset.classes}  # "val": what is answered and scored
    for split, records in (("train", train), ("val", val)):
        manifest[split] = [
            {"id": r.source_id or r.id, "image": images[r.id], "size": r.size}
            | truth_for_peer(r, dataset, out / "masks" / split)
            for r in records
        ]
    write(out / "manifest.json", manifest)
    return data


def judged(dataset: DataSet) -> str:
    """The part of the data whose scores are compared."""
    return "test" if "test" in dataset.splits else "val"


def isbi_split(data: Path, out: Path) -> Path:
    """The slices copied into train/ and val/: the data set has no split of its own."""
    for path in sorted((data / "image").glob("*.png")):
        split = "val" if path.stem in ISBI_HELD_OUT else "train"
        for source, kind in ((path, "images"), (data / "label" / path.name, "masks")):
            target = out / split / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return out


def test_as_val(data: Path, out: Path) -> Path:
    """Links to train and, as val, to test: both sides choose among their checkpoints by the images that score them."""
    out.mkdir(parents=True, exist_ok=True)
    for name, source in (("train", data / "train"), ("val", data / "test")):
        if not (out / name).exists():
            (out / name).symlink_to(source.resolve(), target_is_directory=True)
    return out


def truth_for_peer(record: Record, dataset: DataSet, masks: Path) -> dict[str, Any]:
    """Label, class map (0..classes-1, 255 void) or map of the objects' numbers from 1, with their labels, as Saccade
    reads it; boxes are in the YOLO set."""
    if dataset.task == "classify":
        return {"label": record.label}
    if dataset.task == "detect":
        return {}
    masks.mkdir(parents=True, exist_ok=True)
    path = masks / f"{Path(record.id).stem}.png"
    if dataset.task == "instances":
        objects = read_truth(record, dataset, "instances").objects
        assert objects is not None
        assert objects.masks is not None
        cv2.imwrite(str(path), instance_map(objects.masks))
        return {"mask": str(path), "labels": objects.labels.tolist()}
    semantic = read_truth(record, dataset, "segment").semantic
    assert semantic is not None
    cv2.imwrite(str(path), semantic.numpy())
    return {"mask": str(path)}


def run_peer(task: Task, data: Path, out: Path, folder: Path, given: list[str], threads: int) -> dict[str, Any]:
    command = [str(peers_python()), str(HERE / task.script), f"--manifest={out / 'manifest.json'}"]
    command += [f"--out={folder}", f"--threads={threads}", *given]
    if (out / "yolo").exists():
        command.append(f"--data={out / 'yolo' / 'data.yaml'}")
    cores = timed(command, folder, threads)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return {"cores": cores, **score_peer(data, folder), "facts": facts}


def score_peer(data: Path, folder: Path) -> dict[str, Any]:
    """Metrics of the peer's boxes (predictions.json), probabilities (.npz) or class maps (a folder of PNG files)."""
    if (folder / "predictions.json").is_file():
        found = evaluate(folder / "predictions.json", data, split=judged(read(data)))
        return {"metrics": found["metrics"], "per_class": found["per_class"], "images": found["images"]}
    dataset = read(data)
    metric = task_of(dataset.task).make_metric(dataset.classes)
    records = records_of(dataset, "val", 0)
    scores = np.load(folder / "predictions.npz")["scores"] if dataset.task == "classify" else None
    for number, record in enumerate(records):
        answer = Annotation(record.size)
        if scores is not None:
            answer.probabilities = torch.from_numpy(scores[number])
        else:
            values = cv2.imread(str(folder / "predictions" / f"{number:05d}.png"), cv2.IMREAD_UNCHANGED)
            answer.semantic = torch.from_numpy(values)
        metric.add(record.id, read_truth(record, dataset, dataset.task), answer)
    result = metric.result().to_json()
    return {"metrics": result["metrics"], "per_class": result["per_class"], "images": len(records)}


def commands(
    model: str, task: Task, data: Path, folder: Path, given: list[str], part: str
) -> tuple[list[str], list[str]]:
    """What trains one of Saccade's models, and what scores it on a part of the data. Where objects with masks are asked
    of a model that segments, it learns class maps with borders, from crops of images of their own size, and watershed
    finds them."""
    saccade, run = [sys.executable, "-m", "saccade"], str(folder / "run")
    of_pixels = task.metrics == _OBJECTS and "segment" in model_module(model).TASKS
    flags = ("--set", "border_class=2") if of_pixels else task.flags
    train = [*saccade, "train", model, str(data), f"--out={run}", "--device=cpu", *flags, *given]
    score = [*saccade, "evaluate", run, str(data), f"--out={folder / 'scored'}", "--device=cpu"]
    score += ["--split", part]
    return train, [*score, "--instances"] if of_pixels else score


def run_saccade(model: str, task: Task, data: Path, folder: Path, given: list[str], threads: int) -> dict[str, Any]:
    run = folder / "run"
    train, scoring = commands(model, task, data, folder, given, judged(read(data)))
    cores = timed(train, folder, threads)
    timed(scoring, folder, threads)
    found = json.loads((folder / "scored" / "metrics.json").read_text(encoding="utf-8"))
    trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    epochs = len((run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    facts = {"seconds": trained["seconds"], "images_per_second": trained["images_per_second"], "epochs": epochs}
    facts |= {"settings": config["settings"], "model": config["config"], "precision": config.get("precision")}
    return {
        "cores": cores,
        "metrics": found["metrics"],
        "per_class": found["per_class"],
        "images": found["images"],
        "facts": facts | {"saccade": __version__, "torch": str(torch.__version__)},
    }


def timed(command: list[str], folder: Path, threads: int) -> float:
    """Run a command, its output added to log.txt; returns processor time over wall-clock time.

    Raises:
        SystemExit: it failed; the message shows the end of the log.
    """
    print(" ".join(command), file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)  # the peers' environment holds its own packages
    log = folder / "log.txt"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("ab") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    if status:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise SystemExit(f"{end}\n`{' '.join(command)}` ended with status {status}; all of it is in {log}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(used / seconds, 2)


def circumstances() -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    hardware = describe_hardware(torch.device("cpu"))
    return {"measured": now, "hardware": hardware, "python": platform.python_version(), "evaluator": __version__}


def summarise(task: Task, out: Path, minutes: float) -> list[dict[str, Any]]:
    """A row a model: seeds, each metric's values, mean, least, greatest, and ratio of the mean to the best peer's."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*/result.json"))]
    found = [result for result in found if result["minutes"] == minutes]
    rows: list[dict[str, Any]] = []
    for side, name in sorted({(result["side"], result["name"]) for result in found}):
        runs = sorted((r for r in found if r["name"] == name and r["side"] == side), key=lambda r: r["seed"])
        row: dict[str, Any] = {"side": side, "name": name, "seeds": [r["seed"] for r in runs], "metrics": {}}
        row["cores"] = [r["cores"] for r in runs]
        row["own_metrics"] = [r["facts"].get("own_metrics") for r in runs]
        for metric in task.metrics:
            # A file without any answer is judged by its boxes alone: what it lacks is 0.
            values = [float(r["metrics"].get(metric, {}).get("value") or 0.0) for r in runs]
            mean = statistics.fmean(values)
            row["metrics"][metric] = {"values": values, "mean": mean, "least": min(values), "greatest": max(values)}
        rows.append(row)
    peers = [row for row in rows if row["side"] == "peer"]
    for row in rows:
        for metric, numbers in row["metrics"].items():
            base = max((peer["metrics"][metric]["mean"] for peer in peers), default=0.0)
            numbers["ratio"] = numbers["mean"] / base if base else None
    return rows


def table(name: str, task: Task, minutes: float, rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: mean (least to greatest), ratio to the best peer's mean."""
    heads = "".join(f" {metric} | ratio |" for metric in task.metrics)
    lines = [f"{name}, {minutes:g} minutes", "", f"| side | model | seeds | cores |{heads}"]
    lines.append("|---" * (4 + 2 * len(task.metrics)) + "|")
    for row in rows:
        cells = ""
        for numbers in row["metrics"].values():
            ratio = "" if numbers["ratio"] is None else f"{numbers['ratio']:.2f}"
            cells += f" {numbers['mean']:.3f} ({numbers['least']:.3f} to {numbers['greatest']:.3f}) | {ratio} |"
        seeds = " ".join(map(str, row["seeds"]))
        lines.append(f"| {row['side']} | {row['name']} | {seeds} | {statistics.fmean(row['cores']):.2f} |{cells}")
    for row in rows:
        for seed, own in zip(row["seeds"], row["own_metrics"], strict=True):
            if own:
                facts = ", ".join(f"{metric} {value:.3f}" for metric, value in own.items())
                lines += ["", f"{row['name']}, seed {seed}, by its own validator: {facts}"]
    return "\n".join(lines)


def write(path: Path, state: dict[str, Any]) -> None:
    path.write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
