"""Which transforms a task and its settings ask for, and the way back from a prediction to the original pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from saccade.config import VIEW, Settings, height_width
from saccade.data.elastic import Elastic
from saccade.data.geometry import Size, affine, map_points, move_camera, move_objects
from saccade.data.image import MAX_PIXELS
from saccade.data.joints import Joints
from saccade.data.keeping import KeepObjects
from saccade.data.mixing import Cutout, Mosaic
from saccade.data.object_crop import ObjectCrop
from saccade.data.people import AroundPerson
from saccade.data.photometric import Lighting, PhotometricDistortion
from saccade.data.policies import RandAugment, TrivialAugment
from saccade.data.resampling import warp_masks
from saccade.data.sampling import MinOverlapCrop
from saccade.data.transforms import (
    Affine,
    CenterCrop,
    FitInside,
    Flip,
    PadCrop,
    PadTo,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Scale,
    ScaleJitter,
    Transpose,
)
from saccade.data.types import IGNORE, Annotation, Batch, Sample
from saccade.errors import ModelFileError, UsageError
from saccade.tasks.table import find_task

Transform = Callable[..., Sample]
"""transform(sample, rng) -> Sample; one with the attribute `needs_others = True` is called as transform(sample, rng,
fetch), where fetch() -> Sample gives a random other image as it stands in front of that transform."""

# file: the user brings them with each image; objects: found and named by something else, by the truth where nobody says
# more; the others are computed from its pixels (`data.proposals.SOURCES`)
PROPOSALS = ("file", "objects", "selective_search", "selective_search_quality")
WIDEST = 1024  # pixels of a border that a checkpoint may ask for


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image before the network at test time; travels in the checkpoint."""

    size: Size | None  # (height, width) of the input; None: that of the image
    resize: Literal["crop", "letterbox", "stretch"]  # without a size it says nothing
    scale: float = 1.0  # factor on the sides of the image, where size is None
    pad: int = 0  # crop: > 0 says that training padded and cropped back, so that tests see the whole image
    view: float = VIEW  # crop: side of the view over that of the central part which the network sees
    joints: Joints | None = None  # what the keypoints of its answers are
    proposals: str | None = None  # where the boxes come from that the model is given: one of PROPOSALS; None: it is not
    one_person: bool = False  # an image is the surroundings of one person's box (data/people.py)
    border: int = 0  # segment: pixels of the class "border" that was drawn along objects (data/borders.py)
    proposal_file: str | None = None  # name and content of the file of which the boxes of training were

    @property
    def of_given_objects(self) -> bool:
        """Whether the network answers for people or objects that something else has found: in data sets, where nobody
        says more, their truth."""
        return self.one_person or self.proposals == "objects"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Preprocessing:
        """Raises ModelFileError where a value is missing, unknown or out of range."""
        fields = {name: value for name, value in state.items() if (name, value) != ("stride", 1)}  # of older versions
        try:
            joints = None if state.get("joints") is None else Joints.from_json(state["joints"])
            size = None if state["size"] is None else tuple(state["size"])
            made = cls(**dict(fields, size=size, joints=joints))
            sides = made.size or (1, 1)
            whole = [*sides, made.pad + 1]
            valid = len(sides) == 2 and all(type(v) is int and v >= 1 for v in whole) and 0 < made.scale <= 8
            valid = valid and type(made.one_person) is bool and not (made.one_person and made.size is None)
            valid = valid and type(made.border) is int and 0 <= made.border <= WIDEST
            valid = valid and (made.proposal_file is None or type(made.proposal_file) is str)
            valid = valid and 1 <= made.view < 10 and sides[0] * sides[1] <= MAX_PIXELS and made.pad < WIDEST
        except (TypeError, KeyError, ValueError) as error:
            raise ModelFileError(f"the checkpoint's preprocessing {state!r} is not readable: {error}") from error
        known = made.resize in ("crop", "letterbox", "stretch") and made.proposals in (None, *PROPOSALS)
        if not valid or not known:
            raise ModelFileError(f"the checkpoint's preprocessing {state!r} has a value out of range")
        return made


