"""`saccade transfer`: which use of existing weights is best on this data? Decided by experiment.

Read `transfer` top to bottom. Every method sees the training images of a split alone: what it has to choose (strength,
checkpoint, thresholds) it chooses on a part of them. The images held back only compare the methods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from saccade import checkpoint
from saccade.data.dataset import Record
from saccade.data.truth import read_truth
from saccade.data.types import Batch
from saccade.errors import UsageError, suggest
from saccade.experiments.splits import Division, divide, keep_probe, scored, training_plan
from saccade.experiments.trials import METHODS, TRAINED, Trial, keep_trial, known_trial, recommend, summarise
from saccade.inference.predictor import load
from saccade.inference.score import Pass, score
from saccade.machine.device import describe_hardware, pick_device
from saccade.machine.files import inside, results_folder, write_whole
from saccade.machine.paths import at_home
from saccade.machine.terminal import printable
from saccade.models import known_model, model_module
from saccade.models.configs import config_from_json
from saccade.models.dry_run import class_tensors
from saccade.models.own_file import confirmed, digest_of, is_own
from saccade.models.published import WORDS
from saccade.models.recipes import without_last_relu
from saccade.models.weights import weights_path
from saccade.reports.gallery import Gallery
from saccade.reports.transfer import write_transfer_report
from saccade.solvers.choice import Choice, check_enough, choose_probe, folds, refit
from saccade.solvers.features import Features, Frozen, as_predicted, cached_features, frozen_network, output_layer
from saccade.solvers.linear import KINDS
from saccade.solvers.probe import check_linear, targets_of
from saccade.tasks.table import TASKS
from saccade.training.depth import find_parts
from saccade.training.display import Display
from saccade.training.interrupt import Stopped, ends_with_advice
from saccade.training.lock import lock
from saccade.training.plan import Plan, fingerprint, make_plan
from saccade.verbs.train import fit

SHARES = (0.25, 0.5)  # of the training images, besides all of them: the learning curve
PARTS = 20  # in which training images are dealt out for these shares
LEAST = 8  # images of a share
INNER = 5  # tag: one in so many training images chooses thresholds and checkpoint of a run that trains


@dataclass(frozen=True, slots=True)
class Experiment:
    """What all methods share."""

    plan: Plan
    frozen: Frozen  # the network with the weights
    features: Features
    out: Path
    device: str | None
    console: Console

    def rows(self, records: Sequence[Record]) -> np.ndarray:
        """Where the features of these records stand."""
        place = {name: row for row, name in enumerate(self.features.ids)}
        return np.array([place[record.id] for record in records])

    def targets(self, records: Sequence[Record]) -> np.ndarray:
        return _targets(self.plan, records)


def transfer(
    data: str | Path,
    *,
    weights: str | Path,
    model: str | None = None,
    out: str | Path | None = None,
    task: str | None = None,
    methods: Sequence[str] = (),
    seeds: int = 3,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Compare linear classifiers on frozen features, fine-tuning and training from scratch; recommend one.

    Args:
        data: a folder whose format is recognised, or "format:path"; labels to classify or tag.
        weights: a run, checkpoint or public weights file, or a word of `models.published.WORDS`.
        model: a name of `saccade models`; a Saccade checkpoint says it itself.
        out: folder for runs, features, results and report; by default runs/transfer-DATA. Features and runs that are
            there already are used again where nothing that they depend on has changed.
        methods: some of `experiment.trials.METHODS`; all by default.
        seeds: splits (where the data set has none of its own, else repetitions).
        settings: fields of `config.Settings` or of the model's Config, for the runs that train.

    Returns:
        `{data, task, model, weights, metric, images, features, methods: [...], trials: [...], recommended: {method,
        run, why, metrics}, seconds, report}`.

    Raises:
        UsageError, DataError, ModelFileError, ResourceError, Stopped: with what to do.
    """
    begun = time.monotonic()
    data, weights, out = at_home(data), at_home(weights), at_home(out)
    wanted, model = _check_methods(methods, seeds), model and known_model(model)
    if str(weights) in WORDS:
        if model is None:
            raise UsageError(f"--weights {weights}: of which network? Give --model, a name of `saccade models`")
        weights = weights_path(model, weights, shown=progress)
    name, settings = _model_of(weights, model, settings)
    plan = _plan(name, data, task, weights, settings)
    network = frozen_network(plan.module, plan.config, weights)
    head = output_layer(plan.module, plan.config, network)
    frozen = Frozen(network, head, plan.preprocessing, digest_of(plan.module))
    folder = results_folder(Path(out) if out is not None else Path("runs") / f"transfer-{plan.dataset.root.name}")
    console = Console(stderr=True, quiet=not progress, soft_wrap=True)
    with _stoppable(folder):
        _report_refused(plan, folder, console)
        divisions = divide(plan, seeds)
        for division in divisions:
            check_enough(str(plan.dataset.root), plan.dataset.classes, _targets(plan, division.training), plan.task)
        place, workers = inside(folder, "features"), plan.settings.workers
        features = cached_features(place, frozen, plan.dataset, plan.task, pick_device(device), workers, progress)
        whence = "from the disk" if features.cached else f"computed in {features.seconds:.1f} s"
        console.print(f"features of {len(features.ids)} images {whence}", highlight=False, markup=False)
        experiment = Experiment(plan, frozen, features, folder, device, console)
        trials = [_shown(experiment, trial, begun) for trial in _trials(experiment, divisions, wanted)]
        return _conclude(experiment, divisions, trials, str(data), str(weights), begun)


