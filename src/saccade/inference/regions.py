"""Answers for given boxes: by a model that takes proposals or that finds the joints of one person, or by a classifier
that looks at each box by itself.

The last is the idea of R-CNN (Girshick et al. 2014, section 2): whatever proposes regions, a classification network
names what is in each, from its pixels alone, warped to the network's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from saccade.data.dataset import DataSet
from saccade.data.geometry import clip_boxes
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.pipelines import Preprocessing
from saccade.data.proposals import SOURCES, Attached, attach, proposals_for, read_proposals
from saccade.data.resampling import crop
from saccade.data.types import Annotation, Objects, Sample
from saccade.data.views import inference_view
from saccade.errors import DataError, UsageError
from saccade.inference.predictor import Predictor
from saccade.inference.trained import open_run
from saccade.tasks.table import find_task

LEAST = 0.3  # score of a detector's box that is worth a second look

Boxes = Callable[[Path], Objects]  # of an image file, in pixels of the upright original


class DetectorBoxes:
    """The boxes that a trained detector finds, as a `data.proposals.Source`. Its version is the checkpoint's content.

    Args:
        only: the class whose boxes are wanted; a detector of one class is taken to find it, whatever its name.

    Raises:
        ModelFileError: see `inference.trained.open_run`.
        UsageError: the model finds no boxes, or none of this class.
    """

    name = "model"

    def __init__(
        self,
        run: str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        only: str | None = None,
    ) -> None:
        found = open_run(run, device)
        if not find_task(found.task).many_objects:
            raise UsageError(
                f"--proposals {run}: a model to {found.task} finds no boxes; a run of a detector, or a file"
            )
        self._label = None
        if only is not None and len(found.classes) > 1:
            if only not in found.classes:
                raise UsageError(f"--proposals {run}: finds {', '.join(found.classes[:8])}, and no {only!r}")
            self._label = found.classes.index(only)
        self._predictor = Predictor(
            found.network, found.task, found.classes, found.preprocessing, found.device, precision
        )
        with found.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        label = "" if self._label is None else f"-{self._label}"
        self.version = f"{content}-{self._predictor.precision}{label}"

    def __call__(self, image: np.ndarray) -> Objects:
        found = self._predictor.predict(image).objects or Objects.empty(scored=True)
        return found if self._label is None else found[found.labels == self._label]


def boxes_from(
    proposals: Path,
    images: Sequence[Path],
    device: str | torch.device | None = None,
    precision: str = "auto",
    only: str | None = None,
) -> Boxes:
    """The boxes of each of `images`: those of a file (`data.proposals.read_proposals`), or, where `proposals` is a run
    folder or checkpoint of a detector, those that it finds with a score of at least LEAST.

    Args:
        only: the class of a detector's boxes, by default all. What stands in a file is then of this class, and has such
            a score too, where it has one: results files hold a great many boxes in which there is nobody.

    Raises:
        DataError: the file cannot be used, or names none of the images.
        ModelFileError, UsageError: see `DetectorBoxes`.
    """
    if not _is_run(proposals):
        matched = read_proposals(proposals).match(images)
        return matched.__getitem__ if only is None else lambda path: _sure(matched[path])
    source = DetectorBoxes(proposals, device, precision, only)
    return lambda path: _sure(proposals_for(path, source))


def _sure(found: Objects) -> Objects:
    """The boxes that are worth a second look."""
    return found if found.scores is None else found[found.scores >= LEAST]


def give_proposals(
    dataset: DataSet,
    proposals: Path,
    device: str | torch.device | None = None,
    precision: str = "auto",
    only: str | None = None,
) -> Attached:
    """Give every image of a data set the boxes of `proposals`, as `boxes_from` takes it.

    Raises:
        DataError: the file cannot be used, names none of the images, or is not of these images (`attach`).
        ModelFileError, UsageError: see `DetectorBoxes`.
    """
    paths = list(dict.fromkeys(dataset.root / record.path for record in dataset.records))
    if _is_run(proposals):
        boxes = boxes_from(proposals, paths, device, precision, only)
        return attach(dataset, {path: boxes(path) for path in paths}, str(proposals))
    file = read_proposals(proposals)
    return attach(dataset, file.match(paths), str(proposals), file.foreign(paths))


def only_class(predictor: Predictor) -> str | None:
    """The class whose boxes a model wants that answers for one person; None for others, which take all boxes."""
    return predictor.classes[0] if predictor.preprocessing.one_person else None


def check_has_boxes(preprocessing: Preprocessing, proposals: object, what: str) -> None:
    """Raises UsageError for a model that was trained on the boxes of a file, where nothing says which it gets now.

    Args:
        what: the run, for the message.
    """
    if preprocessing.proposals == "file" and proposals is None:
        known = f" ({preprocessing.proposal_file})" if preprocessing.proposal_file else ""
        raise UsageError(
            f"{what} was trained on proposals of a file{known}, and needs boxes for these images too: --proposals "
            "FILE, or --proposals selective_search for those that Saccade computes"
        )


def computed_by(predictor: Predictor, proposals: object) -> bool:
    """Whether `proposals` is the word of a source that computes boxes; the predictor then takes those."""
    if str(proposals) not in SOURCES:
        return False
    if predictor.preprocessing.one_person:
        raise UsageError(
            f"--proposals {proposals}: this model finds the joints in boxes of people; a file of those, or a run"
        )
    if predictor.preprocessing.proposals is None:
        raise UsageError(f"--proposals {proposals}: this model ({predictor.task}) looks for itself and takes no boxes")
    predictor.preprocessing = replace(predictor.preprocessing, proposals=str(proposals))
    predictor.view = inference_view(predictor.task, predictor.preprocessing)
    return True


def _is_run(proposals: Path) -> bool:
    return proposals.is_dir() or proposals.suffix == ".safetensors"


def names_boxes(predictor: Predictor) -> bool:
    """Whether the model answers for a box by looking at it as at an image (`classify_regions`)."""
    task = find_task(predictor.task)
    return predictor.preprocessing.proposals is None and task.whole_image and task.label and not task.embedding


def check_takes_boxes(predictor: Predictor) -> None:
    """Raises UsageError for a model that has no answer for boxes."""
    shape = predictor.preprocessing
    if shape.proposals is None and not shape.one_person and not names_boxes(predictor):
        raise UsageError(
            f"--proposals: this model ({predictor.task}) looks for itself and takes no boxes; they are for "
            "classifiers, which then name what is in each, for models that are trained on proposals, and for those "
            "that find the joints of one person"
        )


def boxes_for(predictor: Predictor, run: str, proposals: str | Path | None, images: Sequence[Path]) -> Boxes | None:
    """The boxes that a model is given for each image, where they are not its own. Raises UsageError where this model
    has no use of them, or needs some."""
    check_has_boxes(predictor.preprocessing, proposals, run)
    if proposals is None or computed_by(predictor, proposals):
        return None
    check_takes_boxes(predictor)
    return boxes_from(Path(proposals), images, predictor.device, predictor.precision, only_class(predictor))


def answer_in_frames(
    predictor: Predictor, proposals: str | Path | None, videos: Sequence[str], batch: int
) -> Callable[[np.ndarray], Annotation] | None:
    """What answers for the pixels of a frame in the boxes that a detector finds there; None without `proposals`, or
    videos. Raises UsageError where this model takes no boxes, or where they are not those of a detector's run."""
    if proposals is None or not videos:
        return None
    check_takes_boxes(predictor)
    if not _is_run(Path(proposals)):
        raise UsageError(f"--proposals {proposals} is for images; frames of {videos[0]} need the run of a detector")
    source = DetectorBoxes(proposals, predictor.device, predictor.precision, only_class(predictor))
    return lambda pixels: answer_in_boxes(predictor, pixels, _sure(source(pixels)), batch)


