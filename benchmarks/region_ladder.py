"""What does each step of the region lineage save? A sliding window, R-CNN, SPP-net, Fast and Faster R-CNN in one run.

    python benchmarks/region_ladder.py DATA --out OUT [--minutes 10 | --epochs N] [--only NAME ...] [--proposals]

All stand on the same trunk and get the same images, each by its default recipe; runs in OUT that are finished are kept,
one that was stopped goes on. Then one process asks them for one image at a time, in turn, round after round, and the
median counts: seconds of the network alone, beside them those of selective search, which the three in the middle need.
The sliding window answers twice: for windows cut out one by one, as its ancestors did, and by convolution; so does
SPP-net: for an image at five scales, as it was timed, and at one.

Prints the table of the lectures, published seconds (Girshick 2015, table 4; Ren et al. 2015, table 5; a GPU of the
time, VGG-16, without selective search) beside those measured, and whether the order is the published one; leaves
OUT/ladder.json and OUT/ladder.png. What is compared are ratios; seconds depend on the machine.

With --proposals Fast and Faster R-CNN are asked again with 10 to 2,000 proposals an image: a table of AP50, AP and
seconds, and OUT/proposals.png.

Time: the minutes of each system and, for R-CNN and SPP-net, those of the SVMs and box regressions behind them; the
measurements take about five minutes on one core.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.ticker import StrMethodFormatter
from runs import make_parser, markdown, settings_flags, train, write_json

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.proposals import SelectiveSearch, propose
from saccade.data.types import Batch
from saccade.inference.predictor import Predictor, load
from saccade.inference.score import align_classes, records_of, score
from saccade.machine.device import autocast
from saccade.models import model_config
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

COUNTS = (10, 30, 100, 300, 1000, 2000)  # proposals an image
TRUNK = ("trunk=resnet18", "trunk_width=48", "trunk_depths=[2, 2]")  # two stages, a map of stride 8
SEARCHED = 10  # images on which selective search is timed


@dataclass(frozen=True)
class System:
    """A step of the ladder."""

    title: str
    model: str  # its variant in the catalogue
    published: float | None = None  # seconds an image, without selective search
    searches: bool = False  # it takes the boxes of selective search
    settings: tuple[str, ...] = ()  # beside TRUNK


SYSTEMS: dict[str, System] = {
    # A network that is no chain of unpadded layers cannot slide without borders: it pads, and the last map is read.
    "sliding_window": System(
        "sliding window", "sliding_window_small", settings=("padding=zeros", "stride=8", "window=48")
    ),
    "rcnn": System("R-CNN", "rcnn_small", 47.0, True, ("side=64", "context=4")),
    "sppnet": System("SPP-net", "sppnet_small", 2.3, True),
    "fast_rcnn": System("Fast R-CNN", "fast_rcnn_small", 0.32, True),
    "faster_rcnn": System("Faster R-CNN", "faster_rcnn_c4_small", 0.2),
}
# the forms that the papers timed
PUBLISHED = ("R-CNN", "SPP-net, five scales", "Fast R-CNN", "Faster R-CNN")
PROPOSING = ("fast_rcnn", "faster_rcnn")  # those that are asked again with other numbers of proposals


@dataclass
class Measured:
    """A row of the table."""

    name: str
    title: str
    ap50: float
    ap: float
    seconds: float  # of the network, an image
    searches: bool
    published: float | None


def main() -> None:
    options = arguments()
    runs = [name for name in options.only if trained(name, options)]
    dataset, records = data_of(options, runs)
    rows = measure(runs, dataset, records, options)
    search = time_search(dataset, records)
    write_json(options.out / "ladder.json", {"search": search, "rows": [dataclasses.asdict(row) for row in rows]})
    (options.out / "ladder.png").write_bytes(plot_ladder(rows, search))
    print(table(rows, search), *compare(rows), sep="\n\n")
    if options.proposals:
        curves = {name: sweep(name, dataset, records, options) for name in PROPOSING if name in runs}
        write_json(options.out / "proposals.json", curves)
        (options.out / "proposals.png").write_bytes(plot_sweep(curves))
        print(sweep_table(curves))


def arguments() -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of each system's training")
    parser.add_argument("--epochs", type=int, help="of each system's training, instead of minutes")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help="systems")
    parser.add_argument("--rounds", type=int, default=9, help="times that every system is timed, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--proposals", action="store_true", help=f"measure with {COUNTS} proposals an image too")
    parser.add_argument("--cpu", action="store_true", help="train and measure on the processor, beside a GPU too")
    return parser.parse_args()


def trained(name: str, options: Namespace) -> bool:
    """Make the run of a system, unless it is finished; False where its training diverged."""
    system, run = SYSTEMS[name], options.out / name
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    flags = [length, f"--seed={options.seed}", *(["--device=cpu"] if options.cpu else [])]
    flags += settings_flags([*TRUNK, *system.settings, *options.set])
    if train(system.model, options.data, run, flags) is None:
        print(f"{name}: diverged", file=sys.stderr, flush=True)
        return False
    return True


def opened(name: str, options: Namespace) -> Predictor:
    """A system as it was trained, ready to answer."""
    return load(options.out / name, "cpu" if options.cpu else None)


def data_of(options: Namespace, runs: Sequence[str]) -> tuple[DataSet, list[Record]]:
    """The validation images, labels in the order of the networks' classes."""
    if not runs:
        raise SystemExit("no system was trained")
    dataset = read(options.data, "detect")
    records = records_of(dataset, "val", options.seed)
    align_classes(dataset, opened(runs[0], options).classes)
    return dataset, records


