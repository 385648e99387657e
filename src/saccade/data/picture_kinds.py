"""What a file is by its name and by its first bytes: a picture that is read, one that is not, or no picture."""

from __future__ import annotations

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif",
            ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")  # fmt: skip
"""Suffixes (lower case) of the formats that are read; what is inside is judged when a file is opened."""
RAW_SUFFIXES = (".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2",
                ".pef", ".srw", ".raw", ".3fr", ".erf", ".kdc", ".mrw", ".x3f")  # fmt: skip
"""Suffixes (lower case) of cameras' raw files: to a decoder of TIFF they are a small preview."""
OTHER_SUFFIXES = (*RAW_SUFFIXES, ".heic", ".heif", ".hif", ".avif", ".avifs", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx",
                  ".jpc", ".jxr", ".wdp", ".hdp", ".bpg", ".svg", ".svgz", ".pdf", ".ps", ".eps", ".ai", ".psd",
                  ".psb", ".xcf", ".tga", ".dds", ".exr", ".hdr", ".ico", ".icns", ".cur", ".dib", ".pcx", ".sgi",
                  ".ras", ".xbm", ".xpm", ".qoi", ".wmf", ".emf", ".dcm", ".dicom", ".djvu", ".flif")  # fmt: skip
"""Suffixes (lower case) of pictures in formats that are not read. Such a file is listed, and refused by name unless its
content is of a format that is read: telephones name JPEG files .heic."""
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"SIMPLE  =", "FITS"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer, the file itself was not fetched"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
)
_ARCHIVES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive without content"),
    (b"PK\x07\x08", "a part of a ZIP archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
)
TAR = slice(257, 262)
"""Where a tar archive says that it is one."""
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS",
             b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"\xff\x0a", b"\xffO\xffQ")  # fmt: skip


def is_picture_head(head: bytes) -> bool:
    """True where the first 16 bytes of a file are those of a picture, of a format that is read or of another."""
    return (
        head.startswith(_PICTURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))  # the reserved words of a BMP: "BM" alone begins a text
        or (len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3] in b"\n\r\t #")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"))
    )


def archive_kind(head: bytes) -> str | None:
    """What kind of archive, or of compressed file, begins with `head`, in words; None of any other file. A plain tar
    archive is seen in 262 bytes."""
    if head[TAR] == b"ustar":
        return "a tar archive"
    return next((kind for magic, kind in _ARCHIVES if head.startswith(magic)), None)


def what_it_is(head: bytes) -> str:
    """What a file that begins with `head` (some 64 bytes) seems to be, in words for a refusal."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return f"not an image that can be read (found {kind})"
    if archive := archive_kind(head):
        return f"not an image that can be read (found {archive}: unpack it)"
    if head[4:8] == b"ftyp":
        kind = head[8:12].decode("ascii", "replace").strip()
        return f"not an image that can be read (found {kind!r}: HEIC, AVIF or video; convert it to JPEG or PNG)"
    if head[:4] == b"RIFF" and head[8:12] != b"WEBP" and len(head) >= 12:
        kind = {b"AVI ": "an AVI video", b"WAVE": "WAV sound"}.get(head[8:12], "RIFF")
        return f"not an image (found {kind})"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML or SVG")):
        if text.startswith(start):
            return f"not an image (found {kind})"
    for start, kind in ((b"\xff\xd8", "JPEG"), (b"\x89png", "PNG"), (b"riff", "WebP"), (b"gif8", "GIF")):
        if head.lower().startswith(start):
            return f"damaged or truncated {kind}: its header cannot be read"
    printable = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "not an image (found text)" if printable else f"not an image that can be read (starts with {head[:8].hex()})"
