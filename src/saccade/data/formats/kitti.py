"""KITTI's object benchmark: image_2/ beside label_2/ with a .txt file a picture, and calib/ with its camera.

A line of a label has 15 columns: type, truncated (0 to 1), occluded (0 to 3), alpha, the box x1 y1 x2 y2 in pixels,
height width length in metres, x y z of the middle of the lower face in metres, rotation_y in radians. DontCare names a
region in which objects of any class may be (`Record.unlabelled`). Of calib/NAME.txt the matrix P2 is read, the camera
of image_2. alpha follows from place and rotation and is not kept. Pictures in training/ are of the part "train"; lists
of names in ImageSets/ (train.txt, val.txt, test.txt) go before that.

Source: Geiger, Lenz, Urtasun, CVPR 2012, and readme.txt of the benchmark's development kit.
"""

from __future__ import annotations

import math
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, drop_repeats, finish, fit_box, refuse_with_image
from saccade.data.formats.listing import list_folders, list_images, measure, relative
from saccade.data.formats.splits import split_of_file, split_of_folders
from saccade.errors import DataError
from saccade.tasks.table import TASKS

LABELS, IMAGES, CALIBRATION = "label_2", "image_2", "calib"
COLUMNS = 15
UNLABELLED = "DontCare"
CAMERA = "P2"
_LARGEST = 10_000_000  # bytes of one file of labels or of a calibration


