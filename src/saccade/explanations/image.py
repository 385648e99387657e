"""All explanations of one image: targets, heat maps in its pixels, feature maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from saccade.data.geometry import Size, scaling
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.pipelines import Preprocessing, to_original
from saccade.data.types import Annotation, Batch, Objects
from saccade.data.views import inference_view
from saccade.errors import UsageError
from saccade.explanations.feature_maps import strongest_channels
from saccade.explanations.grad_cam import grad_cam
from saccade.explanations.layers import Shape, layer_shapes, maps_of, stage_layers
from saccade.explanations.occlusion import occlusion, patch_of, patch_places
from saccade.explanations.placing import place
from saccade.explanations.saliency import saliency
from saccade.explanations.stages import SHOWN, StagePicture, stage_pictures
from saccade.layers.regions import given_regions
from saccade.plots.draw import draw, fit
from saccade.tasks.contract import Box, Scores, Target, task_of
from saccade.tasks.table import find_task

LONGEST = 1600  # pixels of the longer side of a picture; larger photographs are shown smaller
CHANNELS = 15  # of a layer, shown beside the input
STAGES = 6  # layers shown where none are chosen: the last ones

Advance = Callable[[int, int], object]  # patches done now, patches in all


@dataclass(slots=True)
class Wanted:
    """What is asked of every image."""

    methods: Sequence[str]
    classes: Sequence[str] = ()  # names of all of the network's
    labels: Sequence[int] = ()  # of the classes to explain; empty: what the network says
    count: int = 3  # targets an image
    layers: Sequence[str] = ()  # of the feature maps; empty: one for each map size
    thresholds: Sequence[float] = ()  # from which on a tag is given, or objects of each class; empty: of the task
    vectors: Mapping[Path, Tensor] = field(default_factory=dict)  # embed: [d] of the pictures that are compared
    names: Mapping[Path, str] = field(default_factory=dict)  # of pictures, where they need more than that of the file
    boxes: Callable[[Path], Objects] | None = None  # that the network is given, of models that answer for objects
    cameras: Callable[[Path], np.ndarray] | None = None  # [3, 4], of models that answer in metres


@dataclass(slots=True)
class Explained:
    """One image with its maps; those of `heats` are in the pixels of `picture`."""

    path: Path
    size: Size  # of the upright original
    picture: np.ndarray  # [H, W, 3] uint8 RGB: the original, at most LONGEST pixels a side
    scale: float  # pixels of the picture for one of the original
    targets: list[Target] = field(default_factory=list)  # boxes in pixels of the picture
    heats: dict[str, list[np.ndarray]] = field(default_factory=dict)  # method -> [H, W] of each target, NaN: not seen
    cam_layer: str = ""
    cells: Size = (0, 0)  # of the map of `cam_layer`
    patch: int = 0  # side of the occluding patch, pixels of the original
    input: np.ndarray | None = None  # [H, W, 3] uint8, what the network saw
    layers: dict[str, tuple[Tensor, list[int]]] = field(default_factory=dict)  # maps [k, h, w] and their channels
    stages: list[StagePicture] = field(default_factory=list)  # of a detector
    notes: list[str] = field(default_factory=list)  # what was not shown, and why


def explain_image(
    model: Any,
    task: str,
    preprocessing: Preprocessing,
    path: Path,
    wanted: Wanted,
    device: torch.device,
    progress: Advance = lambda done, total: None,
) -> Explained:
    """Everything that is asked of one image.

    Args:
        model: the network as trained, in evaluation mode on `device`.
        progress: is told of the patches of the occlusion.

    Raises:
        DataError: the file is not an image that can be read.
        UsageError: a task without explanations, a layer that is not there, maps of a single cell.
    """
    boxes = None if wanted.boxes is None else wanted.boxes(path)
    camera = None if wanted.cameras is None else wanted.cameras(path)
    batch = collate([inference_view(task, preprocessing).read(path, boxes, camera)]).to(device)
    images = batch.images
    if find_task(task).semantic:
        _refuse_uneven(model, images)
    with torch.no_grad():
        answer = model.predict(batch)[0].to("cpu")
    answer.joints = preprocessing.joints
    if preprocessing.one_person and answer.objects is not None:
        answer.objects = replace(answer.objects, scores=None)  # the picture is one, however little sure its joints are
    if wanted.thresholds and answer.tags is not None:
        answer.tags = answer.probabilities >= torch.tensor(wanted.thresholds)
    if find_task(task).many_objects:
        answer = task_of(task).keep(answer, wanted.thresholds or task_of(task).SMALLEST_SCORE)
    picture, scale = _picture(path)
    done = Explained(path, batch.original_sizes[0], picture, scale)
    done.input = (255 * images[0].permute(1, 2, 0)).round().to(torch.uint8).cpu().numpy()
    targets = compared_with(model, path, wanted.vectors, wanted.names)[: wanted.count]
    targets = targets or task_of(task).choose_targets(answer, wanted.labels, wanted.count)
    to_picture = scaling(scale, scale) @ batch.to_original[0]
    if targets:
        for method, heat in _heats(model, task, batch, targets, wanted, done, progress).items():
            network = (images.shape[2], images.shape[3])
            done.heats[method] = [place(h.numpy(), network, to_picture, picture.shape[:2]) for h in heat]
    done.targets = [replace(t, box=_moved(t.box, to_picture)) for t in targets]
    if "features" in wanted.methods:
        names = list(wanted.layers) or stage_layers(layer_shapes(model, inputs_of(batch)))[-STAGES:]
        for name, maps in maps_of(model, inputs_of(batch), names).items():
            channels = strongest_channels(maps, CHANNELS)
            done.layers[name] = (maps[channels], channels)
    if "stages" in wanted.methods and find_task(task).many_objects:
        done.stages = stage_pictures(model, batch, picture, to_picture, preprocessing.proposals)
        final = to_original(answer, batch, 0)
        done.stages = [_as_shown(stage, final, path, wanted.classes) for stage in done.stages]
    return done


def _as_shown(stage: StagePicture, answer: Annotation, path: Path, classes: Sequence[str]) -> StagePicture:
    """The last stage is drawn as `predict` draws an answer, with masks, joints, edges in space; others as they are."""
    if stage.name != "answer" or answer.objects is None:
        return stage
    pixels = draw(*fit(decode(path), answer, SHOWN), classes)
    return replace(stage, pixels=pixels, drawn=len(answer.objects))


def compared_with(
    model: Any, path: Path, vectors: Mapping[Path, Tensor], names: Mapping[Path, str] = MappingProxyType({})
) -> list[Target]:
    """The other pictures of `vectors`, most alike first: what makes one like them is explained. None where there is no
    other."""
    others = [other for other in vectors if other != path]
    if path not in vectors or not others:
        return []
    own, rows = vectors[path][None], torch.stack([vectors[other] for other in others])
    compare, device = getattr(model, "similarity", None), next(model.parameters()).device
    with torch.no_grad():
        found = own @ rows.T if compare is None else compare(own.to(device), rows.to(device)).cpu()
    order = found[0].argsort(descending=True).tolist()
    return [Target(0, float(found[0, i]), reference=rows[i], about=names.get(others[i], others[i].name)) for i in order]


def layers_for(
    model: Any, task: str, preprocessing: Preprocessing, path: Path, device: torch.device
) -> dict[str, Shape]:
    """Name and (channels, height, width) of the layers that give maps for this image. Raises as `explain_image`."""
    whole = Objects(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.zeros(1, dtype=torch.int64))  # clipped to the image
    given = whole if preprocessing.proposals == "objects" else None
    batch = collate([inference_view(task, preprocessing).read(path, given)]).to(device)
    return layer_shapes(model, inputs_of(batch))


def inputs_of(batch: Batch) -> list[Tensor]:
    """What the network's `forward` takes: images, and the boxes that they are given, where the model takes some."""
    if batch.given is None:
        return [batch.images]
    return [batch.images, given_regions([each.boxes for each in batch.given], batch.images.device)]


