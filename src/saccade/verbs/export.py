"""`saccade export`: a trained model as a file for other programs, proved to answer as the model does."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import data as photographs
from torch import Tensor

from saccade.config import parse_sides
from saccade.data.formats.listing import images_to_look_at
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.pictures import decode_picture
from saccade.data.resampling import resize_plane
from saccade.data.transforms import GRAY
from saccade.data.types import Annotation, Batch, Sample
from saccade.data.views import give, inference_view
from saccade.errors import DataError, ModelFileError, ResourceError, UsageError, suggest
from saccade.inference.exported import TOLERANCE, Exported, largest_difference
from saccade.inference.factors import factorised
from saccade.inference.onnx_file import check_packages, quiet, run_onnx, write_onnx
from saccade.inference.trained import Trained, open_run
from saccade.layers.regions import given_regions
from saccade.machine.files import write_whole
from saccade.machine.paths import at_home
from saccade.models import model_module
from saccade.models.contract import example_inputs, limits_of, padding_colour, takes_proposals
from saccade.tasks.contract import task_of
from saccade.tasks.table import find_task
from saccade.training.own_data import validation_images

LOGGER = logging.getLogger("saccade.export")
ANY_SIZE = 256  # pixels a side, where the model takes images of any size
LOOKED_AT = 4  # images on which a file is compared with the model
OTHER_SIZE = 32  # pixels by which a side grows for the proof that a file takes images of other sizes
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def export(
    run: str | Path,
    *,
    to: str = "onnx",
    out: str | Path | None = None,
    batch: int | None = None,
    size: str | int | tuple[int, int] | None = None,
    nms: bool = True,
    images: str | Path | None = None,
    svd: str | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    names: str | Path | None = None,
) -> dict[str, Any]:
    """Write a trained model as a file that answers by itself, and beside it, as `.json`, what an app needs to know.

    What goes in and comes out is said in docs/reference/export.md, and of a task in its file (`outputs`).

    Args:
        run: run folder, checkpoint, or the `.cfg` of a detector of Darknet.
        to: "onnx" (needs the extra `deploy`) or "torch" (`.pt2`, for `torch.export.load` where saccade is imported).
        out: the file; by default beside the checkpoint.
        batch: images a call, then fixed; by default any number, where the network can.
        size: input pixels, a side or HxW, then fixed; by default those of training (256 for models of any size), and
            others where the network takes them.
        nms: whether boxes of a detector come after non-maximum suppression, or all of them before it.
        images: image or folder on which file and model are compared; by default validation images of the run, or where
            they are gone photographs that scikit-image brings.
        svd: ranks to which the two fully connected layers of Fast R-CNN are factorised before, such as "1024,256".
        weights, names: of a `.cfg`, as in `saccade.load`.

    Returns:
        `{file, about, format, inputs, outputs, suppression, compared_on, largest_difference}`; free sides have names.

    Raises:
        UsageError: unknown format; the extra is not installed; operations that ONNX has no word for; the file would not
            answer as the model does, and is not left behind.
        DataError: `images` holds none.
    """
    if to not in SUFFIXES:
        raise UsageError(f"--to {to!r}: {suggest(to, list(SUFFIXES))}")
    if to == "onnx":
        check_packages()
    trained = open_run(run, weights=weights, names=names)
    target = trained.path.with_name("model" + SUFFIXES[to]) if out is None else Path(str(at_home(out)))
    if target.suffix == ".json":
        raise UsageError(f"--out {target}: what is to be known of the file is written there; name it .onnx or .pt2")
    sides = trained.preprocessing.size or (ANY_SIZE, ANY_SIZE)
    sides = sides if size is None else parse_sides(size)
    pictures, source = _pictures(trained, None if images is None else Path(str(at_home(images))))
    shown = _Shown(trained, sides, pictures)
    answering = trained if svd is None else factorised(trained, svd)[0]
    network = Exported(answering.network, trained.task, shown.proposals, nms).eval()
    made = _write(network, shown, target, _Freedom(batch, size is None, to == "onnx"))
    about = _about(trained, network, made, sides)
    found = {"file": str(target), "about": str(_write_about(target, about)), "format": to}
    found |= {name: about[name] for name in ("inputs", "outputs", "suppression")}
    return found | {"compared_on": source, "largest_difference": made.difference}


def _write_about(target: Path, about: Mapping[str, Any]) -> Path:
    """The file beside a file, which does not stay without it."""
    beside = target.with_suffix(".json")
    try:
        write_whole(beside, json.dumps(about, indent=2) + "\n")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return beside


@dataclass(frozen=True, slots=True)
class _Freedom:
    """What of the shapes of a file is settled beforehand."""

    batch: int | None  # images a call
    sides: bool  # whether images of other sides are wanted
    onnx: bool  # else an archive of torch


@dataclass(frozen=True, slots=True)
class _Made:
    """What was written."""

    inputs: dict[str, list[int | str]]  # shapes, with names for free sides
    outputs: dict[str, list[int | str]]
    difference: float


class _Shown:
    """Pictures as the network of a run sees them."""

    def __init__(self, trained: Trained, sides: tuple[int, int], pictures: list[np.ndarray]) -> None:
        self.trained, self.sides = trained, sides
        self.room = model_module(trained.model)
        self.proposals = takes_proposals(self.room)
        # Proposals are computed of pixels: no more of them than the network sees.
        self.pictures = [_at_most(each, max(sides)) for each in pictures] if self.proposals else pictures

    def inputs(self, count: int, more: int = 0) -> tuple[Tensor, ...]:
        """Images [count, 3, H + more, W + more], taken in turn, and what else the exported network is given."""
        sides = (self.sides[0] + more, self.sides[1] + more)
        batch = collate([self._see(self.pictures[i % len(self.pictures)], sides) for i in range(count)]).to("cpu")
        found: list[Tensor] = [batch.images.contiguous()]
        if find_task(self.trained.task).objects:
            found.append(torch.tensor(batch.sizes))
        if self.proposals:
            found.append(self._boxes(batch, sides, count))
        return tuple(found)

    def _see(self, picture: np.ndarray, sides: tuple[int, int]) -> Sample:
        preprocessing = self.trained.preprocessing
        if preprocessing.size is None:
            picture = resize_plane(picture, sides)
            preprocessing = replace(preprocessing, scale=1.0)
        else:
            preprocessing = replace(preprocessing, size=sides)
        view = inference_view(self.trained.task, preprocessing)
        size = (picture.shape[0], picture.shape[1])
        return view.apply(give(Sample(picture, Annotation(size), "", size), view.propose(picture)))

    def _boxes(self, batch: Batch, sides: tuple[int, int], count: int) -> Tensor:
        config = self.trained.network.config
        if batch.given is None:  # they come from a file of the user's
            return example_inputs(self.room, config, *sides, count)[1]
        most = config.most_proposals
        table = given_regions([each.boxes[:most] for each in batch.given], torch.device("cpu"))
        return torch.nn.functional.pad(table, (0, 0, 0, most - table.shape[1]))


def _write(network: Exported, shown: _Shown, target: Path, freedom: _Freedom) -> _Made:
    """The file with the freest shapes with which it answers as the network does. Raises UsageError where there are
    none."""
    settled = replace(freedom, sides=False)
    tries = [freedom, settled] if freedom.sides else [settled]
    tries += [replace(settled, batch=1)] if freedom.batch is None else []
    for one in tries[:-1]:
        try:
            return _written(network, shown, target, one)
        except ResourceError:
            raise
        except Exception as error:  # torch has a kind of error for each reason why a side cannot stay open
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            LOGGER.info("%s cannot stay open: %s", "other sizes" if one.sides else "the number of images", reason)
    return _written(network, shown, target, tries[-1])


def _written(network: Exported, shown: _Shown, target: Path, freedom: _Freedom) -> _Made:
    inputs = shown.inputs(freedom.batch or 2)
    with torch.no_grad(), quiet():
        network(*inputs)
        program = torch.export.export(network, inputs, dynamic_shapes=_free(network, freedom), strict=False)
    shapes = _shapes(program, network)
    batch, height = shapes["images"][0], shapes["images"][2]
    if freedom.batch is None and isinstance(batch, int):
        return _written(network, shown, target, replace(freedom, batch=1))
    if freedom.sides and isinstance(height, int):
        freedom = replace(freedom, sides=False)
    trials = [inputs, *([shown.inputs(1), shown.inputs(LOOKED_AT)] if freedom.batch is None else [])]
    trials += [shown.inputs(freedom.batch or 1, OTHER_SIZE)] if freedom.sides else []
    differences: list[float] = []

    def write_and_compare(temporary: Path) -> None:
        for given in trials:
            found = _answers(
                program, network, given, temporary, shown.trained if given is inputs else None, freedom.onnx
            )
            with torch.no_grad():
                wanted = dict(zip(network.names, network(*given), strict=True))
            differences.append(largest_difference(found, wanted))
            if not differences[-1] <= TOLERANCE:
                raise UsageError(
                    f"the exported {shown.trained.task} model differs by {differences[-1]:.2g} from the original; not "
                    "written"
                )

    write_whole(target, write_and_compare)
    outputs = {name: shapes[name] for name in network.names}
    return _Made({name: shapes[name] for name in network.inputs}, outputs, max(differences))


def _answers(
    program: Any, network: Exported, given: tuple[Tensor, ...], path: Path, of: Trained | None, onnx: bool
) -> dict[str, Tensor]:
    """What the file at `path` answers, which is first written where it is said of what."""
    if onnx:
        if of is not None:
            facts = {"task": of.task, "classes": json.dumps(of.classes)}
            write_onnx(program, network.inputs, network.names, path, facts)
        return run_onnx(path, dict(zip(network.inputs, given, strict=True)))
    if of is not None:
        archive = io.BytesIO()  # torch ends the whole process where the disk is full
        torch.export.save(program, archive)
        write_whole(path, archive.getvalue())
    with quiet(), torch.no_grad():
        return dict(zip(network.names, torch.export.load(path).module()(*given), strict=True))


def _free(network: Exported, freedom: _Freedom) -> dict[str, Any]:
    """Which sides torch.export may leave open."""
    auto = torch.export.Dim.AUTO
    several = {0: auto} if freedom.batch is None else {}
    free: dict[str, Any] = {"images": several | ({2: auto, 3: auto} if freedom.sides else {})}
    more = [several | ({1: auto} if name == "proposals" else {}) for name in network.inputs[1:]]
    return free | ({"more": tuple(more)} if more else {})


def _shapes(program: Any, network: Exported) -> dict[str, list[int | str]]:
    """The shape of every input and output, with names for the sides that are free."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    pairs = [*zip(network.inputs, signature.user_inputs, strict=True)]
    pairs += [*zip(network.names, signature.user_outputs, strict=True)]
    words: dict[str, str] = {}
    images = nodes[signature.user_inputs[0]].meta["val"].shape
    for word, side in zip(("batch", "", "height", "width"), images, strict=True):
        words.setdefault(str(side), word or str(side))
    shapes: dict[str, list[int | str]] = {}
    for name, node in pairs:
        sides = nodes[node].meta["val"].shape
        shapes[name] = [side if isinstance(side, int) else words.get(str(side), "any") for side in sides]
    return shapes


