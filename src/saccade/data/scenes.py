"""Demonstration data made on the spot: real handwritten digits on real photographs, every box and mask known exactly.

The digits are the 1,797 of scikit-learn (8 x 8 pixels, from the UCI "Optical Recognition of Handwritten Digits" set),
enlarged smoothly; the photographs are those that scikit-image carries in its package. Nothing is downloaded. Training
and validation share neither a digit nor a region of a photograph, so a score on `val` is a score on unseen writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_digits

from saccade.data.rle import encode_mask
from saccade.errors import UsageError
from saccade.tasks.table import TASKS

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BACKGROUND = "background"  # class 0 of the class maps, before the digits
VAL_SHARE = 0.2  # of the images
HELD_OUT = 0.3  # of each class's digits, and of each photograph's width, kept for val

_PHOTOGRAPHS = (
    *("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry"),
    *("camera", "brick", "grass", "coins"),
)
_DIGIT_SHARES = (0.15, 0.33)  # height of a digit as a share of the scene's side: 29 to 63 of 192 pixels
_MOST_HIDDEN = 0.15  # of a digit's pixels, by those laid over it
_CONTRAST = 90.0  # least distance in brightness (0..255) of a digit's colour from what it covers

Kind = Literal["detect", "classify", "segment", "instances"]


@dataclass(frozen=True)
class Scene:
    """A composed image with its exact truth. Masks show what is visible: later digits cover earlier ones."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    labels: list[int]  # digit 0..9 of each object
    masks: list[np.ndarray]  # [H, W] bool of each object

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """x1 y1 x2 y2 around each mask, the far corner behind the last pixel."""
        return [_bounds(mask) for mask in self.masks]

    @property
    def class_map(self) -> np.ndarray:
        """[H, W] uint8: 0 background, 1 + digit elsewhere."""
        values = np.zeros(self.image.shape[:2], dtype=np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            values[mask] = 1 + label
        return values


@dataclass(frozen=True)
class Material:
    """What scenes of one split are made of."""

    digits: np.ndarray  # [n, 8, 8] float32 in [0, 1], ink is 1
    labels: np.ndarray  # [n] digit 0..9
    photographs: list[np.ndarray]  # [H, W, 3] uint8 each: the split's region of it


def material(split: Literal["train", "val"]) -> Material:
    """The digits and photograph regions of a split: per class the first 70 % of the digits and of every photograph the
    left 70 % for train, the rest for val."""
    source = load_digits()
    chosen = []
    for digit in range(10):
        rows = np.flatnonzero(source.target == digit)
        cut = round(len(rows) * (1 - HELD_OUT))
        chosen.append(rows[:cut] if split == "train" else rows[cut:])
    rows = np.concatenate(chosen)
    regions = []
    for name in _PHOTOGRAPHS:
        photo = getattr(photographs, name)()
        photo = np.repeat(photo[:, :, None], 3, axis=2) if photo.ndim == 2 else photo[:, :, :3]
        cut = round(photo.shape[1] * (1 - HELD_OUT))
        regions.append(photo[:, :cut] if split == "train" else photo[:, cut:])
    return Material((source.images[rows] / 16).astype(np.float32), source.target[rows].astype(np.int64), regions)


def compose(stuff: Material, rng: np.random.Generator, size: int, objects: int, shares: tuple[float, float]) -> Scene:
    """A scene of side `size` with up to `objects` digits (fewer where no free place is found), their heights between
    `shares[0]` and `shares[1]` of the side."""
    image = _backdrop(stuff, rng, size)
    labels: list[int] = []
    masks: list[np.ndarray] = []
    for _ in range(objects):
        for _attempt in range(20):
            row = int(rng.integers(len(stuff.digits)))
            ink = _place(stuff.digits[row], rng, size, size * rng.uniform(shares[0], shares[1]))
            shape = ink > 0.5
            if shape.any() and not any((mask & _wide(shape)).sum() > _MOST_HIDDEN * mask.sum() for mask in masks):
                break
        else:
            continue
        image = _paint(image, ink, rng)
        masks = [mask & ~shape for mask in masks]
        masks.append(shape)
        labels.append(int(stuff.labels[row]))
    return Scene(image, labels, masks)


def write_scenes(out: Path, task: Kind, images: int, seed: int, size: int | None = None) -> None:
    """Write a data set with splits train and val (a fifth of the images) below `out`; the same seed, the same files.

    - detect, instances: COCO, `annotations/instances_{split}.json` beside `train/` and `val/`, boxes and masks (RLE);
    - classify: class folders `{split}/{class}/`, one digit an image;
    - segment: `images/{split}/` and maps `masks/{split}/` of two classes, background and digit (which digit it is would
      take a network longer to learn than a demonstration lasts).

    Args:
        size: side of the images in pixels; by default 64 for classify and 192 for the others.

    Raises:
        UsageError: unknown task, fewer than 5 images, a side below 32, or `out` holds files already.
    """
    kind = TASKS.get(task)
    if kind is None or kind.tags or kind.one_object or kind.keypoints:
        raise UsageError(f"no demonstration scenes for task {task!r}; allowed: classify, detect, instances, segment")
    side = size if size is not None else (64 if kind.whole_image else 192)
    if images < 5 or side < 32:
        raise UsageError(f"{images} images of side {side}: at least 5 images of side 32 are needed")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is not an empty folder; name a new one")
    held_out = max(1, round(images * VAL_SHARE))
    for split, count in (("train", images - held_out), ("val", held_out)):
        stuff = material(split)  # type: ignore[arg-type]
        scenes = (_scene(stuff, task, seed, split, index, side) for index in range(count))
        if kind.whole_image:
            _write_classes(out, split, scenes)
        elif kind.semantic:
            _write_maps(out, split, scenes)
        else:
            _write_coco(out, split, scenes)


def _scene(stuff: Material, task: Kind, seed: int, split: str, index: int, size: int) -> Scene:
    rng = np.random.default_rng([seed, split == "val", index])
    if TASKS[task].whole_image:
        return compose(stuff, rng, size, 1, (0.55, 0.85))
    return compose(stuff, rng, size, int(rng.integers(2, 8)), _DIGIT_SHARES)


def _backdrop(stuff: Material, rng: np.random.Generator, size: int) -> np.ndarray:
    """A square crop of a random photograph, perhaps mirrored, darker or brighter."""
    photo = stuff.photographs[int(rng.integers(len(stuff.photographs)))]
    side = int(min(photo.shape[:2]) * rng.uniform(0.6, 1))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=method)
    return np.clip(crop.astype(np.float32) * rng.uniform(0.7, 1.15), 0, 255).astype(np.uint8)


