"""R-CNN: counts, what it reads of a batch, its three stages on generated images, and a run killed in each of them."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from models.region_scenes import CLASSES, dataset, fine_tune, overlaps_found, region_scenes, solve
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.models.backbones import create_extractor
from saccade.models.detectors import rcnn
from saccade.models.detectors.rcnn import PAIRS, VARIANTS, Model, Pairs, example_inputs, stages
from saccade.models.standing import standing_of

TINY = dataclasses.replace(
    VARIANTS["rcnn_small"], classes=3, trunk_width=8, trunk_depths=(1, 1, 1), hidden=32, side=16, context=1, sample=64
)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_counts_of_the_fine_tuned_networks() -> None:
    with torch.device("meta"):
        assert count(Model(VARIANTS["rcnn_alexnet"])) == 56_954_261
        assert count(Model(VARIANTS["rcnn_vgg16"])) == 134_346_581


def test_weights_of_the_classifier_are_those_of_the_trunk() -> None:
    with torch.device("meta"):
        classifier, model = saccade.create("caffenet").state_dict(), Model(VARIANTS["rcnn_alexnet"])
    own, base = model.state_dict(), standing_of(model)
    assert base is not None
    placed = base.tensors(rcnn, classifier)
    fitting = [key for key, value in placed.items() if key in own and own[key].shape == value.shape]
    assert len(fitting) == len(classifier) - 2  # all but the output layer


def test_the_parts_of_the_extractor_are_the_classifier() -> None:
    torch.manual_seed(0)
    extractor = create_extractor("vgg11", width=4).eval()
    torch.manual_seed(0)
    whole = saccade.create("vgg11", width=4).eval()
    images = torch.rand(2, 3, 224, 224)
    pooled, hidden = extractor(images)
    assert (pooled.shape, hidden.shape) == ((2, 32 * 49), (2, 4096))
    torch.testing.assert_close(whole.classifier[-1](hidden), whole(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, list[str]]:
    """Four images learned by all three stages, and what these showed."""
    torch.manual_seed(0)
    batch, model = region_scenes(), Model(TINY)
    fine_tune(model, batch, 25, 1e-2)
    fitted, svms, boxes = stages("rcnn_small", "default")
    assert (fitted.name, fitted.measured) == ("finetune", False)  # type: ignore[union-attr]
    folder = tmp_path_factory.mktemp("solve")
    messages = solve(model, svms, batch, folder)
    before, _ = overlaps_found(model, batch)
    messages += solve(model, boxes, batch, folder)
    after, answers = overlaps_found(model, batch)
    assert before.min() > 0.5
    assert after.min() > 0.5
    assert answers <= 4
    return model, messages


def test_a_network_that_ends_in_a_mean_gives_its_last_map() -> None:
    """Where an object lies in a region is lost in a mean; with `hidden` two layers and the regressions see the map."""
    model = Model(TINY).eval()
    crops = torch.rand(2, 3, TINY.side, TINY.side)
    pooled, hidden = model.extractor(crops)
    last = model.extractor.trunk.features(crops)[-1]
    assert (pooled.shape, hidden.shape) == ((2, 32 * 4 * 4), (2, 32))
    torch.testing.assert_close(pooled, last.flatten(1))
    torch.testing.assert_close(hidden, model.extractor.tail(pooled))
    mean = Model(dataclasses.replace(TINY, hidden=None)).eval().extractor(crops)[0]
    assert mean.shape == (2, 32)
    own = Model(dataclasses.replace(TINY, trunk="vgg11", trunk_width=4, trunk_depths=(1, 1, 1, 1, 1), side=32))
    assert (own.extractor.pooled, own.extractor.hidden) == (32 * 49, 4096)


def test_learns_four_images(trained: tuple[Model, list[str]]) -> None:
    assert trained[1][0].startswith("3 SVMs on 32 features of 8 objects and ")
    assert trained[1][1].startswith("3 box regressions on 512 features of ")


def test_a_class_without_objects_is_named_and_never_found(trained: tuple[Model, list[str]], tmp_path: Path) -> None:
    model = Model(dataclasses.replace(TINY, classes=4))
    own = {key: value for key, value in trained[0].state_dict().items() if "head." not in key}
    model.load_state_dict(model.state_dict() | own)
    batch = region_scenes()
    for stage in stages("rcnn_small", "default")[1:]:
        messages = solve(model.eval(), stage, batch, tmp_path, [*CLASSES, "gray"])
        assert messages[0].startswith("warning: 1 of 4 classes have no ")
        assert messages[0].endswith(": gray")
    scores, offsets = model(batch.images, torch.stack([each.boxes for each in batch.given or ()]))
    assert scores[..., 3].max() < 1e-6
    assert scores[..., :3].max() > 0.5
    assert torch.equal(offsets[:, :, 3], torch.zeros_like(offsets[:, :, 3]))


def test_images_without_objects_proposals_or_both(trained: tuple[Model, list[str]], tmp_path: Path) -> None:
    model, batch = Model(TINY), region_scenes()
    nothing, none = Annotation((96, 96), objects=Objects.empty()), Objects.empty()
    crowd = Objects(torch.tensor([[0.0, 0, 96, 96]]), torch.tensor([1]), crowd=torch.tensor([True]))
    assert batch.truth is not None
    assert batch.given is not None
    batch.truth, batch.given = (
        [batch.truth[0], nothing, nothing, Annotation((96, 96), objects=crowd)],
        [
            none,
            batch.given[1],
            none,
            batch.given[3],
        ],
    )
    loss = model.loss(batch)["class"]
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for stage in stages("rcnn_small", "default")[1:]:
        solve(model.eval(), stage, batch, tmp_path)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert [len(found.objects or ()) for found in model.predict(batch)][::2] == [0, 0]
    batch.given = None
    with pytest.raises(DataError, match="no proposals"):
        model.predict(batch)


def test_regions_by_ones_or_by_many_and_padding_change_nothing(trained: tuple[Model, list[str]]) -> None:
    model, batch = trained[0], region_scenes(2)
    found = [each.objects for each in model.predict(batch)]
    model.config = dataclasses.replace(model.config, regions=5)
    wide = torch.full((2, 3, 100, 130), 0.7)
    wide[:, :, :96, :96] = batch.images
    batch.images = wide
    for one, other in zip(found, model.predict(batch), strict=True):
        assert one is not None
        assert other.objects is not None
        assert torch.equal(one.labels, other.objects.labels)
        torch.testing.assert_close(one.boxes, other.objects.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(one.scores, other.objects.scores, atol=1e-4, rtol=0)
    model.config = TINY


def test_export() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, regions=6)).eval()
    images, boxes = example_inputs(model.config, 64, 96, 2)
    assert boxes.shape == (2, 6, 4)
    program = torch.export.export(model, (images, boxes))
    other = torch.rand_like(images)
    torch.testing.assert_close(program.module()(other, boxes), model(other, boxes))


def test_pairs_are_drawn_from_all_that_come() -> None:
    rng, pairs = np.random.default_rng(0), Pairs()
    for start in range(0, 3 * PAIRS, PAIRS // 2):
        rows = np.arange(start, start + PAIRS // 2, dtype=np.float32)
        pairs.add(rows[:, None], np.repeat(rows[:, None], 4, 1), rng)
    assert len(pairs.features) == PAIRS
    assert np.array_equal(pairs.features[:, 0], pairs.targets[:, 3])
    thirds = np.histogram(pairs.features, 3, (0, 3 * PAIRS))[0] / PAIRS
    assert np.abs(thirds - 1 / 3).max() < 0.02


FLAGS = {"epochs": 3, "size": 64, "batch": 3, "workers": 0, "precision": "fp32", "trunk_width": 4, "sample": 16}
FLAGS |= {"trunk_depths": (1, 1, 1), "hidden": 16, "side": 16, "context": 1, "most_proposals": 40}


def test_train_goes_through_its_stages_and_the_run_proposes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    data, run = dataset(tmp_path / "data", 3, 1), tmp_path / "run"
    result = saccade.train("rcnn_small", data, out=run, **FLAGS)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("stage", "proposals"))]
    assert shown[0].startswith("proposals by selective search: ")
    assert shown[1:] == ["stage 1 of 3: finetune", "stage 2 of 3: svm", "stage 3 of 3: boxes"]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4
    assert result["metrics"]["ap50"]["value"] is not None
    assert (run / "report.html").is_file()
    rows = [json.loads(line) for line in (run / "stages" / "1-finetune" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert not any("metrics" in row for row in rows)  # it is not measured
    predictor = saccade.load(run)
    path = data / "val" / "0.png"
    found = predictor.answer(path).objects
    pixels = np.array(Image.open(path).convert("RGB"))
    again = predictor.answer(pixels).objects
    assert found is not None
    assert again is not None
    assert torch.equal(found.boxes, again.boxes)
    alone = predictor.answer(pixels, Objects(torch.tensor([[5.0, 5, 30, 30]]), torch.zeros(1, dtype=torch.int64)))
    assert len(alone.objects or ()) <= 2  # one box, two classes


KILLING = """
import os, signal, sys
import saccade
from saccade.models.detectors import rcnn
from saccade.verbs import train
stage = sys.argv[1]
def kill(given): os.kill(os.getpid(), signal.SIGKILL)
if stage == "finetune":
    before = train._end_of_epoch
    def after(parts, counters):
        before(parts, counters)
        if counters.epoch == 2:
            train._save(parts, counters)
            os.kill(os.getpid(), signal.SIGKILL)
    train._end_of_epoch = after
