"""Localization by regression or by detection? The same minutes, the same images, the same numbers.

    python benchmarks/localize.py DATA/raccoon --out OUT [--minutes 6] [--models NAME ...] [--seeds 0 1 2]

The question is ImageNet's: one class and one box an image; the truth is the image's largest object. A localizer
(`--models localizer_*`) is trained for exactly this. A detector is trained on all objects, and its box with the highest
score is its answer; where it gives none, the answer is wrong. Each trains from scratch by its own default recipe (and
so at its own input size) for the same minutes, and is judged by its best checkpoint on the validation images: a
localizer's is the best by localization, a detector's by AP.

- mean IoU of the answer's box with the largest object;
- accuracy: share of the images with an IoU of at least 0.5;
- localization error: share of the images where class or box (IoU below 0.5) is wrong.

The line "whole image" answers with the image's edges and the class most frequent in training: what there is to beat.
Intervals are 95 % bootstrap over images; of several seeds the table shows mean, least and greatest. Finished runs in
OUT are kept. Time: the minutes of each model and seed.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from runs import make_parser, markdown, settings_flags, train

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Objects
from saccade.inference.predictor import load
from saccade.inference.score import align_classes, predictions, records_of
from saccade.metrics import Result
from saccade.tasks.contract import task_of

METRICS = {"mean IoU": "mean_iou", "accuracy at 0.5": "box_accuracy", "localization error": "localization_top1"}
MODELS = ("localizer_small", "localizer_resnet18", "atss_small")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="localizers and detectors")
    parser.add_argument("--minutes", type=float, default=6, help="of each model and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", default="val", help="val, or test where the data set has one")
    options = parser.parse_args()
    rows = [["whole image", "", "", *cells([judge_whole_images(options)])]]
    for model in options.models:
        results = []
        for seed in options.seeds:
            run = options.out / f"{model}-{options.minutes:g}min-seed{seed}"
            flags = [f"--minutes={options.minutes:g}", f"--seed={seed}", *settings_flags(options.set)]
            if train(model, options.data, run, flags) is None:
                raise SystemExit(f"{run}: the training diverged; delete the folder to try again with other settings")
            results.append(judge_run(run, options))
            print(run.name, *cells(results[-1:]), file=sys.stderr, flush=True)
        rows.append([model, f"{options.minutes:g}", " ".join(map(str, options.seeds)), *cells(results)])
    print(markdown(["answers by", "minutes", "seeds", *METRICS], rows))


def judge_run(run: Path, options: Namespace) -> Result:
    """The best checkpoint of a localizer or detector."""
    predictor = load(run)
    dataset, records = localization(options)
    align_classes(dataset, predictor.classes)
    found = predictions(predictor, dataset, records)
    if predictor.task == "localize":
        return judge(dataset, found)
    return judge(dataset, ((record, best_box(answer)) for record, answer in found))


def judge_whole_images(options: Namespace) -> Result:
    dataset, records = localization(options)
    labels = Counter(thing.label for record in dataset.of("train") for thing in record.things or [])
    label = labels.most_common(1)[0][0]
    answers = []
    for record in records:
        height, width = record.size
        answers.append((record, one_box(record.size, torch.tensor([0.0, 0.0, width, height]), label)))
    return judge(dataset, answers)


def localization(options: Namespace) -> tuple[DataSet, list[Record]]:
    """The data with the largest object of each image, and the records to judge."""
    dataset = read(options.data, "localize")
    return dataset, records_of(dataset, options.split, 0)


def judge(dataset: DataSet, answers: Iterable[tuple[Record, Annotation]]) -> Result:
    metric = task_of("localize").make_metric(dataset.classes)
    for record, answer in answers:
        metric.add(record.id, read_truth(record, dataset, "localize"), answer)
    return metric.result()


def best_box(answer: Annotation) -> Annotation:
    """A detector's answer to the question of one object: its box with the highest score; without boxes an empty one."""
    found = answer.objects
    if found is None or found.scores is None or not len(found):
        return one_box(answer.size, torch.zeros(4), 0)
    best = int(found.scores.argmax())
    return one_box(answer.size, found.boxes[best], int(found.labels[best]))


def one_box(size: tuple[int, int], box: torch.Tensor, label: int) -> Annotation:
    return Annotation(size, label=label, objects=Objects(box[None], torch.tensor([label])))


def cells(results: list[Result]) -> list[str]:
    """The numbers of one run with their intervals; of several their mean, least and greatest."""
    texts = []
    for name in METRICS.values():
        found = [result.metrics[name] for result in results]
        numbers = [v for value in found[:1] for v in (value.value, value.low, value.high) if v is not None]
        if len(found) > 1:
            values = [value.value for value in found if value.value is not None]
            numbers = [statistics.fmean(values), min(values), max(values)]
        if name == "localization_top1":  # the share that is right
            numbers = [1 - v for v in numbers]
        texts.append(f"{numbers[0]:.3f} ({min(numbers):.3f} to {max(numbers):.3f})")
    return texts


if __name__ == "__main__":
    main()
