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
from saccade.inference.cameras import Cameras
from saccade.inference.predictor import Predictor
from saccade.inference.trained import open_run
from saccade.tasks.table import find_task

LEAST = 0.3  # score of a detector's box that is worth a second look

Boxes = Callable[[Path], Objects]  # of an image file, in pixels of the upright original


class DetectorBoxes:
    """The boxes that a trained detector finds, as a `data.proposals.Source`. Its version is the checkpoint's content.

    Args:
        wanted: names of the classes whose boxes are wanted; labels are then places in it. Where it is one alone, a
            detector of one class is taken to find it, whatever its name. By default all boxes are wanted, of label 0.

    Raises:
        ModelFileError: see `inference.trained.open_run`.
        UsageError: the model finds no boxes, or none of these classes.
    """

    name = "model"

    def __init__(
        self,
        run: str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        wanted: Sequence[str] = (),
    ) -> None:
        found = open_run(run, device)
        if not find_task(found.task).many_objects:
            raise UsageError(
                f"--proposals {run}: a model to {found.task} finds no boxes; a run of a detector, or a file"
            )
        self._places: list[int] | None = None  # of each of its classes among the wanted ones, -1 for none
        if wanted and not len(wanted) == len(found.classes) == 1:
            self._places = [wanted.index(name) if name in wanted else -1 for name in found.classes]
            if max(self._places) < 0:
                sought = ", ".join(map(repr, wanted[:8]))
                raise UsageError(f"--proposals {run}: finds {', '.join(found.classes[:8])}, and no {sought}")
        self._predictor = Predictor(
            found.network, found.task, found.classes, found.preprocessing, found.device, precision
        )
        with found.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        places = "" if self._places is None else hashlib.sha256(str(self._places).encode()).hexdigest()[:8]
        self.version = f"{content}-{self._predictor.precision}" + (f"-{places}" if places else "")

    def __call__(self, image: np.ndarray) -> Objects:
        found = self._predictor.answer(image).objects or Objects.empty(scored=True)
        if self._places is None:
            return replace(found, labels=torch.zeros_like(found.labels))
        found = replace(found, labels=torch.tensor(self._places)[found.labels])
        return found[found.labels >= 0]


def boxes_from(
    proposals: Path,
    images: Sequence[Path],
    device: str | torch.device | None = None,
    precision: str = "auto",
    wanted: Sequence[str] = (),
) -> Boxes:
    """The boxes of each of `images`: those of a file (`data.proposals.read_proposals`), or, where `proposals` is a run
    folder or checkpoint of a detector, those that it finds with a score of at least LEAST.

    Args:
        wanted: the classes of the boxes, as in `DetectorBoxes` and `read_proposals`; by default all. In a file they
            then have such a score, where they have one: results files hold a great many boxes in which there is nobody.

    Raises:
        DataError: the file cannot be used, or names none of the images.
        ModelFileError, UsageError: see `DetectorBoxes`.
    """
    if not _is_run(proposals):
        matched = read_proposals(proposals, wanted).match(images)
        return (lambda path: _sure(matched[path])) if wanted else matched.__getitem__
    source = DetectorBoxes(proposals, device, precision, wanted)
    return lambda path: _sure(proposals_for(path, source))


def _sure(found: Objects) -> Objects:
    """The boxes that are worth a second look."""
    return found if found.scores is None else found[found.scores >= LEAST]


def give_proposals(
    dataset: DataSet,
    proposals: Path,
    device: str | torch.device | None = None,
    precision: str = "auto",
    wanted: Sequence[str] = (),
) -> Attached:
    """Give every image of a data set the boxes of `proposals`, as `boxes_from` takes it.

    Raises:
        DataError: the file cannot be used, names none of the images, or is not of these images (`attach`).
        ModelFileError, UsageError: see `DetectorBoxes`.
    """
    paths = list(dict.fromkeys(dataset.root / record.path for record in dataset.records))
    if _is_run(proposals):
        boxes = boxes_from(proposals, paths, device, precision, wanted)
        return attach(dataset, {path: boxes(path) for path in paths}, str(proposals))
    file = read_proposals(proposals, wanted)
    return attach(dataset, file.match(paths), str(proposals), file.foreign(paths))


