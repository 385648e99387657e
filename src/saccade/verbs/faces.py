"""`saccade faces`: enroll people in a database, verify that two pictures show one person, identify, remove, list, crop.

Works for anything of which a model embeds pictures, not for faces alone. What such a system must not be used for stands
in docs/reference/faces.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.formats.listing import images_to_look_at
from saccade.errors import DataError, UsageError
from saccade.identities.database import Database, Face, create_database, digest_of, open_database
from saccade.identities.search import Searcher, update_index
from saccade.identities.threshold import of_one_of, of_people, of_run, of_strangers, per_comparison
from saccade.inference.faces import FaceCutter, FaceReader, Picture, Seen, model_of
from saccade.machine.files import inside, make_folder, write_whole
from saccade.machine.paths import at_home
from saccade.metrics import plain
from saccade.metrics.identification import unit
from saccade.metrics.verification import Threshold

TOGETHER = 256  # pictures that are enrolled in one transaction


def enroll(
    database: str | Path,
    run: str | Path,
    sources: Sequence[str | Path],
    *,
    name: str | None = None,
    detector: str | Path | None = None,
    landmarks: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Add people to a database, which is made where there is none. Enrolling the same pictures again changes nothing.

    Args:
        database: the file.
        run: of a model to embed; a database is of one model.
        sources: a folder of people (a folder each, or any data set with a class an image); with `name` pictures, and
            folders of pictures, of that person.
        name: of the one person that the pictures show.
        detector, landmarks: as in `FaceReader`.

    Returns:
        `{database, people, pictures, added, known, refused: [{where, why}], one_picture: [names], indexed}`; `known`
        counts pictures that were there already, `one_picture` names people of whom one picture alone is there.

    Raises:
        DataError: no picture at all could be used, or a picture is enrolled as another person's.
        UsageError: a database of another model; several sources without a name.
    """
    reader, model = FaceReader(run, detector, landmarks, device), model_of(run)
    pictures, refused = _pictures_of(sources, name)
    added = known = 0
    opened: Database | None = None
    try:
        for part in _parts(reader.read(picture for picture, _ in pictures), [who for _, who in pictures]):
            usable = [(who, seen) for who, seen in part if seen.embedding is not None]
            refused += [{"where": str(seen.path), "why": seen.fault} for _, seen in part if seen.embedding is None]
            if usable and opened is None:
                opened = create_database(Path(at_home(database)), model, len(usable[0][1].embedding))  # type: ignore[arg-type]
            if usable and opened is not None:
                done = opened.enroll([(who, [_as_face(seen)]) for who, seen in usable], model)
                added, known = added + done.added, known + done.known
        if opened is None:
            first = f"; the first: {refused[0]['why']}" if refused else ""
            raise DataError(f"none of {len(refused)} pictures could be enrolled{first}")
        indexed = update_index(opened)
        people = opened.people()
    finally:
        if opened is not None:
            opened.close()
    result: dict[str, Any] = {"database": str(database), "people": len(people), "pictures": sum(n for _, n in people)}
    single = [who for who, count in people if count == 1]
    return result | {"added": added, "known": known, "refused": refused, "one_picture": single, "indexed": indexed}


