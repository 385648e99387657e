"""What a model file ("room") must and may offer to the rest of Saccade: every name, in one list.

The four protocols are the list; the functions below are how everyone else asks for what a room may leave out, with what
holds where it does. `tests/models/test_contract.py` holds every room of the catalogue to it, also a new one, and finds
a misspelt name. Imports no torch before inputs are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from saccade.errors import UsageError
from saccade.models.paper import Paper
from saccade.models.recipes import PROBE, probe_recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from saccade.data.types import Annotation, Batch
    from saccade.layers.detections import Limits
    from saccade.layers.maps import Pooled
    from saccade.layers.stages import BoxStage
    from saccade.models.stage import Stage

    ReadFile = Callable[[Path, nn.Module], dict[str, Tensor]]


class Room(Protocol):
    """What the module of a model file must offer."""

    __name__: str
    PAPER: Paper | dict[str, Paper]
    """The publication that the file follows; a dictionary by variant where one design served several."""
    Config: Any
    """Frozen dataclass of JSON-able fields: `classes: int`, and where the file serves several tasks `task: str`. The
    plan fills these, and if they are there `size` and `objective: Objective` (losses/classification.py)."""
    VARIANTS: dict[str, Any]
    """The name that a user types -> Config at the paper's number of classes."""
    SIZE: int | dict[str, int]
    """Side of the input, in pixels, at which the catalogue counts multiply-adds; one for all or one a variant."""
    RECIPES: dict[str, dict[str, dict[str, Any]]]
    """{"default": {variant or "*": {setting: value}}, "paper": ...}; settings are fields of Settings and of Config."""
    TASKS: tuple[str, ...]
    """The tasks that it can be trained for, words of `tasks.table`; the first is the usual one."""
    Model: Any
    """The nn.Module, made by `Model(config)`; what it must and may offer are `Network` and `NetworkOffers`."""


