"""The pictures of a report, chosen during the one pass over the images that also measures them.

`Gallery.add` sees every image with its truth and prediction and keeps a bounded number: some spread evenly over the
data, and the worst. Pixels are read at the end, for the images that are kept.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saccade.data.dataset import DataSet, Record
from saccade.data.pictures import decode_picture
from saccade.data.types import IGNORE, Annotation
from saccade.errors import SaccadeError
from saccade.metrics.curves import SCORE
from saccade.plots.cuboids import from_above, has_depth
from saccade.plots.draw import caption, draw, draw_errors, fit, is_background
from saccade.plots.palette import class_colour
from saccade.plots.skeleton import LEFT, RIGHT
from saccade.tasks.contract import Verdict, task_of
from saccade.tasks.table import find_task

SAMPLED, WORST, PAIRS = 12, 8, 16  # pictures in a report, and pairs of them
SIDE = 480  # pixels of a picture's longer side, but for those of wide ones (`side_of`)
WIDE = 2.0  # width over height from which on pictures stand below each other


@dataclass
class Exhibit:
    """One image of the report."""

    id: str
    pictures: list[tuple[str, Any]]  # (caption, [H, W, 3] uint8): the image, or what is drawn into it
    truth: str  # label or tags in words; "" where the picture shows it
    answer: str
    correct: bool | None  # whether label or tags agree; None for other tasks
    mistakes: list[str]
    score: float  # of the Verdict: 0 is perfect
    unreadable: str = ""  # why there is no picture
    beside: list[tuple[str, Any]] = field(default_factory=list)  # further pictures, of another shape

    @property
    def wide(self) -> bool:
        """Whether the pictures are so wide that they stand below each other."""
        return any(pixels.shape[1] > WIDE * pixels.shape[0] for _, pixels in self.pictures)


@dataclass
class _Kept:
    record: Record
    truth: Annotation
    prediction: Annotation
    verdict: Verdict


def shown_from(task: str, thresholds: Sequence[float]) -> float | Sequence[float] | None:
    """From which score on objects of each class are shown and judged: `thresholds`, of a model without them
    `curves.SCORE`; None of tasks whose answers are shown whole."""
    return (thresholds or SCORE) if find_task(task).many_objects else None


class Gallery:
    """Examples of a data set as they are measured.

    Args:
        records: all that will be added; a fixed choice among them is shown.
        thresholds: of `shown_from`.
    """

    def __init__(
        self, task: str, dataset: DataSet, records: Iterable[Record], thresholds: Sequence[float] = ()
    ) -> None:
        self.task = task
        self.shown_from = shown_from(task, thresholds)
        self.dataset = dataset
        self._wanted = set(choose([r.id for r in records], SAMPLED))
        self._sampled: dict[str, _Kept] = {}
        self._worst: list[tuple[float, str, _Kept]] = []  # a heap, the mildest of the worst first
        self._kinds: Counter[tuple[tuple[str, Any], ...]] = Counter()

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """Judge one image; keep it if it is among the chosen or the worst so far."""
        file = task_of(self.task)
        # Boxes that no one would show are left out: their rows would fill memory and picture.
        prediction = file.keep(prediction, self.shown_from)
        kept = _Kept(record, truth, prediction, file.judge(truth, prediction, self.dataset.classes))
        for row in kept.verdict.mistakes:
            self._kinds[tuple((name, row[name]) for name in ("kind", "label", "predicted") if name in row)] += 1
        if record.id in self._wanted:
            self._sampled[record.id] = kept
        if kept.verdict.score > 0 and kept.verdict.mistakes:
            heapq.heappush(self._worst, (kept.verdict.score, record.id, kept))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)

    def kinds(self, most: int = 10) -> list[tuple[str, int]]:
        """The most frequent mistakes of all images, in the words that stand under pictures, and how often each was
        made."""
        words, classes = task_of(self.task).mistake_in_words, self.dataset.classes
        return [(words([dict(kind)], classes), count) for kind, count in self._kinds.most_common(most)]

    def sampled(self) -> list[Exhibit]:
        """The chosen images in order of id."""
        return [self._exhibit(self._sampled[id]) for id in sorted(self._sampled)]

    def worst(self) -> list[Exhibit]:
        """The images with the gravest mistakes, worst first."""
        ranked = sorted(self._worst, key=lambda item: (-item[0], item[1]))
        return [self._exhibit(kept) for _, _, kept in ranked]

    def pairs(self, found: Mapping[str, Any]) -> list[Exhibit]:
        """The pairs that mislead most (`found["curves"]["worst_pairs"]` of a model to embed), beside each other: those
        of different identities that are most alike, and those of one that are least, in turns."""
        curves = found["curves"]
        rates = curves.get("given") or curves["chosen"]
        if rates is None:
            return []
        records = {record.id: record for record in self.dataset.records}
        kinds = [curves["worst_pairs"][kind][: PAIRS // 2] for kind in ("different", "same")]
        rows = [row for turn in itertools.zip_longest(*kinds) for row in turn if row is not None]
        return [self._pair(records[a], records[b], score, rates["threshold"]) for a, b, score in rows]

    def _pair(self, first: Record, second: Record, similarity: float, threshold: float) -> Exhibit:
        exhibit = pair_of((first, second), self.dataset)
        accepted = similarity >= threshold
        words = f"{similarity:.3f}: {'the same' if accepted else 'another'}"
        return replace(exhibit, answer=words, correct=accepted == (first.label == second.label))

    def _exhibit(self, kept: _Kept) -> Exhibit:
        classes, id = self.dataset.classes, kept.record.id
        mistakes = explain(self.task, kept.verdict, classes)
        by_word = find_task(self.task).whole_image
        words = (caption(kept.truth, classes), caption(kept.prediction, classes)) if by_word else ("", "")
        exhibit = Exhibit(id, [], *words, not kept.verdict.mistakes if by_word else None, mistakes, kept.verdict.score)
        try:
            image, _ = decode_picture(kept.record, self.dataset.root)
        except SaccadeError as error:
            return replace(exhibit, unreadable=str(error))
        if by_word:
            exhibit.pictures.append(("", fit(image, Annotation(kept.truth.size), side_of(kept.truth.size))[0]))
        else:
            for title, annotation in (("truth", kept.truth), ("prediction", kept.prediction)):
                exhibit.pictures.append((title, drawn(image, annotation, classes)))
            exhibit.pictures += _errors(image, kept.truth, kept.prediction)
            exhibit.beside += above("", kept.prediction, kept.truth)
        return exhibit

    def legend(self) -> list[tuple[str, str]]:
        """The classes of the class maps that are kept, in their order, and the sides of poses, each with its colour as
        CSS has it; none for other tasks, whose pictures say the classes."""
        kept = [*self._sampled.values(), *(each for _, _, each in self._worst)]
        return legend_of([one for each in kept for one in (each.truth, each.prediction)], self.dataset.classes)


def pair_of(records: Sequence[Record], dataset: DataSet) -> Exhibit:
    """Two pictures beside each other, each under the name of whom it shows."""
    first, second = records
    truth = "one identity" if first.label == second.label else "two identities"
    exhibit = Exhibit(f"{first.id} and {second.id}", [], truth, "", None, [], 1)
    try:
        for record in records:
            image, _ = decode_picture(record, dataset.root)
            name = "" if record.label is None else dataset.classes[record.label]
            exhibit.pictures.append((name, fit(image, Annotation(record.size), SIDE // 2)[0]))
    except SaccadeError as error:
        return replace(exhibit, unreadable=str(error))
    return exhibit


def side_of(size: tuple[int, int]) -> int:
    """Pixels of the longer side of a picture in a report, for an image of (height, width): of a wide one, which has the
    page's width for itself, as many as give it the area of others."""
    height, width = size
    return round(SIDE * min(2.0, (width / height * 3 / 4) ** 0.5)) if width > WIDE * height else SIDE