@contextlib.contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """Context in which a signal, in a run too, ends the experiment with what to do."""
    advice = f"stopped; the same command goes on: features and runs that are finished stay in {folder}"
    try:
        with ends_with_advice(lambda: advice):
            yield
    except Stopped as stopped:
        raise Stopped(stopped.exit_code - 128, advice) from stopped


def _report_refused(plan: Plan, folder: Path, console: Console) -> None:
    """What of the data could not be used: the first of it here, all in data_report.json."""
    write_whole(folder / "data_report.json", json.dumps(plan.dataset.ledger.to_json(), indent=2))
    for line in plan.dataset.ledger.lines():
        console.print(printable(line), highlight=False, markup=False)


def _check_methods(methods: Sequence[str], seeds: int) -> list[str]:
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}: {suggest(method, METHODS)}")
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}, allowed: at least 1")
    wanted = [method for method in METHODS if not methods or method in methods]
    if all(method.endswith("_depths") for method in wanted):
        raise UsageError(f"{', '.join(wanted)} leave no model to use; add one of svm, logistic, {', '.join(TRAINED)}")
    return wanted


def _model_of(weights: str | Path, model: str | None, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name, and the settings with those of a Saccade checkpoint's network below them."""
    path = checkpoint.find(weights)
    header = checkpoint.read_tensors(path)[0] if path.suffix == ".safetensors" else {}
    if "saccade" not in header:
        if model is None:
            raise UsageError(f"{path} does not say of which network it is: give --model, a name of `saccade models`")
        return model, settings
    state = checkpoint.load(path)
    if is_own(state.model):
        state.model = confirmed(state.model, state.file_sha256, path)
    if model is not None and model != state.model and not (is_own(model) and is_own(state.model)):
        raise UsageError(f"{path} is a {state.model}, not a {model}; leave --model out")
    module = model_module(state.model)
    built, usual = config_from_json(module, state.model, state.config), module.VARIANTS[state.model]
    free = {f.name for f in dataclasses.fields(built)} - {"classes", "task", "objective"}
    changed = {key: getattr(built, key) for key in free if getattr(built, key) != getattr(usual, key)}
    names = ("size", "resize", "pad", "view") if state.preprocessing.get("size") else ()
    kept = {name: state.preprocessing[name] for name in names if name in state.preprocessing}
    return state.model, kept | changed | settings


def _plan(name: str, data: str | Path, task: str | None, weights: str | Path, settings: dict[str, Any]) -> Plan:
    """The plan of a run with these weights; networks with a ReLU behind the classes lose it."""
    linear = without_last_relu(model_module(name).VARIANTS[name])
    plan = make_plan(name, data, task=task, flags=linear | settings, weights=weights)
    if not TASKS[plan.task].whole_image or TASKS[plan.task].embedding:
        raise UsageError(f"transfer is for classify and tag, and {data} with {name} is to {plan.task}; add --task")
    return plan


def _trials(experiment: Experiment, divisions: Sequence[Division], wanted: Sequence[str]) -> Iterator[Trial]:
    """The linear methods on every split first, so that there is a usable model soon; then the runs that train."""
    fine_tuned = set(wanted) & set(TRAINED)
    strengths: dict[int, float] = {}
    for division in divisions:
        for method in wanted:
            if method not in TRAINED:
                yield from _linear_trials(experiment, division, method)
        if fine_tuned:
            strengths[division.seed] = _choose(experiment, division.training, "logistic", division.seed).probe.strength
    for method in (m for m in wanted if m in TRAINED):
        for division in divisions:
            shares = (*SHARES, 1.0) if division.seed == 0 else (1.0,)
            for share in reversed(shares):
                training = _share_of(experiment, division, share)
                if training:
                    yield _training_trial(experiment, division, method, training, share, strengths[division.seed])


def _choose(experiment: Experiment, training: Sequence[Record], method: str, seed: int) -> Choice:
    kind, plain, mirrored = _matrix(experiment, method)
    rows = experiment.rows(training)
    return choose_probe(kind, plain[rows], mirrored[rows], experiment.targets(training), experiment.plan.task, seed)


def _matrix(experiment: Experiment, method: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind of classifier, features, and those of the mirror images."""
    features = experiment.features
    kind = next(kind for kind in KINDS if method.startswith(kind))
    if method.endswith("_depths"):
        return kind, features.depths, features.depths_mirrored
    return kind, features.top, features.top_mirrored


def _linear_trials(experiment: Experiment, division: Division, method: str) -> Iterator[Trial]:
    """A linear classifier on one split: with all training images, then with shares of them at the same strength."""
    plan = experiment.plan
    kind, plain, mirrored = _matrix(experiment, method)
    if not plain.shape[1]:
        return  # the network gives no feature maps
    start = time.monotonic()
    choice = _choose(experiment, division.training, method, division.seed)
    once = experiment.features.seconds
    chosen = f"C = {choice.probe.strength:g}"
    held = experiment.rows(division.held)
    metrics = scored(plan.dataset, division.held, plan.task, choice.probe.scores(plain[held]), choice.thresholds)
    run: str | None = None
    if division.seed == 0 and not method.endswith("_depths"):
        path = inside(experiment.out, "runs", method, "best.safetensors")
        model = keep_probe(plan, experiment.frozen, choice.probe, choice.thresholds, metrics, path)
        check_linear(model, choice.probe, experiment.features, _some_images(plan))
        values = {name: {"value": value, "low": None, "high": None} for name, value in metrics.items()}
        about = {"run": str(path.parent), "checkpoint": str(path), "split": "held back", "metrics": values}
        write_whole(path.parent / "metrics.json", json.dumps(about, indent=2, allow_nan=False))
        run = str(path.parent)
    images, seconds = len(division.training), round(once + time.monotonic() - start, 3)
    yield Trial(method, division.seed, images, 1.0, _score(plan, metrics), metrics, seconds, chosen, run)
    for share in SHARES:
        training = _share_of(experiment, division, share)
        if not training:
            continue
        start = time.monotonic()
        rows, targets = experiment.rows(training), experiment.targets(training)
        strength = choice.probe.strength
        probe = refit(kind, plain[rows], mirrored[rows], targets, plan.task, strength, division.seed)
        metrics = scored(plan.dataset, division.held, plan.task, probe.scores(plain[held]), choice.thresholds)
        images, seconds = len(training), round(once * share + time.monotonic() - start, 3)
        yield Trial(method, division.seed, images, share, _score(plan, metrics), metrics, seconds, chosen)


def _targets(plan: Plan, records: Sequence[Record]) -> np.ndarray:
    """What holds of these images, [images, classes] bool. Raises DataError."""
    truths = [read_truth(record, plan.dataset, plan.task) for record in records]
    return targets_of(truths, len(plan.dataset.classes), plan.task)


def _some_images(plan: Plan) -> Batch:
    records = sorted(plan.dataset.records, key=lambda record: record.id)[:4]
    return next(iter(as_predicted(plan.dataset, records, plan.task, plan.preprocessing, workers=0).epoch(0)))


def _share_of(experiment: Experiment, division: Division, share: float) -> list[Record]:
    """That share of the training images, every class in it; none where a class would be missing or little is left."""
    if share == 1:
        return division.training
    targets = experiment.targets(division.training)
    kept = folds(targets, PARTS, division.seed) < share * PARTS
    enough = 2 if TASKS[experiment.plan.task].label else 1
    if kept.sum() < LEAST or (targets[kept].sum(0) < np.minimum(enough, targets.sum(0))).any():
        return []
    return [record for record, inside in zip(division.training, kept, strict=True) if inside]


def _training_trial(
    experiment: Experiment, division: Division, method: str, training: list[Record], share: float, strength: float
) -> Trial:
    """A run of the training loop. To classify it takes all training images and keeps the last weights, so that nothing
    is chosen; to tag, a part of them is left out for the thresholds and the checkpoint."""
    plan, seed = experiment.plan, division.seed
    inner = (folds(experiment.targets(training), INNER, seed) == 0) & TASKS[plan.task].tags
    fitting = [record for record, chooses in zip(training, inner, strict=True) if not chooses]
    choosing = [record for record, chooses in zip(training, inner, strict=True) if chooses]
    name = method if share == 1 and seed == 0 else f"{method}-seed{seed}-share{share:g}"
    start = experiment.out / "starts" / f"{name}.safetensors"
    if method != "scratch":
        rows, top = experiment.rows(fitting), experiment.features
        targets = experiment.targets(fitting)
        probe = refit("logistic", top.top[rows], top.top_mirrored[rows], targets, plan.task, strength, seed)
        keep_probe(plan, experiment.frozen, probe, (), {}, start)
    parts = find_parts(experiment.frozen.model, class_tensors(plan.module, plan.config))
    own = training_plan(plan, method, seed, fitting, choosing, start, len(parts))
    key = _key(own, division.held, start if method != "scratch" else None)
    kept = inside(experiment.out, "trials", f"{name}.json")
    run = inside(experiment.out, "runs", name)
    ready = str(run) if share == 1 and seed == 0 else None
    known = known_trial(kept, key)
    if known is not None and (ready is None or (run / "last.safetensors").is_file()):
        return dataclasses.replace(known, run=ready)
    experiment.console.print(f"{METHODS[method]}, seed {seed}, {len(training)} images", highlight=False, markup=False)
    begun = time.monotonic()
    with lock(run):
        fit(own, run, experiment.device, Display(not experiment.console.quiet))
    seconds = round(time.monotonic() - begun, 3)
    found = score(load(run, experiment.device), plan.dataset, division.held, Pass(workers=plan.settings.workers))
    metrics = {metric: value.value for metric, value in found.metrics.items()}
    chosen = "thresholds and checkpoint" if choosing else "nothing"
    trial = Trial(method, seed, len(training), share, _score(plan, metrics), metrics, seconds, chosen, ready)
    if ready is None:
        shutil.rmtree(run)
    keep_trial(kept, key, trial)
    return trial


def _key(plan: Plan, held: Sequence[Record], start: Path | None) -> str:
    """SHA-256 of what a run and its score follow from."""
    content = None if start is None else checkpoint.digest(checkpoint.load(start).weights)
    parts = [[dataclasses.replace(r, split=None) for r in part] for part in (plan.training, plan.validation, held)]
    settled = {name: value for name, value in plan.to_json().items() if name not in ("fingerprint", "weights")}
    causes = [settled, content, [fingerprint(part) for part in parts]]
    return hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()


def _score(plan: Plan, metrics: dict[str, float | None]) -> float:
    """The metric that ranks the task; 0 where it is not defined."""
    return metrics[TASKS[plan.task].metric] or 0.0


def _shown(experiment: Experiment, trial: Trial, begun: float) -> Trial:
    """A trial, which is told as soon as it is there if it had all training images."""
    if trial.share < 1:
        return trial
    metric = TASKS[experiment.plan.task].metric
    ready = "" if trial.run is None else f"; ready after {time.monotonic() - begun:.0f} s: {trial.run}"
    text = f"seed {trial.seed}  {METHODS[trial.method]}: {metric} {trial.value:.4f} held back{ready}"
    experiment.console.print(printable(text), highlight=False, markup=False)
    return trial


def _conclude(
    experiment: Experiment,
    divisions: Sequence[Division],
    trials: Sequence[Trial],
    data: str,
    weights: str,
    begun: float,
) -> dict[str, Any]:
    """Summarise, recommend, show the recommended model on the images that the first split held back."""
    plan, metric = experiment.plan, TASKS[experiment.plan.task].metric
    ratio = float(np.mean([division.ratio for division in divisions]))
    summaries = summarise(trials, ratio)
    best, why = recommend(summaries, metric, ratio)
    predictor = load(str(best.run), experiment.device)
    gallery = Gallery(plan.task, plan.dataset, divisions[0].held, predictor.thresholds)
    how = Pass(workers=plan.settings.workers)
    found = score(predictor, plan.dataset, divisions[0].held, how, [gallery], bootstrap=1000).to_json()
    result: dict[str, Any] = {
        "data": data,
        "task": plan.task,
        "model": plan.model,
        "weights": weights,
        "metric": metric,
        "images": {"train": len(divisions[0].training), "held_back": len(divisions[0].held)},
        "features": {"seconds": round(experiment.features.seconds, 3), "cached": experiment.features.cached},
        "methods": [summary.to_json() for summary in summaries],
        "recommended": {"method": best.method, "run": best.run, "why": why, "metrics": found["metrics"]},
        "trials": [dataclasses.asdict(trial) for trial in trials],
        "seconds": round(time.monotonic() - begun, 1),
        "report": str(experiment.out / "report.html"),
    }
    write_whole(experiment.out / "transfer.json", json.dumps(result, indent=2, allow_nan=False))
    write_transfer_report(experiment.out, plan, result, gallery, describe_hardware(predictor.device))
    return result
