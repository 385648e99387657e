"""Which pictures train, which choose the checkpoint (val), and which are kept for one score at the end (test).

Splits that the data set gives are respected. Where it gives no val, a share of what trains is held out as val, and a
test part stays a test: stratified by label (iterative stratification, Sechidis et al. 2011, "On the Stratification of
Multi-label Data", algorithm 1, over groups of near-duplicates and of one recording), in an order that follows from the
seed and the ids of the records alone.

A model to embed is tried on identities (people, things) that it has not seen: all pictures of one go to one side.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from saccade.data.dataset import DataSet, Record
from saccade.data.duplicates import find_duplicates, read_thumbnails
from saccade.data.identities import identity_names
from saccade.data.image import decode
from saccade.data.recordings import find_recordings
from saccade.errors import DataError, UsageError
from saccade.tasks.table import TASKS

HOLDOUT = 0.2  # share of the training pictures that is held out as val where the data set has none


def split(dataset: DataSet, seed: int = 0, share: float = HOLDOUT, group: str = "auto") -> None:
    """Fill `Record.split` with "train" and "val" (and leave "test" where the set gives it), `Record.group` too.

    Pictures that cannot be decoded, which not all headers tell, are refused here, before a run trips over them.
    Near-duplicates and pictures of one file or recording fall on one side. A label with one picture stays in train; at
    least one picture is held out where there are two groups. Given splits that share pictures or recordings get a
    warning in `dataset.ledger`; so does a val held out of the train part that the set gives.

    Args:
        dataset: changed in place: `split` and `group` of its records, what its ledger refuses and warns of.
        seed: another seed, another choice.
        share: of the pictures that would train, in [0, 1); 0 holds nothing out.
        group: how pictures of one recording are known; see `recordings.find_recordings`. For identities "auto" holds
            out whole ones, "none" some pictures of each.

    Raises:
        UsageError: share is not in [0, 1); the pattern of `group` is none or fits no picture.
    """
    if not 0 <= share < 1:
        raise UsageError(f"share of held-out pictures is {share}; allowed: from 0 on and below 1")
    seen = refuse_undecodable(dataset)
    records = sorted(dataset.records, key=lambda record: record.id)
    copies = _find_copies(records, seen)
    thumbnails = [seen[record.path] for record in records]
    whole = TASKS[dataset.task].embedding and group == "auto"  # identities
    recordings = find_recordings(records, thumbnails, "none" if whole else group)
    for record, name in zip(records, recordings, strict=True):
        record.group = name
    names = identity_names(dataset, records) if whole else recordings
    given = {record.split for record in records if record.split is not None}
    if given - {"train"}:
        kind = "identities" if whole else "recordings"
        dataset.ledger.warnings.extend([*_leaks(records, copies), *_shared(records, names, kind)])
    if "val" in given or (given and not any(record.split in (None, "train") for record in records)):
        _complete(dataset, records)
        return
    groups = _join(names, copies)
    pool = [i for i, record in enumerate(records) if record.split in (None, "train")]
    held = [False] * len(pool)
    if share:
        held = _hold_out([records[i] for i in pool], [groups[i] for i in pool], seed, share, not whole)
    for i, out in zip(pool, held, strict=True):
        records[i].split = "val" if out else "train"
    _say_what_is_held_out(dataset, sum(held), share, given)
    if whole and any(held):
        strangers = {names[i] for i, is_held in zip(pool, held, strict=True) if is_held}
        dataset.ledger.warnings.append(
            f"all pictures of {len(strangers)} of {len({names[i] for i in pool})} identities are held out, such as "
            f"{min(map(str, strangers))!r}: what is new to the model measures it (group=none: some pictures of each)"
        )


def refuse_undecodable(dataset: DataSet) -> dict[str, np.ndarray | None]:
    """Refuse the pictures that cannot be decoded. The thumbnail of every file that is left, by path (what
    `duplicates.find_duplicates` compares), None for one that is not there."""
    seen = _look_at_files(dataset, dataset.records)
    dataset.refuse(_undecodable(dataset, {path for path, thumbnail in seen.items() if thumbnail is None}))
    return {record.path: seen[record.path] for record in dataset.records}


def describe_use(dataset: DataSet, share: float = HOLDOUT) -> dict[str, str]:
    """What `train` will use each part of a data set for, in words, as its files state the splits."""
    splits, free = dataset.splits, sum(record.split is None for record in dataset.records)
    training = splits.get("train", 0) + free
    use = {}
    if "val" in splits:
        use["train"] = f"{training} pictures to learn from" if training else "nothing to learn from"
        use["val"] = f"{splits['val']} pictures, which choose the checkpoint"
    elif training:
        held = f"{share:.0%} of {'train' if 'train' in splits else 'them'}"
        use["train"] = f"{training} pictures to learn from, but for those held out"
        use["val"] = f"{held}, held out, chooses the checkpoint (--set holdout=SHARE)"
    if "test" in splits:
        use["test"] = f"{splits['test']} pictures, scored once at the end"
    return use


def find_leaks(dataset: DataSet) -> list[str]:
    """A warning for each pair of given splits that share identical or nearly identical pictures; decodes them all."""
    records = sorted((r for r in dataset.records if r.split is not None), key=lambda record: record.id)
    if len({record.split for record in records}) < 2:
        return []
    return _leaks(records, _find_copies(records, _look_at_files(dataset, records)))


def _look_at_files(dataset: DataSet, records: Sequence[Record]) -> dict[str, np.ndarray | None]:
    """The thumbnail of every file of these records, by path."""
    paths = list(dict.fromkeys(record.path for record in records))
    return dict(zip(paths, read_thumbnails([dataset.root / path for path in paths]), strict=True))


def _find_copies(records: Sequence[Record], thumbnails: Mapping[str, np.ndarray | None]) -> list[int]:
    """The group of each record: the index of the first one of the same file, or of a near-duplicate of it."""
    first: dict[str, int] = {}
    for i, record in enumerate(records):
        first.setdefault(record.path, i)
    starts = list(first.values())
    groups = find_duplicates([thumbnails[path] for path in first])
    start_of = {path: starts[group] for path, group in zip(first, groups, strict=True)}
    return [start_of[record.path] for record in records]


def _undecodable(dataset: DataSet, suspects: Collection[str]) -> dict[str, str]:
    """The records (ids) whose file is one of the suspected paths, is there and cannot be decoded, with the reason."""
    faults = {}
    for path in suspects:
        if (dataset.root / path).is_file():
            try:
                decode(dataset.root / path)
            except DataError as error:
                faults[path] = str(error)
    return {record.id: faults[record.path] for record in dataset.records if record.path in faults}


def _complete(dataset: DataSet, records: list[Record]) -> None:
    """Pictures without a split beside given ones train."""
    free = [record for record in records if record.split is None]
    trained = any(record.split == "train" for record in records)
    for record in free:
        record.split = "train"
    if free and trained:
        dataset.ledger.warnings.append(f"{len(free)} pictures are in no split of the data set: they go to train")


def _say_what_is_held_out(dataset: DataSet, held: int, share: float, given: set[str]) -> None:
    warnings = dataset.ledger.warnings
    if share and not held:
        warnings.append("nothing is held out: all pictures are one or near-duplicates of one, or of one recording")
    elif "test" in given:
        kept = f"{held} pictures of train are held out to choose the checkpoint" if held else "no picture chooses one"
        warnings.append(f"the data set has no val: {kept}; its test split is scored once, at the end")
    recordings = {record.group for record in dataset.records} - {None}
    if recordings and held:
        warnings.append(
            f"pictures of {len(recordings)} recordings, such as {min(map(str, recordings))!r}, stay on one side of the "
            "split each, as their names say (group=none: every picture for itself)"
        )


def _join(names: Sequence[str | None], copies: Sequence[int]) -> list[int]:
    """Groups of pictures that stay together: near-duplicates (by the index of the first) and those of one name, which
    is that of a recording or an identity."""
    top = list(range(len(names)))

    def find(i: int) -> int:
        while top[i] != i:
            top[i] = top[top[i]]
            i = top[i]
        return i

    first: dict[str, int] = {}
    for i, name in enumerate(names):
        others = [copies[i]] if name is None else [copies[i], first.setdefault(name, i)]
        for other in others:
            a, b = sorted((find(i), find(other)))
            top[b] = a
    return [find(i) for i in range(len(names))]


def _shared(records: Sequence[Record], names: Sequence[str | None], kind: str) -> list[str]:
    """A warning where given splits share recordings or identities, whose name each picture has."""
    sides: dict[str, set[str]] = defaultdict(set)
    for record, name in zip(records, names, strict=True):
        if name is not None and record.split is not None:
            sides[name].add(record.split)
    shared = sorted(name for name, splits in sides.items() if len(splits) > 1)
    if not shared:
        return []
    return [
        f"leak: {len(shared)} of {len(sides)} {kind}, such as {shared[0]!r}, have pictures in "
        f"{' and '.join(sorted(sides[shared[0]]))}: scores are better than on {kind} that are new"
    ]


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
    return [record.label] if record.label is not None else sorted(set(record.labels()))


def _hold_out(records: list[Record], groups: list[int], seed: int, share: float, stratified: bool = True) -> list[bool]:
    """True for the records held out; whole groups, of each label its share if `stratified`."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    counts = {
        g: Counter(label for i in rows for label in (_labels(records[i]) if stratified else ()))
        for g, rows in members.items()
    }
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
        held = held and len(rows) <= max(1.0, 2 * share * len(records))  # a crowd of one kind would be all of val
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