def preprocessing_of(task: str, settings: Settings) -> Preprocessing:
    """The test-time preprocessing that belongs to training with these settings.

    Raises:
        UsageError: `resize=crop` for objects, which would cut them off at test time.
    """
    kind = find_task(task)
    if kind.semantic:
        return Preprocessing(None, "stretch", settings.scale)
    if settings.resize == "crop" and not kind.whole_image:
        raise UsageError(f"resize=crop would cut off objects of task {task}: allowed are letterbox and stretch")
    return Preprocessing(height_width(settings.size), settings.resize, pad=settings.pad, view=settings.view)


def inference_transforms(task: str, preprocessing: Preprocessing) -> list[Transform]:
    """From a decoded image to the input of the network. Nothing is random; only "crop" drops objects."""
    p = preprocessing
    if p.size is None:
        return [Scale(p.scale)]
    if p.one_person:
        return [AroundPerson(p.size)]
    if p.pad or p.resize == "stretch":
        return [Resize(p.size)]
    if p.resize == "letterbox":
        return [FitInside(p.size), PadTo(p.size)]
    return [CenterCrop(p.size, (round(p.size[0] * p.view), round(p.size[1] * p.view)))]


def training_transforms(
    task: str, settings: Settings, flip_pairs: Sequence[tuple[int, int]] = (), one_person: bool = False
) -> list[Transform]:
    """From a decoded image to a training input. Colours change after the resize (fewer pixels), padding comes last.

    Args:
        flip_pairs: keypoints that trade places in a mirror image (`Joints.pairs`).
        one_person: every image shows the surroundings of one person's box.

    Raises:
        UsageError: settings that contradict the task.
    """
    kind, preprocessing = find_task(task), preprocessing_of(task, settings)
    if kind.cuboids:
        _refuse_without_camera(settings, task)
    if one_person:
        steps = _person_geometry(settings)
    elif preprocessing.size is None:
        steps = _segment_geometry(settings)
    elif kind.whole_image:
        steps = _classify_geometry(settings, preprocessing)
    else:
        steps = _detect_geometry(settings, preprocessing.size)
        if kind.one_object:
            whole = _whole(settings, preprocessing.size)
            steps = [KeepObjects(step, whole) for step in steps]
    if settings.transpose:
        steps.insert(0, Transpose(settings.transpose, tuple(flip_pairs)))  # sides change places before any size is set
    if settings.flip:
        steps.append(Flip(settings.flip, pairs=tuple(flip_pairs)))
    if settings.flip_vertical:
        steps.append(Flip(settings.flip_vertical, vertical=True))
    geometric = kind.whole_image  # turned boxes are loose, and a turned map has borders
    if settings.policy == "randaugment":
        steps.append(RandAugment(settings.policy_number, settings.policy_magnitude, geometric))
    elif settings.policy == "trivialaugment":
        steps.append(TrivialAugment(geometric))
    if settings.color:
        steps.append(PhotometricDistortion(settings.color))
    if settings.lighting:
        steps.append(Lighting(settings.lighting))
    if settings.cutout:
        steps.append(Cutout(settings.cutout))
    if preprocessing.size is not None and not settings.pad and settings.resize == "letterbox":
        steps.append(PadTo(preprocessing.size))
    return steps


def _refuse_without_camera(settings: Settings, task: str) -> None:
    """Raises UsageError for settings after which no camera sees the picture, or one that is tilted."""
    for name in ("mosaic", "elastic", "rotate", "transpose", "flip_vertical"):
        if getattr(settings, name):
            raise UsageError(f"{name} gives pictures that no upright camera sees; for {task} use {name}=0")


def _classify_geometry(settings: Settings, preprocessing: Preprocessing) -> list[Transform]:
    size = height_width(settings.size)
    steps: list[Transform] = []
    if preprocessing.pad:
        steps += [Resize(size), PadCrop(settings.pad)]
    elif settings.resize == "crop":
        steps.append(RandomResizedCrop(size, settings.crop_min))
    else:
        steps.append(FitInside(size) if settings.resize == "letterbox" else Resize(size))
    if settings.rotate or settings.jitter:
        steps.append(Affine(settings.rotate, settings.jitter, settings.jitter / 2))
    if settings.elastic:
        steps.append(Elastic(settings.elastic))
    return steps


