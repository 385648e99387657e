"""Which pictures are of one recording: frames of a video, slices of a patient.

They look alike without being duplicates. Those of one recording belong on one side of a split, and an interval that
resamples them one by one is too sure of itself. A recording is known by a pattern that the user gives, or recognised.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from saccade.data.dataset import Record
from saccade.errors import UsageError

_WORDS = re.compile(
    r"(?:^|[/_\-. ])((?:patient|subject|case|video|vid|clip|sequence|seq|recording|session)[_\- ]?[a-z0-9]*\d[a-z0-9]*)"
    r"(?=[/_\-. ].*[^/.]\.[^.]+$)",
    re.IGNORECASE,
)
"""A word for a recording with its number, and more of the name behind it: `patient_012/slice_003.png`."""
_FRAME = re.compile(r"^(.*?)[_\- ]*(?:(?<![a-z])f(?:rame)?)?[_\- ]*(?<!\d)(\d{3,})$", re.IGNORECASE)
"""Stem of a numbered frame: what the recording is called, and the number."""
_FRAMES = 5  # fewer numbered pictures are no recording
_ALIKE = 0.7  # neighbours in time differ by less than this share of what two pictures of the recording differ


def find_recordings(
    records: Sequence[Record], thumbnails: Sequence[np.ndarray | None], pattern: str = "auto"
) -> list[str | None]:
    """The recording of each picture, None for one that stands alone.

    Args:
        records: pictures with the paths of their files.
        thumbnails: of each, [16, 18] uint8 gray, as `duplicates.read_thumbnails` gives them.
        pattern: "none"; a regular expression, searched in the path, whose first group (or whole match) names the
            recording; or "auto": paths with a word such as patient, video or clip and a number, or numbered pictures of
            one name of which neighbours look alike. Two recordings or more must be recognised.

    Raises:
        UsageError: the pattern is no regular expression, or fits no path.
    """
    if pattern == "none":
        return [None] * len(records)
    if pattern != "auto":
        return _by_pattern(records, pattern)
    found = [word[1].lower() if (word := _WORDS.search(record.path)) else None for record in records]
    if len(set(found) - {None}) < 2:
        found = _numbered(records, thumbnails)
    return found if len(set(found) - {None}) > 1 and not _follow_labels(records, found) else [None] * len(records)


def _by_pattern(records: Sequence[Record], pattern: str) -> list[str | None]:
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"group {pattern!r} is no regular expression ({error}); such as group='(patient_[0-9]+)'"
        ) from error
    matches = [rule.search(record.path) for record in records]
    if records and not any(matches):
        raise UsageError(f"group {pattern!r} fits no image of the data set, such as {records[0].path!r}")
    return [None if match is None else (match[1] if rule.groups else match[0]) for match in matches]


def _numbered(records: Sequence[Record], thumbnails: Sequence[np.ndarray | None]) -> list[str | None]:
    """Pictures called alike but for a number, where neighbours in the order of the numbers look alike."""
    frames: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, record in enumerate(records):
        path = PurePosixPath(record.path)
        match = _FRAME.match(path.stem)
        if match and match[1] and thumbnails[i] is not None:
            frames[match[1]].append((int(match[2][-18:]), i))
    found: list[str | None] = [None] * len(records)
    for name, members in frames.items():
        order = [i for _, i in sorted(members)]
        files = {records[i].path: t for i in order if (t := thumbnails[i]) is not None}
        if len(files) >= _FRAMES and _flows(list(files.values())):
            for i in order:
                found[i] = name
    return found


def _flows(frames: list[np.ndarray]) -> bool:
    """Whether each picture resembles the next more than the one that is half of the recording away."""
    cells = np.stack(frames).astype(np.int16)
    near = np.abs(cells[1:] - cells[:-1]).mean(axis=(1, 2))
    far = np.abs(cells - np.roll(cells, len(cells) // 2, axis=0)).mean(axis=(1, 2))
    return bool(np.median(near) < _ALIKE * np.median(far))


def _follow_labels(records: Sequence[Record], found: Sequence[str | None]) -> bool:
    """Whether some class lies in one recording alone, as `cat_001.jpg` would: then nothing of it could be held out."""
    kinds: dict[int, set[str | None]] = defaultdict(set)
    counts: Counter[int] = Counter()
    for i, (record, name) in enumerate(zip(records, found, strict=True)):
        if record.label is not None:
            kinds[record.label].add(name if name is not None else str(i))
            counts[record.label] += 1
    return any(len(names) < 2 and counts[label] > 1 for label, names in kinds.items())
