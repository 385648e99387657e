"""A trained model that answers: `saccade.load(run).predict(image)`."""

from __future__ import annotations

import copy
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import nn

from saccade.data.image import decode
from saccade.data.loader import collate, without_padding
from saccade.data.packing import pack, unpack
from saccade.data.people import inside, joined
from saccade.data.pipelines import Preprocessing, to_original
from saccade.data.types import Annotation, Batch, Objects, Sample
from saccade.data.video import Footage
from saccade.data.views import give, inference_view
from saccade.errors import UsageError
from saccade.inference.answer import Answer, Shown, labels_of
from saccade.inference.fuse import prepare_for_inference
from saccade.inference.pictures import Picture, as_file_or_pixels, check_pixels
from saccade.inference.pixels import ClassMaps, PixelObjects, Pixels
from saccade.inference.several import answer_each
from saccade.inference.tiles import Tiling, predict_in_tiles
from saccade.inference.trained import Trained, open_run
from saccade.inference.video import Frame, Pace, predict_frames
from saccade.machine.device import autocast, has_fast_bf16, pick_device
from saccade.machine.memory import keep_freed_memory
from saccade.machine.paths import at_home
from saccade.models.contract import pixel_scores, side_step
from saccade.ops.suppression import NmsRule, nms_rule, rule_of
from saccade.tasks.contract import task_of
from saccade.tasks.table import find_task

PEOPLE = 8  # of one image that a forward pass takes


