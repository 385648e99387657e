"""What `saccade predict --save` leaves besides predictions.json: text files, a table, objects cut out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.data.image import decode
from saccade.data.types import Annotation
from saccade.errors import UsageError, suggest
from saccade.machine.files import make_folder, write_whole
from saccade.tasks.table import Task, find_task

FORMS = {
    "pictures": "with the answers drawn in (the default)",
    "txt": "NAME.txt: a line an object, `class x y width height score` in shares of the picture, as YOLO's labels",
    "csv": "predictions.csv: a line an object, tag or class",
    "crops": "crops/CLASS/NAME-i.png: every object cut out",
    "json": "predictions.json alone",
}
TABLE = "predictions.csv"


def saved_forms(text: str | Sequence[str] | None, task: str, out: bool, videos: Sequence[str] = ()) -> tuple[str, ...]:
    """The forms of FORMS that a person asks for, comma-separated or several.

    Raises:
        UsageError: another word; a form that holds objects, of a model that finds none, or that is of pictures alone,
            for `videos`; no folder to write to.
    """
    if text is None:
        return ("pictures",)
    words = [word.strip() for word in (text.split(",") if isinstance(text, str) else text) if word.strip()]
    for word in words:
        if word not in FORMS:
            raise UsageError(f"save {word!r}: {suggest(word, FORMS)}")
        if word in ("txt", "crops") and not find_task(task).objects:
            raise UsageError(f"save {word}: for models that find objects; this one is to {task}")
        if word in ("txt", "csv", "crops") and videos:
            raise UsageError(f"save {word}: of pictures alone; the answers for {videos[0]} stand in predictions.json")
    if not out:
        raise UsageError("save: there is no folder to write to (out)")
    return tuple(words)


class Saving:
    """Writes the forms that were asked for, picture by picture; the table at the end.

    Args:
        folder: an existing one; None writes nothing.
    """

    def __init__(self, folder: Path | None, forms: Sequence[str], task: str, classes: Sequence[str]) -> None:
        self.folder, self.forms = folder, frozenset(() if folder is None else forms)
        self.task: Task = find_task(task)
        self.classes = list(classes)
        self._rows: list[list[Any]] = []

    @property
    def pictures(self) -> bool:
        """Whether pictures with the answers are wanted."""
        return "pictures" in self.forms

    def add(self, path: Path, stem: str, answer: Annotation) -> None:
        """What is wanted of the answer for a picture; files are named by `stem`."""
        if self.folder is None:
            return
        if "txt" in self.forms:
            write_whole(self.folder / f"{stem}.txt", self._lines(answer))
        if "csv" in self.forms:
            self._rows += [[str(path), *row] for row in self._table(answer)]
        if "crops" in self.forms and answer.objects is not None and len(answer.objects):
            self._cut(decode(path), stem, answer)

    def close(self) -> None:
        """Write the table."""
        if self.folder is None or "csv" not in self.forms:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "class", "score", *(("x1", "y1", "x2", "y2") if self.task.objects else ())])
        writer.writerows(self._rows)
        write_whole(self.folder / TABLE, text.getvalue())

    def _lines(self, answer: Annotation) -> str:
        assert answer.objects is not None
        height, width = answer.size
        lines = []
        for box, label, score in _rows(answer):
            x1, y1, x2, y2 = box
            numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, score)
            lines.append(" ".join([str(label), *(f"{v:.6f}" for v in numbers)]) + "\n")
        return "".join(lines)

    def _table(self, answer: Annotation) -> list[list[Any]]:
        if answer.objects is not None:
            return [[self.classes[k], f"{score:.5f}", *(f"{v:.2f}" for v in box)] for box, k, score in _rows(answer)]
        if answer.tags is not None and answer.probabilities is not None:
            return [
                [self.classes[k], f"{answer.probabilities[k]:.5f}"] for k in answer.tags.nonzero().flatten().tolist()
            ]
        if answer.label is not None and answer.probabilities is not None:
            return [[self.classes[answer.label], f"{answer.probabilities[answer.label]:.5f}"]]
        if answer.semantic is not None:  # the share of the picture
            counts = np.bincount(answer.semantic.numpy().ravel(), minlength=256)[: len(self.classes)]
            total = max(1, int(counts.sum()))
            return [[self.classes[k], f"{counts[k] / total:.5f}"] for k in np.flatnonzero(counts).tolist()]
        return []

    def _cut(self, image: np.ndarray, stem: str, answer: Annotation) -> None:
        assert self.folder is not None
        for i, (box, label, _) in enumerate(_rows(answer)):
            x1, y1 = (int(np.floor(v)) for v in box[:2])
            x2, y2 = (int(np.ceil(v)) for v in box[2:])
            part = image[max(y1, 0) : y2, max(x1, 0) : x2]
            if part.size:
                folder = make_folder(self.folder / "crops" / _folder_name(self.classes[label]))
                content = io.BytesIO()
                Image.fromarray(part).save(content, "PNG")
                write_whole(folder / f"{stem}-{i}.png", content.getvalue())


def _rows(answer: Annotation) -> list[tuple[list[float], int, float]]:
    """Box, label and score of each object."""
    objects = answer.objects
    assert objects is not None
    scores = [1.0] * len(objects) if objects.scores is None else objects.scores.tolist()
    return list(zip(objects.boxes.tolist(), objects.labels.tolist(), scores, strict=True))


def _folder_name(name: str) -> str:
    """A class as the name of a folder, whatever its letters."""
    safe = "".join(letter if letter.isalnum() or letter in " -_.()" else "_" for letter in name).strip(" .")
    return safe or "class"
