"""Darknet's `.cfg`: the sections of a network, read line by line. Imports no torch.

Such a file is a list of sections, `[net]` first and then one a layer in order, each with lines `option=value`. Options
that Darknet gives a default may be left out. What a network answers follows from the options in `KINDS`; those that say
how Darknet trains are read past, and any other is refused, as nobody could tell what the weights then mean.

Source: Darknet's parser (`parser.c`) and the files of YOLO v1 to v3 (Redmon et al. 2016, 2017, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from saccade.errors import UsageError, suggest
from saccade.machine.files import open_regular

LARGEST = 2**20  # characters of a file, and the largest whole number in it
ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "logistic", "tanh", "elu", "mish", "swish")
HEADS = ("detection", "region", "yolo")  # of YOLO v1, v2 and v3
CLASSIFIERS = ("softmax", "cost", "crop")  # sections of classification networks alone
ALIASES = {"network": "net", "conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a section may say."""

    options: tuple[str, ...] = ()  # of which the network is made
    # options that would change what the weights mean: the one value that is known here, and Darknet's own where there
    # is none in the file
    fixed: dict[str, tuple[float, float]] = field(default_factory=dict)
    training: tuple[str, ...] = ()  # options that say how Darknet trains, or are for its own drawings; read past


_LAYER = ("stopbackward", "onlyforward", "dontloadscales", "learning_rate", "burnin_update", "train_only_bn")
_BOXES = ("jitter", "random", "max", "resize", "focal_loss", "show_details", "object_smooth", "counters_per_class")
KINDS: dict[str, Kind] = {
    "convolutional": Kind(
        ("filters", "size", "stride", "pad", "padding", "groups", "activation", "batch_normalize"),
        {"binary": (0, 0), "xnor": (0, 0), "dilation": (1, 1), "antialiasing": (0, 0), "share_index": (-1e9, -1e9)},
        ("flipped", "dot", *_LAYER),
    ),
    "local": Kind(("filters", "size", "stride", "pad", "activation"), {}, _LAYER),
    "connected": Kind(("output", "activation"), {"batch_normalize": (0, 0)}, _LAYER),
    "maxpool": Kind(("size", "stride", "padding"), {"maxpool_depth": (0, 0), "antialiasing": (0, 0)}, _LAYER),
    "avgpool": Kind((), {}, _LAYER),
    "dropout": Kind(("probability",), {"dropblock": (0, 0)}, _LAYER),
    "route": Kind(("layers", "groups", "group_id"), {}, _LAYER),
    "shortcut": Kind(("from", "activation"), {}, _LAYER),
    "upsample": Kind(("stride",), {"scale": (1, 1)}, _LAYER),
    "reorg": Kind(("stride",), {"reverse": (0, 0), "flatten": (0, 0), "extra": (0, 0)}, _LAYER),
    "detection": Kind(
        ("classes", "side", "num", "object_scale", "noobject_scale", "class_scale", "coord_scale", "rescore"),
        {"coords": (4, 1), "sqrt": (1, 0), "softmax": (0, 0)},
        ("forced", "reorg", *_BOXES),
    ),
    "region": Kind(
        (
            *("classes", "num", "anchors", "thresh", "rescore"),
            *("object_scale", "noobject_scale", "class_scale", "coord_scale"),
        ),
        {"coords": (4, 4), "softmax": (1, 0), "background": (0, 0), "log": (0, 0), "sqrt": (0, 0)},
        ("bias_match", "absolute", "classfix", "mask_scale", "area", *_BOXES),
    ),
    "yolo": Kind(
        ("classes", "num", "anchors", "mask", "ignore_thresh"),
        {"scale_x_y": (1, 1), "new_coords": (0, 0), "embedding_layer": (-1e9, -1e9)},
        (
            *("truth_thresh", "iou_thresh", "iou_loss", "iou_normalizer", "cls_normalizer", "obj_normalizer"),
            *("delta_normalizer", "uc_normalizer", "iou_thresh_kind", "nms_kind", "beta_nms", "max_delta"),
            *("label_smooth_eps", "objectness_smooth", "ignore_class", "map", *_BOXES),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind, the line on which it begins, and of each option the line and the value."""

    kind: str
    line: int
    options: dict[str, tuple[int, str]]

    def fault(self, words: str, option: str | None = None) -> UsageError:
        """What is wrong with the section, or with an option in it."""
        line = self.options[option][0] if option in self.options else self.line
        return UsageError(f"line {line}, [{self.kind}]: {words}")

    def numbers(self, option: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """The numbers of an option, by commas. Raises UsageError where it is missing without default, or no numbers."""
        if option not in self.options:
            if default is None:
                raise self.fault(f"{option}= is missing")
            return default
        text = self.options[option][1].rstrip(",")
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
            raise self.fault(f"{option}={text} is no number, or no list of numbers by commas", option)
        return values

    def number(self, option: str, default: float) -> float:
        """The number of an option."""
        values = self.numbers(option, (default,))
        if len(values) != 1:
            raise self.fault(f"{option}= has {len(values)} numbers, not one", option)
        return values[0]

    def wholes(self, option: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The whole numbers of an option, by commas; below 0 too."""
        values = self.numbers(option, default)
        if any(value != int(value) for value in values):
            raise self.fault(f"{option}={self.options[option][1]} is not whole", option)
        return tuple(int(value) for value in values)

    def whole(self, option: str, default: int | None = None, least: int = 1) -> int:
        """The whole number of an option."""
        values = self.wholes(option, None if default is None else (default,))
        if len(values) != 1 or values[0] < least:
            raise self.fault(f"{option}={self.options[option][1]}: a whole number from {least} is needed", option)
        return values[0]

    def word(self, option: str, default: str, allowed: Collection[str]) -> str:
        """The word of an option."""
        word = self.options.get(option, (0, default))[1].lower()
        if word not in allowed:
            raise self.fault(f"{option}={word}; allowed: {', '.join(allowed)}", option)
        return word


def read_sections(text: str) -> list[Section]:
    """The sections of a `.cfg`, `[net]` first, whose options are all known.

    Raises:
        UsageError: a line that is neither, an unknown section or option, an option whose value is not known here; it
            names the line.
    """
    sections = _split(text)
    if not sections or sections[0].kind != "net":
        raise UsageError("line 1: a Darknet .cfg begins with [net]")
    if len(sections) == 1:
        raise UsageError(f"line {sections[0].line}: no layers follow [net]")
    for section in sections[1:]:
        _check(section)
    if not any(section.kind in HEADS for section in sections):
        raise UsageError(f"no layer that detects ({', '.join(f'[{kind}]' for kind in HEADS)}) in it")
    return sections


def read_cfg(value: str | Path) -> str:
    """The text of a `.cfg` that a person names, checked; text of several lines is one already.

    Raises:
        UsageError: no such file, no text, or as `read_sections`; it names the file.
    """
    text, name = str(value), "the text of the cfg"
    if "\n" not in text:
        name = text
        try:
            with open_regular(Path(text).expanduser(), links=True) as file:
                text = file.read(LARGEST + 1).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: cannot be read as a Darknet .cfg ({error})") from error
    if len(text) > LARGEST:
        raise UsageError(f"{name}: longer than {LARGEST:,} characters; not a Darknet .cfg")
    try:
        read_sections(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return text


def _split(text: str) -> list[Section]:
    """Sections and options as they stand; of an option that comes twice the first counts, as in Darknet."""
    sections: list[Section] = []
    for number, whole in enumerate(text.splitlines(), 1):
        line = "".join(whole.split("#")[0].split(";")[0].split())
        name, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            kind = line[1:-1].lower()
            sections.append(Section(ALIASES.get(kind, kind), number, {}))
        elif equals and sections and name:
            sections[-1].options.setdefault(name, (number, value))
        elif line:
            raise UsageError(f"line {number}: {whole.strip()[:60]!r} is neither [section] nor option=value")
    return sections


def _check(section: Section) -> None:
    """Raises UsageError for what is not known of a layer."""
    if section.kind in CLASSIFIERS:
        raise section.fault(
            "a layer of classification networks; here are detectors. Those of Darknet are models of the catalogue: "
            "darknet_reference, extraction, darknet19, darknet53"
        )
    if section.kind not in KINDS:
        raise section.fault(f"unknown layer; allowed: {', '.join(KINDS)}")
    kind = KINDS[section.kind]
    if "tree" in section.options:
        raise section.fault("a tree of classes: that is the model yolo9000", "tree")
    for option in section.options:
        if option not in (*kind.options, *kind.fixed, *kind.training):
            raise section.fault(
                f"unknown option {option!r}: {suggest(option, sorted({*kind.options, *kind.fixed}))}", option
            )
    for option, (known, default) in kind.fixed.items():
        if section.number(option, default) != known:
            stated = section.options[option][1] if option in section.options else f"{default:g}, as it is left out,"
            raise section.fault(f"{option}={stated} is not known here; allowed: {option}={known:g}", option)
