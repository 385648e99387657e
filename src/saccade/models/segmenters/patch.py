"""The patch sliding window (Farabet et al. 2013; Pinheiro & Collobert 2014): a pixel is named by what surrounds it.

Before fully convolutional networks, pixels were labelled one by one: a classifier sees the window around a pixel and
names the pixel in the middle. So it is trained, on windows cut out around pixels that are drawn with as many of each
class. To answer for an image, windows can be cut out around all pixels (`by="crops"`); but neighbours share nearly all
of theirs, and the same network computes all of them at once (`by="convolution"`). A pooling of stride 2 would leave
every other pixel out; it is therefore made from all of its starting points, each of which goes on as an image of its
own, and the answers are put back between each other (shift and stitch; Giusti et al. 2013). No layer pads, so that both
ways give the same numbers.

Two ways to see further: one network for several levels of a pyramid, whose windows cover more and more of the image
(`scales`; Farabet et al., section 3), or the same network again on what it said of the neighbourhood, beside the image
made smaller (`passes`; Pinheiro & Collobert, section 3.2). Farabet's random connections between maps are full here, and
the superpixels and trees by which he smooths the answers are left out.

Letters: b images, C classes, n windows, w side of a window, s stride of the network, L levels of the pyramid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import IGNORE, Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.normalize import Normalize, fill_padding
from saccade.layers.upsampling import nearest
from saccade.losses.segmentation import pixel_cross_entropy, stack_targets
from saccade.models.paper import Paper
from saccade.ranges import Count, NonNegative, Share

_FARABET = Paper(
    title="Learning Hierarchical Features for Scene Labeling",
    authors="Farabet, Couprie, Najman, LeCun",
    year=2013,
    where="PAMI 35(8)",
)
_PINHEIRO = Paper(
    title="Recurrent Convolutional Neural Networks for Scene Labeling",
    authors="Pinheiro, Collobert",
    year=2014,
    where="ICML 2014",
)
PAPER: dict[str, Paper] = {
    "patch_multiscale": _FARABET,
    "patch_single": _PINHEIRO,
    "patch_recurrent": _PINHEIRO,
    "patch_small": _FARABET,
}
TASKS = ("segment",)
NEIGHBOURHOOD = 15  # side of the window whose mean and deviation local normalisation takes out (Farabet, section 5)
TO_YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.1))  # of red, green and blue


@dataclass(frozen=True)
class Config:
    """The network; defaults are patch_multiscale's."""

    classes: Count = 21
    by: Literal["crops", "convolution"] = "convolution"  # how answers are computed; training always cuts windows out
    # Each (channels, side of the convolution, side of the max-pool behind it)
    stages: tuple[tuple[Count, Count, Count], ...] = ((16, 7, 2), (64, 7, 2), (256, 7, 1))
    cell: Count = 1  # side of the map of a window behind them, all of which the next layer sees
    hidden: tuple[Count, ...] = (1024,)  # units between the features of all levels and the scores
    scales: Count = 3  # levels of the pyramid, each half the side of the last, all seen by the same network
    passes: Count = 1  # how often the network sees what it said itself; not with more than one scale
    # laplacian: the bands of a pyramid of Y, U and V, locally normalised; gaussian: colours made smaller
    pyramid: Literal["gaussian", "laplacian"] = "laplacian"
    activation: Literal["tanh", "relu"] = "tanh"
    batch_norm: bool = False
    dropout: Share = 0.0  # on hidden units
    windows: Count = 512  # windows a step in the loss, of all images together
    # A pixel is drawn by (1 / frequency of its class in the images of the step) to this power: 1 as many of each class,
    # 0 as many as there are
    balance: NonNegative = 1.0


VARIANTS: dict[str, Config] = {
    "patch_multiscale": Config(),
    "patch_single": Config(stages=((25, 6, 8), (50, 3, 2)), cell=7, hidden=(), scales=1, pyramid="gaussian"),
    "patch_recurrent": Config(stages=((25, 8, 2), (50, 8, 2)), hidden=(), scales=1, passes=2, pyramid="gaussian"),
    # Ours, for little data and CPUs: a narrow network over more levels, with batch norm.
    "patch_small": Config(
        stages=((16, 5, 2), (32, 3, 2), (64, 3, 1)),
        hidden=(128,),
        scales=4,
        pyramid="gaussian",
        activation="relu",
        batch_norm=True,
        balance=0.5,
    ),
}
SIZE = 240

