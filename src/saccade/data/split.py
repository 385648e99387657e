"""Which pictures train and which are held out.

Splits that the data set gives are respected: where it has train and test but no val, test plays val. Where it has none,
or train alone, a share is held out as val: stratified by label (iterative stratification, Sechidis et al. 2011,
"On the Stratification of Multi-label Data", algorithm 1, over groups of near-duplicates), in an order that follows
from the seed and the ids of the records alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

from saccade.data.dataset import DataSet, Record
from saccade.data.duplicates import find_duplicates, read_thumbnails
from saccade.data.image import decode
from saccade.errors import DataError, UsageError


def split(dataset: DataSet, seed: int = 0, share: float = 0.2) -> None:
    """Fill `Record.split` with "train" and "val" (and leave "test" where the set gives val too).

    Pictures that cannot be decoded, which not all headers tell, are refused here, before a run trips over them.
    Near-duplicates fall on one side. A label with one picture stays in train; at least one picture is held out where
    there are two groups. Given splits that share pictures get a warning in `dataset.ledger`, as does "test plays val".

    Args:
        dataset: changed in place: `split` of its records, what its ledger refuses and warns of.
        seed: another seed, another choice.
        share: of the pictures that have no split (or of train, where only train is given), in (0, 1).

    Raises:
        UsageError: share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise UsageError(f"share of held-out pictures is {share}; allowed: above 0 and below 1")
    thumbnails = read_thumbnails([dataset.root / record.id for record in dataset.records])
    seen = {record.id: thumbnail for record, thumbnail in zip(dataset.records, thumbnails, strict=True)}
    dataset.refuse(_undecodable(dataset, [name for name, thumbnail in seen.items() if thumbnail is None]))
    records = sorted(dataset.records, key=lambda record: record.id)
    groups = find_duplicates([seen[record.id] for record in records])
    given = {record.split for record in records if record.split is not None}
    if given - {"train"}:
        dataset.ledger.warnings.extend(_leaks(records, groups))
        _complete(dataset, records, given)
        return
    for record, held in zip(records, _hold_out(records, groups, seed, share), strict=True):
        record.split = "val" if held else "train"
    if not any(record.split == "val" for record in records):
        dataset.ledger.warnings.append("nothing is held out: all pictures are one or near-duplicates of one")


def find_leaks(dataset: DataSet) -> list[str]:
    """A warning for each pair of given splits that share identical or nearly identical pictures; decodes them all."""
    records = sorted((r for r in dataset.records if r.split is not None), key=lambda record: record.id)
    if len({record.split for record in records}) < 2:
        return []
    return _leaks(records, find_duplicates(read_thumbnails([dataset.root / record.id for record in records])))


def _undecodable(dataset: DataSet, suspects: list[str]) -> dict[str, str]:
    """Those of the suspected pictures (ids) that are there and cannot be decoded, with the reason."""
    reasons = {}
    for name in suspects:
        if (dataset.root / name).is_file():
            try:
                decode(dataset.root / name)
            except DataError as error:
                reasons[name] = str(error)
    return reasons


def _complete(dataset: DataSet, records: list[Record], given: set[str]) -> None:
    """Pictures without a split beside given ones train; test plays val where val is lacking."""
    free = [record for record in records if record.split is None]
    for record in free:
        record.split = "train"
    if free and "train" in given:
        dataset.ledger.warnings.append(f"{len(free)} pictures are in no split of the data set: they go to train")
    if "val" not in given and ("train" in given or free):
        for record in records:
            if record.split == "test":
                record.split = "val"
        dataset.ledger.warnings.append("the data set has no val: its test split plays val")


def _leaks(records: list[Record], groups: list[int]) -> list[str]:
    members: dict[int, list[Record]] = defaultdict(list)
    for record, group in zip(records, groups, strict=True):
        members[group].append(record)
    shared: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], tuple[str, str]] = {}
    order = ["train", "val", "test"]
    for alike in members.values():
        present = sorted({r.split for r in alike if r.split}, key=lambda s: order.index(s) if s in order else 9)
        for i, a in enumerate(present):
            for b in present[i + 1 :]:
                shared[a, b] += sum(r.split == b for r in alike)
                first, second = (next(r.id for r in alike if r.split == s) for s in (a, b))
                example.setdefault((a, b), (first, second))
    return [
        f"leak: {count} of {sum(r.split == b for r in records)} pictures of {b} are also in {a}, the same or nearly so "
        f"(such as {example[a, b][1]} and {example[a, b][0]}): scores on {b} are too good"
        for (a, b), count in sorted(shared.items())
    ]


def _labels(record: Record) -> list[int]:
    """The labels that a picture carries, each once; none for a class map."""
    if record.label is not None:
        return [record.label]
    return sorted({*(record.tags or ()), *(thing.label for thing in record.things or ())})


def _hold_out(records: list[Record], groups: list[int], seed: int, share: float) -> list[bool]:
    """True for the records held out; whole groups."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    counts = {g: Counter(label for i in rows for label in _labels(records[i])) for g, rows in members.items()}
    rank = {g: _rank(seed, records[rows[0]].id) for g, rows in members.items()}
    total: Counter[int] = Counter()
    for count in counts.values():
        total.update(count)
    size_wish = {True: share * len(records), False: (1 - share) * len(records)}
    wish = {side: {label: part * n for label, n in total.items()} for side, part in ((True, share), (False, 1 - share))}
    side_of: dict[int, bool] = {}

    def place(group: int, label: int | None) -> None:
        rows = members[group]
        held = label is not None and (wish[True][label], size_wish[True]) > (wish[False][label], size_wish[False])
        held = held or (label is None and size_wish[True] > size_wish[False])
        held = held and len(rows) <= max(1.0, 2 * share * len(records))  # a crowd of duplicates would be all of val
        side_of[group] = held
        size_wish[held] -= len(rows)
        for other, n in counts[group].items():
            wish[held][other] -= n

    for label in _rarest_first(total):
        for group in sorted((g for g in members if counts[g][label] and g not in side_of), key=rank.__getitem__):
            place(group, label)
    for group in sorted((g for g in members if g not in side_of), key=rank.__getitem__):
        place(group, None)
    if len(members) > 1 and not any(side_of.values()):
        side_of[_spare(counts, total, members, rank)] = True
    return [side_of[group] for group in groups]


def _rarest_first(total: Counter[int]) -> Iterable[int]:
    return sorted(total, key=lambda label: (total[label], label))


def _spare(
    counts: dict[int, Counter[int]], total: Counter[int], members: dict[int, list[int]], rank: dict[int, bytes]
) -> int:
    """The group that train misses least: the smallest whose labels others carry too, where there is one."""

    def cost(group: int) -> tuple[bool, int, bytes]:
        unique = any(total[label] == n for label, n in counts[group].items())
        return unique, len(members[group]), rank[group]

    return min(members, key=cost)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