def answer_in_boxes(predictor: Predictor, image: Path | np.ndarray, given: Objects, batch: int) -> Annotation:
    """What a model answers for the boxes of an image."""
    if not names_boxes(predictor):
        return predictor.predict(image, given)
    return classify_regions(predictor, decode(image) if isinstance(image, Path) else image, given, batch)


def answer_for_boxes(
    predictor: Predictor, images: Sequence[Path], boxes: Boxes, batch: int
) -> Iterator[tuple[Path, Annotation | DataError, list[str]]]:
    """Answers for the boxes of each image, in order, with what else is to be known; an error takes the place of an
    image that cannot be read."""
    for path in images:
        try:
            given = boxes(path)
            answer = answer_in_boxes(predictor, path, given, batch)
        except DataError as error:
            yield path, error, []
            continue
        outside = len(given) - len(_inside(given, answer.size))
        notes = [] if len(given) else ["no boxes are given for this image"]
        yield path, answer, [*notes, f"{outside} of {len(given)} boxes lie outside of the image"] if outside else notes


def classify_regions(predictor: Predictor, image: np.ndarray, boxes: Objects, batch: int = 8) -> Annotation:
    """What a classifier says of each box by itself, as objects with the most likely class and its probability.

    A box is cut out in whole pixels, grown to hold all of it, and seen whole: by the model's own transforms, but
    stretched to the input where these would take the centre of it alone.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: in its pixels. Those without a part inside of the image have no answer; the others keep their order.
        batch: boxes a forward pass.
    """
    size = (image.shape[0], image.shape[1])
    preprocessing = predictor.preprocessing
    if preprocessing.resize == "crop":
        preprocessing = replace(preprocessing, resize="stretch")
    view = inference_view(predictor.task, preprocessing)
    whole = Sample(image, Annotation(size), original_size=size)

    def seen(window: list[int]) -> Sample:
        x1, y1, x2, y2 = window
        return view.apply(crop(whole, (x1, y1, x2, y2)))

    inner = _inside(boxes, size)
    windows = np.concatenate([np.floor(inner[:, :2]), np.ceil(inner[:, 2:])], axis=1).astype(np.int64).tolist()
    parts = (windows[i : i + batch] for i in range(0, len(windows), batch))
    batches = (collate([seen(window) for window in part]) for part in parts)
    scores = [answer.scores for _, answer in predictor.predict_batches(batches) if answer.scores is not None]
    if not scores:
        return Annotation(size, objects=Objects.empty(scored=True))
    best = torch.stack(scores).max(dim=1)
    return Annotation(size, objects=Objects(torch.from_numpy(inner.astype(np.float32)), best.indices, best.values))


def _inside(boxes: Objects, size: tuple[int, int]) -> np.ndarray:
    """[k, 4] float64 boxes clipped to an image of `size`, without those of which nothing is left."""
    clipped = clip_boxes(boxes.boxes.numpy().astype(np.float64), size)
    return clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)]
