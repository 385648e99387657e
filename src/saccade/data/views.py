"""How an image comes to the network: how finely its file is decoded, and what is then done to it.

A view is built in one place for each purpose: `training_view` for what is learnt from, `inference_view` for what is
predicted, evaluated, explained and measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saccade.config import Settings, height_width
from saccade.data.geometry import Size, move_camera, move_objects, scaling
from saccade.data.image import probe_and_decode
from saccade.data.mixing import Mosaic
from saccade.data.pipelines import Preprocessing, Transform, inference_transforms, training_transforms
from saccade.data.proposals import SOURCES, proposals_for, propose
from saccade.data.resampling import resizing
from saccade.data.transforms import RandomResizedCrop
from saccade.data.types import Annotation, Objects, Sample
from saccade.tasks.table import find_task


@dataclass(frozen=True)
class View:
    """The transforms from a decoded image to an input of the network, in order, and the size that decoding may have.

    Args:
        transforms: each is called as `pipelines.Transform` says.
        min_side: pixels of the shorter side down to which a large JPEG may be decoded at reduced size
            (`data.image.decode`) without loss of detail behind the transforms; None: images are decoded whole.
        proposals: where boxes come from that the model is given with each image (`Preprocessing.proposals`).
    """

    transforms: tuple[Transform, ...] = ()
    min_side: int | None = None
    proposals: str | None = None

    def propose(self, image: Path | np.ndarray, region: tuple[int, int, int, int] | None = None) -> Objects | None:
        """The boxes that are computed for an image file (and kept, `data.proposals.proposals_for`) or for an array [H,
        W, 3] uint8 RGB, in pixels of the upright original; None where the model takes none, or the user brings them.

        Args:
            region: x1 y1 x2 y2 of the part of the file's picture that is the image.
        """
        source = SOURCES.get(self.proposals or "")
        if source is None:
            return None
        return proposals_for(image, source, region=region) if isinstance(image, Path) else propose(image, source)

    def read(self, path: Path, given: Objects | None = None, camera: np.ndarray | None = None) -> Sample:
        """An image file as the network sees it, without truth; its `id` is the path. Nothing in it is random.

        Args:
            given: boxes for a model that takes proposals, in pixels of the upright original; by default `propose`.
            camera: [3, 4], of the upright original.

        Raises:
            DataError: the file is not an image that can be read.
            ResourceError: no permission, disk error, out of memory.
        """
        found, image = probe_and_decode(path, self.min_side)
        s = float(found.reduction(self.min_side))
        size = (image.shape[0], image.shape[1])
        truth = Annotation(size, camera=move_camera(camera, resizing(1 / s, 1 / s, size)))
        given = self.propose(path) if given is None else given
        return self.apply(give(Sample(image, truth, str(path), found.size, scaling(s, s)), given))

    def apply(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """The sample behind all transforms, none of which needs others.

        Args:
            rng: what random transforms draw from; by default each sample's draws are the same.
        """
        rng = np.random.default_rng(0) if rng is None else rng
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample

    def then(self, *transforms: Transform) -> View:
        """This view with more transforms behind its own."""
        return replace(self, transforms=(*self.transforms, *transforms))

    def side_of_draw(self, size: Size, rng: np.random.Generator) -> int | None:
        """`min_side` for the draw to come, where a random crop tells how large it will be; `rng` is left as it was.

        Args:
            size: (height, width) of the upright image.
        """
        crop = self.transforms[0] if self.transforms else None
        if self.min_side is None or not isinstance(crop, RandomResizedCrop):
            return self.min_side
        before = rng.bit_generator.state
        side = crop.shorter_side(size, rng)
        rng.bit_generator.state = before
        return side


def give(sample: Sample, boxes: Objects | None) -> Sample:
    """The sample with boxes that a model is given, which come in pixels of the upright original: moved to those of its
    image, which may be decoded at a part of its size, and clipped."""
    if boxes is None:
        return sample
    x, y = 1 / np.diag(sample.to_original)[:2]
    return replace(sample, given=move_objects(boxes, resizing(x, y, sample.truth.size), "all"))


def inference_view(task: str, preprocessing: Preprocessing) -> View:
    """What prediction and evaluation show a network. Twice its pixels are decoded: the resize still averages."""
    transforms = tuple(inference_transforms(task, preprocessing))
    if preprocessing.size is None or preprocessing.one_person:  # a person may be a small part of the file
        return View(transforms, proposals=preprocessing.proposals)
    return View(transforms, 2 * round(max(preprocessing.size) * preprocessing.view), preprocessing.proposals)


def training_view(
    task: str,
    settings: Settings,
    flip_pairs: Sequence[tuple[int, int]] = (),
    mosaic: bool = True,
    one_person: bool = False,
) -> View:
    """What training shows a network.

    Args:
        flip_pairs: as in `pipelines.training_transforms`.
        mosaic: whether images are composed of several where the settings ask for it; not in the last part of a run.
        one_person: as in `pipelines.training_transforms`.

    Raises:
        UsageError: settings that contradict the task.
    """
    transforms = training_transforms(task, settings, flip_pairs, one_person)
    kept = tuple(t for t in transforms if mosaic or not isinstance(t, Mosaic))
    return View(kept, None if one_person else _training_side(task, settings))


def _training_side(task: str, settings: Settings) -> int | None:
    """A random crop is enlarged, so that it needs more pixels than the input has: by its smallest share of a side."""
    kind = find_task(task)
    if kind.semantic:
        return None
    side = max(height_width(settings.size))
    share = 1.0 - settings.jitter
    if kind.whole_image and settings.resize == "crop" and not settings.pad:
        share *= settings.crop_min**0.5
    if settings.min_overlap_crop:
        share *= 0.3  # SSD's smallest crop
    return round(side / share)
