"""Large pictures in tiles: the network sees one part at a time, so that its memory does not grow with the picture.

Of a segmenter the scores of neighbouring tiles are blended where they overlap: each pixel's weight falls from 1 to 0
between the first and the last quarter of the overlap, so that what a network says within a few pixels of a border that
the picture does not have counts for nothing (U-Net's overlap-tile strategy, Ronneberger et al. 2015, section 2, with a
soft seam). Tiles start at multiples of ALIGNED, where the poolings of a tile meet those of the whole picture: a network
whose field of view ends within a quarter of the overlap then answers as for the whole. Only the scores of one row of
overlaps are kept besides those of a tile.

Of a detector the boxes of all tiles become one answer by one rule (`merged`), with those that it finds in the whole
picture, seen as without tiles, where they are larger than the overlap: smaller things are whole in some tile, and seen
better there. A picture that fits into one tile is answered as without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from saccade.data.geometry import Size, Window, affine, mask_hulls, move_objects, shift
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.pipelines import to_original
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import DataError, UsageError
from saccade.machine.paths import at_home
from saccade.ops.boxes import box_area, intersection_area
from saccade.ops.suppression import NmsRule
from saccade.tasks.table import find_task

if TYPE_CHECKING:
    from saccade.inference.predictor import Predictor

ALIGNED = 32  # pixels between the starts of tiles are a multiple of it: the largest stride of a segmenter
SAME = 0.5  # overlap from which two boxes of different tiles are one object
BATCH = 4  # tiles that a detector is shown at once


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of at most `side` pixels of the picture, neighbours sharing `overlap` of them.

    Args:
        side: a multiple of 32 from 64 on; others are rounded down to one.
        overlap: at most half of the side; rounded up to a multiple of 32. None: a thirty-second of the side for a
            segmenter, a quarter for a detector, in whose overlap an object has to be seen whole.

    Raises:
        UsageError: a side below 64, or an overlap that is negative or more than half of the side.
    """

    side: int
    overlap: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.side, Integral) or self.side < 2 * ALIGNED:
            raise UsageError(f"tile is {self.side!r}, allowed: at least {2 * ALIGNED} pixels")
        most = self.side // ALIGNED * ALIGNED // 2
        if self.overlap is not None and not (self.overlap >= 0 and _rounded_up(self.overlap) <= most):
            raise UsageError(f"overlap is {self.overlap}, allowed: 0 to {most}, half of the tile")

    def spans(self, length: int, share: float, scale: float = 1.0) -> list[tuple[int, int]]:
        """The tiles along one side of a picture: (start, end), equal in length but the last, which may be shorter.

        Args:
            length: of the side as the network sees it.
            share: of a tile that neighbours share where nobody has said more.
            scale: pixels that the network sees along a side for one of the picture.
        """
        side = max(2 * ALIGNED, int(self.side * scale) // ALIGNED * ALIGNED)
        overlap = min(_rounded_up(side * share if self.overlap is None else self.overlap * scale), side // 2)
        if length <= side:
            return [(0, length)]
        count = -(-(length - overlap) // (side - overlap))
        step = _rounded_up((length - overlap) / count)
        return [(start, min(start + step + overlap, length)) for start in range(0, length - overlap, step)]


def _rounded_up(pixels: float) -> int:
    return int(-(-pixels // ALIGNED)) * ALIGNED


def tiling_of(tile: int | None, overlap: int | None) -> Tiling | None:
    """What the options `tile` and `overlap` say. Raises UsageError for an overlap alone, and as `Tiling`."""
    if tile is None and overlap is not None:
        raise UsageError(f"overlap {overlap} is that of tiles: give their side too (--tile)")
    return None if tile is None else Tiling(tile, overlap)


def check_tiles(
    predictor: Predictor, tiling: Tiling | None, videos: Sequence[str] = (), proposals: object = None
) -> None:
    """Refuse tiles where there is nothing to make of them.

    Raises:
        UsageError: a model whose answer is no sum of what it says of parts; videos; boxes that are given.
    """
    if tiling is None:
        return
    kind = find_task(predictor.task)
    if predictor.preprocessing.one_person or not (kind.semantic or kind.many_objects):
        whole = "for one person" if predictor.preprocessing.one_person else "for the picture as a whole"
        raise UsageError(f"--tile: this model ({predictor.task}) answers {whole}; tiles are for maps and objects")
    if proposals is not None or predictor.preprocessing.proposals == "file":
        raise UsageError("--tile: boxes are given for whole pictures; their tiles have none")
    if videos:
        raise UsageError(f"--tile is for images; {videos[0]} is a video or a camera")


def predict_each_in_tiles(
    predictor: Predictor, images: Sequence[Path], tiling: Tiling
) -> Iterator[tuple[Path, Annotation | DataError, list[str]]]:
    """The answer for each image file in order, with notes (none); an error in place of one that cannot be read."""
    for path in images:
        try:
            answer: Annotation | DataError = predict_in_tiles(predictor, path, tiling)
        except DataError as error:
            answer = error
        yield path, answer, []


def predict_in_tiles(
    predictor: Predictor, image: str | Path | np.ndarray, tiling: Tiling, rule: NmsRule | None = None
) -> Annotation:
    """The answer for one image, as `Predictor.answer`, whose errors it raises, and UsageError as `check_tiles`."""
    check_tiles(predictor, tiling)
    if predictor.pixels is not None:
        return _pixels_in_tiles(predictor, predictor.see(image), tiling)
    pixels = image if isinstance(image, np.ndarray) else decode(Path(at_home(image)))
    return _objects_in_tiles(predictor, pixels, tiling, rule)


def _pixels_in_tiles(predictor: Predictor, sample: Sample, tiling: Tiling) -> Annotation:
    """A segmenter's answer, stitched of the scores of tiles of the image as it sees it."""
    batch = collate([sample])
    height, width = batch.sizes[0]
    scale = min(height / sample.original_size[0], width / sample.original_size[1])
    rows, columns = (tiling.spans(length, 1 / 32, scale) for length in (height, width))

    def scores(window: Window) -> Tensor:
        x1, y1, x2, y2 = window
        part = replace(batch, images=batch.images[:, :, y1:y2, x1:x2], sizes=[(y2 - y1, x2 - x1)])
        return predictor.pixel_scores(part)[0]

    assert predictor.pixels is not None
    planes = stitched(scores, rows, columns, predictor.pixels.planes)
    return to_original(predictor.pixels.answer(planes), batch, 0)


@torch.inference_mode()
def stitched(
    scores: Callable[[Window], Tensor],
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
    read: Callable[[Tensor], Tensor],
) -> Tensor:
    """What `read` says of the blended scores of all tiles.

    Args:
        scores: of a window x1 y1 x2 y2 the scores [C, h, w] of its pixels, float32, which are overwritten.
        rows, columns: as `Tiling.spans` gives them.
        read: scores [1, C, h, w] -> [1, k, h, w] uint8, each pixel by itself.

    Returns:
        [k, H, W] uint8 on the CPU.
    """
    height, width = rows[-1][1], columns[-1][1]
    planes: Tensor | None = None
    above: Tensor | None = None  # what the tiles of the row before have said of the first lines of this one
    for i, (top, bottom) in enumerate(rows):
        lower = rows[i + 1][0] if i + 1 < len(rows) else bottom
        beside: Tensor | None = None  # what the tile before has said of the first columns of this one
        below: list[Tensor] = []
        for j, (left, right) in enumerate(columns):
            next_left = columns[j + 1][0] if j + 1 < len(columns) else right
            found = scores((left, top, right, bottom))
            shared = columns[j - 1][1] - left if j else 0
            _fade(found, 0 if above is None else above.shape[1], bottom - lower, 1)
            _fade(found, shared, right - next_left, 2)
            if above is not None:
                found[:, : above.shape[1], shared:] += above[:, :, left + shared : right]
            if beside is not None:
                found[:, :, :shared] += beside
            beside = found[:, :, next_left - left :].clone()
            below.append(found[:, lower - top :, : next_left - left].clone())
            part = read(found[None, :, : lower - top, : next_left - left])[0].cpu()
            if planes is None:
                planes = torch.empty(len(part), height, width, dtype=torch.uint8)
            planes[:, top:lower, left:next_left] = part
        above = torch.cat(below, dim=2)
    assert planes is not None
    return planes


def _fade(scores: Tensor, before: int, after: int, axis: int) -> None:
    """Weigh scores [C, h, w] in place along an axis where tiles overlap: `before` lines at its start, `after` at its
    end. The weights of two neighbours add up to 1."""
    shape = [1, 1, 1]
    for length, start, begins in ((before, 0, True), (after, scores.shape[axis] - after, False)):
        if length:
            shape[axis] = length
            weights = ramp(length).to(scores.device)
            scores.narrow(axis, start, length).mul_((weights if begins else 1 - weights).view(shape))


def ramp(length: int) -> Tensor:
    """[length] float32 weights of the tile that begins: 0 in the first quarter, 1 in the last, and a line between."""
    quarter = length / 4
    return ((torch.arange(length) + 0.5 - quarter) / (length - 2 * quarter)).clamp(0, 1)


@dataclass(slots=True)
class _Found:
    """The objects of one tile in pixels of the picture, their masks cut to their boxes."""

    objects: Objects  # without masks
    cut: Tensor  # [n] bool: boxes that reach a border of the tile inside of the picture
    masks: list[tuple[int, int, Tensor]] | None  # x, y of the first pixel and [h, w] bool


def _objects_in_tiles(predictor: Predictor, pixels: np.ndarray, tiling: Tiling, rule: NmsRule | None) -> Annotation:
    """A detector's answer, merged of those for tiles and that for the whole."""
    size = pixels.shape[0], pixels.shape[1]
    rows, columns = (tiling.spans(length, 1 / 4) for length in size)
    windows = [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]
    if len(windows) == 1:
        return predictor.answer(pixels, rule=rule)
    windows = [(0, 0, size[1], size[0]), *windows]
    shared = min(a[0][1] - a[1][0] for a in (rows, columns) if len(a) > 1)
    found: list[_Found] = []
    joints = None
    for window, answer in zip(windows, _answers(predictor, pixels, windows, rule), strict=True):
        joints = answer.joints
        objects = Objects.empty(scored=True) if answer.objects is None else answer.objects
        if not found:  # of the whole
            sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
            objects = objects[sides.amax(1) > shared]
        found.append(_placed(objects, window, size))
    return Annotation(size, objects=_joined(found, size), joints=joints)


def _answers(
    predictor: Predictor, pixels: np.ndarray, windows: list[Window], rule: NmsRule | None
) -> Iterator[Annotation]:
    """The answer for each window in its own pixels."""
    groups = (windows[i : i + BATCH] for i in range(0, len(windows), BATCH))
    batches = (
        collate([predictor.see(np.ascontiguousarray(pixels[y1:y2, x1:x2])) for x1, y1, x2, y2 in group])
        for group in groups
    )
    return (answer for _, answer in predictor.predict_batches(batches, rule))


def _placed(objects: Objects, window: Window, size: Size) -> _Found:
    """The objects of a window in pixels of the picture of `size`."""
    left, top, right, bottom = window
    x1, y1, x2, y2 = objects.boxes.unbind(1)
    cut = (x1 < 1) & (left > 0) | (y1 < 1) & (top > 0)
    cut |= (x2 > right - left - 1) & (right < size[1]) | (y2 > bottom - top - 1) & (bottom < size[0])
    masks = None
    if objects.masks is not None:
        hulls = mask_hulls(objects.masks)[0].astype(int).tolist()
        masks = [
            (left + a, top + b, mask[b:d, a:c].clone()) for mask, (a, b, c, d) in zip(objects.masks, hulls, strict=True)
        ]
    move = affine(shift(left, top), size, lambda masks: masks)
    return _Found(move_objects(replace(objects, masks=None), move, "all"), cut, masks)


def _joined(found: list[_Found], size: Size) -> Objects:
    """One answer of the objects of several tiles, by falling score."""
    objects = joined_rows([part.objects for part in found])
    sources = torch.cat([torch.full((len(part.objects),), i) for i, part in enumerate(found)])
    assert objects.scores is not None
    kept = merged(objects.boxes, objects.scores, objects.labels, sources, torch.cat([part.cut for part in found]))
    kept = kept[objects.scores[kept].argsort(descending=True, stable=True)]
    if found[0].masks is None:
        return objects[kept]
    placed = [mask for part in found for mask in part.masks or ()]
    masks = torch.zeros(len(kept), *size, dtype=torch.bool)
    for plane, row in zip(masks, kept.tolist(), strict=True):
        x, y, mask = placed[row]
        plane[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return replace(objects[kept], masks=masks)


def joined_rows(parts: list[Objects]) -> Objects:
    """The rows of several answers of one model, one after another; masks apart."""

    def column(name: str) -> Tensor | None:
        columns = [getattr(part, name) for part in some]
        return None if columns[0] is None else torch.cat(columns)

    some = [part for part in parts if len(part)] or parts[:1]
    boxes, labels = torch.cat([part.boxes for part in some]), torch.cat([part.labels for part in some])
    return Objects(boxes, labels, column("scores"), keypoints=column("keypoints"), area=column("area"))


def merged(boxes: Tensor, scores: Tensor, labels: Tensor, sources: Tensor, cut: Tensor) -> Tensor:
    """Which boxes of several tiles stay, [kept] rows: a box gives way to a better one of its class in another tile
    where they overlap by more than half. The score says what is better; that of a box which its tile has cut off counts
    half.

    The overlap of two boxes is their IoU; of one that a tile has cut off, which is only a part of its object, the share
    of it that lies in the other (of two such of the smaller). Boxes of one tile have been compared by the detector
    itself, and are not again.

    Args:
        boxes: [n, 4] in pixels of the picture.
        scores: [n].
        labels: [n] int64.
        sources: [n] the tile of each.
        cut: [n] bool.
    """
    areas = box_area(boxes)
    open_ = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for row in torch.where(cut, scores / 2, scores).argsort(descending=True, stable=True).tolist():
        if not open_[row]:
            continue
        kept.append(row)
        open_[row] = False
        rivals = ((labels == labels[row]) & (sources != sources[row]) & open_).nonzero()[:, 0]
        inner = intersection_area(boxes[row], boxes[rivals])
        part = torch.minimum(areas[rivals], areas[row]) if cut[row] else areas[rivals]
        whole = torch.where(cut[rivals], part, areas[row] + areas[rivals] - inner)
        open_[rivals[inner > SAME * whole]] = False
    return torch.tensor(kept, dtype=torch.int64)
