"""The answer for one picture, as Python code reads it: `saccade.load(run).predict("photo.jpg")`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from saccade.data.image import decode
from saccade.data.types import Annotation
from saccade.errors import UsageError, how_to_install, suggest
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

    The fields of `Annotation` hold it as tensors (`label`, `tags`, `scores`, `semantic`, `objects`), in pixels of the
    upright original; which of them are filled follows from the task. Iterating gives the objects, each a `Found`.
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


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of classes that a person names. Raises UsageError with suggestions for one that there is not."""
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in classes:
            raise UsageError(f"classes: {name!r} is none of this model; {suggest(name, classes)}")
    return [list(classes).index(name) for name in names]
