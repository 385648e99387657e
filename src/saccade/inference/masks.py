"""How `predict` states the masks of objects: as run lengths, as polygons, or as a picture of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from torch import Tensor

from saccade.data.outlines import instance_map, outlines
from saccade.errors import UsageError, suggest
from saccade.machine.files import write_whole
from saccade.tasks.table import find_task

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
    if form != FORMS[0] and not find_task(task).masks:
        raise UsageError(f"--masks {form}: this model answers to {task}, without masks of objects")
    if form == "png" and (videos or not kept):
        raise UsageError("--masks png writes maps of images into --out DIR, not of videos; polygons fit everywhere")


def map_name(picture: str) -> str:
    """The file of the masks beside a picture: `photo.jpg` has `photo.jpg-masks.png`."""
    return f"{picture}-masks.png"


def restate_masks(described: dict[str, Any], masks: Tensor, form: str, place: Path | None) -> None:
    """Put `polygons`, or the name of a `map`, in place of the `masks` of described objects.

    Args:
        described: as the file of the task says it, with run lengths.
        masks: [n, H, W] bool.
        form: of `FORMS`.
        place: the file for "png".
    """
    if form == FORMS[0]:
        return
    del described["masks"]
    if form == "polygons":
        described["polygons"] = [outlines(mask.numpy()) for mask in masks]
    elif place is not None:
        write_whole(place, cv2.imencode(".png", instance_map(masks))[1].tobytes())
        described["map"] = place.name
