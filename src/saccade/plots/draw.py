"""What is said of an image, drawn into it: boxes, masks, class maps, keypoints, labels and tags."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from saccade.data.geometry import affine, move_objects, scaling
from saccade.data.types import IGNORE, Annotation, Objects
from saccade.ops.cuboids import moved_camera
from saccade.plots.cuboids import beside_from_above, draw_cuboid, has_depth, known_cuboids
from saccade.plots.palette import class_colour, class_colours, ink_on
from saccade.plots.skeleton import draw_skeleton, name_joints
from saccade.plots.text import font_of, shorten, wrap

SMALL = 160  # pixels of the longer side of an image in which letters find no room
_TINT = 0.45  # how much of the class colour covers a mask
_WRONG = (214, 39, 40)  # pixels of another class than the true one
_BACKGROUND = {"background", "bg", "__background__"}  # class maps: left as the image is


def draw(
    image: np.ndarray, annotation: Annotation, classes: Sequence[str], corner: str = "", legend: bool = True
) -> np.ndarray:
    """A copy of `image` with `annotation` drawn in: [H, W, 3] uint8 RGB, of the same size.

    Masks are tinted and outlined; regions of class maps are outlined, so that what they show stays as it is. Boxes
    carry plates with class and score; in a crowd the plates of weaker ones give way, their colour tells the class. Of
    an object with a cuboid its edges are drawn in place of the box, the front crossed. Joints are joined by bones, and
    named where one object has some. Label or tags stand in a strip at the lower edge, unless a box says them
    (localization). Lines and letters grow with the image; text that does not fit is shortened, and left out where no
    letter fits (an image of a few pixels): enlarge with `fit` first.

    Args:
        image: [H, W, 3] uint8 RGB.
        annotation: in pixels of `image`. Coordinates outside are drawn as far as they show.
        classes: names in the order of the labels; any text.
        corner: a word for the upper right corner.
        legend: name the classes of a class map, and joints, in the picture; a page that shows many has one for all.

    Raises:
        ValueError: `image` is not [H, W, 3] uint8, or masks are of another size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}")
    pixels = image.copy()
    size = _letter_size(image.shape[0], image.shape[1])
    if annotation.semantic is not None:
        _outline_map(pixels, annotation.semantic.cpu().numpy(), classes, _line_width(size) + 1)
    objects = annotation.objects
    if objects is not None and objects.masks is not None:
        _tint_masks(pixels, objects, _line_width(size))
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    if objects is not None:
        _draw_objects(pen, annotation, classes, size, legend)
    if annotation.semantic is not None and legend:
        _draw_legend(pen, annotation.semantic.cpu().numpy(), classes, size)
    text = caption(annotation, classes) if objects is None or not len(objects) else ""
    if text:
        _draw_strip(picture, text, size)
    if corner:
        _draw_plate(pen, corner, [(picture.width, 0)], (0, 0, 0), size, [])
    return np.asarray(picture).copy()


def draw_enlarged(image: np.ndarray, annotation: Annotation, classes: Sequence[str]) -> np.ndarray:
    """As `draw`; small images are enlarged first, so that there is room for letters. What has depth is shown from above
    beside it."""
    if max(image.shape[:2]) < SMALL:
        image, annotation = fit(image, annotation, 2 * SMALL)
    return beside_from_above(draw(image, annotation, classes), annotation)