def verify(
    run: str | Path,
    first: str | Path,
    second: str | Path,
    *,
    far: float = 1e-3,
    threshold: float | None = None,
    calibrate: str | Path | None = None,
    detector: str | Path | None = None,
    landmarks: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Whether two pictures show one person.

    Args:
        run: of a model to embed.
        far: the false-accept rate: how many of so many pairs of different people may be taken for one.
        threshold: of the similarity, instead of one that is chosen for `far`.
        calibrate: folder of people on whom the model was not trained, from whom the threshold is chosen; by default
            those of the run's validation count, as its metrics.json says.
        detector, landmarks: as in `FaceReader`.

    Returns:
        `{first, second, similarity, threshold, same, far, ...}`, the rest as `Threshold` has it, where one was chosen.

    Raises:
        DataError: a picture cannot be used, or too few people to show such a rate.
        UsageError: nothing says what errors the model makes; a threshold that no similarity reaches.
    """
    given = _similarity(threshold)
    reader = FaceReader(run, detector, landmarks, device)
    faces = [reader.read_one(Path(at_home(path))).embedding for path in (first, second)]
    chosen = _chosen(reader, Path(at_home(run)), far, calibrate) if given is None else None
    limit = chosen.threshold if chosen is not None else float(given or 0)
    a, b = unit(np.stack([face for face in faces if face is not None]))
    score = float(a @ b if reader.compare is None else reader.compare(a[None], b[None])[0, 0])
    result = {
        "first": str(first),
        "second": str(second),
        "similarity": score,
        "threshold": limit,
        "same": score >= limit,
    }
    return plain(result | _told(chosen))


def _similarity(threshold: float | None) -> float | None:
    """A threshold that a person gave. Raises UsageError for a number that no similarity can have."""
    if threshold is not None and not -1 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold:g}, allowed: -1 to 1")
    return threshold


def identify(
    database: str | Path,
    run: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    far: float = 1e-2,
    threshold: float | None = None,
    calibrate: str | Path | None = None,
    detector: str | Path | None = None,
    landmarks: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Whose pictures these are, among the people of a database; nobody's where no one is similar enough.

    Args:
        top: people to name for each picture.
        far: how many of so many strangers may be taken for someone of the database.
        threshold: of the similarity, instead of one that is chosen for `far`.
        calibrate: folder of people on whom the model was not trained. Those whose names are not in the database are
            shown to it as strangers, and the threshold lets in at most `far` of their pictures. By default the run's
            validation gives the threshold at which so many comparisons as there are people let in `far`, which takes
            comparisons for independent.

    Returns:
        `{database, people, threshold, strangers_let_in, answers: [{image, name, similarity, candidates: [{name,
        similarity}]}]}`; `name` is None for a stranger, `error` stands in the place of an answer where a picture cannot
        be used, and `strangers_let_in` is the rate that the threshold stands for, None for one that was given.

    Raises:
        DataError: no picture can be used, the database is empty, or too few people to show such a rate.
        UsageError: a database of another model, or nothing says what errors the model makes.
    """
    if top < 1:
        raise UsageError(f"top is {top}, allowed: at least 1")
    given = _similarity(threshold)
    reader = FaceReader(run, detector, landmarks, device)
    with open_database(Path(at_home(database))) as opened:
        opened.check_model(model_of(run))
        people = opened.people()
        if not people:
            raise DataError(f"{database}: nobody is enrolled")
        searcher = Searcher(opened, reader.compare)
        chosen = None
        if given is None:
            chosen = _for_database(reader, searcher, Path(at_home(run)), far, calibrate)
        limit = chosen.threshold if chosen is not None else float(given or 0)
        answers = [_identified(seen, searcher, limit, top) for seen in reader.read(_images(images))]
    if all("error" in answer for answer in answers):
        raise DataError(answers[0]["error"])
    rate = None if chosen is None else chosen.far if calibrate is not None else of_one_of(chosen.far, len(people))
    result = {"database": str(database), "people": len(people), "threshold": limit, "strangers_let_in": rate}
    return plain(result | _told(chosen) | {"answers": answers})


def remove(database: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Remove people and every trace of them: `{database, removed: [names], pictures, people}`, the last of those who
    stay. What backups and snapshots of the disk hold is not ours to remove.

    Raises:
        DataError: someone is not there; nobody is removed.
    """
    with open_database(Path(at_home(database))) as opened:
        pictures = opened.remove(names)
        update_index(opened)
        return {
            "database": str(database),
            "removed": list(dict.fromkeys(names)),
            "pictures": pictures,
            "people": len(opened.people()),
        }


def list_people(database: str | Path) -> dict[str, Any]:
    """Who is in a database: `{database, model, length, people: [{name, pictures}]}`."""
    with open_database(Path(at_home(database))) as opened:
        people = [{"name": name, "pictures": pictures} for name, pictures in opened.people()]
        return {"database": str(database), "model": opened.model, "length": opened.length, "people": people}


def _pictures_of(
    sources: Sequence[str | Path], name: str | None
) -> tuple[list[tuple[Picture, str]], list[dict[str, str]]]:
    """Pictures with the names of the people on them, and what of a data set was refused."""
    if name is not None:
        return [(picture, name) for picture in _images(sources)], []
    if len(sources) != 1:
        raise UsageError("give one folder with a folder of pictures for each person, or the person's --name")
    dataset = read(at_home(sources[0]), "embed")
    refused = [{"where": entry.where, "why": entry.what} for entry in dataset.ledger.refused]
    return [(_picture_of(record, dataset), who) for record, who in _named(dataset)], refused


def _named(dataset: DataSet) -> list[tuple[Record, str]]:
    """The records of which is stated whom they show, and who that is."""
    return [(record, dataset.classes[record.label]) for record in dataset.records if record.label is not None]


def _picture_of(record: Record, dataset: DataSet) -> Picture:
    return Picture(dataset.root / record.path, record.region)


def _as_folder(name: str) -> str:
    """A name as that of one folder; names of folders stay as they are."""
    return "_" * len(name) if name in (".", "..") else name.replace("/", "_").replace("\\", "_")


def _images(sources: Iterable[str | Path]) -> Iterator[Picture]:
    for source in sources:
        path = Path(at_home(source))
        yield from (Picture(each) for each in (images_to_look_at(path) if path.is_dir() else [path]))


def _parts(seen: Iterator[Seen], people: Sequence[str]) -> Iterator[list[tuple[str, Seen]]]:
    """Pictures with their people, so many at a time as are enrolled together."""
    part: list[tuple[str, Seen]] = []
    for who, each in zip(people, seen, strict=True):
        part.append((who, each))
        if len(part) == TOGETHER:
            yield part
            part = []
    if part:
        yield part


def crop(
    source: str | Path,
    out: str | Path,
    *,
    detector: str | Path | None = None,
    landmarks: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Cut the faces out of a data set of people, as `enroll` and the others do before they look at them, and write
    them into a folder to train on: `NAME/PICTURE.png`, below `train/` or `val/` where the data set says so. Files of
    these names are written anew.

    Args:
        source: a folder of people (a folder each, or any data set with a class an image).
        out: the folder.
        detector, landmarks: as in `FaceCutter`.

    Returns:
        `{folder, people, pictures, refused: [{where, why}]}`.

    Raises:
        DataError: no face at all was found.
    """
    cutter, folder = FaceCutter(detector, landmarks, device), Path(at_home(out))
    dataset = read(at_home(source), "embed")
    refused = [{"where": entry.where, "why": entry.what} for entry in dataset.ledger.refused]
    written: set[Path] = set()
    for record, who in _named(dataset):
        try:
            face = cutter.face(_picture_of(record, dataset))
        except DataError as error:
            refused.append({"where": record.id, "why": str(error)})
            continue
        person = inside(folder, record.split or "", _as_folder(who))
        stem = Path(record.path).stem
        names = itertools.chain([f"{stem}.png"], (f"{stem}-{i}.png" for i in itertools.count(2)))
        place = next(person / name for name in names if person / name not in written)
        make_folder(person)
        write_whole(place, cv2.imencode(".png", face[..., ::-1])[1].tobytes())
        written.add(place)
    if not written:
        raise DataError(f"none of {len(refused)} pictures has a face to cut out; the first: {refused[0]['why']}")
    people = {place.parent.name for place in written}
    return {"folder": str(folder), "people": len(people), "pictures": len(written), "refused": refused}


def _as_face(seen: Seen) -> Face:
    assert seen.embedding is not None
    assert seen.face is not None
    return Face(seen.embedding, digest_of(seen.face), str(seen.path))


def _identified(seen: Seen, searcher: Searcher, limit: float, top: int) -> dict[str, Any]:
    if seen.embedding is None:
        return {"image": str(seen.path), "error": seen.fault}
    found = searcher.nearest(seen.embedding, top)
    best = found[0] if found and found[0].score >= limit else None
    return {
        "image": str(seen.path),
        "name": None if best is None else best.name,
        "similarity": found[0].score if found else None,
        "candidates": [{"name": match.name, "similarity": match.score} for match in found],
    }


def _embedded(reader: FaceReader, folder: str | Path) -> tuple[np.ndarray, list[str]]:
    """Embeddings [n, d] and names of a folder of people; pictures that cannot be used are left out."""
    pictures, _ = _pictures_of([folder], None)
    seen = zip(reader.read(picture for picture, _ in pictures), [who for _, who in pictures], strict=True)
    usable = [(each.embedding, who) for each, who in seen if each.embedding is not None]
    if not usable:
        raise DataError(f"--calibrate {folder}: none of its {len(pictures)} pictures can be used")
    return np.stack([embedding for embedding, _ in usable]), [who for _, who in usable]


def _chosen(reader: FaceReader, run: Path, far: float, calibrate: str | Path | None) -> Threshold:
    """The threshold of a comparison."""
    return of_run(run, far) if calibrate is None else of_people(*_embedded(reader, calibrate), far, reader.compare)


def _for_database(
    reader: FaceReader, searcher: Searcher, run: Path, far: float, calibrate: str | Path | None
) -> Threshold:
    """The threshold at which a database lets in the share `far` of strangers."""
    names = {name for name, _ in searcher.database.people()}
    if calibrate is None:
        try:
            return of_run(run, per_comparison(far, len(names)))
        except DataError as error:
            raise DataError(
                f"to let in {far:g} of strangers among {len(names)} people, one comparison may do so in "
                f"{per_comparison(far, len(names)):.1g}. {error}, or show pictures of strangers (--calibrate FOLDER)"
            ) from error
    embeddings, people = _embedded(reader, calibrate)
    strangers = [row for row, who in zip(embeddings, people, strict=True) if who not in names]
    return of_strangers(np.array([searcher.nearest(row, 1)[0].score for row in strangers]), far)


def _told(chosen: Threshold | None) -> dict[str, Any]:
    """What is known of a threshold."""
    return {} if chosen is None else {key: value for key, value in asdict(chosen).items() if key != "threshold"}
