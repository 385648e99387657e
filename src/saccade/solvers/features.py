"""What a frozen network says of every image, computed once and kept on the disk.

`top` is the input of the network's last layer; `depths` are the means over the map of every level of the trunk contract
(`features`), side by side. Both are computed for each image and for its mirror image, which training may use as well.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from saccade import checkpoint
from saccade.data.dataset import DataSet, Record
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Batch
from saccade.data.views import inference_view
from saccade.errors import ModelFileError, UsageError
from saccade.inference.fuse import prepare_for_inference
from saccade.machine.device import loader_workers
from saccade.machine.files import inside, make_folder
from saccade.models.contract import Room, features_of
from saccade.models.dry_run import class_tensors
from saccade.models.weights import start_from

BATCH = 8  # images a forward pass
VERSION = 1  # raised when features of the same network and images come out otherwise
NAMES = ("top", "top.mirrored", "depths", "depths.mirrored")


@dataclass(frozen=True, slots=True)
class Features:
    """Rows in the order of `ids`, float32; `depths` has no columns where the network gives no feature maps."""

    ids: list[str]
    top: np.ndarray  # [images, channels]
    top_mirrored: np.ndarray
    depths: np.ndarray  # [images, sum of the channels of all levels]
    depths_mirrored: np.ndarray
    seconds: float  # that it took to compute them
    cached: bool  # whether they came from the disk

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order of NAMES."""
        return self.top, self.top_mirrored, self.depths, self.depths_mirrored


@dataclass(frozen=True, slots=True)
class Frozen:
    """A network whose weights stand still, but for the output layer that is fitted to what comes before it."""

    model: nn.Module  # in evaluation mode
    head: str  # name of the output layer
    preprocessing: Preprocessing  # what its images go through
    code: str = ""  # SHA-256 of the network's file, where that is the user's own


def frozen_network(module: Room, config: Any, weights: str | Path) -> nn.Module:
    """The network with these weights; only its output layer may be fresh.

    Raises:
        ModelFileError: the file cannot be read.
        UsageError: weights of another network, or of a part of it.
    """
    model: nn.Module = module.Model(config)
    refuse_fresh(set(start_from(model, module, weights).fresh) - class_tensors(module, config), weights)
    return model.eval()


def refuse_fresh(names: set[str], weights: str | Path) -> None:
    """Raises UsageError where tensors before the output layer are not those of the weights."""
    if names:
        raise UsageError(
            f"{weights}: {len(names)} tensors of the network are not in it, or have another shape there, such as "
            f"{', '.join(sorted(names)[:3])}; frozen features need all but the output layer. Give the --model and "
            "the settings (--set width=...) that the weights were made with"
        )


def output_layer(module: Room, config: Any, model: nn.Module) -> str:
    """Name of the linear layer (or 1x1 convolution) that gives the classes.

    Raises:
        UsageError: the network ends otherwise.
    """
    layers = {name.rpartition(".")[0] for name in class_tensors(module, config)}
    found = [name for name, _ in model.named_modules() if name in layers]
    last = model.get_submodule(found[-1]) if found else None
    pointwise = isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) and last.groups == 1
    if not (pointwise or isinstance(last, nn.Linear)) or getattr(last, "bias", None) is None:
        raise UsageError(
            f"{module.__name__.rpartition('.')[2]} does not end in a linear layer with biases: its features cannot be "
            "given to a linear classifier; use another --model"
        )
    return found[-1]


def without_output_layer(model: nn.Module, head: str) -> nn.Module:
    """A copy whose `forward` gives what the output layer would have got, [b, channels]: means over the map where that
    is a convolution."""
    network = copy.deepcopy(model)
    network.set_submodule(head, nn.Identity())
    return network


