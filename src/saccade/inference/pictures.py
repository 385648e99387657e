"""What `Predictor.predict` takes for a picture: files, their bytes, pictures of PIL, arrays and tensors."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor, is_floating_point

from saccade.data.image import decode, to_rgb
from saccade.errors import DataError, UsageError
from saccade.inference.sources import refuse_address
from saccade.machine.paths import at_home

Picture = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor
KINDS = "a path, the bytes of a file, an open file, a PIL image, an array [H, W, 3] uint8 RGB, or a tensor [3, H, W]"


def as_file_or_pixels(picture: Picture) -> Path | np.ndarray:
    """A path, or pixels [H, W, 3] uint8 RGB, upright.

    Raises:
        DataError: bytes that are no image; a folder or a pattern of names.
        UsageError: something else; an array or tensor of another shape or type, or without pixels.
    """
    if isinstance(picture, str | os.PathLike):
        refuse_address(picture)
        path = Path(at_home(picture))
        if path.is_dir() or (glob.has_magic(str(path)) and not path.exists()):
            what = "a folder" if path.is_dir() else "a pattern"
            raise DataError(
                f"{path}: {what}, not a picture; give a list of files, or ask saccade.predict(RUN, {str(path)!r})"
            )
        return path
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture))
    if isinstance(picture, Image.Image):
        return _of_pil(picture)
    if isinstance(picture, Tensor):
        return _of_tensor(picture)
    if isinstance(picture, np.ndarray):
        check_pixels(picture)
        return picture
    if hasattr(picture, "read"):
        try:
            content = picture.read()
        except (OSError, ValueError) as error:  # closed, or open for writing
            raise UsageError(f"the image file cannot be read: {error}") from error
        if not isinstance(content, bytes):
            raise UsageError("an image file must be open in binary mode ('rb'); this one gives text")
        return decode(content)
    raise UsageError(f"{type(picture).__name__} is no picture; allowed: {KINDS}, or a list of these")


def _of_pil(picture: Image.Image) -> np.ndarray:
    if not picture.width or not picture.height:
        raise UsageError(f"a PIL image of {picture.width}x{picture.height} pixels has none to look at")
    try:
        return np.array(to_rgb(ImageOps.exif_transpose(picture), f"a PIL image of mode {picture.mode}"))
    except (OSError, ValueError, SyntaxError) as error:  # a file that is read only now
        raise DataError(f"the PIL image cannot be read: {error}") from error


def _of_tensor(picture: Tensor) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
        raise UsageError(f"an image tensor must be [3, H, W] RGB, got {list(picture.shape)} {picture.dtype}")
    pixels = picture.detach().cpu()
    if is_floating_point(pixels):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise UsageError(f"an image tensor of {picture.dtype} holds numbers in [0, 1], got {low:g} to {high:g}")
        pixels = (pixels.float() * 255).round()
    elif str(pixels.dtype) != "torch.uint8":
        raise UsageError(f"an image tensor must be uint8, or float in [0, 1], got {picture.dtype}")
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))


def check_pixels(picture: np.ndarray) -> None:
    """Raises UsageError where an array is not [H, W, 3] uint8, or has no pixels."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UsageError(f"an image array must be [H, W, 3] uint8 RGB, got {list(picture.shape)} {picture.dtype}")
    if not picture.size:
        raise UsageError(f"an image array of {list(picture.shape)} has no pixels")
