"""How much work an image file asks for, counted from its markers before a decoder sees it.

Decoders do what a file says: two thousand scans over one picture, a million empty chunks, a directory whose entries
all point to the same megabyte. Such a file is small and sound in form, and keeps a machine busy for minutes or fills
its memory. What cameras and programs write stays far below these limits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from saccade.errors import DataError

PARTS = 10_000  # segments, chunks or blocks besides one for each KILOBYTE of the file
KILOBYTE = 1024
SCANS = 500  # of a progressive JPEG; writers use about ten
SCANNED = 1_000_000_000  # pixels times scans: ten scans of the largest image that is decoded
JUNK = 65_536  # bytes of a header between its parts
BEGINNING = 2**18  # bytes of a JPEG in which the first scan mostly begins

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # TIFF
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's start of frame, in all its kinds


def refuse_heavy(file: BinaryIO, head: bytes, name: str) -> None:
    """Raises DataError for an image file that asks for far more work than its size and pixels explain.

    Args:
        file: open for reading; it is left at its beginning.
        head: its first 64 bytes.
    """
    file.seek(0, 2)
    most = PARTS + file.tell() // KILOBYTE
    parts: Iterator[object] = iter(())
    if head.startswith(b"\xff\xd8"):
        _count_jpeg(file, name)
    elif head.startswith(b"\x89PNG"):
        parts = _png_chunks(file)
    elif head.startswith(b"GIF8"):
        parts = _gif_blocks(file)
    elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        parts = _tiff_pages(file, head, name)
    elif re.match(rb"P[1-6]", head):
        _count_ppm(file, name)
    for number, _ in enumerate(parts, 1):
        if number > most:
            raise DataError(f"{name}: more than {most:,} chunks, blocks or pages for its size; save it anew")
    file.seek(0)


def is_heavy_directory(data: bytes, size: int) -> bool:
    """Whether the entries of a TIFF directory (of EXIF, say) point to more bytes than there are: they overlap.

    Args:
        data: it begins with the TIFF header, "II*" or "MM*".
        size: bytes to which the entries may point, at most twice as many are allowed.
    """
    order = ">" if data[:2] == b"MM" else "<"
    if len(data) < 8:
        return False
    (start,) = struct.unpack_from(order + "I", data, 4)
    return _pointed(data[start : start + 2 + 12 * 65_536], order, big=False)[0] > 2 * size + JUNK


def _pointed(directory: bytes, order: str, big: bool) -> tuple[int, int]:
    """Bytes to which the entries of a directory point, and how many bytes the directory takes."""
    start, form = (8, order + "HHQ8x") if big else (2, order + "HHI4x")
    if len(directory) < start:
        return 0, start
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), directory)
    step = struct.calcsize(form)
    entries = struct.iter_unpack(form, directory[start : start + step * min(count, (len(directory) - start) // step)])
    return sum(number * _SIZES.get(kind, 0) for _, kind, number in entries), start + step * count


def _count_jpeg(file: BinaryIO, name: str) -> None:
    """Segments before the first scan, the EXIF and MPF directories in them, and scans where there may be many."""
    parts, junk, pixels, components, scans, exif, progressive = 0, 0, 0, 0, 0, b"", False
    for kind, segment, before in _jpeg_segments(file):
        parts, junk = parts + 1, junk + (0 if scans else before)
        if parts > PARTS + SCANS or junk > JUNK:
            raise DataError(f"{name}: more than {PARTS:,} segments, or {JUNK:,} bytes between them; save it anew")
        if kind in _FRAMES and len(segment) > 5:
            pixels = int.from_bytes(segment[1:3]) * int.from_bytes(segment[3:5])
            components, progressive = segment[5], kind > 0xC1
        elif kind == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif += segment[6:]
        elif kind == 0xE2 and segment.startswith(b"MPF\0") and is_heavy_directory(segment[4:], len(segment)):
            raise DataError(f"{name}: the entries of its MPF directory overlap; save it anew")
        elif kind == 0xDA:
            scans += 1
            if not progressive and segment[:1] == bytes([components]):
                break  # all colours in one scan: nothing behind it is read
            if scans > SCANS or scans * pixels > max(SCANNED, 10 * pixels):
                raise DataError(f"{name}: more than {scans - 1} scans over {pixels:,} pixels; save it anew")
    if is_heavy_directory(exif, len(exif)):
        raise DataError(f"{name}: the entries of its EXIF directory overlap; save it anew")


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Marker and content of every segment, and the bytes between it and the one before (of a scan: its pixels)."""
    file.seek(0)
    data, at = file.read(BEGINNING), 2
    while True:
        found = _MARKER.search(data, at)
        if len(data) == BEGINNING and (found is None or found.end() + JUNK > len(data)):
            data += file.read()
            found = _MARKER.search(data, at)
        if found is None or found[1] == b"\xd9":
            return
        kind, after = found[1][0], found.end()
        plain = kind == 1 or 0xD0 <= kind <= 0xD8  # these have no length
        length = 0 if plain else max(2, int.from_bytes(data[after : after + 2]))
        yield kind, data[after + 2 : after + length], after - 2 - at
        at = after + length


def _png_chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        yield kind
        file.seek(length + 4, 1)


def _gif_blocks(file: BinaryIO) -> Iterator[int]:
    """Blocks in front of the first picture, which a reader keeps."""
    file.seek(10)
    flags = file.read(3)[:1] or b"\0"
    file.seek(3 << (flags[0] & 7) + 1 if flags[0] & 0x80 else 0, 1)
    while file.read(1) == b"!":
        file.seek(1, 1)
        while size := (file.read(1) or b"\0")[0]:
            yield size
            file.seek(size, 1)
        yield 0


def _tiff_pages(file: BinaryIO, head: bytes, name: str) -> Iterator[int]:
    """Directories of the pages. Raises DataError where their entries point to more than the file holds."""
    size = file.seek(0, 2)
    order, big = (">" if head[:2] == b"MM" else "<"), 43 in head[2:4]
    form = order + ("Q" if big else "I")
    (start,) = struct.unpack_from(form, head.ljust(16, b"\0"), 8 if big else 4)
    seen: set[int] = set()
    total = 0
    while start and start not in seen:
        seen.add(start)
        yield start
        file.seek(min(start, size))
        pointed, length = _pointed(file.read(8 + 20 * 65_536), order, big)
        total += pointed
        if total > 2 * size + JUNK:
            raise DataError(f"{name}: the entries of its directories point to more than the file holds; save it anew")
        file.seek(min(start + length, size))
        (start,) = struct.unpack(form, file.read(struct.calcsize(form)).ljust(struct.calcsize(form), b"\0"))


def _count_ppm(file: BinaryIO, name: str) -> None:
    """Comments in front of the pixels; among them where they are written as text."""
    file.seek(0)
    data = file.read(JUNK)
    text, numbers = data[:2] in (b"P1", b"P2", b"P3"), 3 if data[:2] in (b"P1", b"P4") else 4
    plain = re.sub(rb"#[^\r\n]*[\r\n]?", b" ", data)
    comments = data.count(b"#") + sum(block.count(b"#") for block in iter(lambda: file.read(2**20), b"")) if text else 0
    if (len(data) == JUNK and len(plain.split(maxsplit=numbers)) < numbers) or comments > PARTS // 10:
        raise DataError(f"{name}: more comments than pixels; save it anew")
