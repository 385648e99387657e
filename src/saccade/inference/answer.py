"""The answer for one picture, as Python code reads it: `saccade.load(run).predict("photo.jpg")`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from saccade.data.image import decode
from saccade.data.types import IGNORE, Annotation
from saccade.errors import UsageError, how_to_install, suggest
from saccade.inference.drawn import WRITTEN, write_picture
from saccade.machine.files import make_folder
from saccade.machine.paths import at_home
from saccade.plots.draw import draw_enlarged
from saccade.tasks.contract import task_of


@dataclass(frozen=True, slots=True)
class Found:
    """One object of an answer."""

    name: str
    score: float
    box: tuple[float, float, float, float]  # x1 y1 x2 y2 in pixels of the picture
    label: int
    mask: np.ndarray | None = None  # [H, W] bool
    keypoints: np.ndarray | None = None  # [K, 3] of x, y and confidence

    def __str__(self) -> str:
        return f"{self.name} {self.score:.2f} at {', '.join(f'{v:.0f}' for v in self.box)}"


@dataclass(slots=True, repr=False)
class Answer(Annotation):
    """What a model says of one picture, with the names of its classes.

    `boxes`, `labels`, `scores`, `masks` and `keypoints` are arrays of numpy, a row each of what was found, whose names
    are in `names`. The fields of `Annotation` hold the same and more as tensors (`label`, `tags`, `probabilities`,
    `semantic`, `objects`); which are filled follows from the task. All is in pixels of the upright original. Iterating
    gives the objects, each a `Found`.
    """

    task: str = ""
    classes: list[str] = field(default_factory=list)
    picture: np.ndarray | None = None  # [H, W, 3] uint8 RGB, that it is the answer for
    source: Path | None = None  # the file, where it was given one

    @property
    def label_name(self) -> str | None:
        """The class of the picture; None where the task gives none, or several."""
        return None if self.label is None else self.classes[self.label]

    @property
    def names(self) -> list[str]:
        """The classes that were found: of the objects in their order, the tags, or the one of the picture."""
        if self.label is not None:
            return [self.classes[self.label]]
        if self.objects is not None:
            return [self.classes[k] for k in self.objects.labels.tolist()]
        if self.tags is not None:
            return [name for name, given in zip(self.classes, self.tags.tolist(), strict=True) if given]
        if self.semantic is not None:
            return [self.classes[k] for k in self.semantic.unique().tolist() if k < len(self.classes)]
        return []

    @property
    def boxes(self) -> np.ndarray:
        """[n, 4] float32: x1 y1 x2 y2 of the objects, in pixels of the picture; no row where the task finds none."""
        return np.zeros((0, 4), np.float32) if self.objects is None else self.objects.boxes.float().numpy()

    @property
    def labels(self) -> np.ndarray:
        """[n] int64: places in `classes` of the objects in their order, of the tags that are given, of the class of the
        picture, or of the classes in a class map."""
        if self.objects is not None:
            return np.asarray(self.objects.labels.numpy(), np.int64)
        if self.tags is not None:
            return np.flatnonzero(self.tags.numpy())
        if self.semantic is not None:
            return np.array([k for k in self.semantic.unique().tolist() if k < len(self.classes)], np.int64)
        return np.array([] if self.label is None else [self.label], np.int64)

    @property
    def scores(self) -> np.ndarray:
        """[n] float32 in [0, 1], in the order of `labels`: how sure the model is; of a class map the share of the
        pixels that each class has."""
        if self.objects is not None:
            found = self.objects.scores
            return np.ones(len(self), np.float32) if found is None else found.float().numpy()
        if self.semantic is not None:
            shares = np.bincount(self.semantic.numpy().ravel(), minlength=IGNORE + 1) / max(1, self.semantic.numel())
            return np.asarray(shares[self.labels], np.float32)
        if self.probabilities is None:
            return np.zeros(0, np.float32)
        return np.asarray(self.probabilities.float().numpy()[self.labels])

    @property
    def masks(self) -> np.ndarray | None:
        """[n, H, W] bool of the objects; None where the model gives none."""
        return None if self.objects is None or self.objects.masks is None else self.objects.masks.numpy()

    @property
    def keypoints(self) -> np.ndarray | None:
        """[n, K, 3] float32 of the objects: x, y and confidence; None where the model gives none."""
        return None if self.objects is None or self.objects.keypoints is None else self.objects.keypoints.numpy()

    def __len__(self) -> int:
        return 0 if self.objects is None else len(self.objects)

    def __bool__(self) -> bool:
        return True  # a picture without objects is answered too

    def __iter__(self) -> Iterator[Found]:
        objects = self.objects
        for i in range(len(self)):
            assert objects is not None
            x1, y1, x2, y2 = objects.boxes[i].tolist()
            label = int(objects.labels[i])
            yield Found(
                self.classes[label],
                1.0 if objects.scores is None else float(objects.scores[i]),
                (x1, y1, x2, y2),
                label,
                None if objects.masks is None else objects.masks[i].numpy(),
                None if objects.keypoints is None else objects.keypoints[i].numpy(),
            )

    def __repr__(self) -> str:
        line = task_of(self.task).short_line(self.to_json())
        return f"<answer to {self.task}, {self.size[1]}x{self.size[0]} pixels: {line}>"

    def to_json(self) -> dict[str, Any]:
        """Names and plain numbers, as `saccade predict --json` states them: `{size, label | tags | objects | mask}`."""
        return {"size": list(self.size), **task_of(self.task).to_json(self, self.classes)}

    def draw(self) -> Image.Image:
        """The picture with the answer drawn in; a small one is enlarged first, so that there is room for letters.

        Raises:
            DataError: the file cannot be read any more.
        """
        picture = self.picture
        if picture is None:
            if self.source is None:
                raise UsageError("this answer has no picture to be drawn into")
            picture = decode(self.source)
        return Image.fromarray(draw_enlarged(picture, self, self.classes))

    def save(self, path: str | Path) -> Path:
        """`draw` into a file of the format that the suffix names; folders are made. Gives where it lies, which is
        PATH.png where the format cannot hold so large a picture (JPEG: 65,500 pixels a side).

        Raises:
            UsageError: a suffix of no format that can be written; the picture itself, which would be replaced.
            DataError: the picture cannot be read any more.
            ResourceError: no space or permission.
        """
        target = Path(at_home(path))
        if target.suffix.lower() not in WRITTEN:
            raise UsageError(f"{target}: a picture is written as {', '.join(WRITTEN)}")
        if self.source is not None and target.exists() and target.samefile(self.source):
            raise UsageError(f"{target} is the picture itself, which would be replaced; choose another name")
        drawn = np.asarray(self.draw())
        make_folder(target.parent)
        return write_picture(target, drawn)[0]

    def to_supervision(self) -> Any:
        """The objects as `supervision.Detections` (boxes, masks, scores, classes, and the names as `class_name`).

        Raises:
            UsageError: the package `supervision` is missing; a task without objects.
        """
        if self.objects is None:
            raise UsageError(f"supervision holds objects, and a model to {self.task} finds none")
        try:
            import supervision
        except ImportError as error:
            raise UsageError(f"to_supervision needs a package: {how_to_install('supervision')}") from error
        objects = self.objects
        return supervision.Detections(
            xyxy=objects.boxes.numpy().astype(np.float32).reshape(-1, 4),
            mask=None if objects.masks is None else objects.masks.numpy(),
            confidence=None if objects.scores is None else objects.scores.numpy().astype(np.float32),
            class_id=objects.labels.numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """Which part of what a network says is given to the one who asked, with the names of the classes."""

    task: str
    classes: list[str]
    least: float | Sequence[float] | None  # the smallest score, of all or of each class
    labels: Sequence[int] | None  # the classes that are asked for; None: all

    def of(self, raw: Annotation, picture: Path | np.ndarray) -> Answer:
        """The answer for a file or for pixels."""
        kept = task_of(self.task).keep(raw, self.least)
        kept = kept if self.labels is None else of_classes(kept, self.labels)
        return answer_of(kept, self.task, self.classes, picture)


def answer_of(annotation: Annotation, task: str, classes: Sequence[str], picture: Path | np.ndarray) -> Answer:
    """An annotation with its names, for a file or for pixels."""
    values = {f.name: copy.copy(getattr(annotation, f.name)) for f in fields(Annotation)}
    source, pixels = (picture, None) if isinstance(picture, Path) else (None, picture)
    return Answer(**values, task=task, classes=list(classes), picture=pixels, source=source)


def of_classes(answer: Annotation, labels: Sequence[int]) -> Annotation:
    """The answer without objects and tags of other classes; of those that a picture has one of, nothing is left out."""
    if answer.tags is not None:
        given = answer.tags.clone()
        given[[k for k in range(len(given)) if k not in labels]] = False
        return replace(answer, tags=given)
    if answer.objects is None or answer.label is not None:
        return answer
    among: Tensor = answer.objects.labels.new_tensor(sorted(labels))
    rows = (answer.objects.labels[:, None] == among).any(1)
    return replace(answer, objects=answer.objects[rows])


def labels_of(wanted: Sequence[str | int] | str | int, classes: Sequence[str]) -> list[int]:
    """The labels of classes that a person names, or numbers by their places in `classes`; names count first.

    Raises:
        UsageError: with suggestions, for a class that there is not.
    """
    labels = []
    for name in wanted if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]:
        text = str(name)
        if text not in classes and not (text.isdecimal() and int(text) < len(classes)):
            raise UsageError(f"classes: {name!r} is none of this model; {suggest(text, classes)}")
        labels.append(list(classes).index(text) if text in classes else int(text))
    return labels