class Predictor:
    """A model with its classes and preprocessing, on a device, ready to answer.

    It answers by a copy that is faster (`inference.fuse.prepare_for_inference`); the model itself is left as it is.

    Threads may share it: each call of `predict` is by itself, with its own threshold and IoU. Pictures are read at the
    same time; the network answers for one thread after another, by all cores.

    Args:
        model: a network with `predict(batch)`.
        task: name of the task (tasks/table.py).
        classes: names in the order of the labels.
        preprocessing: how images are brought to the network.
        device: where to compute.
        precision: "fp32", "bf16", or "auto": bf16 where the hardware multiplies it natively.
        thresholds: the score from which an object or tag of each class is given (`metrics/operating.py`); none: 0.5 of
            a tag, the task's `SMALLEST_SCORE` of an object. embed: the similarity from which two pictures are taken for
            the same; none: nobody chose one.
    """

    def __init__(
        self,
        model: nn.Module,
        task: str,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        thresholds: Sequence[float] = (),
    ) -> None:
        self.device = pick_device(device)
        if precision not in ("auto", "fp32", "bf16"):
            raise UsageError(f"precision {precision!r} for prediction, allowed: auto, fp32, bf16")
        self.precision = ("bf16" if has_fast_bf16(self.device) else "fp32") if precision == "auto" else precision
        if any(tensor.device != self.device for tensor in model.parameters()):
            model = copy.deepcopy(model).to(self.device)
        self.network = prepare_for_inference(model, torch.bfloat16 if self.precision == "bf16" else torch.float32)
        keep_freed_memory()
        self.task = task
        self.classes = list(classes)
        self.preprocessing = preprocessing
        self.view = inference_view(task, preprocessing)
        self.thresholds = tuple(thresholds)
        self.least_score = 0.0  # objects of lower scores are left out of answers, and not computed where that is saved
        self._nms = NmsRule()
        self._step: int | None = None  # of the sides to which padding is cut
        self.pixels: Pixels | None = ClassMaps() if find_task(task).semantic else None  # how its scores are read
        self._turn = threading.RLock()  # layers keep buffers for the shape that came last

    def __repr__(self) -> str:
        size = self.preprocessing.size
        inputs = "any size" if size is None else f"{size[1]}x{size[0]} pixels"
        names = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        return f"<model to {self.task} {len(self.classes)} classes ({names}), inputs of {inputs}>"

    def set_nms(self, rule: NmsRule) -> None:
        """Answer by this rule from now on (ops/suppression.py). Raises UsageError for a model of another task."""
        if rule != NmsRule() and not find_task(self.task).many_objects:
            raise UsageError(f"non-maximum suppression is for models that find objects; this one is to {self.task}")
        self._nms = rule

    def set_rect(self) -> None:
        """Answer from now on without most of the padding of letterboxed images, each cut by itself, so that less is
        computed (`data.loader.without_padding`). Raises UsageError where there is no padding, or one size alone."""
        step = side_step(self.network)
        if step is None or self.preprocessing.size is None or self.preprocessing.resize != "letterbox":
            raise UsageError(
                "rect cuts off the padding of letterboxed images, for detectors of inputs of any shape: not this model"
            )
        self._step = step

    def find_instances(self) -> None:
        """Answer from now on with the objects in the class maps (`inference.pixels.PixelObjects`), as a model to
        instances does. Raises UsageError for a model that gives none, or none that has objects."""
        if self.pixels is None:
            raise UsageError(f"instances: objects are found in class maps; this model is to {self.task}")
        found = PixelObjects(self.classes, self.preprocessing.border > 0)
        self.pixels, self.task, self.classes = found, "instances", found.names

    @overload
    def predict(
        self,
        image: Picture,
        given: Objects | None = None,
        camera: np.ndarray | None = None,
        *,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        tile: int | Tiling | None = None,
    ) -> Answer: ...

    @overload
    def predict(
        self,
        image: list[Picture] | tuple[Picture, ...],
        given: None = None,
        camera: None = None,
        *,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        tile: int | Tiling | None = None,
    ) -> list[Answer]: ...

    def predict(
        self,
        image: Picture | list[Picture] | tuple[Picture, ...],
        given: Objects | None = None,
        camera: np.ndarray | None = None,
        *,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        tile: int | Tiling | None = None,
    ) -> Answer | list[Answer]:
        """Answer for a picture, in pixels of the upright original, or for each of a list of pictures.

        Args:
            image: a path, the bytes of a file, an open file, a PIL image, an array [H, W, 3] uint8 RGB, a tensor
                [3, H, W] (uint8, or float in [0, 1]); or a list of these, of which several are answered at once.
            threshold: smallest score of an object or tag; by default that of the model for each class, or of the task
                (0.3 of an object). 0 gives all that the network says.
            iou: IoU from which a box suppresses another; by default the detector's own.
            classes: names of those that are asked for, or their places in `classes`; by default all.
            given: boxes in pixels of the upright original, for a model that takes proposals (by default those that are
                computed for it, if it was trained on such), or that answers for one person: the box of each, by
                default the whole picture. Of these, boxes outside of the picture have no answer.
            camera: [3, 4], of the upright original, for a model that answers in metres: takes x y z 1 to pixels times
                depth (`data.formats.kitti.read_camera`).
            tile: look at the picture in tiles of so many pixels a side, by which memory stays bounded and small things
                are seen at their size (`inference.tiles`).

        Raises:
            DataError: the file is not an image that can be read; of a list all such are named, and `unreadable` of the
                error has their places.
            UsageError: no picture, or an array or tensor of another shape or type; boxes for a model that takes none,
                or none for one that does; a threshold, IoU, class or tile that cannot be.
        """
        rule, shown = self._rule(iou), self._shown(threshold, classes)
        if tile is not None and given is not None:
            raise UsageError("tile: boxes are given for whole pictures; a tile has none")
        tiling = tile if tile is None or isinstance(tile, Tiling) else Tiling(tile)
        if isinstance(image, list | tuple):
            if given is not None or camera is not None:
                raise UsageError("boxes and a camera are given with one picture, not with a list of them")
            return [shown.of(answer, picture) for answer, picture in answer_each(self, image, rule, tiling)]
        picture = as_file_or_pixels(image)
        if tiling is not None:
            return shown.of(predict_in_tiles(self, picture, tiling, rule), picture)
        return shown.of(self.answer(picture, given, camera, rule), picture)

    def _shown(self, threshold: float | None, classes: Sequence[str | int] | str | int | None) -> Shown:
        labels = None if classes is None else labels_of(classes, self.classes)
        return Shown(self.task, self.classes, self.shown_from(threshold), labels)

    def answer(
        self,
        image: str | Path | np.ndarray,
        given: Objects | None = None,
        camera: np.ndarray | None = None,
        rule: NmsRule | None = None,
    ) -> Annotation:
        """All that the network says of a file or of pixels, however unsure; else as `predict`, whose errors it has."""
        if given is not None and self.preprocessing.one_person:
            return self._predict_people(image, given)
        return next(iter(self.predict_batches([collate([self.see(image, given, camera)])], rule)))[1]

    def shown_from(self, threshold: float | None = None) -> float | Sequence[float] | None:
        """The smallest score that is shown, of all or of each class: what is asked for, else that of the model, else of
        its task; None where scores leave nothing out. Raises UsageError for a number that is no threshold."""
        if threshold is not None:
            least = -1 if find_task(self.task).embedding else 0
            if not isinstance(threshold, numbers.Real) or not least <= threshold <= 1:
                raise UsageError(f"threshold is {threshold!r}, allowed: {least} to 1")
            return threshold
        if self.preprocessing.one_person:
            return None  # people whose boxes are given are all answered for
        if self.thresholds and find_task(self.task).many_objects:
            return self.thresholds
        return task_of(self.task).SMALLEST_SCORE

    def _rule(self, iou: float | None) -> NmsRule:
        """How boxes suppress each other in one call."""
        if iou is None:
            return self._nms
        if not find_task(self.task).many_objects:
            raise UsageError(f"iou is for models that find objects; this one is to {self.task}")
        return replace(self._nms, iou=iou)

    def see(
        self, image: str | Path | np.ndarray, given: Objects | None = None, camera: np.ndarray | None = None
    ) -> Sample:
        """An image as the network sees it; arguments and errors are those of `predict`. Other threads may call it while
        the network computes."""
        if given is None and self.preprocessing.proposals in ("file", "objects"):
            raise UsageError("this model is given boxes with each image (proposals); there are none")
        if camera is None and find_task(self.task).cuboids:
            raise UsageError("this model answers in metres and needs the camera of each image; there is none")
        if camera is not None and not find_task(self.task).cuboids:
            raise UsageError(f"a camera is given to models that answer in metres; this one is to {self.task}")
        if given is not None and self.preprocessing.proposals is None and not self.preprocessing.one_person:
            raise UsageError("boxes (proposals) are given to a model that takes none")
        if isinstance(image, np.ndarray):
            check_pixels(image)
            size = (image.shape[0], image.shape[1])
            given = self.view.propose(image) if given is None else given
            return self.view.apply(give(Sample(image, Annotation(size, camera=camera), "", size), given))
        return self.view.read(Path(at_home(image)), given, camera)

    def _predict_people(self, image: str | Path | np.ndarray, given: Objects) -> Annotation:
        """The joints of the person in each of the boxes, as one answer."""
        pixels = image if isinstance(image, np.ndarray) else decode(Path(at_home(image)))
        size = (pixels.shape[0], pixels.shape[1])
        boxes = given[torch.from_numpy(inside(given.boxes.numpy(), size))]
        rows = range(len(boxes))
        groups = (rows[i : i + PEOPLE] for i in rows[::PEOPLE])
        batches = (collate([self.see(pixels, boxes[i : i + 1]) for i in group]) for group in groups)
        answers = [answer for _, answer in self.predict_batches(batches)]
        return self.join_people(answers, boxes, size)

    def join_people(self, answers: Sequence[Annotation], boxes: Objects, size: tuple[int, int]) -> Annotation:
        """One answer of those for each box of a picture of `size` (`data.people.joined`)."""
        joints = self.preprocessing.joints
        return replace(joined(answers, boxes, size, 0 if joints is None else len(joints)), joints=joints)

    def predict_video(
        self,
        source: str | Path | int,
        frames: int | None = None,
        batch: int = 1,
        boxes: Callable[[np.ndarray], Objects] | None = None,
        camera: np.ndarray | None = None,
        threshold: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
    ) -> Iterator[Frame]:
        """Answers for the frames of a video file or of a camera ("camera:0", or 0), each as it comes:
        `for frame in saccade.load(run).predict_video("clip.mp4"): print(frame.time, frame.answer)`.

        Frames are decoded and brought to the network's size while the network computes. Of a file every frame is
        answered, in order; of a camera the newest, and what came meanwhile is dropped and counted (`Frame.dropped`).

        Args:
            frames: end after so many.
            batch: frames of a file that the network is given at once.
            boxes: of a model that takes boxes, such as one that finds the joints of one person: what finds them in the
                pixels of a frame, such as `lambda pixels: detector.predict(pixels).objects`.
            camera, threshold, classes: as in `predict`, of all frames.

        Raises:
            DataError: no video that can be read, no such camera; after the answers, where a video is cut off or a
                camera gives no more pictures.
            UsageError: a model that is given boxes with each image; a threshold or class that cannot be.
        """
        shown = self._shown(threshold, classes)

        def answer(pixels: np.ndarray) -> Annotation:
            return self.answer(pixels, None if boxes is None else boxes(pixels), camera)

        footage = Footage(f"camera:{source}" if isinstance(source, int) else at_home(str(source)))
        return predict_frames(self, footage, Pace(frames, batch), None if boxes is None else answer, shown)

    @torch.inference_mode()
    def predict_batches(
        self, batches: Iterable[Batch], rule: NmsRule | None = None
    ) -> Iterator[tuple[str, Annotation]]:
        """Id and answer of every image, in order; coordinates and maps in pixels of the originals. Boxes suppress each
        other by `rule`, by default that of the predictor."""
        for batch in batches:
            scope = nms_rule(self._nms if rule is None else rule, self.least_score)
            with self._turn, autocast(self.device, self.precision), scope:
                answers = self._answers(batch)
            if self.device.type != "cpu":
                buffer, layout = pack(answers)
                answers = unpack(buffer.cpu(), layout)  # one copy, one wait
            for index, answer in enumerate(answers):
                self.decide(answer)
                answer.joints = self.preprocessing.joints
                yield batch.ids[index], to_original(answer, batch, index)

    def _answers(self, batch: Batch) -> list[Annotation]:
        if self.pixels is None:
            parts = [batch] if self._step is None else without_padding(batch, self._step)
            return [answer for part in parts for answer in self.network.predict(part.to(self.device))]  # type: ignore[operator]
        alone = [batch] if self.preprocessing.size else without_padding(batch)  # padding to a stated size is its own
        return [answer for part in alone for answer in self._maps(part)]

    def _maps(self, batch: Batch) -> list[Annotation]:
        if not isinstance(self.pixels, PixelObjects):
            return list(self.network.predict(batch.to(self.device)))  # type: ignore[operator]
        planes = self.pixels.planes(self.pixel_scores(batch)).cpu()
        return [self.pixels.answer(each[:, :h, :w]) for each, (h, w) in zip(planes, batch.sizes, strict=True)]

    @torch.inference_mode()
    def pixel_scores(self, batch: Batch) -> torch.Tensor:
        """A segmenter's scores of every pixel before softmax, [b, classes, H, W] float32 on its device."""
        with self._turn, autocast(self.device, self.precision):
            return pixel_scores(self.network, batch.to(self.device).images).float()

    @torch.inference_mode()
    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How alike the vectors of images are, of a model to embed: [n, d] and [m, d] -> [n, m] float64; the cosine, or
        what the model has learned."""
        similarity_of = getattr(self.network, "similarity", None)
        if similarity_of is None:
            return np.asarray(a, np.float64) @ np.asarray(b, np.float64).T
        rows = (torch.from_numpy(np.asarray(each, np.float32)).to(self.device) for each in (a, b))
        return np.asarray(similarity_of(*rows).double().cpu().numpy())

    def decide(self, answer: Annotation) -> None:
        """Give the tags whose probability reaches their threshold, where the model has thresholds."""
        if self.thresholds and answer.tags is not None and answer.probabilities is not None:
            answer.thresholds = torch.tensor(self.thresholds)
            answer.tags = answer.probabilities >= answer.thresholds


def load(
    run: str | Path,
    device: str | torch.device | None = None,
    precision: str = "auto",
    nms: NmsRule | str = "hard",
    weights: str | Path | None = None,
    names: str | Path | None = None,
    instances: bool = False,
) -> Predictor:
    """The trained model of a run folder or a checkpoint file, ready to answer: `saccade.load(run).predict(image)`.

    Args:
        run: a run folder, of which the best checkpoint is taken, or the checkpoint itself (`.safetensors`), or the
            `.cfg` of a detector of Darknet.
        device: where to compute; by default a GPU where there is one.
        precision: as in `Predictor`.
        nms: how overlapping boxes of a detector suppress each other: "hard" (the detector's own), "soft",
            "soft_linear", or a `saccade.NmsRule`, which says more.
        weights, names: of a `.cfg`: its `.weights` and a text file of its classes, by default those beside it.
        instances: of a segmenter the objects in its class maps (`Predictor.find_instances`).

    Raises:
        ModelFileError: as `inference.trained.open_run`.
        UsageError: no such device, precision or form of NMS, or NMS for a model that does not find objects.
    """
    return predictor_of(open_run(run, device, weights, names), precision, rule_of(nms), instances)


def predictor_of(found: Trained, precision: str, rule: NmsRule, instances: bool) -> Predictor:
    """A network that is open, ready to answer where it is; arguments and errors are those of `load`."""
    predictor = Predictor(
        found.network, found.task, found.classes, found.preprocessing, found.device, precision, found.thresholds
    )
    predictor.set_nms(rule)
    if instances:
        predictor.find_instances()
    return predictor