def _about(trained: Trained, network: Exported, made: _Made, sides: tuple[int, int]) -> dict[str, Any]:
    """What an app needs to know of a file; the manual says what each entry means."""
    preprocessing, kind = trained.preprocessing, find_task(trained.task)
    colour = padding_colour(network.model)
    padding = [GRAY / 255] * 3 if colour is None else colour.flatten().expand(3).tolist()
    suppression = None
    if kind.many_objects and not kind.cuboids and not preprocessing.one_person:  # what finds objects by itself
        limits = limits_of(network.model)
        suppression = {"inside": network.suppressed, "iou": limits.nms_iou, "least_score": limits.threshold}
    threshold = task_of(trained.task).SMALLEST_SCORE
    return {
        "task": trained.task,
        "model": trained.model,
        "classes": trained.classes,
        "thresholds": list(trained.thresholds) or ([threshold] * len(trained.classes) if threshold else []),
        "inputs": made.inputs,
        "outputs": made.outputs,
        "preprocessing": {
            "pixels": "RGB in [0, 1]; the file normalises them",
            "size": list(sides),
            "resize": "stretch" if preprocessing.pad else preprocessing.resize,
            "scale": preprocessing.scale if preprocessing.size is None else None,
            "view": preprocessing.view if preprocessing.resize == "crop" and not preprocessing.pad else None,
            "padding": padding if preprocessing.resize == "letterbox" else None,
        },
        "joints": None if preprocessing.joints is None else preprocessing.joints.to_json(),
        "suppression": suppression,
        "largest_difference": made.difference,
    }


def _pictures(trained: Trained, given: Path | None) -> tuple[list[np.ndarray], str]:
    """Images to compare on, and in words where they are from."""
    if given is not None:
        paths = images_to_look_at(given) if given.is_dir() else [given]
        if not paths:
            raise DataError(f"{given}: no image in it")
        return [decode(path) for path in paths[:LOOKED_AT]], f"{min(len(paths), LOOKED_AT)} images of {given}"
    try:
        dataset, records = validation_images(trained.path, trained.task, "export")
        found = [decode_picture(record, dataset.root)[0] for record in records[:LOOKED_AT]]
        if found:
            return found, f"{len(found)} validation images of {dataset.root}"
    except (DataError, UsageError, ModelFileError, OSError, ValueError, KeyError, TypeError):
        pass  # a checkpoint alone, or its data are elsewhere by now
    return [getattr(photographs, name)() for name in ("chelsea", "astronaut", "coffee", "rocket")], "photographs"


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, its longer side at most `side` pixels."""
    scale = min(1.0, side / max(picture.shape[:2]))
    return resize_plane(picture, (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))))
