"""Does every family of classifiers train? From scratch above a stated floor, and 32 images by heart.

    python benchmarks/floors.py DATA/cifar10_images --out OUT [--minutes 2] [--only resnet vgg]
    python benchmarks/floors.py DATA/cifar10_images --out OUT --overfit

One small variant of each family (`FAMILIES`; a family is a file of models/backbones) goes through `saccade train` as it
stands in the catalogue (four made narrower, see there), with its default recipe, at an image size that
its poolings allow and a CPU can pay for. The first form
trains for some minutes; top-1 on the validation images must be above

    floor = chance + above * (1 - chance),    chance = share of the most frequent class of the validation images

where `above` is stated a family, for two minutes on two cores: on 500 images of ten classes even 0.05 lies more than
three standard errors above chance. The second form shows the network the same 32 images again and again, without
augmentation, and judges it on them: 100 % must come out. Prints a table and ends with status 1 where a floor is
missed. Finished runs in OUT are kept. Time: all 24 families take about 55 minutes; with --overfit about 20.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import epochs_of, make_parser, markdown, settings_flags, train

from saccade.data.formats import read
from saccade.inference.score import records_of
from saccade.models import find_models

IMAGES = 32  # learnt by heart


@dataclass(frozen=True)
class Family:
    """The variant that stands for a family."""

    model: str
    size: int  # pixels
    above: float  # see above
    settings: tuple[str, ...] = ()  # of both forms
    lr: float = 1e-3  # of AdamW, to learn by heart
    epochs: int = 60  # of two steps each, to learn by heart


# The hidden layers of 4096 units hold nine tenths of the weights of AlexNet, ZFNet and VGG, and on a CPU their update
# costs more than the network: 512 units. Inception v4 at its full width sees too few images in two minutes.
_NARROW = ("hidden=512",)
FAMILIES = {
    "lenet": Family("lenet5", 32, 0.15, epochs=200),
    "alexnet": Family("alexnet", 96, 0.10, _NARROW, lr=3e-4, epochs=100),
    "zfnet": Family("zfnet", 96, 0.08, _NARROW, lr=3e-4, epochs=100),
    "nin": Family("nin_cifar10", 32, 0.10, ("batch=32",), lr=3e-4, epochs=120),
    "vgg": Family("vgg11_bn", 32, 0.15, _NARROW, lr=3e-4, epochs=200),
    "prelunet": Family("prelunet_small", 32, 0.15, lr=3e-4, epochs=200),
    "googlenet": Family("googlenet", 64, 0.12),
    "bn_inception": Family("bn_inception", 64, 0.12),
    "inception_v3": Family("inception_v3", 75, 0.08),
    "inception_v4": Family("inception_v4", 75, 0.05, ("width=0.25",), epochs=100),
    "inception_resnet": Family("inception_resnet_v1_face", 75, 0.05),
    "resnet": Family("resnet20", 32, 0.30),
    "preact_resnet": Family("preact_resnet18", 64, 0.15),
    "resnext": Family("resnext50_32x4d", 64, 0.05),
    "densenet": Family("densenet40_k12", 32, 0.10),
    "xception": Family("xception", 64, 0.05),
    "darknet": Family("darknet_reference", 64, 0.15),
    "squeezenet": Family("squeezenet1_1", 64, 0.06, lr=3e-4, epochs=120),
    "mobilenet": Family("mobilenet_w25", 64, 0.12, epochs=100),
    "mobilenet2": Family("mobilenet_v2", 64, 0.12),
    "mobilenet3": Family("mobilenet_v3_small", 64, 0.06, epochs=100),
    "shufflenet": Family("shufflenet_g1", 64, 0.10),
    "shufflenet2": Family("shufflenet_v2_x0_5", 64, 0.10),
    "example_net": Family("example_net", 28, 0.15, epochs=200),
}
PLAIN = (  # nothing in the way of learning by heart; AdamW serves every family at nearly the same rate
    *("optimizer=adamw", "momentum=0.9", "weight_decay=0", "schedule=cosine", "warmup=0.05", "clip_norm=5", "ema=0"),
    *("resize=stretch", "pad=0", "flip=0", "color=0", "jitter=0", "rotate=0", "lighting=0", "policy=none"),
    *("cutout=0", "mixup=0", "cutmix=0", "label_smoothing=0", "batch=16"),
)


def main() -> None:
    check_families()
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--minutes", type=float, default=2, help="of each family")
    parser.add_argument("--epochs", type=int, help="of two steps each, instead of each family's own; with --overfit")
    parser.add_argument("--overfit", action="store_true", help=f"learn {IMAGES} images by heart instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = few_images(options.data, options.out / "images") if options.overfit else options.data
    form = "overfit" if options.overfit else f"{options.minutes:g}min"
    rows, missed = [], []
    for name in options.only:
        family = FAMILIES[name]
        run = options.out / f"{name}-{form}-seed{options.seed}"
        found = train(family.model, data, run, flags_of(family, options))
        floor = 1.0 if options.overfit else floor_of(family, found)
        reached = found is not None and found["metrics"]["top1"]["value"] >= floor
        if not reached:
            missed.append(name)
        rows.append(row(name, family, found, run, floor, reached))
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["family", "model", "size", "settings", "epochs", "minutes", "images/s", "top-1", "floor", ""]
    print(markdown(heads, rows))
    if missed:
        print(f"\nmissed by {', '.join(missed)}")
        raise SystemExit(1)


def check_families() -> None:
    """Raises SystemExit where the catalogue has a family of classifiers that `FAMILIES` has not, or the reverse."""
    known = {entry["module"].rsplit(".", 1)[-1] for entry in find_models("classify")}
    if known != set(FAMILIES):
        raise SystemExit(f"FAMILIES and the catalogue differ in {', '.join(sorted(known ^ set(FAMILIES)))}")


def few_images(data: Path, out: Path) -> Path:
    """Class folders with the same `IMAGES` training images, as many of each class, in train/ and val/."""
    dataset = read(data, "classify")
    records = records_of(dataset, "train", 0)
    by_class = [[r for r in records if r.label == label] for label in range(len(dataset.classes))]
    rounds = [own[i] for i in range(max(map(len, by_class))) for own in by_class if i < len(own)]
    shutil.rmtree(out, ignore_errors=True)
    for number, record in enumerate(rounds[:IMAGES]):
        source = dataset.root / record.id
        for split in ("train", "val"):
            target = out / split / dataset.classes[record.label or 0] / f"{number:02d}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return out


def flags_of(family: Family, options: Namespace) -> list[str]:
    """Of `saccade train`."""
    flags = [f"--size={family.size}", f"--seed={options.seed}"]
    if not options.overfit:
        return [*flags, f"--minutes={options.minutes:g}", *settings_flags([*family.settings, *options.set])]
    epochs = family.epochs if options.epochs is None else options.epochs
    settings = [*family.settings, *PLAIN, f"lr={family.lr:g}", *options.set]
    return [*flags, f"--epochs={epochs}", *settings_flags(settings)]


def floor_of(family: Family, found: dict[str, Any] | None) -> float:
    """The top-1 that the family must reach; NaN where its training diverged."""
    if found is None:
        return float("nan")
    images = [row["images"] for row in found["per_class"]]
    chance: float = max(images) / sum(images)
    return chance + family.above * (1 - chance)


def row(name: str, family: Family, found: dict[str, Any] | None, run: Path, floor: float, reached: bool) -> list[str]:
    """A line of the table."""
    score = "diverged"
    if found is not None:
        top1 = found["metrics"]["top1"]
        score = f"{top1['value']:.3f} ({top1['low']:.3f} to {top1['high']:.3f})"
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    log = epochs_of(run)
    rate = sum(line["images_per_second"] for line in log) / max(1, len(log))
    cells = [name, family.model, str(family.size), " ".join(family.settings), str(len(log))]
    cells += [f"{log[-1]['minutes'] if log else 0:.1f}", f"{rate:.0f} {config['precision']}", score, f"{floor:.3f}"]
    return [*cells, "reached" if reached else "**missed**"]


if __name__ == "__main__":
    main()