def ways(name: str, options: Namespace) -> dict[str, Predictor]:
    """The forms in which a trained system is measured, by title; the last of each is the one that was trained.

    SPP-net's published seconds are those of five scales (section 4.3), to which its regions are then assigned such that
    those of the usual size stay at the scale that was learned.
    """
    changes: dict[str, dict[str, Any]] = {SYSTEMS[name].title: {}}
    if name == "sliding_window":
        changes = {f"{SYSTEMS[name].title}, {way}": {"by": way} for way in ("crops", "convolution")}
    if name == "sppnet":
        scales = model_config("sppnet_zf5").scales
        changes = {f"{SYSTEMS[name].title}, five scales": {"scales": scales, "window": 64.0}, "SPP-net, one scale": {}}
    forms = {title: opened(name, options) for title in changes}
    for title, form in forms.items():
        with_config(form.network, **changes[title])
    return forms


def with_config(network: Any, **values: Any) -> None:
    network.config = dataclasses.replace(network.config, **values)


def measure(runs: Sequence[str], dataset: DataSet, records: Sequence[Record], options: Namespace) -> list[Measured]:
    """AP of every system, then its seconds an image beside the others."""
    forms = {title: (name, form) for name in runs for title, form in ways(name, options).items()}
    scores = {}
    for title, (_, form) in forms.items():
        scores[title] = score(form, dataset, list(records)).metrics
        print(f"{title}: AP50 {scores[title]['ap50'].value:.3f}", file=sys.stderr, flush=True)
    seconds = interleaved({title: form for title, (_, form) in forms.items()}, dataset, records, options.rounds)
    return [
        Measured(
            name,
            title,
            float(scores[title]["ap50"].value or 0),
            float(scores[title]["ap"].value or 0),
            seconds[title],
            SYSTEMS[name].searches,
            SYSTEMS[name].published if title in PUBLISHED else None,
        )
        for title, (name, _) in forms.items()
    ]


def interleaved(
    forms: dict[str, Predictor], dataset: DataSet, records: Sequence[Record], rounds: int
) -> dict[str, float]:
    """Median seconds of the network for one image, the forms in turn on the same image, another one each round."""
    found: dict[str, list[float]] = {title: [] for title in forms}
    for number in range(rounds + 1):
        record = records[number % len(records)]
        for title, form in forms.items():
            found[title].append(seconds_of(form, collate([form.view.read(dataset.root / record.path)])))
    return {title: statistics.median(times[1:]) for title, times in found.items()}  # the first round warms up


@torch.inference_mode()
def seconds_of(form: Predictor, batch: Batch) -> float:
    """Of the network for a batch that is at hand, until its answers are on the CPU."""
    batch = batch.to(form.device)
    start = time.perf_counter()
    with autocast(form.device, form.precision):
        form.network.predict(batch)  # type: ignore[operator]
    return time.perf_counter() - start


def time_search(dataset: DataSet, records: Sequence[Record]) -> float:
    """Median seconds of selective search for an image."""
    times = []
    for record in records[: SEARCHED + 1]:
        image = decode(dataset.root / record.path)
        start = time.perf_counter()
        propose(image, SelectiveSearch())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def sweep(name: str, dataset: DataSet, records: Sequence[Record], options: Namespace) -> dict[str, dict[str, float]]:
    """AP50, AP and seconds of one system by how many proposals it judges."""
    forms = {str(count): opened(name, options) for count in COUNTS}
    for count, form in forms.items():
        limit(name, form.network, int(count))
    seconds = interleaved(forms, dataset, records, options.rounds)
    found = {}
    for count, form in forms.items():
        metrics = score(form, dataset, list(records)).metrics
        numbers = {key: float(metrics[key].value or 0) for key in ("ap50", "ap")}
        found[count] = numbers | {"seconds": seconds[count]}
        print(f"{name}, {count} proposals: AP50 {numbers['ap50']:.3f}", file=sys.stderr, flush=True)
    return found