def fit(image: np.ndarray, annotation: Annotation, side: int) -> tuple[np.ndarray, Annotation]:
    """Both scaled so that the longer side is `side` pixels; the shorter is at least 1.

    Small images keep hard pixels (nearest neighbour), so that one sees what the network saw.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    new = (max(1, round(height * scale)), max(1, round(width * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale >= 3 else cv2.INTER_LINEAR
    resized = cv2.resize(image, new[::-1], interpolation=how)
    fitted = Annotation(new, annotation.label, annotation.tags, annotation.probabilities, joints=annotation.joints)
    if annotation.camera is not None:
        fitted.camera = moved_camera(annotation.camera, scaling(new[1] / width, new[0] / height))
    if annotation.semantic is not None:
        fitted.semantic = torch.from_numpy(_nearest(annotation.semantic.cpu().numpy(), new))
    if annotation.objects is not None:
        fitted.objects = _fit_objects(annotation.objects, new, new[1] / width, new[0] / height)
    return resized, fitted


def is_background(name: str) -> bool:
    """Whether a class of this name is what class maps leave unmarked."""
    return name.strip().lower() in _BACKGROUND


def caption(annotation: Annotation, classes: Sequence[str]) -> str:
    """Label or tags as a line of text, with probabilities where they are known, and with the threshold of a tag that is
    improbable and given all the same; "" for other tasks."""
    if annotation.label is not None:
        return _name(annotation.label, classes) + _score(annotation, annotation.label)
    if annotation.tags is None:
        return ""
    given = torch.nonzero(annotation.tags).flatten().tolist()
    if annotation.probabilities is not None:
        scores = annotation.probabilities.tolist()
        given.sort(key=lambda k: -scores[k])
    return ", ".join(_name(k, classes) + _score(annotation, k) + _threshold(annotation, k) for k in given) or "no tag"


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _is_background(label: int, classes: Sequence[str]) -> bool:
    return is_background(_name(label, classes))


def _score(annotation: Annotation, label: int) -> str:
    known = annotation.probabilities is not None and 0 <= label < len(annotation.probabilities)
    return f" {float(annotation.probabilities[label]):.2f}" if known and annotation.probabilities is not None else ""


def _threshold(annotation: Annotation, label: int) -> str:
    if annotation.thresholds is None or annotation.probabilities is None or annotation.probabilities[label] >= 0.5:
        return ""
    return f" (given from {float(annotation.thresholds[label]):.2f})"


def _letter_size(height: int, width: int) -> int:
    """Pixels: a fixed share of the image, but never too small to read."""
    return max(11, round(0.027 * (height * width) ** 0.5))


def _line_width(size: int) -> int:
    return max(1, round(size / 7))


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(cv2.resize(values.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST))


def _fit_objects(objects: Objects, size: tuple[int, int], across: float, down: float) -> Objects:
    def hard(masks: torch.Tensor) -> torch.Tensor:
        planes = [torch.from_numpy(_nearest(mask.numpy(), size)) > 0 for mask in masks]
        return torch.stack(planes) if planes else torch.zeros(0, *size, dtype=torch.bool)

    return move_objects(objects.to("cpu"), affine(scaling(across, down), size, hard), "all")


def _outline_map(pixels: np.ndarray, semantic: np.ndarray, classes: Sequence[str], line: int) -> None:
    """Draw the inner border of every region but the background in the colour of its class, with a dark line around it
    where the background begins. The border of the picture closes a region."""
    if semantic.shape != pixels.shape[:2]:
        raise ValueError(f"the class map is of size {list(semantic.shape)}, the image {list(pixels.shape[:2])}")
    shown = semantic != IGNORE
    for k in range(len(classes)):
        if _is_background(k, classes):
            shown &= semantic != k
    border = _border_of(np.where(shown, semantic, -1).astype(np.int16), line)
    dark = cv2.dilate((shown & border).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~shown
    pixels[dark] = 0
    np.copyto(pixels, class_colours(256)[semantic], where=(shown & border)[..., None])


def _border_of(values: np.ndarray, line: int) -> np.ndarray:
    """[H, W] bool: where another value, or the outside, is at most `line` pixels away along a row or a column."""
    height, width = values.shape
    padded = np.pad(values, line, constant_values=-2)
    border = np.zeros(values.shape, bool)
    for step in (*range(-line, 0), *range(1, line + 1)):
        border |= padded[line + step : line + step + height, line : line + width] != values
        border |= padded[line : line + height, line + step : line + step + width] != values
    return border


def draw_errors(image: np.ndarray, truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Where a class map is wrong: [H, W, 3] uint8, the image in pale gray with wrong pixels in red; what has no truth
    is dark.

    Args:
        image: [H, W, 3] uint8 RGB.
        truth, answer: class maps [H, W] of its size; 255 in the truth is not judged.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    pale = cv2.addWeighted(gray, 0.5, np.full_like(gray, 255), 0.5, 0)
    unknown = truth == IGNORE
    pale[unknown] = gray[unknown] // 3
    pale[~unknown & (truth != answer)] = _WRONG
    return pale


def _tint_masks(pixels: np.ndarray, objects: Objects, line: int) -> None:
    assert objects.masks is not None
    if len(objects) and tuple(objects.masks.shape[1:]) != pixels.shape[:2]:
        raise ValueError(f"the masks are of size {list(objects.masks.shape[1:])}, the image {list(pixels.shape[:2])}")
    for i in _weakest_first(objects):
        mask = objects.masks[i].cpu().numpy().astype(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        inside = mask[y : y + height, x : x + width].astype(bool)
        part = pixels[y : y + height, x : x + width]
        colour = class_colour(int(objects.labels[i]))
        part[inside] = ((1 - _TINT) * part[inside] + _TINT * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(pixels, outlines, -1, colour, line)


def _weakest_first(objects: Objects) -> list[int]:
    """Rows in the order of drawing: the best score last, on top; without scores the largest first."""
    if objects.scores is not None:
        return [int(i) for i in torch.argsort(objects.scores, stable=True)]
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    return [int(i) for i in torch.argsort(sides.prod(1), descending=True, stable=True)]


def _draw_objects(
    pen: ImageDraw.ImageDraw, annotation: Annotation, classes: Sequence[str], size: int, named: bool
) -> None:
    objects, joints = annotation.objects, annotation.joints
    assert objects is not None
    open_to_all = _of_any_class(objects)
    rows = [i for i in _weakest_first(objects) if open_to_all.get(i, i) == i]
    width, height = pen.im.size
    line = _line_width(size)
    limit = np.array([width, height, width, height])
    boxes = np.clip(np.nan_to_num(objects.boxes.detach().cpu().numpy()), 0, limit)
    if has_depth(annotation) and annotation.camera is not None:
        cuboids = known_cuboids(annotation)
        for i in rows:
            draw_cuboid(pen, cuboids[i], annotation.camera, class_colour(int(objects.labels[i])), line)
        solid = np.isfinite(cuboids).all(1)
    else:
        solid = np.zeros(len(objects), bool)
    for i in (i for i in rows if not solid[i]):  # all frames first, so that no plate is crossed by one
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        colour = class_colour(int(objects.labels[i]))
        pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
    if objects.keypoints is not None:
        for i in rows:
            draw_skeleton(pen, objects.keypoints[i], joints, class_colour(int(objects.labels[i])), line)
        if named and joints is not None and len(rows) == 1:  # of several the names would cover each other
            name_joints(pen, objects.keypoints[0], joints, max(10, round(0.6 * size)))
    taken: list[tuple[float, float, float, float]] = []
    # the best first: where it is crowded the plates of weaker objects give way, and before them those of regions
    order = rows[::-1]
    order.sort(key=lambda i: objects.crowd is not None and bool(objects.crowd[i]))
    for i in order:
        text = "any class" if i in open_to_all else _name(int(objects.labels[i]), classes)
        if objects.scores is not None:
            text += f" {float(objects.scores[i]):.2f}"
        for flag, word in ((objects.crowd, "crowd"), (objects.difficult, "difficult")):
            if flag is not None and bool(flag[i]):
                text += f" ({word})"
        left, top, tall = float(boxes[i, 0]), float(boxes[i, 1]), _plate_height(size)
        places = [(left, y) for y in (top - tall, top) if y >= 0]
        _draw_plate(pen, text, places, class_colour(int(objects.labels[i])), size, taken)


def _of_any_class(objects: Objects) -> dict[int, int]:
    """Rows of crowds of several classes in one box, as regions without labels are (`data.truth.read_truth`): each with
    the first of them, which stands for all."""
    if objects.crowd is None:
        return {}
    places: dict[tuple[float, ...], list[int]] = {}
    for i in torch.nonzero(objects.crowd).flatten().tolist():
        places.setdefault(tuple(objects.boxes[i].tolist()), []).append(i)
    return {i: rows[0] for rows in places.values() if len(rows) > 1 for i in rows}


def _plate_height(size: int) -> int:
    return size + 2 * max(1, size // 5)


def _draw_plate(
    pen: ImageDraw.ImageDraw,
    text: str,
    places: list[tuple[float, float]],
    colour: tuple[int, int, int],
    size: int,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A coloured plate with its upper left at the first of `places` where it covers no other plate, or nowhere.

    Places are moved so that the plate stays inside the image; `taken` lists the plates so far and gains this one.
    """
    width, height = pen.im.size
    margin = max(1, size // 5)
    font = font_of(size)
    text = shorten(text, font, min(width - 2 * margin, 24 * size))
    tall = _plate_height(size)
    wide = font.getlength(text) + 2 * margin
    if not text or tall > height:
        return
    for place in places:
        x, y = min(place[0], width - wide), min(place[1], height - tall)
        if all(x >= right or x + wide <= left or y >= low or y + tall <= top for left, top, right, low in taken):
            taken.append((x, y, x + wide, y + tall))
            pen.rectangle((x, y, x + wide - 1, y + tall - 1), fill=colour)
            pen.text((x + margin, y + tall / 2), text, fill=ink_on(colour), font=font, anchor="lm")
            return


def _draw_legend(pen: ImageDraw.ImageDraw, semantic: np.ndarray, classes: Sequence[str], size: int) -> None:
    """Plates of the classes that the map holds, most pixels first, down the upper left; as many as fit."""
    counts = np.bincount(semantic.ravel(), minlength=256)[:IGNORE]
    tinted = [k for k in np.flatnonzero(counts).tolist() if not _is_background(k, classes)]
    step = _plate_height(size)
    for place, k in enumerate(sorted(tinted, key=lambda k: -counts[k])[: pen.im.size[1] // step]):
        _draw_plate(pen, _name(k, classes), [(0, place * step)], class_colour(k), size, [])


def _draw_strip(picture: Image.Image, text: str, size: int) -> None:
    """White letters on a darkened strip at the lower edge."""
    margin = max(1, size // 4)
    font = font_of(size)
    lines = wrap(text, font, picture.width - 2 * margin, 3)
    step = round(1.25 * size)
    tall = len(lines) * step + margin
    if not lines or tall > picture.height:
        return
    top = picture.height - tall
    strip = picture.crop((0, top, picture.width, picture.height))
    picture.paste(Image.blend(strip, Image.new("RGB", strip.size), 0.65), (0, top))
    pen = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        pen.text((margin, top + margin / 2 + (i + 0.5) * step), line, fill="white", font=font, anchor="lm")
