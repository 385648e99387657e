"""`saccade transfer` end to end on small data: what it leaves is ready to use, what it was given is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade import checkpoint
from saccade.errors import DataError, UsageError
from saccade.models import create
from saccade.models.published import PUBLISHED, Published
from saccade.solvers.features import Frozen, cached_features, feature_key, frozen_network, output_layer
from saccade.training.plan import Plan, make_plan

Shell = Callable[..., tuple[int, str, str]]
FAST = ["--workers", "0", "--set", "epochs=1", "--set", "batch=8", "--set", "precision=fp32"]


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 px images with the tags "red" and "blue", one, both or none of them; a CSV without splits."""
    root = tmp_path_factory.mktemp("tagged")
    (root / "images").mkdir()
    rng = np.random.default_rng(1)
    lines = ["Filenames,red,blue"]
    for i in range(40):
        red, blue = i % 2, i // 2 % 2
        pixels = rng.integers(0, 160, (32, 32, 3), np.uint8)
        pixels[..., 0] += np.uint8(80 * red)
        pixels[..., 2] += np.uint8(80 * blue)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        lines.append(f"{i}.png,{red},{blue}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def _plan(run: Path, data: Path) -> Plan:
    small: dict[str, Any] = {"width": 4, "depths": (1, 1, 1), "workers": 0}
    return make_plan("resnet20", data, flags=small, weights=run)


def test_all_methods_from_weights_to_a_model_that_answers(
    colours: Path, run: Path, tmp_path: Path, shell: Shell, drawn_figures: None
) -> None:
    out = tmp_path / "out"
    arguments = ("transfer", colours, "--weights", run, "--out", out, "--seeds", 1, *FAST, "--json")
    code, printed, err = shell(*arguments)
    assert code == 0, err
    result = json.loads(printed)
    assert {row["method"] for row in result["methods"]} == {
        "svm",
        "logistic",
        "svm_depths",
        "logistic_depths",
        "last_block",
        "layers",
        "scratch",
    }
    best = result["recommended"]
    assert best["metrics"]["top1"]["value"] == 1.0
    assert result["images"] == {"train": 40, "held_back": 10}
    assert all(len(row["curve"]) == 3 for row in result["methods"])
    assert "first 3 of 5 parts" in err
    assert saccade.load(best["run"]).predict(colours / "val" / "red" / "0.png").label == 1
    assert saccade.evaluate(out / "runs" / "svm", colours, bootstrap=0)["metrics"]["top1"]["value"] == 1.0
    page = (out / "report.html").read_text()
    assert "Recommended: " in page
    with Image.open(out / "plots" / "learning_curves.png") as curves:
        assert curves.width > 100
    code, printed, err = shell(*arguments)
    again = json.loads(printed)
    assert again["features"]["cached"]
    assert "epoch 1" not in err  # nothing is trained again
    assert [r["mean"] for r in again["methods"]] == [r["mean"] for r in result["methods"]]


def test_images_that_cannot_be_read_are_told(colours: Path, run: Path, tmp_path: Path, shell: Shell) -> None:
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "train" / "red" / "0.png").write_bytes(b"\x89PNG not really")
    words = ["--methods", "logistic", "--seeds", 1, "--out", tmp_path / "out", *FAST, "--json"]
    code, printed, err = shell("transfer", tmp_path / "set", "--weights", run, *words)
    assert code == 0, err
    assert json.loads(printed)["images"]["train"] == 39
    assert "refused: 1 images" in err
    assert "train/red/0.png" in err
    refused = json.loads((tmp_path / "out" / "data_report.json").read_text())["refused"]
    assert [entry["where"] for entry in refused] == ["train/red/0.png"]


def test_splits_are_drawn_anew_for_tags(tagged: Path, run: Path, tmp_path: Path) -> None:
    methods = ("svm", "logistic")
    result = saccade.transfer(
        tagged, weights=run, out=tmp_path / "out", methods=methods, seeds=3, progress=False, workers=0
    )
    assert result["task"] == "tag"
    for row in result["methods"]:
        assert row["seeds"] == 3
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["mean"] > 0.7
    state = checkpoint.load(tmp_path / "out" / "runs" / "svm" / "best.safetensors")
    assert len(state.thresholds) == 2
    assert state.task == "tag"