def drawn(image: Any, annotation: Annotation, classes: Sequence[str]) -> Any:
    """What is said of an image, drawn into it at the size of a report; the page has the legend of class maps."""
    return draw(*fit(image, annotation, side_of(annotation.size)), classes, legend=False)


def above(name: str, answer: Annotation, truth: Annotation) -> list[tuple[str, Any]]:
    """What an answer with depth looks like from above, beside the truth; nothing of other answers. `name` is that of
    whose answer it is, where there are several."""
    if not has_depth(truth):
        return []
    title = f"{name}, from above" if name else "from above"
    return [(f"{title}; the truth in white", from_above([replace(answer, camera=truth.camera), truth], SIDE))]


def legend_of(annotations: Iterable[Annotation], classes: Sequence[str]) -> list[tuple[str, str]]:
    """The classes that occur in class maps but for the background, and the sides of poses, each with its colour as CSS
    has it."""
    annotations = list(annotations)
    maps = [one.semantic for one in annotations if one.semantic is not None]
    present = sorted({int(k) for one in maps for k in one.unique()} & set(range(len(classes))))
    names = [(classes[k], class_colour(k)) for k in present]
    named = [(name, colour) for name, colour in names if not is_background(name)]
    if any(one.joints is not None and one.joints.pairs for one in annotations):
        named += [("left side", LEFT), ("right side", RIGHT)]
    return [(name, "rgb({}, {}, {})".format(*colour)) for name, colour in named]


def _errors(image: Any, truth: Annotation, answer: Annotation) -> list[tuple[str, Any]]:
    """Where a class map is wrong, with the share of pixels; nothing where there are no maps."""
    if truth.semantic is None or answer.semantic is None:
        return []
    judged = truth.semantic != IGNORE
    share = float((judged & (truth.semantic != answer.semantic)).sum()) / max(1, int(judged.sum()))
    pixels, small = fit(image, truth, side_of(truth.size))
    _, other = fit(image, answer, side_of(truth.size))
    assert small.semantic is not None
    assert other.semantic is not None
    return [(f"wrong: {100 * share:.1f} % (red)", draw_errors(pixels, small.semantic.numpy(), other.semantic.numpy()))]


def choose(ids: Sequence[str], count: int) -> list[str]:
    """At most `count` ids, evenly spread over their sorted order, the same at every call."""
    ranked = sorted(ids)
    if len(ranked) <= count:
        return ranked
    return [ranked[(2 * i + 1) * len(ranked) // (2 * count)] for i in range(count)]


def explain(task: str, verdict: Verdict, classes: Sequence[str], lines: int = 6) -> list[str]:
    """What is wrong with one image in words; mistakes of one kind are counted together, with their best score."""
    groups: dict[tuple[str, int | None, int | None], list[dict[str, Any]]] = {}
    for row in verdict.mistakes:
        groups.setdefault((row["kind"], row.get("label"), row.get("predicted")), []).append(row)
    lines_of = [task_of(task).mistake_in_words(rows, classes) for rows in groups.values()]
    more = len(lines_of) - lines
    return lines_of if more <= 0 else [*lines_of[:lines], f"and {more} more kinds of mistakes"]