_DEFAULT: dict[str, Any] = {
    "size": 256,
    "batch": 8,
    "epochs": 100,
    "optimizer": "adamw",
    "lr": 0.002,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 5.0,
    "ema": 0.99,
    "jitter": 0.25,
    "flip": 0.5,
    "color": 0.3,
}
_FARABET_PAPER: dict[str, Any] = {  # section 5: flips, rotations of 8 degrees, sizes of 90 to 110 %
    "size": 240,
    "batch": 1,
    "epochs": 100,  # rate and length are not stated
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.0,
    "weight_decay": 1e-5,
    "schedule": "constant",
    "warmup": 0.0,
    "clip_norm": 0.0,
    "flip": 0.5,
    "rotate": 8.0,
    "jitter": 0.1,
    "color": 0.0,
}
# Windows of the images as they are, the classes as frequent as they are there (section 4).
_PINHEIRO_PAPER: dict[str, Any] = _FARABET_PAPER | {
    "weight_decay": 0.0,
    "flip": 0.0,
    "rotate": 0.0,
    "jitter": 0.0,
    "balance": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT},
    "paper": {"*": _FARABET_PAPER, "patch_single": _PINHEIRO_PAPER, "patch_recurrent": _PINHEIRO_PAPER},
}


def window_side(config: Config, passes: int | None = None) -> int:
    """Pixels of a window's side, of each level: 46 for Farabet's network, 133 and 121 for Pinheiro's with one and two
    passes. `passes`: of the network; None: all of them."""
    side = 1
    for _ in range(config.passes if passes is None else passes):
        side += config.cell - 1
        for _, kernel, pool in reversed(config.stages):
            side = side * pool + kernel - 1
    return side


