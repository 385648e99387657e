"""Joint training: images that have a class and no boxes, joined to images with boxes.

Source: Redmon & Farhadi 2017, "YOLO9000", section 4, "Joint classification and detection".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from saccade.data.dataset import DataSet, Entry, Record, count_labels
from saccade.data.duplicates import find_duplicates, read_thumbnails
from saccade.data.split import refuse_undecodable
from saccade.errors import DataError

PREFIX = "joined/"  # of the ids of joined records
_ASIDE = ("val", "test")


def join(dataset: DataSet, other: DataSet) -> list[Record]:
    """Add the images of a classification data set to the training images of another; returns the added records.

    They have absolute paths, ids of their own and the split "train"; boxes they have none. Both data sets have the same
    classes, and `dataset` its splits. Left aside are the val and test parts of `other`. Refused are pictures that
    cannot be decoded, and those that are, or nearly are, in what `dataset` does not train on. The ledger of `dataset`
    accounts for all of them; `other` is used up.

    Raises:
        DataError: no image is left.
    """
    aside = [record for record in other.records if record.split in _ASIDE]
    other.records = [record for record in other.records if record.split not in _ASIDE]
    thumbnails = refuse_undecodable(other)
    other.refuse(_seen_elsewhere(dataset, other, thumbnails))
    ids, prefix = {record.id for record in dataset.records}, PREFIX
    while any(prefix + record.id in ids for record in other.records):
        prefix = prefix.replace("/", "+/")
    folder = other.root.resolve()
    added = [
        replace(record, id=prefix + record.id, path=str(folder / record.path), split="train", things=None, tags=None)
        for record in sorted(other.records, key=lambda record: record.id)
    ]
    _account(dataset, other, added, aside)
    if not added:
        first = "".join(f"\n  {entry.where}: {entry.what}" for entry in other.ledger.refused[:5])
        why = f"{other.ledger.images_refused} refused, {len(aside)} in val or test"
        raise DataError(f"{other.root}: no image to join ({why}){first}")
    dataset.records = sorted([*dataset.records, *added], key=lambda record: record.id)
    return added


def _seen_elsewhere(dataset: DataSet, other: DataSet, thumbnails: dict[str, np.ndarray | None]) -> dict[str, str]:
    """The records of `other` (ids) whose picture `dataset` keeps for a score, with the reason."""
    kept = [record for record in dataset.records if record.split != "train"]
    kept_at = list(dict.fromkeys(record.path for record in kept))
    split_of = {record.path: record.split for record in kept}
    paths = list(thumbnails)
    groups = find_duplicates([*read_thumbnails([dataset.root / path for path in kept_at]), *thumbnails.values()])
    same: dict[int, str] = {}
    for group, path in zip(groups, kept_at, strict=False):  # those of `other` come behind
        same.setdefault(group, path)
    copies = {path: same[group] for path, group in zip(paths, groups[len(kept_at) :], strict=True) if group in same}
    return {
        record.id: f"is, or nearly is, {copies[record.path]}, which is in {split_of[copies[record.path]]}"
        for record in other.records
        if record.path in copies
    }


def _account(dataset: DataSet, other: DataSet, added: Sequence[Record], aside: Sequence[Record]) -> None:
    """Add the ledger of `other` to that of `dataset`, its lines with the name of its folder."""
    ours, theirs, name = dataset.ledger, other.ledger, other.root.name
    ours.images_used += len(added)
    ours.labels_used += sum(map(count_labels, added))
    ours.images_refused += theirs.images_refused
    ours.labels_refused += theirs.labels_refused
    ours.repaired += [Entry(f"{name}: {entry.where}", entry.what) for entry in theirs.repaired]
    ours.refused += [Entry(f"{name}: {entry.where}", entry.what) for entry in theirs.refused]
    ours.warnings += [f"{name}: {warning}" for warning in theirs.warnings]
    if aside:
        parts = " and ".join(split for split in _ASIDE if any(record.split == split for record in aside))
        ours.warnings.append(f"{name}: {len(aside)} images of its {parts} are left aside; what is joined trains")


def joint_factors(records: Sequence[Record], most: float) -> np.ndarray:
    """[images] float64: how often each training image is shown in an epoch, where some have a class and no boxes.

    Images with boxes are repeated until those with a class alone are at most `most` times as many, as the paper
    oversamples COCO until ImageNet is larger by a factor of 4.
    """
    labelled = np.array([record.label_alone for record in records], dtype=bool)
    boxed = max(1, int((~labelled).sum()))
    return np.where(labelled, 1.0, max(1.0, int(labelled.sum()) / (most * boxed)))


def absolute(data: str | Path) -> str:
    """A data set as the user names it, perhaps with its format in front, from any folder."""
    from saccade.data.formats import format_and_place

    name, place = format_and_place(data)
    return f"{'' if name is None else f'{name}:'}{place.resolve()}"
