"""Faces brought upright and to one size by given landmarks: a similarity transform, fitted by least squares."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from saccade.errors import DataError
from saccade.machine.files import open_regular

SIDE = 112  # pixels of an aligned face
# Where the landmarks of a face come to lie, in pixels of a face of SIDE; left and right are the person's own (Deng et
# al. 2019, "ArcFace", section 3.1: five landmarks, faces of 112 x 112; the numbers are those of its public code).
TEMPLATE: dict[str, tuple[float, float]] = {
    "right_eye": (38.2946, 51.6963),
    "left_eye": (73.5318, 51.5014),
    "nose": (56.0252, 71.7366),
    "right_mouth": (41.5493, 92.3655),
    "left_mouth": (70.7299, 92.2041),
}
EYES = ("right_eye", "left_eye")  # without which nothing is aligned

Landmarks = dict[str, tuple[float, float]]  # name of TEMPLATE: x, y in pixels of the upright picture


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and shift that brings points nearest to others in the least squares sense (Umeyama
    1991, "Least-squares estimation of transformation parameters between two point patterns", eqs. 40 to 43).

    Args:
        source: [n, 2], n at least 2.
        target: [n, 2].

    Returns:
        [2, 3]: target is near `m[:, :2] @ source + m[:, 2]`. It never mirrors.

    Raises:
        DataError: all source points are one.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    means = source.mean(0), target.mean(0)
    centred = source - means[0], target - means[1]
    spread = float((centred[0] ** 2).sum() / len(source))
    if not np.isfinite(spread) or spread < 1e-12:
        raise DataError("landmarks that all lie in one place say nothing of size and direction")
    left, stretch, right = np.linalg.svd(centred[1].T @ centred[0] / len(source))
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    rotation = (left * signs) @ right
    scale = float((stretch * signs).sum()) / spread
    return np.concatenate([scale * rotation, (means[1] - scale * rotation @ means[0])[:, None]], axis=1)


def align(pixels: np.ndarray, landmarks: Landmarks, side: int = SIDE) -> np.ndarray:
    """The face of an image [H, W, 3] uint8 with its landmarks where TEMPLATE has them: [side, side, 3] uint8. What lies
    outside of the image is black.

    Raises:
        DataError: an eye is missing, or all landmarks lie in one place.
    """
    names = [name for name in TEMPLATE if name in landmarks]
    if any(eye not in names for eye in EYES):
        raise DataError(f"landmarks {', '.join(sorted(landmarks)) or 'none'}: at least {' and '.join(EYES)} are needed")
    source = np.array([landmarks[name] for name in names])
    target = np.array([TEMPLATE[name] for name in names]) * side / SIDE
    matrix = similarity_transform(source, target)
    # A pixel that is read between four others would skip the rest of a large photograph: it is made smaller first.
    reduced = min(1.0, 2 * float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    if reduced < 1:
        height, width = (max(1, round(n * reduced)) for n in pixels.shape[:2])
        pixels, before = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), pixels.shape
        matrix[:, 0] *= before[1] / width
        matrix[:, 1] *= before[0] / height
    # Landmarks count from the corner of the image, OpenCV's pixels from the middle of the first one.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR)


def read_landmarks(file: Path) -> dict[str, Landmarks]:
    """Landmarks by image from a file: JSON `{image: {"left_eye": [x, y], ...}}`, or CSV with the columns `image,
    left_eye_x, left_eye_y, ...`. Left and right are the person's own; names are those of TEMPLATE.

    Raises:
        DataError: no such file, no landmarks in it, unknown names, or coordinates that are no numbers.
    """
    try:
        with open_regular(file, links=True) as opened:
            text = opened.read().decode("utf-8-sig")
        stated = json.loads(text) if text.lstrip().startswith("{") else _from_csv(text)
        found = {str(image): _checked(points) for image, points in stated.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: no landmarks that can be read ({error})") from error
    if not found:
        raise DataError(f"{file}: no landmarks in it")
    return found


def _from_csv(text: str) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = {}
    for row in csv.DictReader(text.splitlines()):
        columns = [name for name in row if name and name.endswith("_x")]
        found[row["image"]] = {name[:-2]: [row[name], row[f"{name[:-2]}_y"]] for name in columns if row[name]}
    return found


def _checked(points: Mapping[str, Any]) -> Landmarks:
    found: Landmarks = {}
    for name, place in points.items():
        if name not in TEMPLATE:
            raise ValueError(f"unknown landmark {name!r}; known: {', '.join(TEMPLATE)}")
        x, y = (float(value) for value in place)
        if not np.isfinite([x, y]).all():
            raise ValueError(f"{name} at {x}, {y}")
        found[name] = (x, y)
    return found