else:
    setattr(rcnn, {"svm": "solve_svms", "boxes": "solve_boxes"}[stage], kill)
flags = dict(epochs=3, size=64, batch=3, workers=0, precision="fp32", trunk_width=4, trunk_depths=(1, 1, 1), hidden=16,
             side=16, context=1, sample=16, most_proposals=40)
resume = sys.argv[4] == "resume"
saccade.train("rcnn_small", sys.argv[2], out=sys.argv[3], progress=False, resume=resume, **({} if resume else flags))
"""


@pytest.mark.slow
def test_a_run_killed_in_any_stage_goes_on_to_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path / "data")
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    whole = saccade.train("rcnn_small", data, out=tmp_path / "whole", progress=False, **FLAGS)
    run = tmp_path / "run"
    for i, stage in enumerate(("finetune", "svm", "boxes")):
        words = [stage, str(data), str(run), "resume" if i else "begin"]
        ended = subprocess.run([sys.executable, "-c", KILLING, *words], capture_output=True, timeout=300)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (run / "best.safetensors").exists()
    assert sorted(path.parent.name for path in run.glob("stages/*/adopted.safetensors")) == ["1-finetune", "2-svm"]
    again = saccade.train("rcnn_small", data, out=run, progress=False, resume=True)
    assert again["metrics"] == whole["metrics"]
    one, other = (saccade.checkpoint.load(Path(each["checkpoint"])).weights for each in (whole, again))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert float(one["head.solved"]) == 1
