from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import HTTPHandler, OpenerDirector

import pytest
import torch

import saccade
from saccade import checkpoint
from saccade.errors import ModelFileError, ResourceError, UsageError
from saccade.machine import download
from saccade.models import create, model_module
from saccade.models.published import PUBLISHED, Published
from saccade.models.weights import start_from, weights_path
from saccade.training.plan import make_plan

TINY = {"width": 4, "depths": (1, 1, 1)}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _http_too(secure: Callable[[], OpenerDirector]) -> OpenerDirector:
    opener = secure()
    opener.add_handler(HTTPHandler())
    return opener


@pytest.fixture(scope="module")
def _web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with a tiny ten-class ResNet as others would publish it, and the address where it is served."""
    folder = tmp_path_factory.mktemp("web")
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in create("resnet20", **TINY).state_dict().items() if "batches" not in k}
    torch.save({"state_dict": state, "best_prec1": 10.0}, folder / "tiny.th")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def published(_web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """The table's entry `resnet20 cifar10`, made to mean the tiny file."""
    folder, address = _web
    sha256 = hashlib.sha256((folder / "tiny.th").read_bytes()).hexdigest()[:8]
    entry = Published(f"{address}/tiny.th", sha256, "someone", "BSD-2-Clause", config=dict(TINY))
    monkeypatch.setitem(PUBLISHED, "resnet20", {"cifar10": entry})
    monkeypatch.setattr(download, "https_only", partial(_http_too, download.https_only))
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    return entry


def test_a_word_is_a_file_of_the_cache(published: Published, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = weights_path("resnet20", "cifar10")
    assert path == tmp_path / "cache" / "weights" / "tiny.th"
    assert f"downloading {published.url} to {path.parent} (someone, licence BSD-2-Clause)\n" in capfd.readouterr().err
    assert weights_path("resnet20", "cifar10") == path
    assert capfd.readouterr().err == ""


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert weights_path("resnet18", tmp_path) == tmp_path
    with pytest.raises(ModelFileError, match=r"w\.pth: no such file or run; published weights are named by imagenet, "):
        weights_path("resnet18", tmp_path / "w.pth")


def test_offline_says_what_to_do(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = Published("http://127.0.0.1:9/tiny.th", published.sha256, "someone", "BSD-2-Clause")
    monkeypatch.setitem(PUBLISHED, "resnet20", {"cifar10": gone})
    with pytest.raises(ResourceError, match=r"cannot reach 127\.0\.0\.1 .*--weights FILE or put it into .*weights"):
        weights_path("resnet20", "cifar10")


def test_the_plan_takes_the_settings_that_published_weights_want(published: Published, colours: Path) -> None:
    plan = make_plan("resnet20", colours, weights="cifar10")
    assert (plan.config.width, plan.config.depths, plan.weights) == (4, (1, 1, 1), "cifar10")
    assert plan.origins["width"] == "weights cifar10"
    assert make_plan("resnet20", colours, weights="cifar10", flags={"width": 8}).config.width == 8


def test_the_test_view_comes_along(published: Published, colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "resnet20", {"cifar10": dataclasses.replace(published, view=232 / 224)})
    plan = make_plan("resnet20", colours, weights="cifar10")
    assert (plan.preprocessing.view, plan.origins["view"]) == (232 / 224, "weights cifar10")
    assert make_plan("resnet20", colours, weights="cifar10", flags={"view": 1.5}).preprocessing.view == 1.5
    assert make_plan("resnet20", colours).preprocessing.view == 8 / 7


def test_a_published_file_of_the_users_own_brings_them_too(published: Published, colours: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.th"
    shutil.copy(weights_path("resnet20", "cifar10"), mine)
    plan = make_plan("resnet20", colours, weights=mine)
    assert (plan.config.width, plan.origins["width"], plan.weights) == (4, "weights cifar10", str(mine))
    torch.save({}, mine)
    assert make_plan("resnet20", colours, weights=mine).config.width == 16


def test_training_starts_from_published_weights(
    published: Published, colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    small = {"epochs": 1, "batch": 20, "workers": 0, "precision": "fp32", "lr": 0.0, "weight_decay": 0.0}
    saccade.train("resnet20", colours, out=run, weights="cifar10", **small)
    assert (
        "from cifar10 (tiny.th); with a fresh start, as its classes are others: fc.bias, fc.weight\n"
        in capfd.readouterr().err
    )
    trained = checkpoint.load(run / "last.safetensors")
    public = checkpoint.read_public(tmp_path / "cache/weights/tiny.th")
    assert torch.equal(trained.weights["conv1.weight"], public["conv1.weight"])
    assert trained.weights["fc.weight"].shape[0] == 2
    assert '"weights": "cifar10"' in (run / "config.json").read_text(encoding="utf-8")


def test_what_is_wrong_comes_before_the_data_is_read(published: Published, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no published imagenet weights for resnet20; published: cifar10"):
        saccade.train("resnet20", tmp_path / "no data", out=tmp_path / "run", weights="imagenet", progress=False)
    assert not (tmp_path / "run").exists()


def test_batch_counters_are_not_missed(published: Published) -> None:
    model = create("resnet20", **TINY)
    assert start_from(model, model_module("resnet20"), weights_path("resnet20", "cifar10", shown=False)).fresh == []


def test_weights_of_another_network_are_one_line(published: Published) -> None:
    with pytest.raises(UsageError, match=r"tiny\.th: weights of another network: \d+ of \d+ tensors fit") as fault:
        start_from(create("lenet5"), model_module("lenet5"), weights_path("resnet20", "cifar10", shown=False))
    assert "\n" not in str(fault.value)


def test_a_named_pipe_or_folder_is_no_weights_file(tmp_path: Path) -> None:
    for model, name in (("resnet20", "a.pth"), ("resnet20", "a.npz"), ("darknet19", "a.weights")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelFileError, match=f"{name}: not a regular file"):
            start_from(create(model), model_module(model), tmp_path / name)


def test_keys_that_only_look_like_a_public_layout(tmp_path: Path) -> None:
    module = model_module("vgg11")
    for keys in ({"features.x.weight": torch.ones(1)}, {"classifier": torch.ones(1)}, {"": torch.ones(1)}):
        torch.save(keys, tmp_path / "a.pth")
        with pytest.raises((ModelFileError, UsageError), match=r"a\.pth: (not weights in|weights of another)"):
            start_from(create("resnet20", **TINY), module, tmp_path / "a.pth")
