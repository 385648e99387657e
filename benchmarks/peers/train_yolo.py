"""Peers of the tasks bccd and raccoon: Ultralytics' nano models from scratch, by its own trainer with its own defaults.

The budget is the trainer's `time=`; its validation after every epoch lies inside. On the CPU it computes in float32 and
reads images in its own process, as it does by default. Its validator judges boxes that overhang the image; here they
are clipped, as its predictions are: `own_metrics` of facts.json must come close to the score once the network has
learnt, and differ widely while all scores are nearly equal. Nothing is downloaded. Runs in the peers' environment;
`same_minutes.py` starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

CONFIDENCE, OVERLAP = 0.001, 0.7  # yolo26n suppresses no overlaps


def train(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The best checkpoint as a model, and what the run was."""
    import torch
    import ultralytics
    from ultralytics.utils import torch_utils

    torch_utils.NUM_THREADS = arguments.threads  # the trainer would take one fewer than there are cores
    model = ultralytics.YOLO(f"{arguments.model}.yaml")
    start = time.monotonic()
    model.train(
        data=str(arguments.data),
        time=arguments.minutes / 60,
        imgsz=arguments.size,
        batch=arguments.batch,
        seed=arguments.seed,
        device="cpu",
        workers=arguments.threads,
        pretrained=False,
        plots=False,
        project=str(arguments.out),
        name="run",
        exist_ok=True,
    )
    seconds = time.monotonic() - start
    trainer: Any = model.trainer
    rows = (Path(trainer.save_dir) / "results.csv").read_text(encoding="utf-8").splitlines()
    facts: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "note": "seconds hold the reading of the labels, the training and the final validation of best.pt",
        "trained_seconds": round(float(rows[-1].split(",")[1]), 1),
        "epochs": len(rows) - 1,
        "own_metrics": {name: float(value) for name, value in trainer.metrics.items()},
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "torch": torch.__version__,
        "ultralytics": ultralytics.__version__,
        "settings": {k: v for k, v in vars(trainer.args).items() if isinstance(v, int | float | str | bool)},
    }
    return ultralytics.YOLO(trainer.best), facts


def predict(model: Any, manifest: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Rows of a COCO results file; a category id is the class index + 1."""
    rows: list[dict[str, Any]] = []
    for image in manifest["val"]:
        boxes = model.predict(
            image["image"], imgsz=size, conf=CONFIDENCE, iou=OVERLAP, device="cpu", verbose=False, save=False
        )[0].boxes
        for (x1, y1, x2, y2), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": image["id"], "category_id": int(label) + 1, "bbox": box, "score": score})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="data.yaml of the set in YOLO form")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="yolo26n", help="of Ultralytics, from its .yaml")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    os.environ["YOLO_CONFIG_DIR"] = str(arguments.out / "settings")
    os.environ["YOLO_OFFLINE"] = "true"
    model, facts = train(arguments)
    manifest = json.loads(arguments.manifest.read_text(encoding="utf-8"))
    rows = predict(model, manifest, arguments.size)
    (arguments.out / "predictions.json").write_text(json.dumps(rows), encoding="utf-8")
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
