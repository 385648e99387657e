"""What the numbers of a report mean, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FEW = 100  # images below which an interval is usually too wide to rank two models

MEANINGS = {
    "top1": "share of the images whose first answer is right (accuracy)",
    "top5": "share of the images with the true class among the five best answers",
    "mean_accuracy": "mean over the classes of the share that is answered right",
    "localization_top1": "share of the images whose first answer has the right class and a box of IoU 0.50 or more",
    "localization_top5": "the same of one of the five best answers (1 - ImageNet's localization error)",
    "box_accuracy": "share of the images whose box has an IoU of 0.50 or more, whatever the class",
    "mean_ap": "mean over the tags of the average precision of the ranking",
    "precision": "share of the given tags that are true, mean over images",
    "recall": "share of the true tags that are given, mean over images",
    "class_precision_at_3": "precision with three tags given to every image, mean over the tags",
    "class_recall_at_3": "recall with three tags given to every image, mean over the tags",
    "overall_precision_at_3": "precision with three tags given to every image, all together",
    "overall_recall_at_3": "recall with three tags given to every image, all together",
    "n_plus_at_3": "share of the tags that are given rightly at least once, three tags to every image",
    "class_precision_at_5": "precision with five tags given to every image, mean over the tags",
    "class_recall_at_5": "recall with five tags given to every image, mean over the tags",
    "overall_precision_at_5": "precision with five tags given to every image, all together",
    "overall_recall_at_5": "recall with five tags given to every image, all together",
    "n_plus_at_5": "share of the tags that are given rightly at least once, five tags to every image",
    "ap": "COCO's average precision: mean over classes and IoU 0.50 to 0.95",
    "ap50": "average precision where half an overlap (IoU 0.50) is enough",
    "ap75": "average precision with a strict overlap (IoU 0.75)",
    "ap_small": "average precision of objects below 32 x 32 pixels",
    "ap_medium": "average precision of objects from 32 x 32 to 96 x 96 pixels",
    "ap_large": "average precision of objects above 96 x 96 pixels",
    "ar_1": "share of the objects found with one box an image and class",
    "ar_10": "share of the objects found with ten boxes an image and class",
    "ar_100": "share of the objects found with a hundred boxes an image and class",
    "ar_small": "as ar_100, objects below 32 x 32 pixels",
    "ar_medium": "as ar_100, objects from 32 x 32 to 96 x 96 pixels",
    "ar_large": "as ar_100, objects above 96 x 96 pixels",
    "voc_ap50": "average precision as PASCAL VOC counts since 2010 (area under the curve, IoU 0.50)",
    "voc07_ap50": "average precision as PASCAL VOC 2007 counts (11 recalls, IoU 0.50)",
    "mean_iou": "intersection over union of true and predicted region, mean over the classes",
    "pixel_accuracy": "share of the pixels with the right class",
    "frequency_weighted_iou": "intersection over union, each class weighted by its pixels",
}


def meaning(metric: str, task: str) -> str:
    """One line on a metric; "" where none is known."""
    if task == "segment" and metric == "mean_accuracy":
        return "mean over the classes of the share of pixels that is right"
    if task == "localize" and metric == "mean_iou":
        return "intersection over union of the true and the predicted box, mean over the images"
    if metric.startswith("mask_") and metric.removeprefix("mask_") in MEANINGS:
        return MEANINGS[metric.removeprefix("mask_")] + ", by the overlap of masks"
    return MEANINGS.get(metric, "")


def explain_score(task: str, found: Mapping[str, Any], where: str) -> list[str]:
    """Sentences on what the scores of an evaluation say.

    Args:
        found: `Result.to_json()`.
        where: the images, such as "validation images".
    """
    values = {name: value["value"] for name, value in found["metrics"].items()}
    speak = {"classify": _of_classes, "localize": _of_places, "tag": _of_tags, "segment": _of_maps}.get(
        task, _of_objects
    )
    sentences = speak(values, found)
    if any(value["low"] is not None for value in found["metrics"].values()):
        sentences.append(
            f"Measured on {found['images']} {where}. The interval says how far the number would move with other images "
            "of the same kind (95 %, from resampling the images); it does not cover another seed of the training."
        )
    return sentences


def cautions(task: str, found: Mapping[str, Any]) -> list[str]:
    """What should keep a reader from trusting the score too much."""
    out = []
    if found["images"] < FEW:
        out.append(
            f"Only {found['images']} images were measured: two models whose intervals overlap cannot be told apart."
        )
    recordings = found.get("recordings", 0)
    if recordings == 1:
        out.append("All images are of one recording: how much the score differs on another cannot be said from them.")
    elif recordings:
        out.append(f"The images are of {recordings} recordings; the intervals resample recordings, not images.")
    rare = [row["name"] for row in found["per_class"] if 0 < row.get("images", FEW) < 5]
    if rare:
        out.append(f"Fewer than five images speak for {_some(rare)}; take their rows as a hint.")
    top1 = found["metrics"].get("top1", {})
    if task == "classify" and top1.get("low") is not None:
        name, share = _most_frequent(found)
        if top1["low"] <= share:
            out.append(f"Not surely better than always answering {name}, which is right for {_percent(share)}.")
    return out


def _of_classes(values: Mapping[str, float | None], found: Mapping[str, Any]) -> list[str]:
    if values["top1"] is None:
        return ["There was nothing to measure."]
    name, share = _most_frequent(found)
    return [
        f"Of 100 new images like these, about {100 * values['top1']:.0f} would get the right class. "
        f"Always answering {name}, the most frequent class, would be right for {_percent(share)}."
    ]


def _of_places(values: Mapping[str, float | None], found: Mapping[str, Any]) -> list[str]:
    right, top1, boxes = values["localization_top1"], values["top1"], values["box_accuracy"]
    if right is None or top1 is None or boxes is None:
        return ["There was nothing to measure."]
    return [
        f"Of 100 new images like these, about {100 * right:.0f} would get the right class and a box that overlaps the "
        f"main object well enough (IoU 0.5). The class alone is right for {_percent(top1)}, the box alone for "
        f"{_percent(boxes)}; the boxes share {_percent(values['mean_iou'] or 0.0)} of their union with the truth."
    ]


def _of_tags(values: Mapping[str, float | None], found: Mapping[str, Any]) -> list[str]:
    if values["mean_ap"] is None:
        return ["There was no tag to measure."]
    shares = [row["images"] / found["images"] for row in found["per_class"] if row["images"]]
    sentences = [
        "For each tag the images are ranked by its score; average precision is 1 where all images with the tag come "
        f"first. A ranking by chance would reach about {sum(shares) / len(shares):.2f}."
    ]
    if values["precision"] is not None and values["recall"] is not None:
        sentences.append(
            f"With the tags that the model would give, {_percent(values['precision'])} of those given are true and "
            f"{_percent(values['recall'])} of the true ones are given (means over images)."
        )
    return sentences


def _of_maps(values: Mapping[str, float | None], found: Mapping[str, Any]) -> list[str]:
    if values["mean_iou"] is None:
        return ["There was no labelled pixel to measure."]
    pixels = {row["name"]: row["pixels"] for row in found["per_class"]}
    name = max(pixels, key=lambda k: pixels[k])
    share = pixels[name] / max(1, sum(pixels.values()))
    return [
        f"True and predicted regions share {_percent(values['mean_iou'])} of their union, on average over the classes. "
        f"{_percent(values['pixel_accuracy'] or 0.0)} of the pixels have the right class; calling every pixel "
        f"{name} would be right for {_percent(share)}."
    ]


def _of_objects(values: Mapping[str, float | None], found: Mapping[str, Any]) -> list[str]:
    prefix = "mask_" if "mask_ap" in values else ""
    if values[prefix + "ap"] is None:
        return ["There was no object to measure."]
    thing = "masks" if prefix else "boxes"
    return [
        f"Average precision: 1 would be every object found, nothing else reported, and {thing} that fit exactly. It is "
        "the mean over classes and over ten demands on the overlap, so 0.5 is already good on hard data.",
        f"Where half an overlap is enough it is {values[prefix + 'ap50'] or 0.0:.3f}; the hundred best {thing} of an "
        f"image and class find {_percent(values[prefix + 'ar_100'] or 0.0)} of the objects, mean over the demands.",
    ]


def _most_frequent(found: Mapping[str, Any]) -> tuple[str, float]:
    rows: Sequence[Mapping[str, Any]] = found["per_class"]
    best = max(rows, key=lambda row: row["images"])
    return best["name"], best["images"] / max(1, found["images"])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or 0.1 <= share <= 0.95 or share == 1 else f"{100 * share:.1f} %"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more classes" if len(names) > most else "")