def looks_like(root: Path) -> bool:
    """True for a folder with image_2/ beside label_2/, in it or at most two folders down."""
    return bool(_parts(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read all parts that have labels. For boxes in three dimensions a picture needs a camera, and is refused without;
    where no picture has one, the labels serve for boxes in pixels alone.

    Raises:
        DataError: nothing usable.
    """
    ledger, records = Ledger(), []
    names: dict[str, int] = {}
    for part in _parts(root):
        records += _read_part(part, root, names, ledger)
    _take_lists(root, records, ledger)
    classes = sorted(names)
    order = [classes.index(name) for name in names]
    for record in records:
        for thing in record.things or ():
            thing.label = order[thing.label]
    dataset = finish(DataSet(root, "kitti", "detect", classes, records, ledger), task)
    regions = sum(len(record.unlabelled or ()) for record in records)
    if regions:
        ledger.warnings.append(f"{regions} regions {UNLABELLED}: nothing is learnt there, nothing found there is wrong")
    asked = None if task is None else TASKS.get(task)
    if (asked is None and dataset.has_cuboids) or (asked is not None and asked.cuboids):
        _refuse_without_camera(dataset)
        dataset.task = "boxes3d"
    elif asked is None:
        ledger.warnings.append(
            "no object has a size and place in metres in a picture with a camera: read for boxes in pixels"
        )
    return dataset


def _parts(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    places = [root, *list_folders(root)]
    places += [inner for folder in places[1:] for inner in list_folders(folder)]
    return [p for p in places if (p / LABELS).is_dir() and (p / IMAGES).is_dir()]


def _read_part(part: Path, root: Path, names: dict[str, int], ledger: Ledger) -> list[Record]:
    pictures = list_images(part / IMAGES)
    split = split_of_folders((part.relative_to(root) / IMAGES).parts)
    sizes = measure(root, pictures, ledger)
    labels = {p.stem: p for p in sorted((part / LABELS).glob("*.txt"))}
    records = []
    for picture in pictures:
        path = labels.pop(picture.stem, None)
        if picture not in sizes:
            rows = [] if path is None else _rows(path, root)
            refuse_with_image(relative(picture, root), [where for where, _ in rows], ledger)
        elif path is None:
            ledger.refuse_image(relative(picture, root), f"no {LABELS}/{picture.stem}.txt")
        else:
            record = Record(relative(picture, root), sizes[picture], split, things=[])
            _read_labels(path, root, record, names, ledger)
            _find_camera(part / CALIBRATION / f"{picture.stem}.txt", root, record, ledger)
            records.append(record)
    for path in labels.values():
        ledger.refuse_label(relative(path, root), f"no picture {path.stem} in {IMAGES}/")
    return records


def _text(path: Path, root: Path) -> str:
    """Raises DataError for what is no text."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{relative(path, root)}: {path.stat().st_size:,} bytes; {_LARGEST:,} at most")
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{relative(path, root)}: no text that can be read ({error})") from None


def _rows(path: Path, root: Path) -> list[tuple[str, list[str]]]:
    """Place and columns of each line. Raises DataError for what is no text."""
    lines = enumerate(_text(path, root).splitlines(), start=1)
    return [(f"{relative(path, root)}:{number}", line.split()) for number, line in lines if line.strip()]


def _read_labels(path: Path, root: Path, record: Record, names: dict[str, int], ledger: Ledger) -> None:
    things, places, unlabelled = [], [], []
    try:
        rows = _rows(path, root)
    except DataError as error:
        ledger.refuse_label(relative(path, root), str(error))
        return
    for where, columns in rows:
        try:
            thing, repairs = _thing(columns, record.size)
        except DataError as error:
            ledger.refuse_label(where, str(error))
            continue
        for repair in repairs:
            ledger.repair(where, repair)
        if columns[0] == UNLABELLED:
            unlabelled.append(thing.box)
            continue
        thing.label = names.setdefault(columns[0], len(names))
        things.append(thing)
        places.append(where)
    record.things = drop_repeats(things, places, ledger)
    record.unlabelled = unlabelled or None


def _thing(columns: list[str], size: tuple[int, int]) -> tuple[Thing, list[str]]:
    """The object of a line, of class 0, and what was repaired. Raises DataError."""
    if len(columns) != COLUMNS:
        more = "; 16 are a result with its score, which is no label" if len(columns) == COLUMNS + 1 else ""
        raise DataError(f"{len(columns)} columns, a label of KITTI has {COLUMNS}{more}")
    truncated, occluded, _, *numbers = check_numbers(columns[1:], "the line")
    box, repair = fit_box(numbers[:4], size)
    repairs = [repair] if repair else []
    thing = Thing(0, box)
    if columns[0] == UNLABELLED:
        return thing, repairs
    if not (0 <= truncated <= 1 or truncated == -1) or occluded not in (-1, 0, 1, 2, 3):
        raise DataError(
            f"truncated {truncated:g} and occluded {occluded:g}: 0 to 1 and 0, 1, 2, 3 are allowed, or -1 for unknown"
        )
    thing.hidden = (max(truncated, 0.0), max(occluded, 0.0))
    height, width, length, x, y, z, rotation = numbers[4:]
    if (height, width, length) == (-1, -1, -1):
        return thing, repairs  # as KITTI writes what is not known
    if min(height, width, length) <= 0:
        repairs.append(f"no size in metres ({height:g} {width:g} {length:g}): the box in pixels alone is taken")
    elif z <= 0:
        repairs.append(f"its middle lies behind the camera (z {z:g} m): the box in pixels alone is taken")
    elif abs(rotation) > 2 * math.pi + 0.01:
        raise DataError(f"rotation_y {rotation:g} is no angle in radians from -pi to pi")
    else:
        turned = (rotation + math.pi) % (2 * math.pi) - math.pi if abs(rotation) > math.pi + 0.01 else rotation
        thing.cuboid = (height, width, length, x, y, z, turned)
    return thing, repairs


def read_camera(path: Path) -> tuple[float, ...]:
    """The 12 numbers of P2 in a file of KITTI's calibrations, row by row.

    Raises:
        DataError: no such file, no line P2, or no projection matrix in it; names the file and line.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; it should hold the camera as KITTI's calibrations do, in a line {CAMERA}:"
        )
    for where, columns in _rows(path, path.parent):
        if columns[0].rstrip(":") != CAMERA:
            continue
        place = f"{path}:{where.rsplit(':', 1)[1]}"
        if len(columns) != 13:
            raise DataError(f"{place}: {CAMERA} has {len(columns) - 1} numbers, a projection matrix 3 x 4 has 12")
        try:
            numbers = check_numbers(columns[1:], CAMERA)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        (a, b, c), (d, e, f), (g, h, i) = (numbers[row : row + 3] for row in (0, 4, 8))
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        if a <= 0 or e <= 0 or abs(volume) < 1e-6:
            raise DataError(f"{place}: {CAMERA} is no camera (focal lengths {a:g} and {e:g}, determinant {volume:g})")
        return tuple(numbers)
    raise DataError(f"{path}: no line {CAMERA}: with the projection matrix of the left colour camera")


def _find_camera(path: Path, root: Path, record: Record, ledger: Ledger) -> None:
    if not path.is_file():
        return
    try:
        record.camera = read_camera(path)
    except DataError as error:
        ledger.repair(record.id, f"its camera is left aside: {str(error).replace(str(root) + '/', '')}")


def _refuse_without_camera(dataset: DataSet) -> None:
    faults = {entry.where: entry.what for entry in dataset.ledger.repaired if "its camera is left aside" in entry.what}
    missing = f"no {CALIBRATION}/NAME.txt, which holds the camera that boxes in three dimensions need"
    without = [record for record in dataset.records if record.camera is None]
    dataset.refuse({r.id: faults.get(r.id, missing.replace("NAME", Path(r.path).stem)) for r in without})
    if not dataset.records:
        raise DataError(f"{dataset.root}: no picture has a camera: {dataset.ledger.refused[-1].what}")


def _take_lists(root: Path, records: list[Record], ledger: Ledger) -> None:
    """Splits by ImageSets/*.txt, a name a line; "trainval" is no split."""
    parts: dict[str, str] = {}
    for path in sorted((root / "ImageSets").glob("*.txt")):
        split = split_of_file(path.stem)
        if split is not None:
            parts |= dict.fromkeys((line.strip() for line in _text(path, root).splitlines() if line.strip()), split)
    if not parts:
        return
    for record in records:
        record.split = parts.pop(Path(record.path).stem, None)
    left = sum(record.split is None for record in records)
    if left:
        ledger.warnings.append(f"{left} pictures are in no list of ImageSets/")
    if parts:
        ledger.warnings.append(f"ImageSets/ names {len(parts)} pictures that are not there, such as {min(parts)}")