def wanted_classes(predictor: Predictor) -> list[str]:
    """The classes whose boxes a model wants that answers for one person or for objects; none of others, which take all
    boxes."""
    return predictor.classes if predictor.preprocessing.of_given_objects else []


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
    if wanted_classes(predictor):
        what = "finds the joints in boxes of people" if predictor.preprocessing.one_person else "answers for objects"
        raise UsageError(f"--proposals {proposals}: this model {what}; a file of those, or a run of a detector")
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
    if proposals is None and predictor.preprocessing.proposals == "objects":
        raise no_objects(predictor.classes)
    if proposals is None or computed_by(predictor, proposals):
        return None
    check_takes_boxes(predictor)
    return boxes_from(Path(proposals), images, predictor.device, predictor.precision, wanted_classes(predictor))


def no_objects(classes: Sequence[str]) -> UsageError:
    """The error for a model that answers for objects of `classes`, and is given none."""
    return UsageError(
        "this model answers for objects that something else has found: give --proposals RUN, of a detector of "
        f"{', '.join(classes[:8])}, or --proposals FILE with boxes and their classes"
    )


def answer_in_frames(
    predictor: Predictor,
    proposals: str | Path | None,
    videos: Sequence[str],
    batch: int,
    cameras: Cameras | None = None,
) -> Callable[[np.ndarray], Annotation] | None:
    """What answers for the pixels of a frame in the boxes that a detector finds there; None without `proposals`, or
    videos. Raises UsageError where this model takes no boxes, where they are not those of a detector's run, or the
    videos are of several cameras."""
    if proposals is None or not videos:
        return None
    check_takes_boxes(predictor)
    if not _is_run(Path(proposals)):
        raise UsageError(f"--proposals {proposals} is for images; frames of {videos[0]} need the run of a detector")
    source = DetectorBoxes(proposals, predictor.device, predictor.precision, wanted_classes(predictor))
    known = [] if cameras is None else [cameras(Path(video)) for video in videos]
    if any((each != known[0]).any() for each in known):
        raise UsageError("the videos are of several cameras; answer for each by itself, or give --camera FILE for all")
    camera = known[0] if known else None
    return lambda pixels: answer_in_boxes(predictor, pixels, _sure(source(pixels)), batch, camera)


def answer_in_boxes(
    predictor: Predictor, image: Path | np.ndarray, given: Objects, batch: int, camera: np.ndarray | None = None
) -> Annotation:
    """What a model answers for the boxes of an image, which a camera took, where the model asks for it."""
    if not names_boxes(predictor):
        return predictor.answer(image, given, camera)
    return classify_regions(predictor, decode(image) if isinstance(image, Path) else image, given, batch)


def answer_for_boxes(
    predictor: Predictor, images: Sequence[Path], boxes: Boxes, batch: int, cameras: Cameras | None = None
) -> Iterator[tuple[Path, Annotation | DataError, list[str]]]:
    """Answers for the boxes of each image, in order, with what else is to be known; an error takes the place of an
    image that cannot be read, or whose camera cannot."""
    for path in images:
        try:
            given = boxes(path)
            camera = None if cameras is None else cameras(path)
            answer = answer_in_boxes(predictor, path, given, batch, camera)
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
    scores = [
        answer.probabilities for _, answer in predictor.predict_batches(batches) if answer.probabilities is not None
    ]
    if not scores:
        return Annotation(size, objects=Objects.empty(scored=True))
    best = torch.stack(scores).max(dim=1)
    return Annotation(size, objects=Objects(torch.from_numpy(inner.astype(np.float32)), best.indices, best.values))


def _inside(boxes: Objects, size: tuple[int, int]) -> np.ndarray:
    """[k, 4] float64 boxes clipped to an image of `size`, without those of which nothing is left."""
    clipped = clip_boxes(boxes.boxes.numpy().astype(np.float64), size)
    return clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)]
