"""How `predict` states masks of objects and class maps: as run lengths, as polygons, or as a picture beside the other;
polygons also as one file of COCO for all images."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from saccade.data.outlines import instance_map, outlines, simple_outlines
from saccade.data.types import Annotation
from saccade.errors import UsageError, suggest
from saccade.machine.files import write_whole
from saccade.plots.palette import class_colours
from saccade.tasks.table import find_task

COCO = "coco.json"
FORMS = ("rle", "polygons", "png")  # the usual one first


def check_masks(form: str, task: str, kept: bool, videos: Sequence[str]) -> None:
    """Refuse what cannot be had.

    Args:
        form: of `FORMS`.
        kept: whether there is a folder for pictures.
        videos: and cameras that are asked about.

    Raises:
        UsageError: another word; pictures of the masks of videos, or without a folder; a task without masks.
    """
    if form not in FORMS:
        raise UsageError(f"--masks {form!r}: {suggest(form, FORMS)}")
    kind = find_task(task)
    if form != FORMS[0] and not (kind.masks or kind.semantic):
        raise UsageError(f"--masks {form}: this model answers to {task}, without masks of objects or classes")
    if form == "png" and (videos or not kept):
        raise UsageError("--masks png writes maps of images into --out DIR, not of videos; polygons fit everywhere")


def map_name(picture: str) -> str:
    """The file of the masks beside a picture: `photo.jpg` has `photo.jpg-masks.png`."""
    return f"{picture}-masks.png"


def restate_masks(
    described: dict[str, Any], shown: Annotation, classes: Sequence[str], form: str, place: Path | None
) -> None:
    """Put `polygons`, or the name of a `map`, in place of the run lengths of a described answer.

    Args:
        described: the answer `shown` as the file of its task says it.
        classes: names in the order of the labels.
        form: of `FORMS`.
        place: the file for "png".
    """
    objects, semantic = shown.objects, shown.semantic
    if form == FORMS[0]:
        return
    if objects is not None and objects.masks is not None:
        del described["objects"]["masks"]
        if form == "polygons":
            described["objects"]["polygons"] = [outlines(mask.numpy()) for mask in objects.masks]
        elif place is not None:
            write_whole(place, cv2.imencode(".png", instance_map(objects.masks))[1].tobytes())
            described["objects"]["map"] = place.name
    if semantic is not None:
        plane = semantic.numpy()
        for name, part in described["mask"].items():
            del part["rle"]
            if form == "polygons":
                part["polygons"] = simple_outlines(plane == classes.index(name))
        if place is not None and form == "png":
            write_whole(place, palette_png(plane, len(classes)))
            described["map"] = place.name


def palette_png(semantic: np.ndarray, classes: int) -> bytes:
    """A class map [H, W] uint8 as a PNG whose palette has the colours in which classes are drawn; 255 is white."""
    colours = np.full((256, 3), 255, np.uint8)
    colours[:classes] = class_colours(classes)
    picture = Image.fromarray(semantic)
    picture.putpalette(colours.tobytes())
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return kept.getvalue()


class CocoFile:
    """All polygons of the images that were answered, as COCO's labels: coco.json in a folder, which labelling tools and
    `saccade check` read. Frames of videos are none."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.place, self.numbers = folder / COCO, {name: i + 1 for i, name in enumerate(classes)}
        self.images: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def add(self, answer: dict[str, Any]) -> None:
        """Add what `predict` says of one image, with polygons: an annotation for each object, or each class."""
        if "error" in answer or "frame" in answer:
            return
        height, width = answer["size"]
        self.images.append({"id": len(self.images) + 1, "file_name": answer["image"], "height": height, "width": width})
        objects = answer.get("objects", {"names": []})
        for i, name in enumerate(objects["names"]):
            self._add(name, objects["polygons"][i], {"score": objects["scores"][i]})
        for name, part in answer.get("mask", {}).items():
            self._add(name, part["polygons"], {})

    def _add(self, name: str, polygons: list[list[float]], more: dict[str, Any]) -> None:
        if not polygons:
            return
        corners = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
        low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
        area = sum(abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2 for x, y in (c.T for c in corners))
        row: dict[str, Any] = {
            "id": len(self.rows) + 1,
            "image_id": len(self.images),
            "category_id": self.numbers[name],
        }
        row |= {"segmentation": polygons, "bbox": [*low.tolist(), *(high - low).tolist()], "area": area}
        self.rows.append(row | {"iscrowd": 0} | more)

    def close(self) -> None:
        """Write the file, if there was an image. Raises ResourceError where the disk is full."""
        if not self.images:
            return
        categories = [{"id": number, "name": name} for name, number in self.numbers.items()]
        whole = {"images": self.images, "annotations": self.rows, "categories": categories}
        write_whole(self.place, json.dumps(whole, allow_nan=False))