def split(x: Tensor, factor: int) -> Tensor:
    """Every `factor`-th row and column from each start: [b, c, H, W] -> [factor^2 b, c, H / factor, W / factor].

    Sides are rounded up; what they then lack at their ends is zero. `stitch` is the way back.

    Source: Giusti et al. 2013, "Fast image scanning with deep max-pooling convolutional neural networks" (fragments).
    """
    b, c, height, width = x.shape
    x = F.pad(x, (0, -width % factor, 0, -height % factor))
    x = x.reshape(b, c, x.shape[2] // factor, factor, x.shape[3] // factor, factor)
    return x.permute(3, 5, 0, 1, 2, 4).flatten(0, 2)


def stitch(x: Tensor, factor: int) -> Tensor:
    """[factor^2 b, c, h, w] -> [b, c, factor h, factor w]: what `split` took apart.

    Source: Sermanet et al. 2014, section 3.5; Pinheiro & Collobert 2014, section 3.3.
    """
    x = x.unflatten(0, (factor, factor, -1)).permute(2, 3, 4, 0, 5, 1)
    return x.flatten(4, 5).flatten(2, 3)


class WindowNet(nn.Module):
    """The network that sees one window, in one pass and at one level, and of all windows of an image at once.

    Attributes:
        side: w.
        stride: s, the product of the poolings.
        channels: of the features, which `head` names.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = 3 + (config.classes if config.passes > 1 else 0)
        self.stages, self.pools = nn.ModuleList(), [pool for _, _, pool in config.stages]
        for width, kernel, _ in config.stages:
            self.stages.append(_layer(config, channels, width, kernel))
            channels = width
        self.side, self.stride, self.channels = window_side(config, 1), math.prod(self.pools), channels
        self.cell = config.cell
        widths, kernels = [channels * config.scales, *config.hidden], [config.cell] + [1] * len(config.hidden)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in zip(widths[:-1], widths[1:], kernels[:-1], strict=True):
            layers += [_layer(config, inputs, outputs, kernel), nn.Dropout(config.dropout)]
        self.head = nn.Sequential(*layers, nn.Conv2d(widths[-1], config.classes, kernels[-1]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if config.activation == "relu":
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """[n, c, w, w] -> [n, channels, cell, cell], and in general one cell more for every `stride` pixels more."""
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = stage(x)
            if pool > 1:
                x = F.max_pool2d(x, pool)
        return x

    def everywhere(self, x: Tensor, name: bool) -> Tensor:
        """[b, c, H + w - 1, W + w - 1] -> the answers of all windows, [b, channels, H, W], named [b, C, H, W]."""
        height, width = x.shape[2] - self.side + 1, x.shape[3] - self.side + 1
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = stage(x)
            if pool > 1:
                x = split(F.max_pool2d(x, pool, stride=1), pool)
        if name:
            x = self.head(x)
        for pool in reversed(self.pools):
            if pool > 1:
                x = stitch(x, pool)
        return x[:, :, :height, :width]


def _layer(config: Config, channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, bias=not config.batch_norm)
    norm = [nn.BatchNorm2d(channels_out)] if config.batch_norm else []
    return nn.Sequential(conv, *norm, nn.ReLU() if config.activation == "relu" else nn.Tanh())


class Model(nn.Module):
    """A classifier of the pixel in the middle of a window.

    Attributes:
        window: pixels of a window's side.

    Raises:
        UsageError: several passes over several scales, or a cell of more than one over several scales.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.scales > 1 and (config.passes > 1 or config.cell > 1):
            raise UsageError(
                f"passes={config.passes} and cell={config.cell} need scales=1, not {config.scales}: the answers for "
                "several levels meet pixel by pixel"
            )
        self.config = config
        self.window = window_side(config)
        self.normalize = Normalize()
        self.net = WindowNet(config)
        self.register_buffer("colour", self.normalize.get_buffer("mean").clone(), persistent=False)
        self.register_buffer("to_yuv", torch.tensor(TO_YUV)[:, :, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, C, H, W] of images [b, 3, H, W] in [0, 1], around which there is nothing but mean colour."""
        height, width = int(images.shape[2]), int(images.shape[3])
        levels = self.levels(images)
        if self.config.by == "crops":
            return self._one_by_one(levels, height, width)
        before = self._before()
        if self.config.scales == 1:
            side = self.window - 1
            start = before[0]
            plane = levels[0][:, :, start : start + height + side, start : start + width + side]
            return self._passes(plane, self.config.passes, everywhere=True)[:, :, :height, :width]
        maps = []
        for k, (level, start) in enumerate(zip(levels, before, strict=True)):
            rows, columns = (-(-n // 2**k) + self.window - 1 for n in (height, width))
            x = self.net.everywhere(level[:, :, start : start + rows, start : start + columns], name=False)
            maps.append(nearest(x, 2**k)[:, :, :height, :width] if k else x)
        logits: Tensor = self.net.head(torch.cat(maps, 1))
        return logits

    def levels(self, images: Tensor) -> list[Tensor]:
        """What the windows are cut out of: the pyramid of images [b, 3, H, W] in [0, 1], from fine to coarse, with a
        frame of zeros from which every pixel's window can be cut.

        Pixel (y, x) of an image is pixel (y // 2^k, x // 2^k) of level k, behind the frame.
        """
        factor = 2 ** (self.config.scales - 1)
        frame, (height, width) = self._frame(), images.shape[-2:]
        x = self.normalize(images)
        if self.config.pyramid == "laplacian":
            x = F.conv2d(x, self.get_buffer("to_yuv").to(x.dtype))
        x = F.pad(x, (frame, frame + -width % factor, frame, frame + -height % factor))
        levels = [x]
        for _ in range(self.config.scales - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        if self.config.pyramid == "gaussian":
            return levels
        bands = [fine - nearest(coarse, 2) for fine, coarse in pairwise(levels)]
        return [normalize_locally(band) for band in (*bands, levels[-1])]

    def _frame(self) -> int:
        """Pixels around the image at the finest level."""
        return int((self.window // 2) * 2 ** (self.config.scales - 1))

    def _before(self) -> list[int]:
        """Where the window of the first pixel begins, in pixels of each level."""
        return [(self._frame() >> k) - self.window // 2 for k in range(self.config.scales)]

    def windows_at(self, levels: Sequence[Tensor], images: Tensor, rows: Tensor, columns: Tensor) -> list[Tensor]:
        """The windows of pixels, given by three tensors [n]: [n, 3, w, w] of each level."""
        side = torch.arange(self.window, device=rows.device)
        found = []
        for k, (level, start) in enumerate(zip(levels, self._before(), strict=True)):
            y = (rows // 2**k + start)[:, None, None] + side[:, None]
            x = (columns // 2**k + start)[:, None, None] + side
            found.append(level[images[:, None, None], :, y, x].permute(0, 3, 1, 2))
        return found

    def classify(self, windows: Sequence[Tensor], passes: int | None = None) -> Tensor:
        """Logits [n, C] of the pixel in the middle of windows [n, 3, w, w] of each level.

        Args:
            passes: how often the network is asked, of the windows' middle that it then sees; None: as often as it can.
        """
        if self.config.scales > 1:
            features = [self.net.features(each) for each in windows]
            named: Tensor = self.net.head(torch.cat(features, 1))
            return named.flatten(1)
        count = self.config.passes if passes is None else passes
        side = window_side(self.config, count)
        start = self.window // 2 - side // 2
        middle = windows[0][:, :, start : start + side, start : start + side]
        return self._passes(middle, count, everywhere=False).flatten(1)

    def _passes(self, x: Tensor, passes: int, everywhere: bool) -> Tensor:
        """The network asked `passes` times, each time of the image and of what it said of it (section 3.2).

        The cells that it named stand `stride` pixels apart; the image beside them is the mean of as many pixels in the
        middle of each cell's window. Everywhere: each start of these steps is an image of its own.
        """
        net, classes, stitches = self.net, self.config.classes, 0
        offset = (net.side - net.stride) // 2
        answer = x.new_zeros(x.shape[0], classes, *x.shape[2:]) if self.config.passes > 1 else None
        for number in range(passes):
            seen = x if answer is None else torch.cat((x, answer), 1)
            answer = net.everywhere(seen, name=True) if everywhere else net.head(net.features(seen))
            if number == passes - 1:
                break
            x = F.avg_pool2d(x[:, :, offset:, offset:], net.stride, 1 if everywhere else net.stride)
            x = x[:, :, : answer.shape[2], : answer.shape[3]]
            if everywhere:
                x, answer, stitches = split(x, net.stride), split(answer, net.stride), stitches + 1
        assert answer is not None
        for _ in range(stitches):
            answer = stitch(answer, net.stride)
        return answer

    def _one_by_one(self, levels: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Logits [b, C, H, W] by cutting the window of every pixel out; a row of pixels at a time."""
        columns = torch.arange(width, device=levels[0].device)
        images = []
        for i in range(len(levels[0])):
            rows = []
            for y in range(height):
                windows = self.windows_at(levels, torch.full_like(columns, i), torch.full_like(columns, y), columns)
                rows.append(self.classify(windows))
            images.append(torch.stack(rows))
        return torch.stack(images).permute(0, 3, 1, 2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`cross_entropy` of pixels drawn from the images, and one for each pass before the last, of the smaller window
        that it sees (section 3.2); finite (zero) where every pixel is ignored."""
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        target = stack_targets(batch.truth, images.shape[2], images.shape[3], images.device)
        numbers, rows, columns = draw_pixels(target, self.config.classes, self.config.windows, self.config.balance)
        windows = self.windows_at(self.levels(images), numbers, rows, columns)
        truth = target[numbers, rows, columns][:, None, None]
        losses = {}
        for passes in range(self.config.passes, 0, -1):
            name = "cross_entropy" if passes == self.config.passes else f"pass_{passes}"
            losses[name] = pixel_cross_entropy(self.classify(windows, passes)[:, :, None, None], truth)
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """The most probable class of every pixel, [h, w] uint8 at each image's own size."""
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        maps = self(images).argmax(1).to(torch.uint8)
        return [Annotation((h, w), semantic=m[:h, :w]) for m, (h, w) in zip(maps, batch.sizes, strict=True)]


def normalize_locally(x: Tensor, least: float = 0.1) -> Tensor:
    """[b, c, H, W] with mean 0 and deviation 1 in the neighbourhood of each pixel, channel by channel.

    Args:
        least: the smallest deviation that is divided by, so that flat places stay flat.

    Source: Farabet et al. 2013, section 5 (neighbourhoods of 15 x 15).
    """

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2)

    x = x - mean(x)
    return x / mean(x.square()).sqrt().clamp(min=least)


@torch.no_grad()
def draw_pixels(target: Tensor, classes: int, count: int, balance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels drawn by chance from class maps [b, H, W], at most `count`, none twice: images, rows, columns, each [n].

    The chance of a pixel goes with (1 / how many have its class) ** `balance`. IGNORE is drawn only where nothing else
    is left. Every pixel waits for a time that is exponential with this rate, and the first are taken.

    Source: Farabet et al. 2013, section 5 (balanced frequencies); Efraimidis & Spirakis 2006 (the drawing).
    """
    counts = torch.stack([(target == c).sum() for c in range(classes)])
    chance = counts.clamp(min=1).float() ** -balance
    rates = chance[target.masked_fill(target == IGNORE, 0)]
    times = torch.empty_like(rates).exponential_() / rates
    times = times.masked_fill(target == IGNORE, math.inf).flatten()
    first = times.topk(min(count, len(times)), largest=False).indices
    _, height, width = target.shape
    return first // (height * width), first // width % height, first % width
