"""A list of pictures, several of which are answered at once; those that cannot be read are named all together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.types import Annotation, Batch, Sample
from saccade.errors import DataError, SaccadeError, UsageError
from saccade.inference.pictures import Picture, as_file_or_pixels
from saccade.inference.tiles import Tiling, predict_in_tiles
from saccade.ops.suppression import NmsRule

if TYPE_CHECKING:
    from saccade.inference.predictor import Predictor

TOGETHER = 8  # pictures that a forward pass takes
NAMED = 20  # pictures that a message names; `SaccadeError.unreadable` has all


def answer_each(
    predictor: Predictor, images: Sequence[Picture], rule: NmsRule, tiling: Tiling | None
) -> list[tuple[Annotation, Path | np.ndarray]]:
    """All that the network says of each of a list of pictures, with its file or pixels.

    Raises:
        DataError, UsageError: some cannot be read, or are no pictures: names them all, by their places, and
            `SaccadeError.unreadable` holds why. Once one is found nothing more is computed, but all are looked at.
    """
    given = _List(images)
    if tiling is None:
        step = 1 if predictor.preprocessing.size is None else TOGETHER
        answers = [answer for _, answer in predictor.predict_batches(given.batches(predictor, step), rule)]
    else:
        answers = list(given.in_tiles(predictor, tiling, rule))
    given.refuse()
    return list(zip(answers, given.pictures, strict=True))


class _List:
    """The pictures of a list as files or pixels, and why some cannot be read."""

    def __init__(self, images: Sequence[Picture]) -> None:
        self.images = images
        self.pictures: list[Path | np.ndarray] = []
        self.faults: dict[int, SaccadeError] = {}
        for place, image in enumerate(images):
            try:
                self.pictures.append(as_file_or_pixels(image))
            except (DataError, UsageError) as error:
                self.faults[place] = error
                self.pictures.append(Path())

    def batches(self, predictor: Predictor, step: int) -> Iterator[Batch]:
        """The pictures as the network sees them, until one cannot be read."""
        for first in range(0, len(self.pictures), step):
            samples: list[Sample] = []
            for place in range(first, min(first + step, len(self.pictures))):
                if place not in self.faults:
                    try:
                        samples.append(predictor.see(self.pictures[place]))
                    except DataError as error:
                        self.faults[place] = error
            if not self.faults:
                yield collate(samples)

    def in_tiles(self, predictor: Predictor, tiling: Tiling, rule: NmsRule) -> Iterator[Annotation]:
        """The answers in tiles, until a picture cannot be read."""
        for place, picture in enumerate(self.pictures):
            if place in self.faults:
                continue
            try:
                if not self.faults:
                    yield predict_in_tiles(predictor, picture, tiling, rule)
                elif isinstance(picture, Path):
                    decode(picture)
            except DataError as error:
                self.faults[place] = error

    def refuse(self) -> None:
        """Raises DataError, or UsageError where some are no pictures at all, if there are faults."""
        if not self.faults:
            return
        reasons = [f"{place} ({_kind(self.images[place])}): {self.faults[place]}" for place in sorted(self.faults)]
        more = f"\n  ... and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        kind = UsageError if any(isinstance(fault, UsageError) for fault in self.faults.values()) else DataError
        error = kind(
            f"{len(reasons)} of {len(self.images)} pictures cannot be read, by place in the list:\n  "
            + "\n  ".join(reasons[:NAMED])
            + f"{more}\nTo go on without them leave out the places in `unreadable` of this error: except "
            "saccade.SaccadeError as error: pictures = [p for i, p in enumerate(pictures) if i not in error.unreadable]"
        )
        error.unreadable = {place: str(fault) for place, fault in sorted(self.faults.items())}
        raise error


def _kind(image: Picture) -> str:
    return Path(image).name if isinstance(image, str | Path) else type(image).__name__
