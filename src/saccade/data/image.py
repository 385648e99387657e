"""Image files: what they are before they are decoded (`probe`), and their pixels (`decode`).

Files come from anywhere, so nothing is believed: the format is told from the content and must be on the allow-list,
the size is checked before a pixel is decoded, and a damaged file is refused by name rather than half shown.
What the pixels become:

- upright: EXIF orientation (JPEG, PNG, WebP, TIFF) is applied; an unreadable or unknown one leaves the image as stored;
- gray, 1-bit, palette, 16-bit (0..65535 becomes 0..255 linearly), CMYK and YCCK become 8-bit RGB; ICC profiles are
  ignored;
- transparency is composed on white;
- floating point is accepted where every value lies in [0, 1] (1 is white); 32-bit integers are refused, no scale is
  agreed;
- of an animation or a file of several pages the first image is taken (`Probe.animated` says so).
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from saccade.data.workload import is_heavy_directory, refuse_heavy
from saccade.errors import DataError, ResourceError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # as Pillow names them; PPM covers PBM, PGM and PPM
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 100_000_000  # 300 MB as RGB; the environment variable below replaces it
MAX_PIXELS_VARIABLE = "SACCADE_MAX_PIXELS"

_ALLOWED = "allowed: JPEG, PNG, WebP, BMP, TIFF, GIF, PPM"
_ORIENTATION = 0x0112  # EXIF tag: which way the stored rows run
_REDUCED = {  # OpenCV's flags; its REDUCED_COLOR_* ask for blue first, which these cannot be joined with
    reduction: flag | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for reduction, flag in (
        (1, 0),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    )
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"SIMPLE  =", "FITS"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer, the file itself was not fetched"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file says of its image before decoding."""

    format: str  # one of FORMATS
    size: tuple[int, int]  # (height, width) in pixels, upright
    animated: bool = False  # more than one frame or page; the first is taken

    def reduction(self, min_side: int | None) -> int:
        """The factor (1, 2, 4 or 8) by which `decode(path, min_side)` shrinks this image: pixel i of the result covers
        pixels reduction * i to reduction * (i + 1) of the upright original, and its size is the original's divided by
        the factor, rounded up. Only JPEG can be decoded at reduced size."""
        if min_side is None or self.format != "JPEG":
            return 1
        return max(s for s in (1, 2, 4, 8) if s == 1 or s * min_side <= min(self.size))


def probe(path: Path | bytes) -> Probe:
    """Format and upright size of an image file (or of the bytes of one), without decoding its pixels.

    Raises:
        DataError: missing, not a regular file, empty, of a format that is not allowed, damaged, or too large.
        ResourceError: no permission, or a disk error.
    """
    with _opened(path) as (image, name):
        return _probe(image, name)


def note_frames(path: Path) -> list[str]:
    """What to tell of a file whose first image was decoded: nothing, or that it holds more (frames of an animation,
    pages). They are counted, not decoded."""
    try:
        with _opened(path) as (image, name):
            if not _probe(image, name).animated:
                return []
            with _named(name):
                return [f"holds {getattr(image, 'n_frames', 1)} images (frames or pages); only the first was looked at"]
    except DataError as error:
        return [f"only the first image was looked at; what is behind it cannot be read ({error})"]


def decode(path: Path | bytes, min_side: int | None = None) -> np.ndarray:
    """Pixels of an image file (or of the bytes of one), upright.

    Args:
        min_side: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size as long as the shorter side of the result
            is at least this many pixels (`Probe.reduction`): several times faster for large photographs.

    Returns:
        [H, W, 3] uint8 RGB, contiguous and writable.

    Raises:
        DataError: as `probe`; truncated or damaged pixels; pixel values without an agreed scale.
        ResourceError: as `probe`, or out of memory.
    """
    return probe_and_decode(path, min_side)[1]


def probe_and_decode(path: Path | bytes, min_side: int | None = None) -> tuple[Probe, np.ndarray]:
    """`probe(path)` and `decode(path, min_side)` of one opening of the file. Raises what they raise."""
    with _opened(path) as (image, name):
        found = _probe(image, name)
        turn, reduction = _orientation(image), found.reduction(min_side)
        pixels = _color_jpeg(image, reduction)
        if pixels is None:
            if reduction > 1 and min_side is not None:
                image.draft(None, (min_side, min_side))
            with _named(name):
                image.load()
            pixels = _to_rgb(image, name)
    return found, np.require(_upright(pixels, turn), requirements=["C", "W"])


