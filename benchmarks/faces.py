"""Which way of learning vectors tells unseen people apart best, and which mining of triplets collapses?

    python benchmarks/faces.py DATA/orl_faces --out OUT [--epochs 30] [--seeds 0 1 2] [--only triplet_hard siamese]
        [--train 20] [--strangers DATA/face_crops_tv] [--weights FILE]

The first `--train` folders of people (in the order of their numbers) train, the others validate: folders of links in
OUT/split. Every method of `METHODS` goes through `saccade train` at 96 pixels for the same epochs, a seed at a time;
`--strangers` also scores each checkpoint on other people. `--weights` (of squeezenet1_0_caffe) adds the features
of that network as they are. Beside them stand two baselines without training: raw pixels and eigenfaces (principal
components of the training faces; Turk & Pentland 1991), each compared by its cosine.

`spread` is the mean squared distance of two different people's vectors, 2 at right angles and 0 where all vectors are
one: collapsed. `best` is of the checkpoint that the validation people chose, `last` of the weights at the end, which
nobody chose ("-" of DeepFace, whose course ends behind its fit). Prints a table; finished runs in OUT are kept. Time:
30 epochs of ORL take about 2 minutes a run on one idle core of a Xeon (AMX); all methods with three seeds about 70.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from runs import make_parser, markdown, settings_flags, train

import saccade
from saccade.data.formats import read
from saccade.data.loader import iter_images
from saccade.data.pictures import decode_picture
from saccade.data.resampling import resize_plane
from saccade.metrics import Result
from saccade.metrics.identification import score_embeddings

SIDE = 96
COMPONENTS = 100  # of the eigenfaces, at most
NAMES = ("auc", "rank_1", "eer", "tar_at_far_1e-2")


@dataclass(frozen=True)
class Method:
    """A model and what is set of it."""

    model: str
    settings: tuple[str, ...] = ()


METHODS = {
    "siamese": Method("siamese_small"),
    "siamese_weighted_l1": Method("siamese_small", ("similarity_kind=weighted_l1",)),
    "siamese_chi_square": Method("siamese_small", ("similarity_kind=chi_square",)),
    "deepface": Method("deepface_small"),
    "deepface_chi_square": Method("deepface_small", ("similarity_kind=chi_square",)),
    "triplet_semi_hard": Method("facenet_small"),
    "triplet_all": Method("facenet_small", ("mining=all",)),
    "triplet_random": Method("facenet_small", ("mining=random",)),
    "triplet_hard": Method("facenet_small", ("mining=hard",)),
    "softmax": Method("facenet_small", ("loss=softmax",)),
    "arcface": Method("facenet_small", ("loss=arcface",)),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--train", type=int, default=20, help="people to learn from")
    parser.add_argument("--strangers", type=Path, help="folders of other people, scored besides")
    parser.add_argument("--weights", type=Path, help="of squeezenet1_0_caffe, whose features are measured too")
    options = parser.parse_args()
    data = split_people(options.data, options.out / "split", options.train)
    rows = [[name, *cells_of([result]), "", "", ""] for name, result in baselines(data).items()]
    for name in options.only:
        rows.append([name, *row_of(name, METHODS[name], data, options)])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    if options.weights is not None:
        frozen = Method("facenet_small", ("trunk=squeezenet1_0_caffe",))
        flags = ["--recipe", "frozen", "--weights", str(options.weights)]
        rows.append(["squeezenet1_0_caffe as it is", *row_of("frozen", frozen, data, options, flags)])
    print(markdown(["method", *NAMES, "spread, best", "auc, last", "strangers: auc, rank_1"], rows))


def split_people(source: Path, out: Path, count: int) -> Path:
    """Folders train/ and val/ with a link to each person's."""
    folders = [folder for folder in source.iterdir() if folder.is_dir()]
    people = sorted(folders, key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.name)])
    for number, folder in enumerate(people):
        link = out / ("train" if number < count else "val") / folder.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(folder.resolve(), target_is_directory=True)
    return out


def row_of(name: str, method: Method, data: Path, options: Namespace, more: Sequence[str] = ()) -> list[str]:
    """The mean over the seeds and, behind it, the lowest and the highest."""
    best, last, spreads, strangers = [], [], [], []
    for seed in options.seeds if not more else options.seeds[:1]:
        run = options.out / f"{name}-seed{seed}"
        flags = [f"--seed={seed}", *settings_flags([*method.settings, *options.set])]
        flags += list(more) or [f"--size={SIDE}", f"--epochs={options.epochs}"]
        found = train(method.model, data, run, flags)
        if found is None:
            return ["diverged"] * (len(NAMES) + 3)
        best.append({key: value["value"] for key, value in found["metrics"].items()})
        spreads.append(spread_of(run, data))
        if (run / "last.safetensors").is_file():
            scored = saccade.evaluate(run / "last.safetensors", data, split="val", bootstrap=0)
            last.append(scored["metrics"]["auc"]["value"])
        if options.strangers is not None:
            other = saccade.evaluate(run, options.strangers, split="all", bootstrap=0)["metrics"]
            strangers.append([other[key]["value"] for key in ("auc", "rank_1")])
    cells = [words([values[key] for values in best]) for key in NAMES]
    end = [", ".join(words(list(column)) for column in zip(*strangers, strict=True))]
    return [*cells, words(spreads), words(last), *end]


def spread_of(run: Path, data: Path) -> float:
    """The mean squared distance of the vectors of different validation people."""
    model = saccade.load(run)
    paths = [path for folder in sorted((data / "val").iterdir()) for path in sorted(folder.iterdir())]
    vectors, people = [], []
    for name, answer in model.predict_batches(iter_images(paths, model.view, 8, 0)):
        assert answer.embedding is not None
        vectors.append(answer.embedding.numpy())
        people.append(Path(name).parent.name)
    rows, who = np.stack(vectors), np.array(people)
    return float((2 - 2 * rows @ rows.T)[who[:, None] != who].mean())


def baselines(data: Path) -> dict[str, Result]:
    """Raw pixels and eigenfaces, each compared by the cosine behind the mean of the training faces."""
    dataset = read(data, "embed")
    pixels = {}
    for split in ("train", "val"):
        pictures = [decode_picture(record, dataset.root)[0] for record in dataset.of(split)]
        pixels[split] = np.stack([resize_plane(p, (56, 46)).mean(2).ravel() for p in pictures]).astype(np.float64)
    records = dataset.of("val")
    people = [dataset.classes[record.label or 0] for record in records]
    ids, mean = [record.id for record in records], pixels["train"].mean(0)
    _, _, axes = np.linalg.svd(pixels["train"] - mean, full_matrices=False)
    projected = (pixels["val"] - mean) @ axes[:COMPONENTS].T
    return {
        "raw pixels": score_embeddings(ids, people, pixels["val"] - mean, bootstrap=0),
        "eigenfaces": score_embeddings(ids, people, projected, bootstrap=0),
    }


def cells_of(results: Sequence[Result]) -> list[str]:
    return [words([result.metrics[name].value for result in results]) for name in NAMES]


def words(values: Sequence[float | None]) -> str:
    """The mean, and the range where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.3f}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.3f} to {max(known):.3f})"


if __name__ == "__main__":
    main()