def limit(name: str, network: Any, count: int) -> None:
    """Let a network judge the first `count` proposals alone."""
    if name == "fast_rcnn":
        with_config(network, most_proposals=count)
    else:  # as many anchors enter NMS as in the paper, so that there are enough behind it
        rules = network.rpn.rules
        network.rpn.rules = dataclasses.replace(rules, before=(rules.before[0], 6000), after=(rules.after[0], count))


def table(rows: Sequence[Measured], search: float) -> str:
    """A line a system; ratios are to the last one that has a published time."""
    base = next((row for row in reversed(rows) if row.published), None)
    lines = []
    for row in rows:
        ratio = f"{row.seconds / base.seconds:.1f}" if base else ""
        published = f"{row.published / base.published:.1f}" if base and base.published and row.published else ""
        lines.append(
            [
                row.title,
                f"{row.ap50:.3f}",
                f"{row.ap:.3f}",
                f"{row.seconds:.3f}",
                f"{search:.2f}" if row.searches else "0",
                ratio,
                f"{row.published:g}" if row.published else "",
                published,
            ]
        )
    heads = ["system", "AP50", "AP", "network, s", "selective search, s", "ratio", "published, s", "published ratio"]
    return markdown(heads, lines)


def compare(rows: Sequence[Measured]) -> list[str]:
    """A sentence a step: by how much the network became faster, measured and published."""
    steps = [row for row in rows if row.published]
    sentences = []
    for before, after in itertools.pairwise(steps):
        measured = before.seconds / after.seconds
        published = float(before.published or 0) / float(after.published or 1)
        word = "as published" if measured > 1 else "not as published"
        sentences.append(
            f"{before.title} to {after.title}: {measured:.1f} times as fast, {word} ({published:.1f} times)"
        )
    return sentences


def sweep_table(curves: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        [SYSTEMS[name].title, count, f"{row['ap50']:.3f}", f"{row['ap']:.3f}", f"{row['seconds']:.3f}"]
        for name, curve in curves.items()
        for count, row in curve.items()
    ]
    return markdown(["system", "proposals", "AP50", "AP", "network, s"], lines)


def colour(index: int) -> tuple[float, ...]:
    return tuple(v / 255 for v in class_colour(index))


def plot_ladder(rows: Sequence[Measured], search: float) -> bytes:
    """PNG: seconds an image on a logarithmic axis, measured and published; AP50 beside them."""
    figure = new_figure(10, 0.9 + 0.55 * len(rows))
    times, scores = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    style(times, "Seconds an image", "s, logarithmic", "")
    style(scores, "What is found", "AP50", "")
    places = range(len(rows))
    times.barh([p - 0.2 for p in places], [row.seconds for row in rows], 0.36, color=colour(0), label="network here")
    searching = [search if row.searches else 0 for row in rows]
    times.barh(
        [p - 0.2 for p in places],
        searching,
        0.36,
        left=[row.seconds for row in rows],
        color=colour(0),
        alpha=0.35,
        label="and selective search",
    )
    known = [(p + 0.2, row.published) for p, row in zip(places, rows, strict=True) if row.published]
    times.barh([p for p, _ in known], [s for _, s in known], 0.36, color=colour(3), label="network as published")
    times.set_xscale("log")
    times.set_xlim(left=0.5 * min([row.seconds for row in rows] + [s for _, s in known]))
    times.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    times.set_yticks(list(places), [row.title for row in rows])
    times.invert_yaxis()
    times.legend(fontsize=8, frameon=False)
    scores.barh(list(places), [row.ap50 for row in rows], 0.5, color=colour(2))
    scores.set_xlim(0, 1)
    return to_png(figure)


def plot_sweep(curves: dict[str, dict[str, dict[str, float]]]) -> bytes:
    """PNG: AP50 and seconds against the number of proposals."""
    figure = new_figure(9, 3.6)
    panels = figure.subplots(1, 2)
    for panel, key, title in zip(panels, ("ap50", "seconds"), ("What is found", "Seconds an image"), strict=True):
        style(panel, title, "proposals an image", "AP50" if key == "ap50" else "s of the network")
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for i, (name, curve) in enumerate(curves.items()):
            values = [row[key] for row in curve.values()]
            panel.plot(
                [int(n) for n in curve], values, marker="o", ms=4, color=colour(3 * i), label=SYSTEMS[name].title
            )
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8, frameon=False)
    return to_png(figure)


if __name__ == "__main__":
    main()