def test_runs_that_tag_tune_thresholds_and_only_the_first_split_keeps_its_run(
    tagged: Path, run: Path, tmp_path: Path, shell: Shell
) -> None:
    out = tmp_path / "out"
    code, printed, err = shell(
        "transfer", tagged, "--weights", run, "--out", out, "--seeds", 2, "--methods", "logistic,layers", *FAST
    )
    assert code == 0, err
    assert "the difference may be chance" in printed or "more than chance" in printed
    assert {path.name for path in (out / "runs").iterdir()} == {"logistic", "layers"}
    state = checkpoint.load(out / "runs" / "layers" / "best.safetensors")
    assert len(state.thresholds) == 2
    config = json.loads((out / "runs" / "layers" / "config.json").read_text())
    assert config["settings"]["layer_decay"] == 0.7
    assert config["images"]["val"] < config["images"]["train"] < 32
    result = json.loads((out / "transfer.json").read_text())
    assert [row["seeds"] for row in result["methods"]] == [2, 2]
    again = saccade.transfer(
        tagged, weights=run, out=out, methods=["layers"], progress=False, workers=0, epochs=1, batch=8, precision="fp32"
    )
    kept = {(t["seed"], t["share"]): t["value"] for t in result["trials"] if t["method"] == "layers"}
    assert kept.items() <= {(t["seed"], t["share"]): t["value"] for t in again["trials"]}.items()
    assert again["methods"][0]["seeds"] == 3


def test_the_checkpoint_answers_as_scikit_learn_does(colours: Path, run: Path, tmp_path: Path) -> None:
    """The fitted classifier is recovered from the cached features and the checkpoint alone."""
    out = tmp_path / "out"
    saccade.transfer(colours, weights=run, out=out, methods=["logistic"], seeds=1, progress=False, workers=0)
    plan = _plan(run, colours)
    network = frozen_network(plan.module, plan.config, run)
    frozen = Frozen(network, "fc", plan.preprocessing)
    features = cached_features(out / "features", frozen, plan.dataset, plan.task, torch.device("cpu"), 0)
    assert features.cached
    state = checkpoint.load(out / "runs" / "logistic" / "best.safetensors")
    weight, bias = state.weights["fc.weight"].double().numpy(), state.weights["fc.bias"].double().numpy()
    predictor = saccade.load(out / "runs" / "logistic", precision="fp32")
    for name in ("val/red/0.png", "val/blue/3.png", "train/red/7.png"):
        row = features.top[features.ids.index(name)] @ weight.T + bias
        wanted = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        scores = predictor.predict(colours / name).probabilities
        assert scores is not None
        np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-4)


def test_features_are_those_before_the_last_layer(colours: Path, run: Path, tmp_path: Path) -> None:
    plan = _plan(run, colours)
    network = frozen_network(plan.module, plan.config, run)
    assert output_layer(plan.module, plan.config, network) == "fc"
    frozen = Frozen(network, "fc", plan.preprocessing)
    features = cached_features(tmp_path, frozen, plan.dataset, plan.task, torch.device("cpu"), 0)
    assert not features.cached
    assert (features.top.shape, features.depths.shape) == ((50, 16), (50, 28))
    pixels = np.asarray(Image.open(colours / "val" / "red" / "0.png"))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    row = features.ids.index("val/red/0.png")
    with torch.no_grad():
        for view, top, depths in (
            (images, features.top, features.depths),
            (images.flip(3), features.top_mirrored, features.depths_mirrored),
        ):
            maps = network.features(view)  # type: ignore[operator]
            np.testing.assert_allclose(top[row], maps[-1].mean((2, 3))[0].numpy(), atol=1e-4)
            wanted = torch.cat([level.mean((2, 3)) for level in maps], 1)[0]
            np.testing.assert_allclose(depths[row], wanted.numpy(), atol=1e-4)


def test_the_key_changes_with_all_that_features_depend_on(colours: Path, run: Path) -> None:
    plan = _plan(run, colours)
    network = frozen_network(plan.module, plan.config, run)
    records = sorted(plan.dataset.records, key=lambda r: r.id)
    root, frozen = plan.dataset.root, Frozen(network, "fc", plan.preprocessing)
    smaller = Frozen(network, "fc", dataclasses.replace(plan.preprocessing, size=(48, 48)))
    key = feature_key(frozen, root, records)
    assert key == feature_key(frozen, root, records[::-1])
    assert key != feature_key(frozen, root, records[1:])
    assert key != feature_key(smaller, root, records)
    with torch.no_grad():
        network.get_parameter("fc.weight").add_(1)
    assert key == feature_key(frozen, root, records)  # features do not see the output layer
    file = root / records[0].id
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert key != feature_key(frozen, root, records)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert key == feature_key(frozen, root, records)
    with torch.no_grad():
        network.get_parameter("conv1.weight").mul_(1.5)
    assert key != feature_key(frozen, root, records)


