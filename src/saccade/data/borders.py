"""Data of objects with masks as class maps in which the border of each object is a class of its own.

A segmenter that learns such maps can tell objects of one class apart that touch: what it calls inside is apart where
they meet, and `inference/pixels.py` lets these parts grow over the borders again. A class is the simplest form of that
knowledge, as every segmenter learns it without another head or loss (Caicedo et al. 2019, "Evaluation of deep learning
strategies for nucleus segmentation in fluorescence images", Cytometry A 95: background, interior, boundary).
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from saccade.data.class_map import IGNORE
from saccade.data.dataset import DataSet, Record
from saccade.data.thing_masks import masks_of
from saccade.errors import DataError, UsageError
from saccade.tasks.table import TASKS

BACKGROUND, BORDER = "background", "border"  # the first and the last class of such a map


def as_class_maps(dataset: DataSet, width: int) -> DataSet:
    """The images and objects of a data set as class maps: "background", its own classes, and "border" of `width`
    pixels. Records are shared.

    Raises:
        UsageError: the data set has no masks of objects, or a class of its own called background or border.
        DataError: more classes than a map can hold.
    """
    if not TASKS[dataset.task].masks:
        raise UsageError(
            f"border_class: {dataset.root} holds labels to {dataset.task}; the border of objects is drawn from masks "
            "of objects: polygons, run lengths, or maps of ids (16 bits, or in a folder called instances)"
        )
    taken = {BACKGROUND, BORDER} & set(dataset.classes)
    if taken:
        raise UsageError(f"border_class: {dataset.root} has a class {min(taken)!r} of its own; rename it")
    classes = [BACKGROUND, *dataset.classes, BORDER]
    if len(classes) > IGNORE:
        raise DataError(f"{dataset.root}: {len(classes)} classes; a class map has at most {IGNORE}")
    return replace(dataset, task="segment", classes=classes, category_ids=None, border=width)


def class_map_with_border(record: Record, dataset: DataSet) -> np.ndarray:
    """[H, W] uint8 for a record of `as_class_maps`: 0, 1 + label inside of an object, the last class along its border,
    and IGNORE where a crowd is. Where objects overlap the later one of the list lies above.

    Raises:
        DataError: as `masks_of`; the record has no list of objects.
    """
    if record.things is None:
        raise DataError(f"{record.id}: the data set states no list of objects for this image, which the task needs")
    numbers = np.zeros(record.size, np.int32)
    for row, mask in enumerate(masks_of(record.things, record, dataset)):
        if record.things[row].crowd:
            numbers[mask & (numbers == 0)] = -1
        else:
            numbers[mask] = row + 1
    labels = np.array([0, *(1 + thing.label for thing in record.things)], np.uint8)
    inside = interiors(numbers, dataset.border)
    drawn = np.where(inside, labels[np.maximum(numbers, 0)], len(dataset.classes) - 1).astype(np.uint8)
    drawn[numbers == 0] = 0
    drawn[numbers < 0] = IGNORE
    return drawn


def interiors(numbers: np.ndarray, width: int) -> np.ndarray:
    """[H, W] bool: pixels of an object that are farther than `width` pixels from all that is not of it. An object that
    would have none has as much narrower a border as leaves it some; the edge of the image is no border.

    Args:
        numbers: [H, W] int32, the object at each pixel from 1, at most 2^24; 0 and below for none.
    """
    inside = np.zeros(numbers.shape, bool)
    plane = numbers.astype(np.float32)  # what OpenCV's morphology takes, exact to 2^24
    for radius in range(width, -1, -1):
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        pure = (cv2.erode(plane, disc) == plane) & (cv2.dilate(plane, disc) == plane) & (numbers > 0)
        if radius == width:
            inside = pure
        else:
            found = np.zeros(int(numbers.max()) + 1, bool)
            found[numbers[inside]] = True
            inside |= pure & ~found[np.maximum(numbers, 0)]
        if np.isin(np.unique(numbers[numbers > 0]), numbers[inside]).all():
            break
    return inside