def feature_key(frozen: Frozen, root: Path, records: Sequence[Record]) -> str:
    """SHA-256 of all that features depend on: weights but for the output layer, images (names, files with their
    sizes and times, regions), preprocessing."""
    before = frozen.head + "."
    weights = {name: value for name, value in frozen.model.state_dict().items() if not name.startswith(before)}
    files = []
    for record in records:
        stat = (root / record.path).stat()
        files.append([record.id, record.path, record.region, stat.st_size, stat.st_mtime_ns])
    room, images = type(frozen.model).__module__, frozen.preprocessing.to_json()
    content = [
        VERSION,
        room,
        *([frozen.code] if frozen.code else []),
        checkpoint.digest(weights),
        sorted(files),
        images,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def cached_features(
    folder: Path,
    frozen: Frozen,
    dataset: DataSet,
    task: str,
    device: torch.device,
    workers: int | None = None,
    progress: bool = False,
) -> Features:
    """The features of all images of a data set: from `folder` if they are there, else computed and left there.

    Raises:
        DataError: an image cannot be read.
        ResourceError: no space, no permission.
    """
    records = sorted(dataset.records, key=lambda record: record.id)
    key = feature_key(frozen, dataset.root, records)
    path = inside(folder, f"{key[:16]}.safetensors")
    kept = _read(path, key)
    if kept is not None:
        return kept
    loader = as_predicted(dataset, records, task, frozen.preprocessing, loader_workers(workers, device))
    console = Console(stderr=True)
    shown = track(loader.epoch(0), "features", total=len(loader), console=console, disable=not progress, transient=True)
    found = compute_features(frozen.model, frozen.head, shown, device)
    loader.close()
    header = {"key": key, "ids": json.dumps(found.ids), "seconds": str(found.seconds)}
    tensors = dict(zip(NAMES, map(torch.from_numpy, found.arrays), strict=True))
    make_folder(folder)
    checkpoint.write_tensors(path, tensors, header)
    return found


def as_predicted(
    dataset: DataSet, records: Sequence[Record], task: str, preprocessing: Preprocessing, workers: int
) -> Loader:
    """The images as predictions see them, with their truth, in this order."""
    work = Work(min(workers, len(records) // BATCH))
    return Loader(dataset, records, task, inference_view(task, preprocessing), InOrder(), BATCH, work)


@torch.inference_mode()
def compute_features(model: nn.Module, head: str, batches: Iterable[Batch], device: torch.device) -> Features:
    """What the network has of all images of the batches before its output layer `head`, in their order."""
    start = time.monotonic()
    network = prepare_for_inference(without_output_layer(model, head).to(device))
    ids: list[str] = []
    rows: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    same: bool | None = None  # whether the last level's means are the top features: then one pass gives both
    for batch in batches:
        ids += batch.ids
        images = batch.to(device).images
        for suffix, view in (("", images), (".mirrored", images.flip(3))):
            depths = _depths(network, view)
            width = 0 if not depths else depths[-1].shape[1]
            if same:
                top = depths[-1]
            else:
                top = network(view)
                if same is None:
                    same = width == top.shape[1] and torch.allclose(top, depths[-1], rtol=1e-4, atol=1e-5)
            rows["top" + suffix].append(top.float().cpu())
            empty = torch.zeros(len(view), 0)
            rows["depths" + suffix].append(torch.cat([d.float().cpu() for d in depths], 1) if depths else empty)
    tensors = {name: torch.cat(parts).contiguous() for name, parts in rows.items()}
    return _features(ids, tensors, time.monotonic() - start, cached=False)


def _features(ids: list[str], tensors: dict[str, Tensor], seconds: float, cached: bool) -> Features:
    top, top_mirrored, depths, depths_mirrored = (tensors[name].numpy() for name in NAMES)
    return Features(ids, top, top_mirrored, depths, depths_mirrored, seconds, cached)


def _read(path: Path, key: str) -> Features | None:
    if not path.is_file():
        return None
    try:
        header, tensors = checkpoint.read_tensors(path)
        if header.get("key") != key:
            return None
        return _features(json.loads(header["ids"]), tensors, float(header["seconds"]), cached=True)
    except (ModelFileError, KeyError, ValueError):  # cut short or foreign: made again
        return None


def _depths(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Means over the map of every level, [b, channels] each; none where the network is no trunk."""
    features = features_of(network)
    return [] if features is None else [level.mean((2, 3)) for level in features(images)]