def _refuse_uneven(model: Any, images: Tensor) -> None:
    """Networks of unpadded convolutions predict in tiles, and take no other size as it is."""
    try:
        with torch.no_grad():
            model(images)
    except ValueError as error:
        raise UsageError(f"this network cannot be explained on the whole image: {error}") from error


def _heats(
    model: Any, task: str, batch: Batch, targets: Sequence[Target], wanted: Wanted, done: Explained, progress: Advance
) -> dict[str, Tensor]:
    """The maps of every method that the task allows, in the network's frame; notes in `done` what they were made of."""
    heats: dict[str, Tensor] = {}
    file, images = task_of(task), batch.images
    if file.HAS_GRADIENT:
        scores: Scores = file.raw_scores(model, targets)
        if "grad_cam" in wanted.methods:
            try:
                found = grad_cam(model, images, scores, deepest=find_task(task).semantic)
                heats["grad_cam"] = found.heat
                done.cam_layer, done.cells = found.layer, (found.heat.shape[1], found.heat.shape[2])
            except UsageError as error:  # the other methods still say something
                done.notes.append(str(error))
        if "saliency" in wanted.methods:
            heats["saliency"] = saliency(images, scores)
    if "occlusion" in wanted.methods:
        size = batch.sizes[0]
        side, step = patch_of(size)
        total = len(patch_places(size, side, step))
        done.patch = round(side * float(abs(np.linalg.det(batch.to_original[0][:2, :2])) ** 0.5))
        chance = file.likelihoods(model, targets, batch)
        heats["occlusion"] = occlusion(
            images, chance, size, side, step, advance=lambda patches: progress(patches, total)
        )
    return heats


def _picture(path: Path) -> tuple[np.ndarray, float]:
    """The upright image, at most LONGEST pixels a side, and its scale."""
    image = decode(path)
    longest = max(image.shape[:2])
    if longest <= LONGEST:
        return image, 1.0
    scale = LONGEST / longest
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), scale


def _moved(box: Box | None, matrix: np.ndarray) -> Box | None:
    if box is None:
        return None
    x1, y1, _ = matrix @ [box[0], box[1], 1]
    x2, y2, _ = matrix @ [box[2], box[3], 1]
    return float(x1), float(y1), float(x2), float(y2)
