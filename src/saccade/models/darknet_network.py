"""The network that a Darknet `.cfg` states, as modules in the order of its sections, so that its `.weights` fit.

Letters: b images, c channels, H x W pixels of a map, k boxes of a cell, C classes, S x S cells of YOLO v1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.layers.layout import join
from saccade.layers.locally_connected import LocallyConnected2d
from saccade.models.darknet_sections import ACTIVATIONS, HEADS, Section
from saccade.models.detectors.yolo2 import fold

SLOPE = 0.1  # of "leaky" below 0
WIDEST = 8192  # pixels of a side of [net]
Shape = tuple[int, int, int]  # channels, height, width
Sizes = tuple[tuple[float, float], ...]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(SLOPE),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "swish": nn.SiLU,
}


def activation_of(section: Section, default: str) -> nn.Module:
    """The activation behind a layer; `default` is Darknet's where the section names none."""
    return _ACTIVATIONS[section.word("activation", default, ACTIVATIONS)]()


class Convolution(nn.Module):
    """[convolutional]: [b, c, H, W] -> [b, filters, h, w]. With batch norm the convolution has no bias."""

    def __init__(self, section: Section, channels: int, filters: int) -> None:
        super().__init__()
        size, groups = section.whole("size", 1), section.whole("groups", 1)
        if channels % groups or filters % groups:
            raise section.fault(f"{channels} channels and {filters} filters do not divide into {groups} groups")
        padding = size // 2 if section.whole("pad", 0, 0) else section.whole("padding", 0, 0)
        norm = section.whole("batch_normalize", 0, 0) > 0
        stride = section.whole("stride", 1)
        self.conv = nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(filters) if norm else nn.Identity()
        self.activation = activation_of(section, "logistic")
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class MaxPool(nn.Module):
    """[maxpool]: the border is widened by `padding` in all, the smaller half left and above, by what never is the
    maximum; Darknet's usual padding is size - 1."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.before, self.after = padding // 2, padding - padding // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.before == self.after and 2 * self.before <= self.size:
            return F.max_pool2d(x, self.size, self.stride, self.before)
        x = F.pad(x, (self.before, self.after, self.before, self.after), value=-math.inf)
        return F.max_pool2d(x, self.size, self.stride)


class FixedSide(nn.Module):
    """[local] and [connected] have weights for maps of one side; maps of another are pooled to it.

    Args:
        layer: takes maps [b, c, H, W] of that side.
        side: (H, W).
    """

    def __init__(self, layer: nn.Module, side: tuple[int, int], activation: nn.Module) -> None:
        super().__init__()
        self.layer, self.side, self.activation = layer, side, activation

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.side:
            x = F.adaptive_avg_pool2d(x, self.side)
        if isinstance(self.layer, nn.Linear):
            return self.activation(self.layer(x.flatten(1)))[:, :, None, None]
        return self.activation(self.layer(x))


class Route(nn.Module):
    """[route]: maps of equal sides behind each other, of each one of `groups` parts of its channels."""

    def __init__(self, groups: int, part: int) -> None:
        super().__init__()
        self.groups, self.part = groups, part

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, 1)[self.part] for x in maps)
        return maps[0] if len(maps) == 1 else join(maps)


class Shortcut(nn.Module):
    """[shortcut]: the sum of two maps of one shape, then an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.activation(x + other)


