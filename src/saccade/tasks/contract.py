"""What the file of a task offers: `task_of(name)` finds the file, `TaskFile` lists its names.

A new task is one such file, its entry in `table.py` and its metric.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.normalize import fill_beyond
from saccade.metrics import Metric
from saccade.models.contract import own_answers, padding_colour
from saccade.tasks.table import find_task

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels
Scores = Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [0, 1] -> [b, targets]

SURE = 1e-12  # floor of a probability, so that a wrong certainty keeps a finite score


@dataclass(frozen=True)
class Verdict:
    """What went wrong in one image, and how badly. Rows of `mistakes` are JSON-able, each with its "kind"."""

    score: float  # 0 is perfect; larger is worse; comparable within one task
    mistakes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an exported network is given."""

    images: Tensor  # [b, 3, H, W] in [0, 1], padded right and below
    sizes: Tensor  # [b, 2] int64, height and width inside the padding
    proposals: tuple[Tensor, ...] = ()  # boxes [b, r, 4], zeros in empty places, for a model that takes some

    def filled(self, model: nn.Module) -> Tensor:
        """The images, with the network's own colour in the padding where it has one."""
        colour = padding_colour(model)
        return self.images if colour is None else fill_beyond(self.images, self.sizes, colour)


@dataclass(frozen=True, slots=True)
class Part:
    """One joint of an object."""

    name: str
    number: int  # among the joints
    point: tuple[float, float]  # x, y in pixels of the network's input


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that a network said of an image, to be explained."""

    label: int
    score: float  # probability; segment: share of the image's pixels
    box: Box | None = None  # in pixels of the network's input, where it has one
    part: Part | None = None  # of the object, where that is what is explained
    reference: Tensor | None = None  # embed: the vector [d] that the image's is compared with
    about: str = ""  # embed: the picture that it is of, where that is another

    def name(self, classes: Sequence[str]) -> str:
        """Its class, and the joint of it; of a vector, what it is compared with."""
        if self.reference is not None:
            return f"like {self.about}" if self.about else "as it is"
        return classes[self.label] + ("" if self.part is None else f": {self.part.name}")


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision and recall of every class, as a report plots them."""

    key: str  # in `Result.curves`; also the name of the plot
    area: str  # column of the class table: the area under each curve
    title: str


@dataclass(frozen=True, slots=True)
class ReportForm:
    """Which numbers and plots of a result a report shows."""

    ranked_by: str  # the column that ranks classes, the weakest first
    columns: tuple[str, ...]  # of the class table
    curves: tuple[Curves, ...] = ()
    bars: bool = True  # `ranked_by` of each class as a bar
    counted: str = ""  # what the confusion matrix counts, where there is one
    amounts: tuple[str, ...] = ()  # metrics that are no shares of 1, and have no bar


@dataclass(frozen=True, slots=True)
class Demo:
    """What `saccade demo` trains for a task, and on how much."""

    model: str
    images: int  # a fifth of them are held out
    side: int  # of the scenes in pixels
    size: int  # of the network's input
    epochs: int


class TaskFile(Protocol):
    """The names of `classify.py`, `tag.py` and every other task's file."""

    @property
    def REPORT(self) -> ReportForm:
        """Tables and plots of a report."""

    @property
    def MEANINGS(self) -> Mapping[str, str]:
        """One line on each number of the metric."""

    @property
    def SMALLEST_SCORE(self) -> float | None:
        """What `predict` shows has at least this score, where nobody asks for another; None: all of the answer."""

    @property
    def LOSSES(self) -> Sequence[str]:
        """What the setting `loss` may be."""

    @property
    def DEMO(self) -> Demo | None:
        """The demonstration, where there is one."""

    @property
    def HAS_GRADIENT(self) -> bool:
        """Whether the score of an answer is a differentiable function of the image (`raw_scores`)."""

    def make_metric(
        self, classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
    ) -> Metric:
        """The metric of the task.

        Args:
            classes: names of the classes, in the order of the labels.
            thresholds: tag: a tag is given when its probability is at least this (one number, or one a class). Objects:
                from which score on those of each class are counted one by one (one number: from `curves.SCORE` on).
            voc_inclusive: detect, instances, pose: count boxes for the VOC numbers as inclusive pixels
                (width = x2 - x1 + 1), as the VOC development kit does.
        """

    def check_training(self, dataset: DataSet, training: Sequence[Record]) -> None:
        """Refuse training images (at least one) with nothing to learn from.

        Raises:
            DataError: no object, tag or pixel counts.
            UsageError: all labels or tags are alike.
        """

    def judge(self, truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
        """How bad one image is, of whose objects `prediction` has those that are shown (`keep`), and its mistakes.
        Raises DataError where what the task needs is missing."""

    def mistake_in_words(self, rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
        """Mistakes of one image of one kind and the same classes, as one line; see `judge`."""

    def score_in_words(self, found: Mapping[str, Any]) -> list[str]:
        """Sentences on what the scores of an evaluation say; `found` is `Result.to_json()`."""

    def cautions(self, found: Mapping[str, Any]) -> list[str]:
        """What should keep a reader from trusting these scores too much."""

    def keep(self, answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
        """The part of an answer that is shown: what scores at least `threshold`, if there is one, or that of its class
        among several."""

    def to_json(self, answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
        """An answer as plain numbers and names; see `predict --json` in the manual."""

    def short_line(self, described: Mapping[str, Any]) -> str:
        """An answer in a few words; `described` is what `to_json` gives."""

    def choose_targets(self, answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
        """What is explained of an answer: the best `count` things that the network said, best first; or those of
        `labels`, where a class that is not in the answer has no target.

        Args:
            answer: in pixels of the network's input; of objects those that are shown (`keep`).
            labels: class indices that the user asks for; empty: what the network says itself.
        """

    def raw_scores(self, model: nn.Module, targets: Sequence[Target]) -> Scores:
        """The scores before softmax or logistic, which gradients are taken of: probabilities near 1 have almost none.
        Raises UsageError for a task whose score has no gradient."""

    def likelihoods(self, model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
        """The scores in [0, 1] whose fall under a patch occlusion sensitivity measures; without gradients.

        Args:
            batch: the image as it is, alone.
        """

    def outputs(self, model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
        """What a file answers into which `export` writes a network, by name and in fixed shapes.

        Args:
            suppressed: detect: boxes after non-maximum suppression, or those before it (boxes, scores). UsageError of
                a task whose answer hangs on the boxes that are left.
        """


def named_answers(model: nn.Module, sees: Inputs) -> dict[str, Tensor]:
    """`outputs` of a task whose networks all give them themselves (`models/contract.py: answers`)."""
    answers = own_answers(model)
    if answers is None:
        raise UsageError(f"networks of {type(model).__module__} have no form that could be exported")
    return answers(sees.filled(model), sees.sizes)


def task_of(name: str) -> TaskFile:
    """The file of a task. Raises UsageError with suggestions where there is no such task."""
    return cast(TaskFile, importlib.import_module(f"saccade.tasks.{find_task(name).name}"))


if TYPE_CHECKING:  # where mypy compares every file with the contract
    from saccade.tasks import boxes3d, classify, detect, embed, instances, localize, pose, segment, tag

    FILES: tuple[TaskFile, ...] = (classify, embed, localize, tag, detect, instances, pose, boxes3d, segment)