def test_a_damaged_cache_is_made_again(colours: Path, run: Path, tmp_path: Path) -> None:
    plan = _plan(run, colours)
    network = frozen_network(plan.module, plan.config, run)
    images = (Frozen(network, "fc", plan.preprocessing), plan.dataset, plan.task, torch.device("cpu"), 0)
    first = cached_features(tmp_path, *images)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    second = cached_features(tmp_path, *images)
    assert not second.cached
    np.testing.assert_array_equal(first.top, second.top)
    assert cached_features(tmp_path, *images).cached


def test_the_view_of_the_weights_owner_comes_along(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the word for published weights, and by a checkpoint that `saccade weights` made of them."""
    small: dict[str, Any] = {"width": 4, "depths": (1, 1, 1)}
    cached = tmp_path / "weights" / "r-12345678.th"
    cached.parent.mkdir()
    torch.save(create("resnet20", **small).state_dict(), cached)
    sha256 = hashlib.sha256(cached.read_bytes()).hexdigest()
    entry = Published(f"https://example.org/{cached.name}", sha256, "someone", "BSD-2-Clause", config=small, view=1.5)
    monkeypatch.setitem(PUBLISHED, "resnet20", {"cifar10": entry})
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    saccade.weights("resnet20", "cifar10", out=tmp_path / "a.safetensors")
    for weights, model in (("cifar10", "resnet20"), (tmp_path / "a.safetensors", None)):
        common: dict[str, Any] = {"methods": ["logistic"], "seeds": 1, "workers": 0, "progress": False}
        done = saccade.transfer(colours, weights=weights, model=model, out=tmp_path / f"out-{model}", **common)
        assert checkpoint.load(checkpoint.find(done["recommended"]["run"])).preprocessing["view"] == 1.5


def _folders(root: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / "train" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(root / "train" / name / f"{i}.png")
    return root


@pytest.mark.parametrize("counts", [{"a": 12, "b": 2}, {"a": 12}])
def test_too_few_images_or_one_class(counts: dict[str, int], run: Path, tmp_path: Path) -> None:
    data = _folders(tmp_path / "data", counts)
    with pytest.raises((DataError, UsageError), match="class"):
        saccade.transfer(data, weights=run, out=tmp_path / "out", seeds=1, progress=False, workers=0)


def test_weights_must_be_of_the_network(colours: Path, run: Path, tmp_path: Path) -> None:
    tensors = {k: v for k, v in checkpoint.load(checkpoint.find(run)).weights.items() if "layer1" not in k}
    torch.save(tensors, tmp_path / "part.pth")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    common: dict[str, Any] = {"out": tmp_path / "out", "progress": False, "width": 4, "depths": [1, 1, 1], "workers": 0}
    with pytest.raises(UsageError, match=r"tensors of the network are not in it.*layer1"):
        saccade.transfer(colours, weights=tmp_path / "part.pth", model="resnet20", **common)
    with pytest.raises(UsageError, match="weights of another network"):
        saccade.transfer(colours, weights=tmp_path / "other.pth", model="resnet20", **common)
    with pytest.raises(UsageError, match="give --model"):
        saccade.transfer(colours, weights=tmp_path / "part.pth", **common)
    with pytest.raises(UsageError, match="is a resnet20, not a resnet18"):
        saccade.transfer(colours, weights=run, model="resnet18", **common)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--methods", "svn"], "did you mean 'svm'"), (["--methods", "svm_depths"], "leave no model to use")],
)
def test_wrong_words_are_exit_2(
    arguments: list[str], message: str, colours: Path, run: Path, tmp_path: Path, shell: Shell
) -> None:
    code, _, err = shell("transfer", colours, "--weights", run, "--out", tmp_path / "out", *arguments)
    assert (code, message in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_signal_says_that_the_same_command_goes_on(
    colours: Path, run: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run of its own too, which says how to go on with it alone."""
    out = tmp_path / "out"
    for place, number in (("fit", signal.SIGTERM), ("cached_features", signal.SIGINT)):

        def stop(*_: object, number: int = number, **__: object) -> None:
            os.kill(os.getpid(), number)

        monkeypatch.setattr(f"saccade.verbs.transfer.{place}", stop)
        methods = ("--methods", "scratch", "--seeds", 1, *FAST)
        code, _, err = shell("transfer", colours, "--weights", run, "--out", out, *methods)
        words = f"stopped; the same command goes on: features and runs that are finished stay in {out}"
        assert (code, words in err) == (128 + number, True), err
