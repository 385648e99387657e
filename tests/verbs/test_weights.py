from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import saccade
from saccade import checkpoint
from saccade.data.pipelines import inference_transforms
from saccade.data.transforms import CenterCrop
from saccade.errors import UsageError
from saccade.models import create, model_module
from saccade.models.published import PUBLISHED, Published, class_names
from saccade.verbs.weights import preprocessing_of_weights


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A public ResNet-20: the layout of the CIFAR files, without batch counters."""
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in create("resnet20").state_dict().items() if "batches" not in k}
    path = tmp_path / "public.th"
    torch.save({"state_dict": state, "best_prec1": 10.0}, path)
    return path


def test_a_file_becomes_a_checkpoint_that_predicts(file: Path, tmp_path: Path) -> None:
    done = saccade.weights("resnet20", file, out=tmp_path / "a.safetensors")
    assert (done["task"], done["classes"], done["source"], done["licence"]) == ("classify", 10, str(file), "")
    predictor = saccade.load(done["checkpoint"], "cpu", "fp32")
    assert predictor.classes == [str(label) for label in range(10)]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    model = create("resnet20").eval()
    model.load_state_dict(checkpoint.read_public(file), strict=False)
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255)
    answer = predictor.predict(pixels)
    assert answer.label == int(logits.argmax())


def test_a_file_that_is_a_published_one_has_its_names(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = Published("https://example.org/r-12345678.th", sha256[:8], "someone", "BSD-2-Clause", "top-1 10 %")
    monkeypatch.setitem(PUBLISHED, "resnet20", {"cifar10": entry})
    monkeypatch.chdir(tmp_path)
    done = saccade.weights("resnet20", file)
    assert (done["checkpoint"], done["owner"], done["score"]) == (
        "resnet20-cifar10.safetensors",
        "someone",
        "top-1 10 %",
    )
    assert checkpoint.load(Path(done["checkpoint"])).classes == class_names("cifar10")


def test_the_view_is_the_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's later weights: 232 pixels of which the network sees 224; a file in the cache is not downloaded."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    small = {"width": 4, "depths": (1, 1, 1, 1)}
    torch.save(create("resnet50", **small).state_dict(), folder / "r-12345678.pth")
    sha256 = hashlib.sha256((folder / "r-12345678.pth").read_bytes()).hexdigest()
    view = PUBLISHED["resnet50"]["imagenet_v2"].view
    entry = Published("https://example.org/r-12345678.pth", sha256, "someone", "BSD-3-Clause", config=small, view=view)
    monkeypatch.setitem(PUBLISHED, "resnet50", {"imagenet_v2": entry})
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    out = tmp_path / "a.safetensors"
    saccade.weights("resnet50", "imagenet_v2", out=out)
    (crop,) = saccade.load(out, "cpu", "fp32").view.transforms
    assert crop == CenterCrop((224, 224), (232, 232))


@pytest.mark.parametrize(("model", "side", "view"), [("squeezenet1_0_caffe", 227, 256), ("inception_v3", 299, 342)])
def test_the_view_of_a_file(model: str, side: int, view: int) -> None:
    module = model_module(model)
    published = PUBLISHED.get(model, {}).get("imagenet")
    found = preprocessing_of_weights(module, model, "classify", published)
    assert inference_transforms("classify", found) == [CenterCrop((side, side), (view, view))]


def test_names_of_classes(file: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"), encoding="utf-8")
    out = tmp_path / "a.safetensors"
    saccade.weights("resnet20", file, out=out, classes=names)
    assert checkpoint.load(out).classes == list("abcdefghij")
    saccade.weights("resnet20", file, out=out, classes="cifar10")
    assert checkpoint.load(out).classes == class_names("cifar10")
    with pytest.raises(UsageError, match="1000 names, 1000 different ones; the model has 10 classes"):
        saccade.weights("resnet20", file, out=out, classes="imagenet")
    with pytest.raises(UsageError, match=r"--classes .*none\.txt: cannot be read"):
        saccade.weights("resnet20", file, out=out, classes=tmp_path / "none.txt")


def test_refusals(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights of another architecture"):
        saccade.weights("resnet32", file, out=tmp_path / "a.safetensors")
    state = checkpoint.read_public(file)
    torch.save(state | {"fc.weight": torch.zeros(7, 64), "fc.bias": torch.zeros(7)}, tmp_path / "7.pth")
    of_other_classes = (
        r"other classes: fc.weight is \[7, 64\], .* \[10, 64\]\. Replace.*: saccade train resnet20 DATA --w"
    )
    with pytest.raises(UsageError, match=of_other_classes):
        saccade.weights("resnet20", tmp_path / "7.pth", out=tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="no published imagenet weights for plain34"):
        saccade.weights("plain34")
    with pytest.raises(UsageError, match="a run is a checkpoint already"):
        saccade.weights("resnet20", tmp_path)
    assert not (tmp_path / "a.safetensors").exists()


def test_the_command_line(file: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]) -> None:
    out = tmp_path / "a.safetensors"
    code, printed, _ = shell("weights", "resnet20", str(file), "--out", str(out), "--classes", "cifar10", "--json")
    assert code == 0
    assert json.loads(printed)["checkpoint"] == str(out)
    code, printed, _ = shell("weights", "resnet20", str(file), "--out", str(out))
    assert (code, printed) == (0, f"{out}: resnet20 to classify 10 classes, from {file}\n")
    assert shell("weights", "resnet20", "coco")[0] == 2
    assert shell("weights", "resnet32", str(file))[0] == 2
    assert shell("weights", "resnet20", str(tmp_path / "none.pth"))[0] == 4


@pytest.mark.shared
def test_published_resnet20_scores_what_its_readme_states(shared_data: Path, tmp_path: Path) -> None:
    """399 of 500, through the checkpoint; its checksum says what it is, and so what its classes are called."""
    out = tmp_path / "resnet20.safetensors"
    done = saccade.weights("resnet20", shared_data / "weights/cifar10_resnet20/resnet20-12fca82f.th", out=out)
    assert done["score"] == "top-1 91.73 % on CIFAR-10"
    result = saccade.evaluate(out, shared_data / "cifar10_images", split="test", precision="fp32", progress=False)
    assert result["images"] == 500
    assert result["metrics"]["top1"]["value"] == pytest.approx(399 / 500)


@pytest.mark.shared
def test_published_squeezenet_through_the_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    """62 of 100, as recorded: a crop of 227 from 256 pixels, as Caffe's networks were trained."""
    file = shared_data / "weights/squeezenet1_0_imagenet/squeezenet1_0.npz"
    out = tmp_path / "squeezenet.safetensors"
    saccade.weights("squeezenet1_0_caffe", file, out=out, classes="imagenet")
    predictor = saccade.load(out, "cpu", "fp32")
    root = shared_data / "imagenet_photos"
    rows = [line.split(",") for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]]
    correct = [predictor.predict(root / "images" / Path(row[0]).name).label == int(row[1]) for row in rows]
    assert len(correct) == 100
    assert sum(correct) == 62
