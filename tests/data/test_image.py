"""Every kind of file that people call an image: accepted with the right pixels, or refused by name."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from saccade.data.image import MAX_PIXELS_VARIABLE, Probe, decode, decode_values, note_frames, probe
from saccade.errors import DataError


def picture(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(rough, (width, height))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied_and_nonsense_is_not(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture()), format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    pixels = decode(data)
    assert np.array_equal(pixels, expected)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert pixels.dtype == np.uint8
    assert probe(data) == Probe(format, pixels.shape[:2])
    assert pixels.shape[:2] == ((70, 50) if 5 <= orientation <= 8 else (50, 70))


def test_orientation_is_found_behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(Image.fromarray(picture()), "PNG")
    end = len(plain) - 12
    late = plain[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + plain[end:]
    assert probe(late).size == (70, 50)
    assert np.array_equal(decode(late), np.rot90(picture(), -1))


@pytest.mark.parametrize(
    "noise", [b"Exif\0\0" + bytes(range(256)) * 200, b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_image_as_stored(noise: bytes) -> None:
    data = encoded(Image.fromarray(picture()), "JPEG", exif=noise)
    assert decode(data).shape == (50, 70, 3)


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_sixteen_bit_gray_is_scaled(name: str, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    cv2.imwrite(str(tmp_path / name), ramp)
    pixels = decode(tmp_path / name)
    assert np.array_equal(pixels[0, :, 0], np.arange(256))
    assert abs(float(pixels.mean()) - 127) < 6


def test_sixteen_bit_color(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16)[:, None], (4, 1, 3))
    cv2.imwrite(str(tmp_path / "c.png"), ramp)
    assert abs(decode(tmp_path / "c.png").astype(int)[0, :, 1] - np.arange(256)).max() <= 1


def test_one_bit_gray_palette_and_transparency() -> None:
    assert set(np.unique(decode(encoded(Image.fromarray(picture()).convert("1"), "PNG")))) == {0, 255}
    gray = decode(encoded(Image.fromarray(picture()).convert("L"), "JPEG"))
    assert np.array_equal(gray[..., 0], gray[..., 2])
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert (decode(encoded(palette, "PNG")) == [200, 100, 50]).all()
    assert (decode(encoded(palette, "PNG", transparency=1)) == 255).all()
    assert (decode(encoded(palette, "GIF")) == [200, 100, 50]).all()


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_transparency_is_composed_on_white(mode: str, color: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    for format in ("PNG", "TIFF"):
        assert (decode(encoded(Image.new(mode, (3, 3), color), format)) == expected).all()


def test_cmyk_jpeg_is_not_inverted() -> None:
    red = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 40


def test_float_and_wide_integers() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert np.array_equal(decode(encoded(Image.fromarray(ramp), "TIFF"))[0, :, 0], np.arange(256))
    with pytest.raises(DataError, match="0 to 255; allowed: 0 to 1"):
        decode(encoded(Image.fromarray(ramp * 255), "TIFF"))
    with pytest.raises(DataError, match="NaN"):
        decode(encoded(Image.fromarray(ramp * np.nan), "TIFF"))
    with pytest.raises(DataError, match="32-bit integer"):
        decode(encoded(Image.fromarray(np.arange(9, dtype=np.int32)[None]), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert probe(data).animated
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() < 8


def test_frames_are_counted_and_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    frames = [Image.new("P", (40, 30), color=i % 250) for i in range(600)]
    frames[0].save(path, save_all=True, append_images=frames[1:], optimize=False)
    assert note_frames(path) == ["holds 600 images (frames or pages); only the first was looked at"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the first frame is whole
    (note,) = note_frames(path)
    assert "only the first" in note
    frames[0].save(path)
    assert note_frames(path) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 2000), (4000, 7), (8, 20000)])
def test_odd_sizes(height: int, width: int) -> None:
    assert decode(encoded(Image.new("RGB", (width, height)), "PNG")).shape == (height, width, 3)


@pytest.mark.parametrize("min_side", [1, 8, 13, 25, 26, 50, 99, 200, 201, 500])
def test_reduced_decoding_keeps_the_shorter_side(min_side: int) -> None:
    image = picture(201, 333)
    data = encoded(Image.fromarray(image), "JPEG", quality=95)
    s = probe(data).reduction(min_side)
    small = decode(data, min_side)
    assert small.shape[:2] == (-(-201 // s), -(-333 // s))
    assert min(small.shape[:2]) >= min(min_side, 201)
    assert s == 8 or min(201, 333) // (2 * s) < min_side  # no larger factor would do
    whole = decode(data)[: 201 // s * s, : 333 // s * s].astype(float)
    means = whole.reshape(201 // s, s, 333 // s, s, 3).mean((1, 3))
    assert np.abs(small[: 201 // s, : 333 // s] - means).mean() < 4  # pixel i covers s * i .. s * (i + 1)


@pytest.mark.parametrize("size", [(96, 160), (97, 161), (203, 87)])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_colour_jpegs_have_the_pixels_of_pillow(size: tuple[int, int], reduction: int, subsampling: int) -> None:
    data = encoded(Image.fromarray(picture(*size)), "JPEG", quality=90, subsampling=subsampling)
    theirs = Image.open(io.BytesIO(data))
    if reduction > 1:
        theirs.draft(None, (size[1] // reduction, size[0] // reduction))
    ours = decode(data, min(size) // reduction)
    assert ours.shape[:2] == tuple(-(-side // reduction) for side in size)
    assert np.array_equal(ours, np.asarray(theirs))


def test_other_formats_are_not_reduced() -> None:
    assert decode(encoded(Image.fromarray(picture()), "PNG"), min_side=4).shape == (50, 70, 3)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"\xff", "empty file"),
        (b"<!DOCTYPE html><html><body>404", "found HTML"),
        (b"  <html>", "found HTML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found SVG"),
        (b"%PDF-1.7", "found PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", "found EPS"),
        (b"\x80\x04\x95\x05", "a pickle"),
        (b"\0\0\0\x18ftypheic\0\0", "heic"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"hello world", "found text"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "found an AVI video"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (bytes(range(7, 200)), "starts with 0708"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for read in (probe, decode, decode_values):
        with pytest.raises(DataError, match=found) as caught:
            read(path)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_pixels_are_those_of_pillow(subsampling: int, progressive: bool, mode: str) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((161, 121), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=subsampling, progressive=progressive)
    wanted = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(decode(file.getvalue()), wanted)
    np.testing.assert_array_equal(decode(file.getvalue() + b"behind the end"), wanted)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(format: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="cut"):
        decode(path)


def test_jpeg_without_its_end_marker_is_not_rewritten(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(picture()), "JPEG")[:-2]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match="truncated"):
        decode(path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_damaged_png(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(DataError, match=r"damaged|truncated"):
        decode(bytes(data))
    with pytest.raises(DataError):
        decode(png_of_size(0, 0))
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 80_000_000))
    with pytest.raises(DataError, match="large"):
        decode(bytes(encoded(Image.new("L", (1, 1)), "PNG")[:33]) + bomb)


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (2**31 - 1, 2**31 - 1), (1, 2**30), (10001, 10000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_decoding(width: int, height: int) -> None:
    for read in (probe, decode):
        with pytest.raises(DataError, match="limit is 100 Mpixel"):
            read(png_of_size(width, height))


def test_the_limit_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "9999")
    with pytest.raises(DataError, match="100 x 100 pixels"):
        probe(data)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "400000000")
    assert probe(png_of_size(20000, 19000)).size == (19000, 20000)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(DataError, match="whole number"):
        probe(data)


@pytest.mark.parametrize(
    "name",
    ["Кот.jpg", "猫.jpg", "e\u0301.jpg", "🐈.jpg", "-rf.jpg", "a b.jpg", "it's \"x\".jpg", "%2e.jpg", "<b>.jpg",
     "{{7*7}}.jpg", "$(ls).jpg", "a\nb.jpg", "x" * 200 + ".jpg", "liar.gif", "nothing", "UPPER.JPG"],
)  # fmt: skip
def test_names_do_not_matter(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(Image.fromarray(picture()), "PNG"))
    assert probe(path) == Probe("PNG", (50, 70))
    assert np.array_equal(decode(path), picture())


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    expected = {
        "folder.jpg": "a folder",
        "pipe.jpg": "a pipe",
        "broken.jpg": "leads nowhere",
        "loop.jpg": "cannot be opened",
        "missing.jpg": "no such file",
        "a\0b.jpg": "cannot be opened",
    }
    for name, reason in expected.items():
        with pytest.raises(DataError, match=reason):
            decode(tmp_path / name)


def test_stored_values_of_masks(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 255, 7]], dtype=np.uint8)
    palette = Image.fromarray(values, "P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    for image in (palette, Image.fromarray(values), Image.fromarray(values).convert("RGB")):
        assert np.array_equal(decode_values(encoded(image, "PNG")), values)
    deep = values.astype(np.uint16) * 256
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert np.array_equal(decode_values(tmp_path / "deep.png"), deep)
    colored = np.array([[[1, 2, 3], [0, 0, 0]]], dtype=np.uint8)
    assert decode_values(encoded(Image.fromarray(colored), "PNG")).tolist() == [[0x010203, 0]]
    assert decode_values(encoded(Image.fromarray(values > 2), "PNG")).tolist() == [[0, 0, 0], [1, 1, 1]]
    with pytest.raises(DataError, match="floating point"):
        decode_values(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))


def _tiff(data: bytes, bits: int, *more: tuple[int, int]) -> bytes:
    """A gray TIFF of 2 x 2 values that are stored as `data`, `bits` bits each, with further fields (tag, number)."""
    fields = [
        (256, 2),
        (257, 2),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, len(data)),
        *more,
    ]
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, number, 0) for tag, number in fields)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(fields)) + table + bytes(4)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (_tiff(np.array([0, 1024, 2048, 4095], "<u2").tobytes(), 16), [0, 4, 8, 16]),
        (_tiff(np.array([0, 1024, 2048, 4095], "<u2").tobytes(), 16, (281, 4095)), [0, 64, 128, 255]),
        (_tiff(np.array([0, 1024, 2048, 4095], "<u2").tobytes(), 16, (281, 7)), [0, 4, 8, 16]),
        (_tiff(bytes([0, 4, 0, 128, 15, 255]), 12), [0, 64, 128, 255]),
        (b"P5 2 2 4095\n" + np.array([0, 1024, 2048, 4095], ">u2").tobytes(), [0, 64, 128, 255]),
        (b"P5 2 2 65535\n" + np.array([0, 1024, 2048, 4095], ">u2").tobytes(), [0, 4, 8, 16]),
    ],
)
def test_the_greatest_value_that_a_file_states_is_white(content: bytes, wanted: list[int]) -> None:
    assert decode(content)[..., 0].flatten().tolist() == wanted
    assert probe(content).deep
