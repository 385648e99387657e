"""Bad inputs as people really have them, made on the spot: pictures, annotations of every format, arguments.

`pictures` are single files; `SETS` are data sets, each with one fault (`Case.build` writes it into an empty folder and
returns what to give to the command line); `model_files` stand where a checkpoint should; `ARGUMENTS` are command lines
and `SETTINGS` settings files. tests/test_corpus.py runs them all.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
Json = Any
Builder = Callable[[Path], Path]  # writes a data set into a folder; returns what to give to the command line


@dataclass(frozen=True)
class Case:
    """A data set with a fault, and what `saccade check` must say of it."""

    name: str
    build: Builder
    code: int  # exit code
    says: tuple[str, ...] = ()  # in the error, or, with exit code 0, among refused, repaired and warnings
    refused: int | None = 0  # entries of the ledger with exit code 0; None where any number will do


def pixels(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """[H, W, 3] uint8 noise in large cells, another for each seed."""
    cells = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- pictures ---------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *more: bytes) -> bytes:
    """A gray PNG with whatever its header and rows say; `more` are chunks before the rows."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _bad_crc(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 8
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _tiff(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def _frames(kind: str) -> bytes:
    first, *rest = [Image.fromarray(pixels(seed)) for seed in range(3)]
    return encoded(first, kind, save_all=True, append_images=rest)


def pictures() -> dict[str, tuple[bytes, str | None]]:
    """File name -> content, and the words of the refusal; None where the picture is accepted."""
    photo, jpeg = Image.fromarray(pixels(0)), encoded(pixels(0), "JPEG")
    rows, gray = b"\0" + bytes(range(8)), pixels(1)[..., 0]
    alpha = np.dstack([pixels(2), np.zeros((HEIGHT, WIDTH), np.uint8)])
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    unit = (ramp / 65535).astype(np.float32)
    holed = unit.copy()
    holed[3, 3] = np.nan
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 1))
    return {
        "empty.jpg": (b"", "empty file"),
        "one_byte.png": (b"\xff", "empty file"),
        "text.jpg": (b"hello, I am a photo\n", "not an image"),
        "page.jpg": (b"<!DOCTYPE html><html><script>x</script></html>", "HTML"),
        "object.png": (b"\x80\x04\x95\x1b\x00cposix\nsystem\n", "pickle"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        "paper.jpg": (b"%PDF-1.7\n", "PDF"),
        "print.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "head.jpg": (jpeg[:60], "header|truncated|Truncated"),
        "no_end_marker.jpg": (jpeg.removesuffix(b"\xff\xd9"), "truncated"),
        "half.png": (encoded(photo)[:900], "truncated"),
        "bad_crc.png": (_bad_crc(encoded(photo)), "damaged"),
        "filter_9.png": (png(8, 1, b"\x09" + rows[1:]), "damaged"),
        "no_pixels.png": (png(0, 0, b""), "damaged|size"),
        "bomb.png": (png(30_000, 30_000, b"\0" * 90), "900|too large"),
        "largest.png": (png(2**31 - 1, 2**31 - 1, b"\0"), "too large|damaged|limit"),
        "tall.png": (png(1, 2**30, b"\0"), "too large|limit"),
        "long_text.png": (png(8, 1, rows, text), "damaged|large"),
        "turned.jpg": (encoded(photo, "JPEG", exif=_exif(6)), None),
        "orientation_9.jpg": (encoded(photo, "JPEG", exif=_exif(9)), None),
        "exif_noise.jpg": (encoded(photo, "JPEG", exif=b"Exif\0\0" + os.urandom(60_000)), None),
        "gray16.png": (encoded(Image.fromarray(ramp.astype(np.uint16))), None),
        "gray16.tif": (_tiff(ramp.astype(np.uint16)), None),
        "one_bit.png": (encoded(photo.convert("1")), None),
        "palette.png": (encoded(photo.quantize(16)), None),
        "palette.gif": (encoded(photo.quantize(16), transparency=3), None),
        "gray_alpha.png": (encoded(Image.fromarray(gray).convert("LA")), None),
        "clear.png": (encoded(Image.fromarray(alpha)), None),
        "print_colours.jpg": (encoded(photo.convert("CMYK"), "JPEG"), None),
        "unit_float.tif": (_tiff(unit), None),
        "float.tif": (_tiff(unit * 1000), "0 to 1"),
        "int32.tif": (_tiff(ramp.astype(np.int32) * 1000), "scale|32"),
        "nan.tif": (_tiff(holed), "NaN|finite"),
        "moving.gif": (_frames("GIF"), None),
        "moving.webp": (_frames("WEBP"), None),
        "moving.png": (_frames("PNG"), None),
        "pages.tif": (_frames("TIFF"), None),
        "1x1.png": (encoded(pixels(3, (1, 1))), None),
        "2x3.jpg": (encoded(pixels(3, (2, 3)), "JPEG"), None),
        "1x2000.png": (encoded(pixels(3, (1, 2000))), None),
        "4000x7.png": (encoded(pixels(3, (4000, 7))), None),
        "20000x8.png": (encoded(pixels(3, (20_000, 8))), None),
        "black.png": (encoded(pixels(0) * 0), None),
        "suffix_lies.jpg": (encoded(pixels(4)), None),
        "UPPER.JPG": (encoded(pixels(5), "JPEG"), None),
    }


HOSTILE_NAMES = (
    "Москва.png",
    "日本語の写真.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    "🦉.png",
    "-rf.png",
    "--json.png",
    " blanks at both ends .png",
    "two  words.png",
    "'single'.png",
    '"double".png',
    "%2e%2e%2fetc.png",
    "<img src=x onerror=alert(1)>.png",
    "{{7*7}}.png",
    "$(touch canary).png",
    "`touch canary`.png",
    "a;touch canary;.png",
    "new\nline.png",
    "tab\there.png",
    "[1-9]*.png",
    "camera:0.png",
    "#hash?query.png",
    "x" * 200 + ".png",
)

# --- data sets of each format, sound to begin with --------------------------------------------------------------------


def photos(folder: Path, names: list[str]) -> None:
    """Different pictures of WIDTH x HEIGHT."""
    for seed, name in enumerate(names):
        put(folder / name, encoded(pixels(seed)))


def coco_content(images: int = 4) -> dict[str, Json]:
    """Four images with two boxes each, of categories 1 (cat) and 7 (dog); annotations count from 1."""
    boxes = ([5, 5, 20, 20], [30, 10, 20, 25])
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
        "annotations": [
            {"id": 2 * i + j + 1, "image_id": i + 1, "category_id": (1, 7)[j], "bbox": list(boxes[j]), "area": 400}
            for i in range(images)
            for j in range(2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def coco(change: Callable[[dict[str, Json]], object] | None = None, raw: bytes | None = None) -> Builder:
    """A COCO set whose content `change` alters in place, or whose file holds `raw`."""

    def build(root: Path) -> Path:
        photos(root / "images", [f"{i}.png" for i in range(1, 5)])
        content = coco_content()
        if change is not None:
            change(content)
        put(root / "annotations.json", json.dumps(content) if raw is None else raw)
        return root

    return build


def box(value: Json) -> Builder:
    """A COCO set whose annotation 3 has this box."""
    return coco(lambda c: c["annotations"][2].update(bbox=value))


def outline(value: Json) -> Builder:
    """A COCO set with polygons, of which that of annotation 3 is `value`."""

    def change(content: dict[str, Json]) -> None:
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        content["annotations"][2]["segmentation"] = value

    return coco(change)


def everywhere(change: Callable[[list[float]], list[float]]) -> Builder:
    """A COCO set in which `change` alters every box."""
    return coco(lambda c: [a.update(bbox=change(a["bbox"])) for a in c["annotations"]])


def thing(corners: str = "5 5 25 25", name: str = "cat") -> str:
    """An <object> of VOC."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners.split(), strict=False)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"


def page(*things: str, head: str = "", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """An annotation file of VOC."""
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"{head}<annotation>{extent}{''.join(things)}</annotation>"


def voc(second: str | bytes) -> Builder:
    """Three sound VOC pictures and one, `2.png`, with this annotation file."""

    def build(root: Path) -> Path:
        photos(root / "images", [f"{i}.png" for i in range(1, 5)])
        for i in range(1, 5):
            put(root / "annotations" / f"{i}.xml", page(thing(), thing("30 10 50 35", "dog")))
        put(root / "annotations/2.xml", second)
        return root

    return build


NAMES = "names: [cat, dog]\ntrain: images/train\nval: images/val\n"


def yolo(second: str | bytes | None = "0 .5 .5 .2 .2\n", yaml: str | bytes = NAMES) -> Builder:
    """Three sound YOLO pictures and one, `train/2.png`, with this label file; and data.yaml."""

    def build(root: Path) -> Path:
        for name in ("train/1", "train/2", "train/3", "val/4"):
            put(root / f"images/{name}.png", encoded(pixels(int(name[-1]))))
            text = second if name.endswith("2") else "0 .3 .3 .2 .2\n1 .7 .6 .2 .4\n"
            if text is not None:
                put(root / f"labels/{name}.txt", text)
        put(root / "data.yaml", yaml)
        return root

    return build


def masks(second: Callable[[np.ndarray], np.ndarray | bytes], names: str = "soil\nplant\nweed\n") -> Builder:
    """Class maps of soil, plant and weed, and of `2.png` what `second` makes of such a map."""

    def build(root: Path) -> Path:
        photos(root / "images", [f"{i}.png" for i in range(1, 5)])
        for i in range(1, 5):
            plane = np.zeros((HEIGHT, WIDTH), np.uint8)
            plane[10:20], plane[25:30] = 1, 2
            made = second(plane) if i == 2 else plane
            put(root / f"masks/{i}.png", made if isinstance(made, bytes) else encoded(made))
        put(root / "classes.txt", names)
        return root

    return build


def table(text: str | bytes) -> Builder:
    """A CSV file of tags beside four pictures 1.png to 4.png."""

    def build(root: Path) -> Path:
        photos(root / "images", [f"{i}.png" for i in range(1, 5)])
        put(root / "labels.csv", text)
        return root

    return build


TAGS = "image,sea,sun\n1.png,1,0\n2.png,0,1\n3.png,1,1\n4.png,0,0\n"


def folders(*more: tuple[str, bytes | str], classes: tuple[str, ...] = ("cat", "dog")) -> Builder:
    """Class folders with train/ and val/, three and two pictures a class, and further files."""

    def build(root: Path) -> Path:
        seed = 0
        for split, count in (("train", 3), ("val", 2)):
            for name in classes:
                for i in range(count):
                    put(root / split / name / f"{i}.png", encoded(pixels(seed)))
                    seed += 1
        for path, content in more:
            put(root / path, content)
        return root

    return build


def changed(build: Builder, change: Callable[[Path], object]) -> Builder:
    """The set of `build`, after `change` has been at its folder."""

    def both(root: Path) -> Path:
        place = build(root)
        change(root)
        return place

    return both


def _spoil(root: Path, share: float) -> None:
    files = sorted((root / "train").rglob("*.png"))
    for path in files[: round(share * len(files))]:
        path.write_bytes(b"\x89PNG not really")


def _mask_names(root: Path) -> None:
    for path in (root / "masks").glob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))


def _pipe(root: Path) -> None:
    (root / "masks/2.png").unlink()
    os.mkfifo(root / "masks/2.png")


def _double(root: Path) -> None:
    """Move 1.png to a folder beside another of that name."""
    for folder in ("a", "b"):
        put(root / folder / "1.png", (root / "images/1.png").read_bytes())
    (root / "images/1.png").unlink()


BOMB = "<!DOCTYPE x [" + '<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
) + "]>"  # fmt: skip
OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
ANCHORS = ALIASES + "names: *i\ntrain: images/train\n"
COPY = encoded(Image.fromarray(pixels(0)), "JPEG", quality=85)  # train/cat/0.png, saved anew

SETS: tuple[Case, ...] = (
    # COCO
    Case("coco sound", coco(), 0),
    Case("coco image without rows", coco(lambda c: c["annotations"].__delitem__(slice(0, 2))), 0),
    Case("coco no object at all", coco(lambda c: c["annotations"].clear()), 3, ("no object",)),
    Case("coco no image", coco(lambda c: (c["images"].clear(), c["annotations"].clear())), 3, ("annotations.json",)),
    Case("coco negative width", box([10, 10, -5, 10]), 0, ("annotation 3",), 1),
    Case("coco no area", box([10, 10, 0, 10]), 0, ("annotation 3",), 1),
    Case("coco outside", box([100, 100, 5, 10]), 0, ("annotation 3",), 1),
    Case("coco partly outside", box([50, 10, 20, 10]), 0, ("annotation 3",)),
    Case("coco just outside", box([50, 10, 10.0000001, 10]), 0),
    Case("coco nan", box([float("nan"), 10, 5, 10]), 0, ("annotation 3",), 1),
    Case("coco infinite", box([1, 10, float("inf"), 10]), 0, ("annotation 3",), 1),
    Case("coco huge", box([1e308, 10, 1e308, 10]), 0, ("annotation 3",), 1),
    Case("coco text", box(["ten", 10, 5, 10]), 0, ("annotation 3",), 1),
    Case("coco null", box(None), 0, ("annotation 3",), 1),
    Case("coco empty box", box([]), 0, ("annotation 3",), 1),
    Case("coco three numbers", box([1, 2, 3]), 0, ("annotation 3",), 1),
    Case(
        "coco boxes as corners", everywhere(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), 0, ("x1 y1 x2 y2",), None
    ),
    Case("coco boxes as fractions", everywhere(lambda b: [v / WIDTH for v in b]), 3, ("0..1",)),
    Case(
        "coco category 0",
        coco(
            lambda c: (
                c["categories"][0].update(id=0),
                [a.update(category_id=0) for a in c["annotations"] if a["category_id"] == 1],
            )
        ),
        0,
    ),
    Case("coco ignored object", coco(lambda c: c["annotations"][0].update(ignore=1)), 0, (), None),
    Case(
        "coco string ids",
        coco(
            lambda c: (
                [i.update(id=str(i["id"])) for i in c["images"]],
                [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
            )
        ),
        0,
        (),
        None,
    ),
    Case("coco only crowds", coco(lambda c: [a.update(iscrowd=1) for a in c["annotations"]]), 0, ("all 8 objects",)),
    Case("coco empty outline", outline([[]]), 0),
    Case("coco outline of 10^9 pixels", outline([[-1e9, -1e9, 1e9, -1e9, 0, 1e9]]), 0, ("annotation 3",)),
    Case(
        "coco half of a character", coco(lambda c: c["categories"][0].update(name="\ud800")), 3, ("annotations.json",)
    ),
    Case("coco id of 4,000 digits", coco(lambda c: c["images"][0].update(id=10**4000)), 3, ("id of image number 0",)),
    Case("coco two files of one name", changed(coco(), _double), 0, ("a/1.png", "b/1.png"), None),
    Case("coco polygon of two points", outline([[1, 2, 3, 4]]), 0, ("annotation 3",), None),
    Case("coco polygon of odd count", outline([[1, 2, 30, 4, 30, 20, 5]]), 0, ("annotation 3",), None),
    Case(
        "coco run lengths that do not add up",
        outline({"size": [HEIGHT, WIDTH], "counts": [10, 20]}),
        0,
        ("annotation 3",),
        None,
    ),
    Case(
        "coco negative run lengths",
        outline({"size": [HEIGHT, WIDTH], "counts": [-10, 2410]}),
        0,
        ("annotation 3",),
        None,
    ),
    Case(
        "coco run lengths of 10^12 pixels",
        outline({"size": [10**6, 10**6], "counts": [10**12]}),
        0,
        ("annotation 3",),
        None,
    ),
    Case("coco size differs", coco(lambda c: c["images"][1].update(width=99, height=98)), 0, ("99", "image 2"), None),
    Case(
        "coco size turned",
        coco(lambda c: c["images"][1].update(width=HEIGHT, height=WIDTH)),
        0,
        ("image 2", "turned"),
        None,
    ),
    Case("coco cut file", coco(raw=json.dumps(coco_content()).encode()[:700]), 3, ("annotations.json",)),
    Case("coco empty file", coco(raw=b""), 3, ("annotations.json",)),
    Case("coco list at the top", coco(raw=b"[]"), 3),
    Case("coco no categories", coco(lambda c: c.pop("categories")), 3, ("categories",)),
    Case("coco 100,000 brackets", coco(raw=b'{"images": ' + b"[" * 100_000), 3),
    Case(
        "coco Latin-1",
        coco(raw=json.dumps(coco_content()).replace("cat", "caf\xe9").encode("latin-1")),
        3,
        ("annotations.json",),
    ),
    Case("coco byte order mark", coco(raw=b"\xef\xbb\xbf" + json.dumps(coco_content()).encode()), 0),
    Case("coco image id twice", coco(lambda c: c["images"][1].update(id=1)), 3, ("id 1",)),
    Case("coco annotation id twice", coco(lambda c: c["annotations"][1].update(id=1)), 3, ("annotation", "1")),
    Case("coco unknown image", coco(lambda c: c["annotations"][2].update(image_id=77)), 0, ("annotation 3", "77"), 1),
    Case(
        "coco unknown category", coco(lambda c: c["annotations"][2].update(category_id=77)), 3, ("annotation 3", "77")
    ),
    Case("coco two categories of one name", coco(lambda c: c["categories"][1].update(name="cat")), 2, ("cat",)),
    Case(
        "coco path upwards",
        coco(lambda c: c["images"][1].update(file_name="../../etc/passwd")),
        3,
        ("../../etc/passwd",),
    ),
    Case("coco absolute path", coco(lambda c: c["images"][1].update(file_name="/etc/passwd")), 3, ("/etc/passwd",)),
    Case("coco address", coco(lambda c: c["images"][1].update(file_name="http://127.0.0.1/a.png")), 3, ("http:",)),
    Case("coco NUL in a name", coco(lambda c: c["images"][1].update(file_name="a\0.png")), 3, ("image",)),
    Case("coco missing image", coco(lambda c: c["images"][1].update(file_name="9.png")), 0, ("9.png",), None),
    Case(
        "coco objects twice",
        coco(lambda c: c["annotations"].append(dict(c["annotations"][0], id=99))),
        0,
        ("images/1.png",),
    ),
    # VOC
    Case("voc sound", voc(page(thing())), 0),
    Case("voc picture without object", voc(page()), 0),
    Case("voc swapped corners", voc(page(thing("25 5 5 25"))), 0, ("annotations/2.xml: object 1",), 1),
    Case("voc no area", voc(page(thing("5 5 5 25"))), 0, ("object 1",), 1),
    Case(
        "voc not a number",
        voc(page(thing("5 nan 25 25"), thing("5 ten 25 25"), thing("5 5"))),
        0,
        ("2.xml: object 3",),
        3,
    ),
    Case("voc corners with fractions", voc(page(thing("5.5 6.25 25.5 30.75"))), 0),
    Case("voc size 0", voc(page(thing(), size=(0, 0))), 0),
    Case("voc size differs", voc(page(thing(), size=(99, 98))), 0, ("99", "2.xml"), None),
    Case("voc no name", voc(page(thing(name=""))), 0, ("object 1",), 1),
    Case("voc empty file", voc(""), 0, ("2.xml",), None),
    Case("voc not well-formed", voc("<annotation><object>"), 0, ("2.xml",), None),
    Case("voc entity of a file", voc(page(thing(name="&e;"), head=OUTSIDE)), 3, ("2.xml", "DOCTYPE")),
    Case("voc entity bomb", voc(page(thing(name="&i;"), head=BOMB)), 3, ("2.xml", "DOCTYPE")),
    Case(
        "voc nearly equal names", voc(page(thing(name="Cat"), thing("30 5 40 20", name="cta"))), 0, ("'Cat'", "'cat'")
    ),
    Case(
        "voc names of all kinds",
        voc(
            page(
                *(
                    thing(f"{i} 5 {i + 9} 20", n)
                    for i, n in enumerate(("&lt;b&gt;", "=1+1", "no", "null", "0", "a,b"), 5)
                )
            )
        ),
        0,
    ),
    # YOLO
    Case("yolo sound", yolo(), 0),
    Case("yolo empty label file", yolo(""), 0),
    Case("yolo no label file", yolo(None), 0),
    Case("yolo class too high", yolo("2 .5 .5 .2 .2\n"), 0, ("labels/train/2.txt line 1", "allowed 0..1"), 1),
    Case(
        "yolo classes that count from 1",
        changed(
            yolo("2 .5 .5 .2 .2\n"),
            lambda r: [p.write_text("1 .5 .5 .2 .2\n2 .5 .6 .2 .2\n") for p in r.rglob("*.txt")],
        ),
        3,
        ("start at 1",),
    ),
    Case("yolo polygon of odd count", yolo("0 .1 .1 .5 .1 .5 .5 .3\n"), 0, ("2.txt line 1",), 1),
    Case("yolo class below 0", yolo("-1 .5 .5 .2 .2\n"), 0, ("2.txt line 1",), 1),
    Case("yolo class 1.5", yolo("1.5 .5 .5 .2 .2\n"), 0, ("2.txt line 1",), 1),
    Case("yolo class by name", yolo("cat .5 .5 .2 .2\n"), 0, ("2.txt line 1",), 1),
    Case("yolo pixels", yolo("0 30 20 10 10\n"), 0, ("2.txt line 1",), 1),
    Case("yolo commas", yolo("0,.5,.5,.2,.2\n"), 0, ("2.txt line 1",), 1),
    Case("yolo decimal commas", yolo("0 0,5 0,5 0,2 0,2\n"), 0, ("2.txt line 1",), 1),
    Case("yolo four and six columns", yolo("0 .5 .5 .2\n0 .5 .5 .2 .2 .9\n"), 0, ("2.txt line 2",), 2),
    Case("yolo rows twice", yolo("0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n"), 0, ("2.txt line 2",), 1),
    Case("yolo label of random bytes", yolo(bytes(range(256))), 3, ("labels/train/2.txt",)),
    Case(
        "yolo no object at all",
        changed(yolo(""), lambda r: [p.write_text("") for p in (r / "labels").rglob("*.txt")]),
        3,
        ("no object",),
    ),
    Case("yolo labels folder misnamed", changed(yolo(), lambda r: (r / "labels").rename(r / "lables")), 3, ("0 of",)),
    Case("yolo names and nc differ", yolo(yaml="nc: 3\n" + NAMES), 2, ("'nc' is 3",)),
    Case(
        "yolo gap in names",
        yolo(yaml=NAMES.replace("[cat, dog]", "{0: cat, 2: dog}")),
        0,
        ("1.txt line 2", "class 1"),
        None,
    ),
    Case("yolo no val", yolo(yaml="names: [cat, dog]\ntrain: images/train\n"), 0),
    Case("yolo wrong folder", yolo(yaml=NAMES.replace("images/train", "pictures")), 0, ("'train'", "pictures"), None),
    Case("yolo no folder at all", yolo(yaml="names: [cat, dog]\ntrain: pictures\n"), 2, ("'train'", "pictures")),
    Case("yolo tab", yolo(yaml=NAMES.replace("train:", "\ttrain:")), 2, ("data.yaml",)),
    Case("yolo tag", yolo(yaml="names: !!python/object/apply:os.system [touch canary]\n" + NAMES), 2, ("data.yaml:1",)),
    Case("yolo alias bomb", yolo(yaml=ANCHORS), 2, ("data.yaml",)),
    Case("yolo random bytes", yolo(yaml=bytes(range(256))), 2, ("data.yaml",)),
    Case("yolo path upwards", yolo(yaml=NAMES.replace("images/train", "../../../etc")), 2, ("'train'",)),
    Case(
        "yolo val is train", yolo(yaml=NAMES.replace("images/val", "images/train")), 0, ("val", "another split"), None
    ),
    # class maps
    Case("masks sound", masks(lambda m: m), 0),
    Case("masks of another size", masks(lambda m: m[:-5]), 0, ("2.png", "35"), 2),
    Case("masks turned", masks(lambda m: m.T.copy()), 0, ("2.png",), 2),
    Case("masks with value 7", masks(lambda m: m + np.uint8(7) * (m == 2)), 0, ("2.png", "9"), 2),
    Case(
        "masks with value 1000",
        masks(lambda m: encoded(Image.fromarray(m.astype(np.uint16) * 500))),
        0,
        ("2.png", "1000"),
        2,
    ),
    Case("masks as JPEG", masks(lambda m: encoded(m * 100, "JPEG")), 0, ("2.png",), 2),
    Case("masks in colour", masks(lambda m: np.dstack([m * 100, m, m * 0])), 0, ("2.png",), 2),
    Case("masks in colour with transparency", masks(lambda m: np.dstack([m * 100, m, m, m])), 0, ("2.png",), 2),
    Case("masks of 16 bits", masks(lambda m: encoded(Image.fromarray(m.astype(np.uint16)))), 0),
    Case("masks with a suffix in their names", changed(masks(lambda m: m), _mask_names), 0, (), None),
    Case("masks as EPS", masks(lambda m: encoded(m, "EPS")), 0, ("2.png", "EPS"), 2),
    Case("masks as DDS", masks(lambda m: encoded(np.dstack([m, m, m]), "DDS")), 0, ("2.png", "allowed: JPEG"), 2),
    Case("masks of 400 megapixels", masks(lambda m: encoded(np.zeros((20_000, 20_000), bool))), 0, ("Mpixel",), 2),
    Case("masks as a named pipe", changed(masks(lambda m: m), _pipe), 0, ("2.png", "pipe"), 2),
    Case("masks of one name", changed(masks(lambda m: m), lambda r: put(r / "images/2.jpg", COPY)), 0, ("2.jpg",), 3),
    Case("masks all void", masks(lambda m: m * 0 + 255), 0),
    Case("masks all background", masks(lambda m: m * 0), 0),
    Case("masks with a palette", masks(lambda m: encoded(Image.fromarray(m).convert("P"))), 0),
    Case("masks missing", changed(masks(lambda m: m), lambda r: (r / "masks/2.png").unlink()), 0, ("2.png",), 1),
    # tables
    Case("csv sound", table(TAGS), 0),
    Case("csv semicolons and byte order mark", table(b"\xef\xbb\xbf" + TAGS.replace(",", ";").encode()), 0),
    Case("csv header only", table("image,sea,sun\n"), 3, ("labels.csv",)),
    Case("csv no header", table(TAGS.partition("\n")[2]), 3, ("labels.csv",)),
    Case("csv no label column", table("image\n1.png\n2.png\n"), 3, ("labels.csv",)),
    Case("csv ragged", table(TAGS.replace("2.png,0,1", "2.png,0")), 0, ("labels.csv:3",), None),
    Case("csv open quote", table(TAGS.replace("2.png", '"2.png')), 3, ("labels.csv",)),
    Case("csv NUL", table(TAGS.replace("2.png", "2\0.png")), 3, ("labels.csv",)),
    Case("csv UTF-16", table(TAGS.encode("utf-16")), 3, ("labels.csv",)),
    Case("csv long field", table(TAGS.replace("2.png", "2" * 200_000)), 3, ("labels.csv",)),
    Case("csv empty label", table(TAGS.replace("2.png,0,1", "2.png,0,")), 0, ("no tag",), None),
    Case("csv path upwards", table(TAGS.replace("2.png", "../../2.png")), 0, ("no tag",), None),
    Case(
        "csv misspelt split",
        table("image,class,split\n1.png,a,train\n2.png,b,trian\n3.png,b,train\n4.png,a,val\n"),
        3,
        ("trian", "labels.csv:3"),
    ),
    # class folders
    Case("folder sound", folders(), 0),
    Case(
        "folder with names of all kinds",
        folders(classes=("<b>", "=1+1", "a,b", "no", "NA", "0", "{{7*7}}")),
        0,
        (),
        None,
    ),
    Case(
        "folder with system files",
        folders(
            ("train/cat/.ipynb_checkpoints/0-checkpoint.png", encoded(pixels(0))),
            ("__MACOSX/train/cat/._0.png", b"\0\5"),
            ("train/cat/._0.png", b"\0\5"),
            ("train/dog/Thumbs.db", b"x"),
            ("train/dog/.DS_Store", b"x"),
        ),
        0,
    ),
    Case("folder with a class of val only", folders(("val/owl/0.png", encoded(pixels(50)))), 3, ("owl",)),
    Case(
        "folder with a class that val lacks",
        changed(folders(("train/owl/0.png", encoded(pixels(50)))), lambda r: None),
        0,
        (),
        None,
    ),
    Case(
        "folder with a class renamed in val",
        changed(folders(), lambda r: (r / "val/dog").rename(r / "val/hound")),
        3,
        ("hound",),
    ),
    Case(
        "folder of one hundred cats and two dogs",
        lambda root: (
            [put(root / "cat" / f"{i}.png", encoded(pixels(i, (8, 8)))) for i in range(100)],
            [put(root / "dog" / f"{i}.png", encoded(pixels(500 + i, (8, 8)))) for i in range(2)],
            root,
        )[-1],
        0,
        ("dog",),
        None,
    ),
    Case("folder with a leak", folders(("val/cat/7.jpg", COPY)), 0, ("leak",)),
    Case(
        "folder with one picture in two classes",
        folders(("train/dog/same.png", encoded(pixels(0)))),
        0,
        ("train/cat/0.png", "train/dog/same.png"),
        None,
    ),
    Case("folder with a class without pictures", changed(folders(), lambda r: (r / "train/owl").mkdir()), 3, ("owl",)),
    Case("folder with one corrupt picture", changed(folders(), lambda r: _spoil(r, 1 / 6)), 0, ("train/cat/0.png",), 1),
    Case(
        "folder with corrupt pictures only",
        changed(folders(), lambda r: [p.write_bytes(b"\x89PNG x") for p in r.rglob("*.png")]),
        3,
        ("cat",),
    ),
    Case(
        "folder linked to its parent",
        changed(folders(), lambda r: (r / "train/cat/loop").symlink_to(r, target_is_directory=True)),
        0,
        (),
        None,
    ),
    Case("folder with a foreign cache", folders(("train.cache", b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.")), 0),
    Case("folder with a pipe", changed(folders(), lambda r: os.mkfifo(r / "train/cat/pipe.png")), 0, (), None),
    Case(
        "folder with a broken link",
        changed(folders(), lambda r: (r / "train/cat/link.png").symlink_to("nowhere.png")),
        0,
        ("link.png",),
        None,
    ),
    Case("folder of one class", folders(classes=("cat",)), 0, (), None),
    Case("no picture", lambda root: put(root / "a.txt", "x").parent, 3, ("no picture",)),
    Case(
        "pictures alone", lambda root: (photos(root, ["1.png", "2.png"]), root)[1], 3, ("0 of 2 pictures have a label",)
    ),
)

# --- model files ------------------------------------------------------------------------------------------------------


def with_header(sound: bytes, change: Callable[[dict[str, Json]], object]) -> bytes:
    """A safetensors file whose header `change` alters."""
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + sound[8 + length :]


def with_metadata(sound: bytes, **values: Json) -> bytes:
    """A checkpoint with other values in what Saccade wrote into it, and without the checksum of that."""

    def change(header: dict[str, Json]) -> None:
        ours = json.loads(header["__metadata__"]["saccade"]) | values
        del ours["header_sha256"]
        header["__metadata__"]["saccade"] = json.dumps(ours)

    return with_header(sound, change)


def _first(header: dict[str, Json]) -> dict[str, Json]:
    """The entry of one tensor with numbers in it."""
    return next(v for k, v in header.items() if k != "__metadata__" and v["shape"])


def _zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02cposix\nmkdir\nq\0X\x06\0\0\0canaryq\1\x85q\2Rq\3.")
    return out.getvalue()


PICKLE = b"cposix\nmkdir\n(S'canary'\ntR."  # runs `mkdir canary` where it is loaded as Python objects


def model_files(sound: bytes) -> dict[str, tuple[bytes, str]]:
    """What may stand in a checkpoint's place, made from a sound one, and the words of the refusal."""
    flipped = sound[:-3] + bytes([sound[-3] ^ 1]) + sound[-2:]
    at = sound.index(b"blue")
    renamed = sound[:at] + b"glue" + sound[at + 4 :]
    return {
        "empty": (b"", "empty file"),
        "cut": (sound[: len(sound) * 6 // 10], "truncated"),
        "zeros": (bytes(1000), "truncated"),
        "page": (b"<!DOCTYPE html><html>not found</html>", "web page"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "pickle": (PICKLE, "not a safetensors file"),
        "pickle of protocol 4": (b"\x80\x04" + PICKLE, "not a safetensors file"),
        "torch archive": (_zip("archive/data.pkl", "archive/version"), "not a safetensors file"),
        "one bit of a weight": (flipped, "checksum"),
        "one letter of a class": (renamed, "checksum"),
        "header longer than the file": ((2**20).to_bytes(8, "little") + sound[8:], "truncated"),
        "header of 2^63 bytes": ((2**63).to_bytes(8, "little") + sound[8:], "truncated"),
        "header that is no JSON": (sound[:8] + b"x" + sound[9:], "truncated"),
        "tensor behind the end": (
            with_header(sound, lambda h: _first(h).update(data_offsets=[0, 10**15])),
            "truncated",
        ),
        "tensor of negative place": (with_header(sound, lambda h: _first(h).update(data_offsets=[-8, 8])), "truncated"),
        "tensor of 10^18 numbers": (with_header(sound, lambda h: _first(h).update(shape=[10**9, 10**9])), "truncated"),
        "tensor of another type": (with_header(sound, lambda h: _first(h).update(dtype="F128")), "truncated"),
        "no metadata": (with_header(sound, lambda h: h.pop("__metadata__")), "not a Saccade checkpoint"),
        "newer version": (with_metadata(sound, format=99), "update Saccade"),
        "unknown entry": (with_metadata(sound, hook="os.system"), "hook"),
        "model that is code": (with_metadata(sound, model="os.system"), "does not know: 'os.system'"),
        "model that is a list": (with_metadata(sound, model=["resnet20"]), "model is"),
        "another model": (with_metadata(sound, model="vgg11"), "vgg11"),
        "unknown task": (with_metadata(sound, task="fly"), "'fly'"),
        "classes that are a word": (with_metadata(sound, classes="red"), "classes is"),
        "class too many": (with_metadata(sound, classes=["<b>", "b", "c"]), "3 class names"),
        "config of code": (with_metadata(sound, config={"__class__": "os.system"}), "__class__. Use that version"),
        "config of words": (with_metadata(sound, config={"classes": 2, "width": "wide"}), "configuration of resnet20"),
        "config of another width": (with_metadata(sound, config={"classes": 2}), "another architecture"),
        "preprocessing of words": (with_metadata(sound, preprocessing={"size": "big"}), "preprocessing"),
    }


# arguments after `saccade train resnet20 DATA`, exit code, words
ARGUMENTS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("--set learing_rate=0.1", 2, ("'lr'",)),
    ("--learning-rate 0.1", 2, ("--set lr=0.1",)),
    ("--no-such-option 0.1", 2, ("No such option",)),
    ("--epochs ten", 2, ("--epochs",)),
    ("--epochs -1", 2, ("epochs is -1",)),
    ("--set batch=-1 --set lr=nan --set flip=2", 2, ("batch", "lr", "flip")),
    ("--set lr=", 2, ("lr",)),
    ("--set lr", 2, ("name=value",)),
    ("--set lr=[1", 2, ("lr",)),
    ("--workers 999", 2, ("workers is 999", "64")),
    ("--size 7", 2, ("at least 8",)),
    ("--size 3x", 2, ("size",)),
    ("--recipe best", 2, ("default",)),
    ("--precision fp8", 2, ("bf16",)),
    ("--device tpu", 2, ("available",)),
    ("--resume", 2, ("--out",)),
    ("--minutes 0", 2, ("minutes",)),
    ("--seed -3", 2, ("seed",)),
    ("--task segment", 2, ("resnet20",)),
    ("--config nothing.yaml", 2, ("nothing.yaml",)),
)

# content of a settings file, exit code, words
SETTINGS: tuple[tuple[bytes, int, tuple[str, ...]], ...] = (
    (b"", 2, ("settings.yaml",)),
    (b"- a\n- b\n", 2, ("settings.yaml", "list")),
    (bytes(range(256)), 2, ("settings.yaml",)),
    (b"lr: 0.1\nepochs: 1\nlr: 0.2\n", 2, ("line 3", "'lr'")),
    (b'{"lr": 0.1} // fast\n', 2, ("settings.yaml",)),
    (b"lr: !!python/object/apply:os.system [touch canary]\n", 2, ("settings.yaml",)),
    (ALIASES.encode(), 2, ("settings.yaml",)),
    (b"learning_rate: 0.1\nepochs: ten\n", 2, ("'lr'", "epochs")),
    (b"[" * 100_000, 2, ("settings.yaml",)),
    (b"lr: " + b"9" * 100_000, 2, ("settings.yaml",)),
)