def decode_values(path: Path | bytes) -> np.ndarray:
    """The stored values of a mask or class map, upright: palette indices, gray values, 16-bit values, 0 and 1 of 1-bit.

    Colour images give the shared value where red, green and blue are equal everywhere (a gray map saved as colour),
    else red * 65536 + green * 256 + blue. Transparency is ignored.

    Returns:
        [H, W] int32.

    Raises:
        DataError: as `decode`, and for floating point values.
        ResourceError: as `decode`.
    """
    with _opened(path) as (image, name):
        _probe(image, name)
        turn = _orientation(image)
        with _named(name):
            image.load()
            if image.mode not in ("1", "L", "P", "I", "F", "RGB") and not image.mode.startswith("I;16"):
                image = image.convert({"LA": "L", "PA": "P"}.get(image.mode, "RGB"))
            values = np.asarray(image)
        if values.dtype.kind == "f":
            raise DataError(f"{name}: a class map in floating point; save it as 8 or 16 bit")
        values = values.astype(np.int32)
    if values.ndim == 3:
        red, green, blue = values[..., 0], values[..., 1], values[..., 2]
        gray = np.array_equal(red, green) and np.array_equal(red, blue)
        values = red if gray else red << 16 | green << 8 | blue
    return np.ascontiguousarray(_upright(values, turn))


def pixel_limit() -> int:
    """The largest image that is decoded, in pixels: SACCADE_MAX_PIXELS if set, else MAX_PIXELS.

    Raises:
        DataError: the variable is not a positive whole number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text is None:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{MAX_PIXELS_VARIABLE}={text!r}: must be a positive whole number of pixels, such as 250000000")
    return int(text)


@contextlib.contextmanager
def _opened(path: Path | bytes) -> Iterator[tuple[Image.Image, str]]:
    """The file, recognised and open but not decoded, and its name for messages."""
    limit = pixel_limit()
    if (Image.MAX_IMAGE_PIXELS or limit) < limit:
        Image.MAX_IMAGE_PIXELS = limit  # otherwise Pillow warns below our limit, and refuses from twice its own
    with contextlib.ExitStack() as stack:
        if isinstance(path, bytes):
            name, file = "the image", stack.enter_context(io.BytesIO(path))
        else:
            name, file = str(path), stack.enter_context(_open_regular(path))  # type: ignore[assignment]
        head = file.read(64)
        if len(head) < 2:
            raise DataError(f"{name}: empty file ({len(head)} bytes); {_ALLOWED}")
        with _named(name, head):
            refuse_heavy(file, head, name)
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        yield image, name


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file. Without waiting: opening a named pipe would block until someone writes to it."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        broken = "a link that leads nowhere" if os.path.islink(path) else "no such file"
        raise DataError(f"{path}: {broken}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image file") from None
    except PermissionError as error:
        if os.path.isdir(path):
            raise DataError(f"{path}: a folder, not an image file") from None
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a NUL in the name
        raise DataError(f"{str(path)!r}: cannot be opened ({error})") from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, socket or device"
        raise DataError(f"{path}: {what}; only regular files are read as images")
    return os.fdopen(handle, "rb")


@contextlib.contextmanager
def _named(name: str, head: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file: decoders of damaged files raise nearly anything
    (OSError, ValueError, SyntaxError, struct.error, KeyError, ...)."""
    try:
        yield
    except (DataError, ResourceError):
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name}: {_what_it_is(head)}; {_ALLOWED}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too large to decode: {error}; {_how_to_raise_the_limit()}") from None
    except MemoryError:
        raise ResourceError(f"{name}: not enough memory to decode it") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        kind = "truncated image" if "truncated" in reason.lower() or isinstance(error, EOFError) else "damaged image"
        raise DataError(f"{name}: {kind} ({reason}); replace the file or remove it") from None


def _what_it_is(head: bytes) -> str:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return f"not an image that can be read (found {kind})"
    if head[4:8] == b"ftyp":
        kind = head[8:12].decode("ascii", "replace").strip()
        return f"not an image that can be read (found {kind!r}: HEIC, AVIF or video; convert it to JPEG or PNG)"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML or SVG")):
        if text.startswith(start):
            return f"not an image (found {kind})"
    for start, kind in ((b"\xff\xd8", "JPEG"), (b"\x89png", "PNG"), (b"riff", "WebP"), (b"gif8", "GIF")):
        if head.lower().startswith(start):
            return f"damaged or truncated {kind}: its header cannot be read"
    printable = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "not an image (found text)" if printable else f"not an image that can be read (starts with {head[:8].hex()})"


