"""Weights of a classification network for what stands on it: what goes where, what begins anew, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import saccade
from saccade import checkpoint
from saccade.data.scenes import write_scenes
from saccade.errors import ModelFileError, UsageError
from saccade.models import create, model_module
from saccade.models.published import PUBLISHED, find_published
from saccade.models.standing import is_counter, parts_of, standing_of
from saccade.models.weights import recognise, start_from

RESNET: dict[str, Any] = {"trunk": "resnet18", "trunk_width": 4, "trunk_depths": (1, 1, 1, 1)}
VGG: dict[str, Any] = {"trunk": "vgg11", "trunk_width": 4, "trunk_depths": (1, 1, 1, 1, 1)}
SQUEEZE: dict[str, Any] = {"trunk": "squeezenet1_1", "trunk_width": 0.125}
SMALL_HEADS = {"rpn_sample": 16, "head_sample": 16, "head_width": 16}
# Head, trunk, parts that begin anew. What is not among them is the classifier's, but for its output layer.
PAIRS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("atss_small", RESNET, ["backbone.coarse", "backbone.lateral", "backbone.smooth", "head"]),
    ("faster_rcnn_small", RESNET | SMALL_HEADS, ["backbone.fpn", "cascade", "roi_heads", "rpn"]),
    ("mask_rcnn_small", SQUEEZE | SMALL_HEADS, ["backbone.fpn", "roi_heads", "rpn"]),
    ("rfcn_small", RESNET, ["head", "rpn"]),
    ("faster_rcnn_c4_small", RESNET | SMALL_HEADS | {"tail": True}, ["roi_heads", "rpn"]),
    ("fast_rcnn_small", VGG | {"tail": True, "trunk_hidden": 32}, ["roi_heads"]),
    ("rcnn_small", VGG, ["head"]),
    ("rcnn_small", SQUEEZE | {"hidden": None}, ["head"]),
    ("rcnn_small", {"trunk": "resnet20", "trunk_width": 4, "trunk_depths": (1, 1, 1)}, ["extractor.tail", "head"]),
    ("sppnet_small", RESNET, ["head", "tail"]),
    ("sliding_window_small", VGG | {"padding": "zeros", "stride": 8}, ["net.fully"]),
    ("unet_light", RESNET, ["classifier", "decoder"]),
    ("localizer_small", RESNET, ["classify", "locate"]),
]


def classifier_of(changes: dict[str, Any]) -> tuple[str, nn.Module]:
    """The classification network of seven classes that the trunk of such changes is taken from."""
    fields = {"trunk_width": "width", "trunk_depths": "depths", "trunk_hidden": "hidden"}
    torch.manual_seed(1)
    own = {fields[name]: value for name, value in changes.items() if name in fields}
    return changes["trunk"], create(changes["trunk"], classes=7, **own)


def stands_on(head: str, changes: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return create(head, classes=3, **changes)


def written(network: nn.Module, path: Path) -> Path:
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    return path


@pytest.mark.parametrize(("head", "changes", "anew"), PAIRS, ids=[f"{head}-{c['trunk']}" for head, c, _ in PAIRS])
def test_a_classifier_fills_the_trunk(head: str, changes: dict[str, Any], anew: list[str], tmp_path: Path) -> None:
    name, classifier = classifier_of(changes)
    model = stands_on(head, changes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = start_from(model, model_module(head), written(classifier, tmp_path / "classifier.pth"))
    base = standing_of(model)
    assert base is not None
    assert (start.network, base.network, start.placed[0]) == (name, name, base.place)
    held = [value for key, value in classifier.state_dict().items() if not is_counter(key)]
    after = model.state_dict()
    filled = [key for key in after if key not in start.fresh and not is_counter(key)]
    assert (start.count, start.held) == (len(filled), len(held))
    assert all(after[key].equal(before[key]) for key in start.fresh)
    assert all(any(after[key].shape == each.shape and after[key].equal(each) for each in held) for key in filled)
    assert parts_of(start.fresh, after) == anew


def test_the_tail_goes_with_the_trunk(tmp_path: Path) -> None:
    """fc6 and fc7 of VGG behind Fast R-CNN's pooling, and behind R-CNN's extractor."""
    changes = VGG | {"trunk_hidden": 32, "tail": True}
    _, classifier = classifier_of(changes)
    path = written(classifier, tmp_path / "vgg.pth")
    model = stands_on("fast_rcnn_small", changes)
    start_from(model, model_module("fast_rcnn_small"), path)
    assert model.trunk.classifier[3].weight.equal(classifier.classifier[3].weight)
    crops = stands_on("rcnn_small", VGG)
    torch.manual_seed(1)
    start_from(crops, model_module("rcnn_small"), written(create("vgg11", classes=7, width=4, depths=(1,) * 5), path))
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(1)
    whole = create("vgg11", classes=7, width=4, depths=(1,) * 5).eval()
    _, hidden = crops.extractor.eval()(images)
    torch.testing.assert_close(whole.classifier[-1](hidden), whole(images))


def test_checkpoints_of_saccade_and_archives_are_read_too(tmp_path: Path) -> None:
    name, classifier = classifier_of(RESNET)
    plain = {key: value.numpy() for key, value in classifier.state_dict().items()}
    np.savez(tmp_path / "classifier.npz", **plain)
    state = checkpoint.Checkpoint(name, {"width": 4}, list("abcdefg"), "classify", {}, classifier.state_dict())
    checkpoint.save(state, tmp_path / "best.safetensors")
    for source in (tmp_path / "classifier.npz", tmp_path / "best.safetensors", tmp_path):
        model = stands_on("unet_light", RESNET)
        assert start_from(model, model_module("unet_light"), source).network == "resnet18"
        assert model.trunk.layer4[0].conv1.weight.equal(classifier.layer4[0].conv1.weight)


def test_a_file_that_only_the_trunks_room_reads(tmp_path: Path) -> None:
    """Darknet's weights: a header, then every convolution's biases or norm and weights in order of the file."""
    torch.manual_seed(0)
    source = create("darknet_reference")
    numbers = [np.array([0, 1, 0], np.int32).tobytes(), np.array([0], np.int32).tobytes()]
    for block in (m for m in source.modules() if hasattr(m, "conv")):
        norm = getattr(block, "bn", None) or getattr(block, "norm", None)
        parts = [norm.bias, norm.weight, norm.running_mean, norm.running_var] if norm is not None else [block.conv.bias]
        numbers += [part.detach().numpy().tobytes() for part in [*parts, block.conv.weight]]
    last = [m for m in source.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    numbers += [last.bias.detach().numpy().tobytes(), last.weight.detach().numpy().tobytes()]
    path = tmp_path / "darknet.weights"
    path.write_bytes(b"".join(numbers))
    model = stands_on("atss_small", {"trunk": "darknet_reference", "channels": 8})
    start = start_from(model, model_module("atss_small"), path)
    assert start.network == "darknet_reference"
    assert start.count == start.held - 2  # all but the output layer


def test_half_a_layer_is_left_alone(tmp_path: Path) -> None:
    """fc6 of a classifier whose maps are pooled otherwise: its bias would fit."""
    trunk = {"trunk": "zfnet", "scales": (1.0,), "hidden": 16}
    model = stands_on("sppnet_small", trunk | {"grids": (3, 1)})
    path = written(create("zfnet", classes=7, hidden=16), tmp_path / "zfnet.pth")
    start = start_from(model, model_module("sppnet_small"), path)
    assert start.placed == ("trunk", "tail.fc7")
    assert parts_of(start.fresh, model.state_dict()) == ["head", "tail.fc6"]


def test_the_models_own_weights_come_first(tmp_path: Path) -> None:
    model = stands_on("unet_light", RESNET)
    other = stands_on("unet_light", RESNET | {"decoder_width": 4})
    start = start_from(other, model_module("unet_light"), written(model, tmp_path / "unet.pth"))
    assert start.network == ""
    assert start.fresh


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = written(classifier_of(RESNET)[1], tmp_path / "narrow.pth")
    with pytest.raises(
        UsageError, match=r"narrow\.pth: weights of another network: \d+ of the \d+ tensors of the trunk"
    ):
        start_from(stands_on("unet_light", {"trunk": "vgg11_bn", "trunk_width": 4}), model_module("unet_light"), path)
    usual = "For weights of the usual resnet18: --set trunk_width=64. It holds conv1.weight"
    with pytest.raises(UsageError, match=usual):
        start_from(stands_on("unet_light", {}), model_module("unet_light"), path)
    with pytest.raises(UsageError, match=r"fewer than half of the model's\. It holds conv1\.weight"):
        start_from(stands_on("mask_rcnn_small", SQUEEZE), model_module("mask_rcnn_small"), path)
    name, classifier = classifier_of(RESNET)
    config = {"width": 4, "depths": (1, 1, 1, 1)}
    saved = checkpoint.Checkpoint(name, config, list("abcdefg"), "classify", {}, classifier.state_dict())
    checkpoint.save(saved, tmp_path / "best.safetensors")
    with pytest.raises(
        UsageError, match=r"made with others of its fields: --set trunk_width=4 --set trunk_depths=.1,1,1,1."
    ):
        start_from(stands_on("unet_light", {}), model_module("unet_light"), tmp_path)
    with pytest.raises(UsageError, match=r"They are of resnet18: --set trunk=resnet18\. It holds"):
        start_from(
            stands_on("unet_light", {"trunk": "vgg11_bn", "trunk_width": 4}), model_module("unet_light"), tmp_path
        )
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelFileError, match=r"text\.pth: not a file of plain tensors"):
        start_from(stands_on("unet_light", RESNET), model_module("unet_light"), tmp_path / "text.pth")


def test_a_word_means_the_trunks_weights_where_the_model_has_none() -> None:
    assert find_published("unet_resnet18", "imagenet", "resnet18") is PUBLISHED["resnet18"]["imagenet"]
    assert find_published("faster_rcnn_r50_fpn", "coco", "resnet50") is PUBLISHED["faster_rcnn_r50_fpn"]["coco"]
    assert recognise("faster_rcnn_r50_fpn", "imagenet", "resnet50") == ("", None)
    assert recognise("faster_rcnn_r50_fpn", "coco", "resnet50")[0] == "coco"
    with pytest.raises(
        UsageError, match=r"weights for rcnn_alexnet, nor for its trunk caffenet; published: .*resnet18"
    ):
        find_published("rcnn_alexnet", "imagenet", "caffenet")
    with pytest.raises(UsageError, match=r"nor for its trunk resnet18; published: imagenet \(resnet18\)"):
        find_published("unet_light", "coco", "resnet18")
    with pytest.raises(UsageError, match=r"no published imagenet weights for unet; published: .*resnet18"):
        find_published("unet", "imagenet")


def test_parts_are_named_by_their_shortest_name() -> None:
    names = ["a.b.weight", "a.b.bias", "a.c.weight", "d.weight", "d.bias", "e"]
    assert parts_of(["a.b.weight", "a.b.bias", "d.weight", "e"], names) == ["a.b", "d.weight", "e"]
    assert parts_of(names, names) == ["a", "d", "e"]


def test_training_says_what_went_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "boxes", "detect", 12, seed=0)
    path = written(classifier_of(RESNET)[1], tmp_path / "resnet.pth")
    small: dict[str, Any] = RESNET | {"channels": 8, "epochs": 1, "batch": 4, "workers": 0, "size": 64, "ema": 0.0}
    run = tmp_path / "run"
    saccade.train("atss_small", tmp_path / "boxes", out=run, weights=path, lr=1e-12, precision="fp32", **small)
    printed = " ".join(capfd.readouterr().err.split())
    assert f"from {path}, weights of resnet18: 60 of 62 tensors go into backbone.body; backbone.coarse, " in printed
    trained, public = checkpoint.load(run / "last.safetensors").weights, checkpoint.read_public(path)
    torch.testing.assert_close(trained["backbone.body.conv1.weight"], public["conv1.weight"])


def test_a_trunk_without_published_weights_is_told_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no published imagenet weights for atss_small, nor for its trunk zfnet"):
        saccade.train("atss_small", tmp_path / "no data", out=tmp_path / "run", weights="imagenet", trunk="zfnet")
    settings = tmp_path / "settings.yaml"
    settings.write_text("trunk: zfnet")
    with pytest.raises(UsageError, match="nor for its trunk zfnet"):
        saccade.train("atss_small", tmp_path / "no data", out=tmp_path / "run", weights="imagenet", config=settings)


def test_who_stands_on_nothing() -> None:
    assert standing_of(create("lenet5")) is None
    assert standing_of(create("unet", width=4)) is None
