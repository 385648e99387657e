"""Boxes in three dimensions, drawn into the image that shows them and seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from saccade.data.types import Annotation
from saccade.ops.cuboids import FRONT, corners, edges_seen
from saccade.plots.palette import class_colour
from saccade.plots.text import font_of

Colour = tuple[int, int, int]  # red, green, blue

GROUND, GRID, LETTERS, SIGHT = (24, 26, 30), (62, 66, 74), (170, 176, 186), (84, 92, 104)
NEAREST = 20.0  # metres that a view from above shows ahead, at least
FARTHEST = 120.0  # and at most
_LARGE = 20_000.0  # pixels: an end farther outside than this is cut off


def draw_cuboid(pen: ImageDraw.ImageDraw, cuboid: np.ndarray, camera: np.ndarray, colour: Colour, line: int) -> None:
    """The edges of a cuboid [7] as the camera [3, 4] sees them, its front crossed; nothing where it is not known."""
    if not np.isfinite(cuboid).all():
        return
    for (x1, y1), (x2, y2) in edges_seen(cuboid, camera).clip(-_LARGE, _LARGE):
        if np.isfinite((x1, y1, x2, y2)).all():
            pen.line((x1, y1, x2, y2), fill=colour, width=line)
    space = np.concatenate([corners(cuboid[None])[0], np.ones((8, 1))], axis=1) @ camera.T
    for a, b in FRONT:
        if min(space[a, 2], space[b, 2]) > 0.1:
            (x1, y1), (x2, y2) = (space[k, :2] / space[k, 2] for k in (a, b))
            pen.line((x1, y1, x2, y2), fill=colour, width=max(1, line // 2))


def known_cuboids(annotation: Annotation) -> np.ndarray:
    """[n, 7] of an annotation, NaN where a cuboid is not known; none where it has no such column."""
    objects = annotation.objects
    if objects is None or objects.cuboids is None:
        return np.zeros((0, 7))
    return objects.cuboids.detach().double().cpu().numpy()


def has_depth(annotation: Annotation) -> bool:
    """Whether an annotation can be seen from above: there are cuboids, or could be, and a camera."""
    return annotation.camera is not None and annotation.objects is not None and annotation.objects.cuboids is not None


def from_above(annotations: Sequence[Annotation], height: int) -> np.ndarray:
    """Cuboids seen from above, [height, width, 3] uint8 RGB, the camera in the middle of the lower edge.

    The first annotation is filled, those behind it are outlines in white (the truth beside a prediction). Arcs count
    the metres from the camera, two lines bound what it sees; a short line shows the front of each cuboid.

    Args:
        annotations: of one image, with cuboids; the first one with the camera.
        height: pixels.
    """
    rows = [known_cuboids(each) for each in annotations]
    known = np.concatenate([np.zeros((0, 7)), *rows])
    known = known[np.isfinite(known).all(1)]
    reach = float(np.clip(1.1 * known[:, 5].max(initial=0) + 4, NEAREST, FARTHEST))
    scale, width = height / reach, round(0.75 * height)
    picture = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(picture)
    middle, low = width / 2, height - 1.0
    _draw_grid(pen, annotations[0], reach, scale, (middle, low))
    for place, (annotation, cuboids) in enumerate(zip(annotations, rows, strict=True)):
        assert annotation.objects is not None
        for cuboid, label in zip(cuboids, annotation.objects.labels.tolist(), strict=True):
            if not np.isfinite(cuboid).all():
                continue
            ground = corners(cuboid[None])[0, :4][:, [0, 2]] * [scale, -scale] + [middle, low]
            outline = [(float(x), float(y)) for x, y in ground]
            colour = class_colour(label)
            pen.polygon(outline, fill=colour if place == 0 else None, outline="white" if place else colour)
            centre = ground.mean(axis=0)
            nose = (ground[0] + ground[1]) / 2
            pen.line((*centre, *nose), fill="white" if place else GROUND, width=max(1, height // 200))
    return np.asarray(picture).copy()


def _draw_grid(
    pen: ImageDraw.ImageDraw, annotation: Annotation, reach: float, scale: float, origin: tuple[float, float]
) -> None:
    x, y = origin
    step = next(s for s in (5, 10, 20, 40) if reach / s <= 6 or s == 40)
    font = font_of(max(10, round(y / 28)))
    for metres in range(step, math.ceil(reach * 1.5), step):
        r = metres * scale
        pen.arc((x - r, y - r, x + r, y + r), 180, 360, fill=GRID)
        aside = min(0.8 * r, x - 4)  # where the camera mostly does not look
        place = (x + aside, y - math.sqrt(r**2 - aside**2))
        pen.text(place, f"{metres} m", fill=LETTERS, font=font, anchor="rs")
    camera = annotation.camera
    if camera is not None:
        for side in (0.0, float(annotation.size[1])):
            right, _, ahead = np.linalg.solve(camera[:, :3], [side, camera[1, 2], 1.0])
            far = 2 * reach * scale / max(float(ahead), 1e-9)
            pen.line((x, y, x + float(right) * far, y - float(ahead) * far), fill=SIGHT)


def beside_from_above(image: np.ndarray, annotation: Annotation) -> np.ndarray:
    """An image [H, W, 3] uint8 RGB in which `annotation` is drawn, with the view from above at its right, of the same
    height; as it is where there is no depth in it."""
    if not has_depth(annotation):
        return image
    return np.concatenate([image, from_above([annotation], image.shape[0])], axis=1)
