"""Small files that ask for much work are refused before a decoder sees them; what programs write is read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.image import decode, probe
from saccade.data.workload import BEGINNING, PARTS, SCANS
from saccade.errors import DataError


def picture(kind: str, size: tuple[int, int] = (32, 32), **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(n: int) -> bytes:
    plain = picture("PNG")
    return plain[:33] + chunk(b"prVt") * n + plain[33:]


def png_in_pieces(n: int) -> bytes:
    plain = picture("PNG")
    return plain[:-12] + chunk(b"IDAT") * n + plain[-12:]


def jpeg_with(segment: bytes) -> Callable[[int], bytes]:
    plain = picture("JPEG")
    return lambda n: plain[:2] + segment * n + plain[2:]


def scans(n: int) -> bytes:
    """A progressive JPEG whose last scan comes n times; each is decoded again."""
    plain = picture("JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * n + plain[-2:]


def gif_with(n: int) -> bytes:
    plain = picture("GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:start] + b"\x21\xfe\x01a\0" * n + plain[start:]


def directory(n: int, length: int) -> bytes:
    """A TIFF directory of n entries that all point to the same bytes."""
    entries = b"".join(struct.pack("<HHII", 40_000 + i, 7, length, 8) for i in range(n))
    return b"II*\0" + struct.pack("<IH", 8, n) + entries + bytes(4) + bytes(max(0, length - 12 * n))


def exif(n: int) -> bytes:
    return jpeg_with(b"\xff\xe1" + struct.pack(">H", 8 + len(data := directory(n, 12 * n))) + b"Exif\0\0" + data)(1)


HEAVY: dict[str, Callable[[int], bytes]] = {
    "chunks.png": png_with,
    "pieces.png": png_in_pieces,
    "segments.jpg": jpeg_with(b"\xff\xe9\0\2"),
    "comments.jpg": jpeg_with(b"\xff\xfe\0\3a"),
    "profiles.jpg": jpeg_with(b"\xff\xe2\0\x10ICC_PROFILE\0\1\1"),
    "tables.jpg": jpeg_with(picture("JPEG")[20:][:69]),
    "comments.gif": gif_with,
}


@pytest.mark.parametrize("name", HEAVY)
def test_many_small_parts(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(HEAVY[name](PARTS // 100))
    assert decode(path).shape == (32, 32, 3)
    path.write_bytes(HEAVY[name](2 * PARTS))
    for work in (probe, decode):
        with pytest.raises(DataError, match=rf"{name}: more than 10,\d{{3}} (segments|chunks)"):
            work(path)


def test_fill_and_junk_between_segments() -> None:
    plain = picture("JPEG")
    assert decode(plain[:2] + b"\xff" * 100 + plain[2:]).shape == (32, 32, 3)
    for junk in (b"\xff", b"\0"):
        with pytest.raises(DataError, match="65,536 bytes between them"):
            decode(plain[:2] + junk * 100_000 + plain[2:])


def test_scans_of_a_progressive_picture() -> None:
    assert decode(scans(20)).shape == (32, 32, 3)
    with pytest.raises(DataError, match=f"more than {SCANS} scans over 1,024 pixels"):
        decode(scans(2 * SCANS))
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "JPEG", progressive=True)
    large = buffer.getvalue()
    last = large[large.rindex(b"\xff\xda") : -2]
    with pytest.raises(DataError, match="more than 62 scans over 16,000,000 pixels"):
        decode(large[:-2] + last * 100 + large[-2:])


def test_directories_whose_entries_overlap(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EXIF directory overlap"):
        decode(exif(4000))
    assert decode(exif(1)).shape == (32, 32, 3)
    with pytest.raises(DataError, match="point to more than the file holds"):
        decode(directory(20_000, 700_000))
    plain = picture("PNG")
    turned = plain[:33] + chunk(b"eXIf", directory(20_000, 700_000)) + plain[33:]
    assert decode(turned).shape == (32, 32, 3)  # noise in EXIF is no reason to lose the picture


def test_comments_of_a_pnm() -> None:
    assert decode(b"P5\n" + b"#a\n" * 100 + b"2 2 255\n" + bytes(4)).shape == (2, 2, 3)
    assert decode(b"P2\n#a\n2 2 255\n" + b"1 2 3 4").shape == (2, 2, 3)
    for data in (
        b"P5\n" + b"#a\n" * 100_000 + b"2 2 255\n" + bytes(4),
        b"P2\n2 2 255\n" + b"#a\n" * 100_000 + b"1 2 3 4",
    ):
        with pytest.raises(DataError, match="more comments than pixels"):
            decode(data)


@pytest.mark.parametrize("big", [False, True])
def test_what_programs_write_is_read(big: bool, tmp_path: Path) -> None:
    size = (700, 500) if big else (32, 32)
    profile = bytes(400_000) if big else bytes(100)
    for kind, options in (
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"icc_profile": profile, "exif": b"Exif\0\0" + directory(3, 30)}),
        ("PNG", {"compress_level": 0}),
        ("PNG", {"icc_profile": profile}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("TIFF", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))] * 20}),
        ("GIF", {}),
        ("WEBP", {}),
        ("PPM", {}),
        ("BMP", {}),
    ):
        data = picture(kind, size, **options)
        assert decode(data).shape == (size[1], size[0], 3)
    assert len(picture("JPEG", (700, 500), quality=95)) > BEGINNING