def _person_geometry(settings: Settings) -> list[Transform]:
    """Raises UsageError for settings that would show other people, or a person out of shape."""
    if settings.resize != "letterbox":
        raise UsageError(f"resize={settings.resize}: the picture of one person keeps its shape; use letterbox")
    for name in ("mosaic", "min_overlap_crop", "mixup"):
        if getattr(settings, name):
            raise UsageError(f"{name} is for pictures with any number of objects; this model is shown one person each")
    steps: list[Transform] = [AroundPerson(height_width(settings.size), settings.rotate, settings.jitter)]
    return [*steps, Elastic(settings.elastic)] if settings.elastic else steps


def _detect_geometry(settings: Settings, size: Size) -> list[Transform]:
    steps: list[Transform] = []
    if settings.mosaic:
        steps.append(Mosaic(size, settings.mosaic))
    keep_aspect = settings.resize == "letterbox"
    if settings.min_overlap_crop:
        steps.append(MinOverlapCrop(settings.min_overlap_crop, size=size, keep_aspect=keep_aspect))
    if settings.rotate or settings.jitter:
        steps.append(Affine(settings.rotate, settings.jitter, settings.jitter / 2, size, keep_aspect))
    else:
        steps.append(_whole(settings, size))
    if settings.elastic:
        steps.append(Elastic(settings.elastic))
    return steps


def _whole(settings: Settings, size: Size) -> Transform:
    """The resize that keeps all of the image."""
    return FitInside(size) if settings.resize == "letterbox" else Resize(size)


def _segment_geometry(settings: Settings) -> list[Transform]:
    steps: list[Transform] = [Scale(settings.scale)] if settings.scale != 1 else []
    if settings.rotate:
        steps.append(Affine(settings.rotate, settings.jitter, settings.jitter / 2))
    elif settings.jitter and not settings.object_crop:
        steps.append(ScaleJitter(1 - settings.jitter, 1 + settings.jitter))
    if settings.elastic:
        steps.append(Elastic(settings.elastic))
    size = height_width(settings.size)
    return [*steps, ObjectCrop(size, settings.object_crop) if settings.object_crop else RandomCrop(size)]


def to_original(prediction: Annotation, batch: Batch, index: int) -> Annotation:
    """A prediction in the pixels of the original image.

    Boxes, keypoints and areas go through `batch.to_original[index]`; boxes are clipped to the original image; masks are
    resampled linearly, the class map takes the nearest class; where a crop left parts unseen, masks are False and the
    class map is 255. Label, tags and scores stay. The result is on the CPU.

    Args:
        prediction: in pixels of `batch.sizes[index]`.
    """
    prediction = prediction.to("cpu")
    matrix, size = batch.to_original[index], batch.original_sizes[index]
    objects, semantic = prediction.objects, prediction.semantic
    move = affine(matrix, size, partial(warp_masks, matrix=matrix, size=size))
    if objects is not None:
        objects = move_objects(objects, move, "all")
    if semantic is not None:
        semantic = _nearest(semantic.numpy(), np.linalg.inv(matrix), size)
    camera = move_camera(prediction.camera, move)
    return replace(prediction, size=size, objects=objects, semantic=semantic, camera=camera)


def _nearest(semantic: np.ndarray, back: np.ndarray, size: Size) -> torch.Tensor:
    """[h, w] uint8 -> [*size]: the class under each original pixel's centre; `back` maps original to network pixels."""
    height, width = semantic.shape
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    if not back[0, 1] and not back[1, 0]:
        columns = np.floor(back[0, 0] * x + back[0, 2]).astype(np.int64)
        rows = np.floor(back[1, 1] * y + back[1, 2]).astype(np.int64)
        out = semantic[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))]
        out[(rows < 0) | (rows >= height)] = IGNORE
        out[:, (columns < 0) | (columns >= width)] = IGNORE
        return torch.from_numpy(out)
    points = np.floor(map_points(np.stack(np.meshgrid(x, y), axis=-1), back)).astype(np.int64)
    inside = ((points >= 0) & (points < [width, height])).all(axis=-1)
    points = np.clip(points, 0, [width - 1, height - 1])
    return torch.from_numpy(np.where(inside, semantic[points[..., 1], points[..., 0]], np.uint8(IGNORE)))
