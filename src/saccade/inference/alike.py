"""Pictures whose vectors are compared as they come, each with those before it: what `predict` says of a model to
embed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.image import decode
from saccade.data.types import Annotation
from saccade.inference.predictor import Predictor
from saccade.machine.paths import short_names_of
from saccade.plots.contact_sheet import Tile, draw_contact_sheet
from saccade.tasks.embed import short_line
from saccade.tasks.table import find_task

MOST = 5  # pictures that an answer names
SIDE = 256  # pixels of each of two pictures that are drawn beside each other
DIGITS = 5  # of a similarity in JSON


@dataclass
class Compared:
    """The vectors of the pictures of one call."""

    predictor: Predictor
    threshold: float | None = None  # asked for in place of the checkpoint's
    _names: list[str] = field(default_factory=list)
    _rows: list[np.ndarray] = field(default_factory=list)

    def add(self, name: str, answer: Annotation) -> dict[str, Any]:
        """{alike: [{image, similarity, same}]}: the pictures before this one that are most alike, best first; `same`
        where there is a threshold. Nothing for a model of another task."""
        if not find_task(self.predictor.task).embedding or answer.embedding is None:
            return {}
        row = answer.embedding.numpy()
        rows: list[dict[str, Any]] = []
        threshold = next(iter(self.predictor.thresholds), None) if self.threshold is None else self.threshold
        if self._rows:
            similarity = self.predictor.similarity(row[None], np.stack(self._rows))[0]
            for i in np.argsort(-similarity, kind="stable")[:MOST]:
                found = {"image": self._names[i], "similarity": round(float(similarity[i]), DIGITS)}
                if threshold is not None:
                    found["same"] = bool(similarity[i] >= threshold)
                rows.append(found)
        self._names.append(name)
        self._rows.append(row)
        return {"alike": rows}


def beside(path: Path, described: dict[str, Any]) -> np.ndarray:
    """The picture beside that of those before it which is most alike, with the verdict: [H, W, 3] uint8 RGB; the first
    picture alone. Raises DataError where one cannot be read any more."""
    others = [Path(best["image"]) for best in described["alike"][:1]]
    name, *names = short_names_of([path, *others])
    tiles = [Tile(decode(path), name)]
    for other, best, its in zip(others, described["alike"], names, strict=False):
        tiles.append(Tile(decode(other), short_line({"alike": [best | {"image": its}]})))
    return np.asarray(draw_contact_sheet(tiles, columns=2, side=SIDE))
