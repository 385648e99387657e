"""Image files: what they are before they are decoded (`probe`), and their pixels (`decode`).

Files come from anywhere, so nothing is believed: the format is told from the content and must be on the allow-list,
the size is checked before a pixel is decoded, and a damaged file is refused by name rather than half shown.
What the pixels become:

- upright: EXIF orientation (JPEG, PNG, WebP, TIFF) is applied; an unreadable or unknown one leaves the image as stored;
- gray, 1-bit, palette, 16-bit (0..65535 becomes 0..255 linearly), CMYK and YCCK become 8-bit RGB; ICC profiles are
  ignored. Where the file states fewer bits (12 in a TIFF, the greatest value in a TIFF or PGM), that value is white. It
  is never told from the pixels of one file: equal values of two files stay equal;
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from saccade.data.picture_kinds import RAW_SUFFIXES, what_it_is
from saccade.data.workload import is_heavy_directory, refuse_heavy
from saccade.errors import DataError, ResourceError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # as Pillow names them; PPM covers PBM, PGM and PPM
MAX_PIXELS = 100_000_000  # 300 MB as RGB; the environment variable below replaces it
COLOUR = 1 << 24  # added to the colours that `decode_values` is asked for
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


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file says of its image before decoding."""

    format: str  # one of FORMATS
    size: tuple[int, int]  # (height, width) in pixels, upright
    animated: bool = False  # more than one frame or page; the first is taken
    deep: bool = False  # more than 8 bits a value
    mode: str = field(default="", compare=False)  # what a pixel is, as Pillow names it: "L", "P", "I;16", "RGB", ...

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
            pixels = to_rgb(image, name)
    return found, np.require(_upright(pixels, turn), requirements=["C", "W"])


def decode_values(path: Path | bytes, colours: bool = False) -> np.ndarray:
    """The stored values of a mask or class map, upright: palette indices, gray values, 16-bit values, 0 and 1 of 1-bit.

    Colour images give the shared value where red, green and blue are equal everywhere (a gray map saved as colour),
    else red * 65536 + green * 256 + blue. Transparency is ignored.

    Args:
        colours: the colour of every pixel counts, of gray and palette images too: COLOUR + red * 65536 + green * 256 +
            blue, so that no colour is taken for an index.

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
            if colours:
                image = image.convert("RGB")
            elif image.mode not in ("1", "L", "P", "I", "F", "RGB") and not image.mode.startswith("I;16"):
                image = image.convert({"LA": "L", "PA": "P"}.get(image.mode, "RGB"))
            values = np.asarray(image)
        if values.dtype.kind == "f":
            raise DataError(f"{name}: a class map in floating point; save it as 8 or 16 bit")
        values = values.astype(np.int32)
    if values.ndim == 3:
        red, green, blue = values[..., 0], values[..., 1], values[..., 2]
        gray = not colours and np.array_equal(red, green) and np.array_equal(red, blue)
        values = red if gray else red << 16 | green << 8 | blue
        values = values + COLOUR if colours else values
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
        if os.path.splitext(name)[1].lower() in RAW_SUFFIXES:
            raise DataError(f"{name}: a camera's raw file, of which only a preview could be read; {_ALLOWED}")
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
        raise DataError(f"{name}: {what_it_is(head)}; {_ALLOWED}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too large to decode: {error}; {_how_to_raise_the_limit()}") from None
    except MemoryError:
        raise ResourceError(f"{name}: not enough memory to decode it") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        kind = "truncated image" if "truncated" in reason.lower() or isinstance(error, EOFError) else "damaged image"
        raise DataError(f"{name}: {kind} ({reason}); replace the file or remove it") from None


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
    still = kind == "MPO"
    return Probe("JPEG" if still else kind, size, animated and not still, _is_deep(image), image.mode)


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet stores more than 8 bits a value; Pillow keeps 8 of those in colour."""
    tiles = getattr(image, "tile", None)
    stored = tiles[0].args if tiles else ""  # how the values are packed; in a PPM the greatest value comes last
    words = stored if isinstance(stored, tuple) else (stored,)
    greatest = words[-1] if image.format == "PPM" and words and isinstance(words[-1], int) else 0
    return image.mode.startswith("I") or greatest > 255 or any(";16" in str(word) for word in words)


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


def to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """[H, W, 3] uint8 of a loaded image in any mode; what shines through is white.

    Raises:
        DataError: gray values of more than 8 bits without an agreed scale, or damage that shows only now.
    """
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
    tags = getattr(image, "tag_v2", {})
    bits = _first_number(tags.get(258), 16)  # TIFF BitsPerSample
    if bits > 16:
        raise DataError(f"{name}: 32-bit integer pixels have no agreed scale; save it as 8 or 16 bit")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: pixel values from {low} to {high}; allowed: 0 to 65535; save it as 8 or 16 bit")
    white = _first_number(tags.get(281), (1 << bits) - 1)  # TIFF MaxSampleValue
    if not max(high, 255) <= white <= 65535:
        white = 65535
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _first_number(value: object, default: int) -> int:
    """The number, or the first of several, in a TIFF's field."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else default


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (Exif 2.3, tag 274): 2 mirrored, 3 half turn, 4 upside down, 5-8 with a quarter turn."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