def _how_to_raise_the_limit() -> str:
    return f"the limit is {pixel_limit() / 1e6:g} Mpixel (set {MAX_PIXELS_VARIABLE} to allow more)"


def _probe(image: Image.Image, name: str) -> Probe:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{name}: damaged image (its size is {width} x {height} pixels)")
    if width * height > pixel_limit():
        raise DataError(
            f"{name}: {width} x {height} pixels = {width * height / 1e6:.1f} Mpixel; {_how_to_raise_the_limit()}"
        )
    size = (width, height) if _orientation(image) >= 5 else (height, width)
    kind = image.format or ""
    with _named(name):
        animated = bool(getattr(image, "is_animated", False))
    # a JPEG that carries a second picture (stereo, a depth map, a preview) is an MPO to Pillow; its first is the photo
    return Probe("JPEG" if kind == "MPO" else kind, size, animated and kind != "MPO")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 that is still to be applied; 1 where there is none or it makes no sense."""
    if image.format == "TIFF":
        return 1  # Pillow turns these as it loads them, and gives the upright size before
    try:
        if is_heavy_directory(known := image.info.get("exif", b"").removeprefix(b"Exif\0\0"), len(known)):
            return 1
        # not image.getexif(): for a PNG without EXIF in front of its pixels that decodes the whole image
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and "exif" not in image.info and _ORIENTATION not in exif:
            exif = Image.Exif()
            exif.load(_png_exif(getattr(image, "fp", None)))
        value = exif.get(_ORIENTATION)
    except Exception:  # noise in EXIF is no reason to lose the image: it is read as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(file: BinaryIO | None) -> bytes:
    """The eXIf chunk of a PNG wherever it stands (exiftool writes it behind the pixels); b"" if there is none."""
    if file is None:
        return b""
    back = file.tell()
    try:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"eXIf" and length <= 1 << 20:
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, io.SEEK_CUR)
        return b""
    finally:
        file.seek(back)


def _color_jpeg(image: Image.Image, reduction: int) -> np.ndarray | None:
    """[ceil(H / reduction), ceil(W / reduction), 3] uint8 of a colour JPEG by OpenCV: the same library as Pillow's, the
    same pixels, in less time.

    None for everything else, and for a file that is cut off: Pillow then says what is wrong with it.
    """
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    file = getattr(image, "fp", None)
    if file is None:
        return None
    file.seek(0)
    content = file.read()
    if content.rfind(b"\xff\xd9", len(content) // 2) < 0:  # no end marker
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), _REDUCED[reduction])
    except cv2.error:
        return None
    shape = (-(-image.height // reduction), -(-image.width // reduction), 3)
    return pixels if pixels is not None and pixels.shape == shape else None


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """[H, W, 3] uint8 of a loaded image in any mode."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if mode.startswith("I;16") or mode in ("I", "F"):
        gray = _gray_to_8_bit(image, name)
        return np.repeat(gray[:, :, None], 3, axis=2)
    with _named(name):
        if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, rgba)
        return np.asarray(image.convert("RGB"))


def _gray_to_8_bit(image: Image.Image, name: str) -> np.ndarray:
    """16-bit gray by x * 255 / 65535 (Pillow's own conversion clips at 255: all white), [0, 1] floats by x * 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise DataError(f"{name}: floating point pixels that are NaN or infinite; save it as 8 or 16 bit")
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            raise DataError(
                f"{name}: floating point pixels from {low:g} to {high:g}; allowed: 0 to 1 (1 is white); "
                "save it as 8 or 16 bit"
            )
        return (values * 255 + 0.5).astype(np.uint8)
    bits = getattr(image, "tag_v2", {}).get(258, (16,))  # TIFF BitsPerSample
    if max(bits if isinstance(bits, tuple) else (bits,)) > 16:
        raise DataError(f"{name}: 32-bit integer pixels have no agreed scale; save it as 8 or 16 bit")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: pixel values from {low} to {high}; allowed: 0 to 65535; save it as 8 or 16 bit")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (Exif 2.3, tag 274): 2 mirrored, 3 half turn, 4 upside down, 5-8 with a quarter turn."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
