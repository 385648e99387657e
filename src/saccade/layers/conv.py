"""The convolution of the Inception family: conv, batch norm, ReLU under the keys of the public checkpoints."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import UsageError

Kernel = int | tuple[int, int]  # (height, width)


class ConvNormRelu(nn.Module):
    """[b, channels_in, H, W] -> [b, channels_out, H', W'], values >= 0; keys `conv.*` and `bn.*`.

    `norm=False` leaves the batch norm out (then the convolution has a bias whatever `bias` says). The default `eps` is
    that of the TensorFlow originals, which the public Inception checkpoints keep.

    Source: Ioffe & Szegedy 2015, "Batch normalization", section 3.2: the norm stands between convolution and ReLU, and
    takes the place of the bias.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Kernel = 1,
        stride: int = 1,
        padding: Kernel = 0,
        bias: bool = False,
        norm: bool = True,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=bias or not norm)
        self.bn = nn.BatchNorm2d(channels_out, eps) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x, inplace=True)


def half(kernel: Kernel) -> Kernel:
    """The padding that keeps the size of a map under an odd kernel at stride 1."""
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)


def scaled(channels: int, width: float) -> int:
    """`channels` times the width factor of a network.

    Raises:
        UsageError: the product is not a whole number, so that joined maps would not add up.
    """
    product = channels * width
    if product != int(product) or product < 1:
        raise UsageError(f"width {width} makes {product} channels of {channels}: use a multiple of 1/8, such as 0.25")
    return int(product)


def refuse_small(images: Tensor, side: int) -> None:
    """Say so before a layer deep inside fails on an empty map.

    Raises:
        UsageError: images [b, c, H, W] whose H or W is less than `side` pixels.
    """
    height, width = images.shape[-2:]
    if height < side or width < side:
        raise UsageError(
            f"images of {height}x{width} pixels (height x width) are too small for this network: "
            f"it needs at least {side}x{side}; set the size to {side} or more"
        )