class Reorg(nn.Module):
    """[reorg]: [b, c, H, W] -> [b, 4 c, H / 2, W / 2] in Darknet's order (`detectors/yolo2.py: fold`)."""

    def forward(self, x: Tensor) -> Tensor:
        return fold(x, (-(-x.shape[-2] // 2), -(-x.shape[-1] // 2)))


@dataclass(frozen=True, slots=True)
class Head:
    """A layer that detects, and what it says of boxes."""

    section: Section
    number: int  # of the layer whose output it reads
    classes: int  # that the file is of
    boxes: int  # k
    priors: Sizes  # in pixels of [net]; none of [detection]
    cells: tuple[int, int]  # rows and columns in an image of [net]'s size

    def values(self, classes: int) -> int:
        """Channels, or for [detection] numbers in all, that it reads for C classes."""
        if self.section.kind == "detection":
            return self.cells[0] * self.cells[1] * (classes + 5 * self.boxes)
        return self.boxes * (5 + classes)


class Network(nn.Module):
    """Images [b, 3, H, W] -> what each head reads, as [b, n, h, w], in the order of the file.

    Args:
        sections: of `read_sections`.
        classes: that the heads answer for; None: as many as the file says. The layer before each head is made so.

    Raises:
        UsageError: layers that do not fit each other; it names the line.
    """

    def __init__(self, sections: Sequence[Section], classes: int | None = None) -> None:
        super().__init__()
        net, *layers = sections
        self.size = net.whole("height"), net.whole("width")
        if net.whole("channels", 3) != 3 or max(self.size) > WIDEST:
            raise net.fault(f"{net.whole('channels', 3)} channels of {self.size}: images have 3, and sides to {WIDEST}")
        self.layers = nn.ModuleList()
        self.heads: list[Head] = []
        self.sources: list[tuple[int, ...]] = []  # of each layer the layers that it reads; -1 for the image
        shapes: list[Shape] = []
        for number, section in enumerate(layers):
            sources = _sources(section, number)
            read = [(3, *self.size) if source < 0 else shapes[source] for source in sources]
            following = layers[number + 1] if number + 1 < len(layers) else None
            head = None
            if following is not None and following.kind in HEADS:
                head = _head(following, number, section)
            outputs = None if head is None else head.values(head.classes if classes is None else classes)
            layer: nn.Module
            shape: Shape
            if section.kind in HEADS:
                if not self.heads or self.heads[-1].section is not section:
                    raise section.fault("it has no layer before it")
                layer, shape = nn.Identity(), read[0]
            else:
                layer, shape = _MAKERS[section.kind](section, read, outputs)
            if min(shape[1:]) < 1:
                raise section.fault(f"nothing is left of the image of {self.size[0]} x {self.size[1]} pixels here")
            if head is not None:
                self.heads.append(_placed(head, shape, self.size))
            self.layers.append(layer)
            self.sources.append(sources)
            shapes.append(shape)
        # sides of an image must be multiples of it, where maps of several strides are joined
        joining = any(section.kind in ("upsample", "reorg") for section in layers)
        self.step = max((self.size[0] // shape[1] for shape in shapes), default=1) if joining else 1
        self.read_later = {source for i, sources in enumerate(self.sources) for source in sources if source != i - 1}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, kept, answers = images, {-1: images}, []
        for number, layer in enumerate(self.layers):
            x = layer(*[x if source == number - 1 else kept[source] for source in self.sources[number]])
            if number in self.read_later:
                kept[number] = x
            if any(head.number == number for head in self.heads):
                answers.append(x)
        return tuple(answers)


def _sources(section: Section, number: int) -> tuple[int, ...]:
    """Numbers of the layers that a layer reads, counted from 0; a number below 0 counts back from the layer."""
    option = {"route": "layers", "shortcut": "from"}.get(section.kind)
    if option is None:
        return (number - 1,)
    stated = section.wholes(option)
    found = tuple(number + value if value < 0 else value for value in stated)
    if not all(0 <= value < number for value in found) or (option == "from" and len(found) != 1):
        raise section.fault(
            f"{option}={','.join(map(str, stated))} is no layer before this one, number {number}", option
        )
    return found if option == "layers" else (number - 1, *found)


def _head(section: Section, number: int, before: Section) -> Head:
    """A head, whose cells are not known yet, and a check that the layer before it is made for it."""
    kind, option = ("connected", "output") if section.kind == "detection" else ("convolutional", "filters")
    if before.kind != kind:
        raise section.fault(f"it stands behind [{before.kind}]; it must stand right behind [{kind}]")
    classes, boxes = section.whole("classes", 20), section.whole("num", 1)
    if section.kind == "detection":
        side = section.whole("side", 7)
        head = Head(section, number, classes, boxes, (), (side, side))
    else:
        numbers = section.numbers("anchors")
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) != 2 * boxes or min(numbers) <= 0:
            raise section.fault(
                f"anchors= has {len(numbers)} numbers; num={boxes} needs {2 * boxes}, above 0", "anchors"
            )
        chosen = section.wholes("mask", tuple(range(boxes))) if section.kind == "yolo" else tuple(range(boxes))
        if not all(0 <= value < boxes for value in chosen):
            raise section.fault(f"mask= names an anchor that there is not; there are 0 to {boxes - 1}", "mask")
        head = Head(section, number, classes, len(chosen), tuple(pairs[i] for i in chosen), (1, 1))
    stated = before.whole(option)
    if stated != head.values(classes):
        raise before.fault(
            f"{option}={stated}, where [{section.kind}] in line {section.line} with {head.boxes} boxes and {classes} "
            f"classes needs {head.values(classes)}",
            option,
        )
    return head


def _placed(head: Head, shape: Shape, size: tuple[int, int]) -> Head:
    """A head with the cells of the map that it reads; anchors of [region], which are in cells, become pixels."""
    if head.section.kind == "detection":
        return head
    x, y = (size[1] / shape[2], size[0] / shape[1]) if head.section.kind == "region" else (1.0, 1.0)
    priors = tuple((x * w, y * h) for w, h in head.priors)
    return Head(head.section, head.number, head.classes, head.boxes, priors, (shape[1], shape[2]))


def _convolutional(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    [(channels, height, width)] = read
    filters = section.whole("filters", 1) if outputs is None else outputs
    layer = Convolution(section, channels, filters)
    size, stride, padding = layer.conv.kernel_size[0], layer.conv.stride[0], int(layer.conv.padding[0])
    height, width = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
    return layer, (filters, height, width)


def _local(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    [(channels, height, width)] = read
    size, stride, pad = section.whole("size", 1), section.whole("stride", 1), section.whole("pad", 0, 0)
    if pad and size != 3:
        raise section.fault(f"pad={pad} with size={size} is not known here; allowed: size=3")
    layer = LocallyConnected2d(channels, section.whole("filters", 1), (height, width), size, stride, min(pad, 1))
    channels, rows, columns = layer.bias.shape
    return FixedSide(layer, (height, width), activation_of(section, "logistic")), (channels, rows, columns)


def _connected(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    number = section.whole("output", 1) if outputs is None else outputs
    layer = nn.Linear(math.prod(read[0]), number)
    return FixedSide(layer, read[0][1:], activation_of(section, "logistic")), (number, 1, 1)


def _maxpool(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    stride = section.whole("stride", 1)
    size = section.whole("size", stride)
    padding = section.whole("padding", size - 1, 0)
    channels, height, width = read[0]
    height, width = ((side + padding - size) // stride + 1 for side in (height, width))
    return MaxPool(size, stride, padding), (channels, height, width)


def _avgpool(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    return nn.AdaptiveAvgPool2d(1), (read[0][0], 1, 1)


def _dropout(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    share = section.number("probability", 0.5)
    if not 0 <= share < 1:
        raise section.fault(f"probability={share:g} is not between 0 and 1", "probability")
    return nn.Dropout(share), read[0]


def _route(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    groups, part = section.whole("groups", 1), section.whole("group_id", 0, 0)
    if len({shape[1:] for shape in read}) > 1:
        raise section.fault("maps of different sides: " + ", ".join(f"{h} x {w}" for _, h, w in read), "layers")
    if part >= groups or any(shape[0] % groups for shape in read):
        raise section.fault(f"part {part} of {groups} equal groups of {[shape[0] for shape in read]} channels")
    return Route(groups, part), (sum(shape[0] for shape in read) // groups, *read[0][1:])


def _shortcut(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    if read[0] != read[1]:
        raise section.fault(f"maps of different shapes (channels, height, width): {read[0]} and {read[1]}", "from")
    return Shortcut(activation_of(section, "linear")), read[0]


def _upsample(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    stride, (channels, height, width) = section.whole("stride", 2), read[0]
    return nn.Upsample(scale_factor=float(stride), mode="nearest"), (channels, stride * height, stride * width)


def _reorg(section: Section, read: list[Shape], outputs: int | None) -> tuple[nn.Module, Shape]:
    channels, height, width = read[0]
    if section.whole("stride", 1) != 2 or channels % 4:
        raise section.fault(f"stride={section.whole('stride', 1)} on {channels} channels; known: 2, on a multiple of 4")
    return Reorg(), (4 * channels, -(-height // 2), -(-width // 2))


_MAKERS: dict[str, Callable[[Section, list[Shape], int | None], tuple[nn.Module, Shape]]] = {
    "convolutional": _convolutional,
    "local": _local,
    "connected": _connected,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "dropout": _dropout,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "reorg": _reorg,
}


def network_of_shapes(sections: Sequence[Section]) -> Network:
    """The network without numbers, as the file states it: what its `.weights` must fit. Raises as `Network`."""
    with torch.device("meta"):
        return Network(sections)