class RoomOffers(Protocol):
    """What the module may offer besides."""

    FILES: Mapping[str, ReadFile]
    """Readers of the paper's own weight files by suffix: {".weights": read(path, model) -> state dict}."""
    AS_TRUNK: Mapping[str, Any]
    """Backbone: values of Config with which it is made as a trunk, so that the pixels of its maps lie over the image at
    equal strides."""
    TAKES_PROPOSALS: bool
    """True where the model reads the boxes of `Batch.given`, which are then computed for each image."""
    ONE_PERSON: bool
    """True where the model answers for one person: an image is then the surroundings of a box (data/people.py)."""
    FREEZES: Mapping[str, Mapping[str, int]]
    """{recipe: {variant: N}}: a run of this recipe that starts from weights keeps those of the first N parts of the
    network (training/depth.py), as the paper does."""
    PRIORS_AS_SHARES: bool
    """True where the `priors` of the Config are shares of the image's longer side, not pixels."""
    TAKES_OBJECTS: bool
    """True where the model answers for objects that something else has found: `Batch.given` holds their boxes, classes
    and perhaps scores, those of the truth where nobody gives others."""
    TAKES_LABELS: bool
    """True where a detector also learns from images that have a class (`Annotation.label`) and no boxes."""

    def adapt(self, config: Any, examples: Sequence[Annotation]) -> Any:
        """A Config fitted to the truth of training images in pixels of the network, such as anchors to the boxes.
        What a person gave stays, whatever this answers."""

    def priors_of(self, config: Any) -> Any:
        """The widths and heights that the network of a Config draws boxes from, in lists of any depth, where they may
        stand elsewhere than in its field."""

    def stages(self, name: str, recipe: str) -> list[Stage]:
        """The course of a system that is more than one fit: all its fits and solves in order, the fit of the network
        itself among them (models/stage.py)."""

    def from_public(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The keys and tensors of this file for a public checkpoint. Its own state dict comes back as it is."""

    def from_classifier(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For a model on a trunk: what parts of its own, besides the trunk, have of the trunk's classification network,
        under their names here, such as a class head."""

    def example_inputs(self, config: Any, height: int, width: int, images: int) -> tuple[Tensor, ...]:
        """What `forward` takes for images of a size, for a room whose forward takes more than images [b, 3, H, W]."""

    def compress(self, model: Any, ranks: tuple[int, int]) -> nn.Module:
        """The trained network with its two fully connected layers factorised, for prediction; `model` stays as it is.
        Raises UsageError for ranks that there are not."""


class Network(Protocol):
    """What a Model must offer besides what every nn.Module has; none of it depends on `self.training` in its types."""

    config: Any
    """The Config that it was made from."""

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Raw outputs for images [b, 3, H, W] in [0, 1]; shapes follow from shapes alone, so that it exports."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalars, whose sum is minimised; it reaches every parameter, images without objects included."""

    def predict(self, batch: Batch) -> list[Annotation]:
        """An answer for each image, in pixels of `batch.sizes`."""


class NetworkOffers(Protocol):
    """What a Model may offer besides."""

    channels: list[int]
    """Trunk: the channels of each map of `features`."""
    strides: list[int]
    """Trunk: input pixels between neighbours of each map, rising."""
    tail: nn.Module
    """Trunk whose Config has the field `tail` and was made with it: what the network goes on with behind its last map,
    regions [n, channels[-1], s, s] of that map -> [n, tail_channels, t, t], or [n, tail_channels] behind fully
    connected layers. It is then no part of `features`."""
    tail_channels: int
    """Trunk: channels of what `tail` gives."""
    tail_side: int
    """Trunk: the side in pixels of the regions that `tail` takes, or would take of an image of the usual size."""

    side_step: int
    """Detector whose answer does not hang on how far the padding of an image reaches, but for what stands beside it:
    it takes images whose sides are multiples of this many pixels. `rect` of a predictor may then cut padding off. One
    whose input has one size, or whose priors are shares of both its sides, says nothing."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Trunk: maps [b, channels[i], ~H / strides[i], ~W / strides[i]], from fine to coarse. With `classes=0` these
        are what `forward` gives. A submodule, or a method that ends by one (`layers/maps.py`): so hooks see them."""

    def pooled(self, images: Tensor) -> Pooled:
        """Trunk whose maps end before a max-pooling each: what is behind the last one, and where the maxima of each
        were (`layers/maps.py`)."""

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detector: scores [b, A, classes] in [0, 1] and boxes [b, A, 4] in pixels, before non-maximum suppression."""

    def scored_regions(self, images: Tensor, sizes: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        """Detector of two stages: scores [b, r, classes] in [0, 1] and boxes [b, r, classes, 4] in pixels, before
        non-maximum suppression, of images whose padding has the mean colour. `sizes` [b, 2] are height and width inside
        the padding; `given` what `forward` takes besides images."""

    def answers(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """What an exported file answers, by name (`tasks/contract.py: outputs`), where the task's own reading of the
        network is not all of it; arguments as of `scored_regions`."""

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """Detector: the boxes that it goes through on the way to its answer for a batch of one image, in order, the
        answer last (layers/stages.py); for the method `stages` of `saccade explain`."""

    def dense(self, images: Tensor) -> Tensor:
        """Segmenter whose `forward` answers for fewer pixels than it is given: the scores of all of them, [b, classes,
        H, W]."""

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, d] of length 1, whose distances compare what the images show."""

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Of a network to embed that learns how to compare: similarities [n, m] in [0, 1] of vectors [n, d] and [m, d].
        Of others it is the cosine."""


def paper_of(room: Room, name: str) -> Paper:
    """The paper of a variant."""
    return room.PAPER[name] if isinstance(room.PAPER, dict) else room.PAPER


def size_of(room: Room, name: str) -> int:
    """The input side of a variant in pixels, at which the catalogue counts."""
    return room.SIZE if isinstance(room.SIZE, int) else room.SIZE[name]


def recipe_of(room: Room, name: str, recipe: str) -> dict[str, Any]:
    """The settings of a recipe for a variant. Every classifier has "probe" besides its own. Raises UsageError."""
    names = sorted([*room.RECIPES, *([PROBE] if {"classify", "tag"} & set(room.TASKS) else [])])
    if recipe not in names:
        raise UsageError(f"model {name} has no recipe {recipe!r}; it has: {', '.join(names)}")
    if recipe == PROBE:
        return probe_recipe(recipe_of(room, name, "default"), room.VARIANTS[name])
    return room.RECIPES[recipe].get("*", {}) | room.RECIPES[recipe].get(name, {})


def with_weights(room: Room, name: str, recipe: str, trunk: str | None) -> dict[str, Any]:
    """What a recipe sets besides where the run starts from weights: parts that are frozen, on the variant's own trunk.

    Args:
        trunk: the one that the run's network stands on.
    """
    parts = getattr(room, "FREEZES", {}).get(recipe, {}).get(name)
    own = getattr(room.VARIANTS[name], "trunk", None)
    return {"freeze": parts} if parts is not None and trunk == own else {}


def adapts(room: Room) -> bool:
    """Whether the room fits its Config to the training images, whose truth then has to be read."""
    return hasattr(room, "adapt")


def adapt(room: Room, config: Any, examples: Sequence[Annotation], given: Collection[str] = ()) -> Any:
    """The Config fitted to `examples`, but for the fields that a person gave; as it is where the room fits nothing, or
    there is nothing to fit it to."""
    if not adapts(room) or not examples:
        return config
    fitted = cast("RoomOffers", room).adapt(config, examples)
    kept = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in given}
    return dataclasses.replace(fitted, **kept)


def priors_of(room: Room, config: Any, fields: Collection[str]) -> tuple[str, Any]:
    """The field of a Config that holds its priors, the first of `fields` that it has, and the priors that the network
    uses; "" and none of a model without."""
    field = next((name for name in fields if hasattr(config, name)), "")
    if hasattr(room, "priors_of"):
        return field, cast("RoomOffers", room).priors_of(config)
    return field, getattr(config, field, ())


def as_trunk(room: Room) -> dict[str, Any]:
    """Fields of Config with which the room's network serves as a trunk; none where it does as it is."""
    return dict(getattr(room, "AS_TRUNK", {}))


def stages_of(room: Room, name: str, recipe: str) -> list[Stage]:
    """The course of a run; of a room without `stages` the fit of its network."""
    from saccade.models.stage import Fit

    return list(cast("RoomOffers", room).stages(name, recipe)) if hasattr(room, "stages") else [Fit(name, name)]


def from_public(room: Room, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public state dict under the names of the room; as it is where the room has no `from_public`."""
    repair: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = getattr(room, "from_public", dict)
    return repair(state_dict)


def from_classifier(room: Room, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the room's model has besides its trunk of a classification network's tensors; nothing where it says so."""
    if not hasattr(room, "from_classifier"):
        return {}
    return cast("RoomOffers", room).from_classifier(state_dict)


def reader_of(room: Room, suffix: str) -> ReadFile | None:
    """The room's reader of weight files with this suffix; None for those that checkpoint.py reads."""
    files: Mapping[str, ReadFile] = getattr(room, "FILES", {})
    return files.get(suffix)


def takes_proposals(room: Room) -> bool:
    """Whether the room's model reads the boxes of `Batch.given`, proposed or found by something else."""
    return proposals_of(room) is not None


def proposals_of(room: Room) -> str | None:
    """Where the boxes come from that the room's model is given by itself, a word of `data.pipelines.PROPOSALS`."""
    if getattr(room, "TAKES_OBJECTS", False):
        return "objects"
    return "selective_search" if getattr(room, "TAKES_PROPOSALS", False) else None


def one_person(room: Room) -> bool:
    """Whether the room's model is shown one person in each image."""
    return bool(getattr(room, "ONE_PERSON", False))


def priors_as_shares(room: Room) -> bool:
    """Whether the `priors` of the room's Config are shares of the image's longer side, not pixels."""
    return bool(getattr(room, "PRIORS_AS_SHARES", False))


def takes_labels(room: Room) -> bool:
    """Whether the room's model also learns from images that have a class and no boxes."""
    return bool(getattr(room, "TAKES_LABELS", False))


def example_inputs(room: Room, config: Any, height: int, width: int, images: int = 1) -> tuple[Tensor, ...]:
    """What the room's `forward` takes for images of a size: of a room that says nothing, one tensor [images, 3, height,
    width] of numbers in [0, 1), always the same; on torch's default device."""
    if hasattr(room, "example_inputs"):
        return cast("RoomOffers", room).example_inputs(config, height, width, images)
    import torch

    return (torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(0)),)


def compress(room: Room, model: nn.Module, ranks: tuple[int, int]) -> nn.Module:
    """The network with fully connected layers of low rank. Raises UsageError where the room has no such form of it."""
    if not hasattr(room, "compress"):
        name = room.__name__.rsplit(".", 1)[-1]
        raise UsageError(f"svd factorises the fully connected layers of Fast R-CNN; {name} has no such form")
    return cast("RoomOffers", room).compress(model, ranks)


def is_trunk(module: nn.Module) -> bool:
    """Whether a module offers maps as a trunk does, or a list of them as the inner part of one."""
    return hasattr(module, "features") or any(
        isinstance(getattr(module, k, None), list) for k in ("channels", "strides")
    )


def features_of(model: nn.Module) -> Callable[[Tensor], list[Tensor]] | None:
    """The trunk's `features`; None for a network that gives no maps."""
    return cast("Callable[[Tensor], list[Tensor]] | None", getattr(model, "features", None))


def strides_of(model: nn.Module) -> list[int] | None:
    """The strides of a trunk's maps; None for a network that gives none."""
    return cast("list[int]", model.strides) if hasattr(model, "features") and hasattr(model, "strides") else None


def has_tail(trunk: nn.Module) -> bool:
    """Whether a trunk takes regions of its last map further, as it was made with `tail`."""
    return bool(getattr(trunk.config, "tail", False))


def side_step(model: nn.Module) -> int | None:
    """The multiple in pixels of which a detector's sides may be, where padding may be cut off; None: it may not."""
    return cast("int | None", getattr(model, "side_step", None))


def own_answers(model: nn.Module) -> Callable[..., dict[str, Tensor]] | None:
    """The network's own named answers for an exported file, where it has some."""
    return cast("Callable[..., dict[str, Tensor]] | None", getattr(model, "answers", None))


def scored(model: nn.Module, images: Tensor, sizes: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, A, classes] and boxes [b, A, 4] or [b, A, classes, 4] of a detector before suppression, clipped to
    the images of `sizes` [b, 2]; what stands in the padding does not count where the network fills it."""
    from saccade.ops.boxes import clip_boxes

    network = cast("Any", model)
    if hasattr(model, "scored_regions"):
        return cast("tuple[Tensor, Tensor]", network.scored_regions(images, sizes, *given))
    scores, boxes = network.scored_boxes(images)
    return scores, clip_boxes(boxes, sizes[:, None])


def padding_colour(model: nn.Module) -> Tensor | None:
    """The colour [1, 3, 1, 1], or [1, 1, 1, 1], with which a network fills the padding of its images."""
    return cast("Tensor | None", getattr(model, "colour", None))


def limits_of(model: nn.Module) -> Limits:
    """Which of the scored boxes of a detector are its answer."""
    from saccade.layers.detections import Limits
    from saccade.layers.regions import limits_of as limits_of_regions

    if hasattr(model, "rules"):
        return limits_of_regions(cast("Any", model.rules))
    config = cast("Any", model.config)
    nms, keep = (getattr(config, one, None) for one in ("nms_iou", "keep"))
    nms, keep = config.nms if nms is None else nms, config.detections if keep is None else keep
    return Limits(config.score_threshold, nms, keep, config.candidates)


def pixel_scores(model: nn.Module, images: Tensor) -> Tensor:
    """A segmenter's scores [b, classes, H, W] of every pixel, before softmax: its `dense`, else what it computes."""
    return cast("Tensor", every_pixel(model)(images))


def every_pixel(model: nn.Module) -> Callable[..., Any]:
    """A segmenter's `dense`; the `forward` of a network that has none."""
    return cast("Callable[..., Any]", getattr(model, "dense", model))


def answer_stages(model: nn.Module, batch: Batch) -> list[BoxStage]:
    """The boxes of each stage of a detector's answer for a batch of one image. Of a network without `answer_stages`
    the boxes that it scores, where it has `scored_boxes`, and its answer."""
    network = cast("Any", model)
    if hasattr(model, "answer_stages"):
        return cast("list[BoxStage]", network.answer_stages(batch))
    from saccade.layers.stages import answer_stage, scored_stage

    candidates = [scored_stage(*network.scored_boxes(batch.images))] if hasattr(model, "scored_boxes") else []
    return [*candidates, answer_stage(network.predict(batch)[0])]
