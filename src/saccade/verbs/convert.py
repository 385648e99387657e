"""`saccade convert`: boxes and outlines from any format that Saccade reads to COCO, VOC, YOLO or KITTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats import coco_write, kitti_write, read, voc_write, yolo_write
from saccade.data.formats.output import Images
from saccade.errors import DataError, UsageError, suggest
from saccade.machine.paths import at_home
from saccade.tasks.table import TASKS

WRITERS = {"coco": coco_write.write, "voc": voc_write.write, "yolo": yolo_write.write, "kitti": kitti_write.write}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` has done."""

    out: Path
    format: str
    classes: list[str]
    images: int
    objects: int  # read and handed to the writer; `lost` says which of them it left out
    splits: dict[str, int]  # images per split
    lost: list[str]  # what the format cannot hold, a sentence each
    ledger: Ledger  # of the reading: what was repaired or refused there


def convert(
    source: str | Path, format: str, out: str | Path, images: Images = "copy", task: str | None = None
) -> Conversion:
    """Read the data set at `source` and write it to the new folder `out` as `format`.

    Args:
        source: a folder, the file that describes the set, or "format:path".
        format: "coco", "voc", "yolo" or "kitti".
        images: "copy" the image files, "link" to them, or "none" for the labels alone.
        task: how to read a source that can be read in two ways; "detect" leaves outlines out.

    Raises:
        UsageError: unknown format, `out` exists, or the source holds no boxes.
        DataError: the source cannot be read, or a class name is no text that a file can hold.
        ResourceError: `out` cannot be written.
    """
    source, out = at_home(source), at_home(out)
    if format not in WRITERS:
        raise UsageError(f"cannot write the format {format!r}: {suggest(format, WRITERS)}")
    if images not in ("copy", "link", "none"):
        raise UsageError(f"images is {images!r}; allowed: copy, link, none")
    dataset = read(source, task)
    if all(record.things is None for record in dataset.records):
        raise UsageError(f"{source}: holds no boxes or outlines (read as {dataset.format}), {format} needs them")
    _refuse_broken_names(dataset)
    if task is not None and TASKS[task].boxes_alone:
        for thing in (t for record in dataset.records for t in record.things or []):
            thing.polygons = thing.rle = thing.mask = None
    lost = WRITERS[format](dataset, Path(out), images)
    if format != "kitti":
        lost += _what_is_kittis(dataset)
    objects = sum(len(record.things or []) for record in dataset.records)
    return Conversion(
        Path(out), format, dataset.classes, len(dataset.records), objects, dataset.splits, lost, dataset.ledger
    )


def _what_is_kittis(dataset: DataSet) -> list[str]:
    """What of KITTI's labels no other format holds."""
    cuboids = sum(thing.cuboid is not None for record in dataset.records for thing in record.things or [])
    regions = sum(len(record.unlabelled or ()) for record in dataset.records)
    lost = [f"{cuboids} boxes in three dimensions, with their cameras (boxes in pixels are kept)"] if cuboids else []
    return lost + ([f"{regions} regions without labels (DontCare)"] if regions else [])


def _refuse_broken_names(dataset: DataSet) -> None:
    """Raises DataError for half of a character in a name, which JSON can state and no UTF-8 file can hold."""
    for name in (*dataset.classes, *(dataset.joints.names if dataset.joints else ())):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                f"{dataset.root}: the name {name!r} holds a lone surrogate, half a character; rename it"
            ) from None
