"""Write boxes as KITTI's object benchmark: image_2/, label_2/ and calib/, where there are splits in training/ beside
ImageSets/; and results in its form, which have a score behind the columns of a label."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saccade.data.dataset import DataSet, Record
from saccade.data.formats.kitti import CALIBRATION, CAMERA, IMAGES, LABELS, UNLABELLED
from saccade.data.formats.output import Images, file_names, place_image, sentences, whole_folder
from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.ops.cuboids import observation_angles

PART = "training"
_NO_SIZE, _NO_PLACE, _NO_ANGLE = "-1 -1 -1", "-1000 -1000 -1000", "-10"  # as the benchmark writes what is not known


def write(dataset: DataSet, out: Path, images: Images = "copy") -> list[str]:
    """Write `dataset` to the new folder `out`; `kitti.py` says what a line is.

    Returns:
        What KITTI cannot hold, a sentence each.

    Raises:
        UsageError, ResourceError, DataError: as `whole_folder` and `place_image`; classes that are one in KITTI.
    """
    lost: Counter[str] = Counter()
    names, classes = file_names(dataset.records), _words(dataset.classes, lost)
    lists: dict[str, list[str]] = defaultdict(list)
    with whole_folder(out) as folder:
        place = folder / PART if any(record.split for record in dataset.records) else folder  # "training" is a split
        for part in (IMAGES, LABELS, CALIBRATION):
            (place / part).mkdir(parents=True)
        for record in dataset.records:
            name = names[record.id]
            stem = Path(name).stem
            place_image(dataset, record, place / IMAGES / name, images)
            text = "".join(f"{line}\n" for line in _lines(record, classes, lost))
            (place / LABELS / f"{stem}.txt").write_text(text, encoding="utf-8")
            if record.camera is not None:
                numbers = " ".join(f"{v:.12e}" for v in record.camera)
                (place / CALIBRATION / f"{stem}.txt").write_text(f"{CAMERA}: {numbers}\n", encoding="utf-8")
            if record.split is not None:
                lists[record.split].append(stem)
        if lists:
            (folder / "ImageSets").mkdir()
            lost["images without a split (in no list)"] = sum(r.split is None for r in dataset.records)
        for split, stems in lists.items():
            text = "".join(f"{stem}\n" for stem in stems)
            (folder / "ImageSets" / f"{split}.txt").write_text(text, encoding="utf-8")
    used = {t.label for r in dataset.records for t in r.things or []}
    lost["classes without objects (KITTI has no list of classes)"] = len(dataset.classes) - len(used)
    return sentences(lost)


def _words(classes: Sequence[str], lost: Counter[str]) -> list[str]:
    """Class names as one word each. Raises DataError where two become one by that, or one is DontCare."""
    words = [re.sub(r"\s+", "_", name.strip()) or "_" for name in classes]
    lost["class names with blanks (written as _)"] = sum(a != b for a, b in zip(classes, words, strict=True))
    for word, count in Counter([*words, UNLABELLED]).items():
        if count > 1:
            raise DataError(f"several classes would be called {word!r} in KITTI; rename them")
    return words


def _lines(record: Record, classes: Sequence[str], lost: Counter[str]) -> list[str]:
    lines = []
    for thing in record.things or []:
        lost["outlines (polygons or masks; boxes are kept)"] += bool(thing.polygons or thing.rle or thing.mask)
        lost["objects with keypoints (boxes are kept)"] += bool(thing.keypoints)
        lost["difficult objects (written as any other)"] += thing.difficult
        if thing.crowd:
            lost["crowd regions (written as DontCare, of any class)"] += 1
            lines.append(_unlabelled(thing.box))
            continue
        truncated, occluded = thing.hidden or (0.0, 0.0)
        cuboid = None if thing.cuboid is None else np.array(thing.cuboid)
        lines.append(_line(classes[thing.label], (truncated, occluded), thing.box, cuboid))
    return [*lines, *map(_unlabelled, record.unlabelled or [])]


def _unlabelled(box: Sequence[float]) -> str:
    return f"{UNLABELLED} -1 -1 {_NO_ANGLE} {_numbers(box)} {_NO_SIZE} {_NO_PLACE} {_NO_ANGLE}"


def _line(word: str, hidden: Sequence[float], box: Sequence[float], cuboid: np.ndarray | None) -> str:
    """The 15 columns of an object."""
    head = f"{word} {hidden[0]:.2f} {hidden[1]:.0f}"
    if cuboid is None or not np.isfinite(cuboid).all():
        return f"{head} {_NO_ANGLE} {_numbers(box)} {_NO_SIZE} {_NO_PLACE} {_NO_ANGLE}"
    alpha = float(observation_angles(cuboid[None])[0])
    return f"{head} {alpha:.4f} {_numbers(box)} {_numbers(cuboid.tolist(), 4)}"


def _numbers(values: Sequence[float], digits: int = 2) -> str:
    return " ".join(f"{v:.{digits}f}" for v in values)


def result_lines(answer: Annotation, classes: Sequence[str]) -> list[str]:
    """What a model says of an image, as the benchmark takes results: the columns of a label, of which truncated and
    occluded are -1, and the score."""
    objects = answer.objects
    if objects is None or objects.cuboids is None or objects.scores is None:
        raise ValueError("an answer with scored cuboids is needed")
    words = _words(classes, Counter())
    columns = (objects.labels, objects.boxes, objects.cuboids.double(), objects.scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [f"{_line(words[label], (-1, -1), box, np.array(cuboid))} {score:.6f}" for label, box, cuboid, score in rows]