def _place(digit: np.ndarray, rng: np.random.Generator, size: int, height: float) -> np.ndarray:
    """[size, size] float32 coverage in [0, 1] of a digit, turned by up to 15 degrees, wholly inside."""
    rows, columns = np.nonzero(digit > 0.3)
    scale = height / (rows.max() + 1 - rows.min())
    squeeze = rng.uniform(0.85, 1.2)
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([scale * squeeze, scale])
    centre = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2]) + 1  # in the padded digit
    extent = np.abs(linear) @ np.array([np.ptp(columns) + 1.5, np.ptp(rows) + 1.5]) / 2
    low, high = extent, size - extent
    middle = rng.uniform(np.minimum(low, size / 2), np.maximum(high, size / 2))
    matrix = np.hstack([linear, (middle - linear @ centre)[:, None]])
    ink = cv2.warpAffine(np.pad(digit, 1), matrix, (size, size), flags=cv2.INTER_CUBIC, borderValue=0)
    edge = max(0.06, 0.8 / scale)  # about a pixel and a half of soft edge at any size
    return np.clip((ink - 0.52) / edge + 0.5, 0, 1)


def _paint(image: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay a digit over the image in a random colour that stands out in brightness, with a faint shadow."""
    weights = np.array([0.299, 0.587, 0.114])  # of red, green and blue in brightness (ITU-R BT.601)
    x1, y1, x2, y2 = _bounds(ink > 0)
    blur = max(1.0, image.shape[0] / 96)
    margin = int(4 * blur)
    window = slice(max(y1 - margin, 0), y2 + margin), slice(max(x1 - margin, 0), x2 + margin)
    under, ink = image[window], ink[window]
    beneath = float((under[_wide(ink > 0.5)] @ weights).mean())
    colors = rng.uniform(0, 255, (200, 3))
    strong = np.abs(colors @ weights - beneath) >= _CONTRAST
    color = colors[strong.argmax()] if strong.any() else np.full(3, 255.0 if beneath < 128 else 0.0)
    shade = 0.0 if color @ weights > beneath else 255.0
    shadow = cv2.GaussianBlur(ink, (0, 0), blur)[:, :, None] * 0.45
    under = under * (1 - shadow) + shade * shadow
    painted = under * (1 - ink[:, :, None]) + color * ink[:, :, None]
    result = image.copy()
    result[window] = np.clip(painted + 0.5, 0, 255).astype(np.uint8)
    return result


def _wide(shape: np.ndarray) -> np.ndarray:
    """A mask [H, W] bool and a margin of two pixels around it."""
    return cv2.dilate(shape.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        Image.fromarray(image).save(path, quality=92)


def _write_classes(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    for index, scene in enumerate(scenes):
        _save(scene.image, out / split / CLASSES[scene.labels[0]] / f"{index:05d}.jpg")


def _write_maps(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    for index, scene in enumerate(scenes):
        _save(scene.image, out / "images" / split / f"{index:05d}.jpg")
        _save((scene.class_map > 0).astype(np.uint8), out / "masks" / split / f"{index:05d}.png")
    (out / "classes.txt").write_text(f"{BACKGROUND}\ndigit\n", encoding="utf-8")


def _write_coco(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes):
        name = f"{index:05d}.jpg"
        _save(scene.image, out / split / name)
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for label, mask, (x1, y1, x2, y2) in zip(scene.labels, scene.masks, scene.boxes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encode_mask(mask),
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    path = out / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
