"""Answers as KITTI's benchmark takes results: a text file an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade.data.dataset import Record
from saccade.data.formats.kitti_write import result_lines
from saccade.data.types import Annotation


class KittiLines:
    """Collects the answers of an evaluation."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self.files: dict[str, str] = {}  # name of an image without suffix -> text

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """One image; `truth` is of no use here."""
        self.files[Path(record.path).stem] = "".join(f"{line}\n" for line in result_lines(prediction, self._classes))
