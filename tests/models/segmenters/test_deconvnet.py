from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import saccade
from saccade.data.scenes import write_scenes
from saccade.errors import UsageError
from saccade.models import create, model_module
from saccade.models.segmenters.deconvnet import VARIANTS, Config, Model, stages
from saccade.models.standing import standing_of

SMALL = Config(classes=3, trunk="vgg13_bn", trunk_width=4, hidden=16, window=3)


def test_parameters_of_the_paper() -> None:
    """About 252 million (section 4.1), 33,408 of them in batch norms."""
    with torch.device("meta"):
        model = Model(VARIANTS["deconvnet"])
    assert sum(p.numel() for p in model.parameters()) == 251_805_653
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert 251_805_653 - sum(p.numel() for m in norms for p in m.parameters()) == 251_772_245


def test_sides_and_channels_of_the_paper() -> None:
    """From fc6 on: output channels and sides at 224."""
    seen = []
    with torch.device("meta"):
        model = Model(VARIANTS["deconvnet"]).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(lambda m, _, y: seen.append((m.out_channels, y.shape[-1])))
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 21, 224, 224)
    assert seen[13:] == [
        *[(4096, 1), (4096, 1), (512, 7)],
        *[(512, 14), (512, 14), (512, 14)],
        *[(512, 28), (512, 28), (256, 28)],
        *[(256, 56), (256, 56), (128, 56)],
        *[(128, 112), (64, 112)],
        *[(64, 224), (64, 224)],
        (21, 224),
    ]


def plain_deconvnet(model: Model, images: torch.Tensor) -> torch.Tensor:
    """A second implementation: the same layers, torch's own pooling and unpooling between them."""
    x, kept = model.trunk.features.normalize(images), []
    for layer in list(model.trunk.features.children())[1:]:
        if isinstance(layer, nn.MaxPool2d):
            size = x.shape
            x, switches = nn.MaxPool2d(2, return_indices=True)(x)
            kept.append((switches, size))
        else:
            x = layer(x)
    for block in (model.fc6, model.fc7, model.opened):
        x = F.relu(block.norm(block.conv(x)))
    for stage in model.stages:
        switches, size = kept.pop()
        x = nn.MaxUnpool2d(2)(x, switches, output_size=size)
        for block in stage:
            x = F.relu(block.norm(block.conv(x)))
    return model.score(x)


@pytest.mark.parametrize("size", [(96, 96), (96, 160)])
def test_logits_are_those_of_a_plain_implementation(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Model(SMALL).double().eval()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(images), plain_deconvnet(model, images))


def test_images_that_fc6_does_not_fit_into_are_continued() -> None:
    torch.manual_seed(0)
    model = Model(SMALL).eval()
    images = torch.rand(1, 3, 45, 120)
    continued = torch.cat([images, images[:, :, -1:].expand(-1, -1, 51, -1)], 2)
    continued = torch.cat([continued, continued[:, :, :, -1:].expand(-1, -1, -1, 8)], 3)
    assert model(images).shape == (1, 3, 45, 120)
    torch.testing.assert_close(model(images), model(continued)[:, :, :45, :120])


def test_public_weights_fill_the_encoder_and_fc6_and_fc7() -> None:
    with torch.device("meta"):
        standing = standing_of(Model(VARIANTS["deconvnet"]))
        public = create("vgg16_bn").state_dict()
        model = Model(VARIANTS["deconvnet"]).state_dict()
    assert standing is not None
    placed = standing.tensors(model_module("deconvnet"), public)
    wanted = {name for name in model if name.startswith(("trunk.", "fc6.conv.", "fc7.conv."))}
    assert wanted <= set(placed)
    assert all(placed[name].shape == model[name].shape for name in wanted)


def test_fc6_and_fc7_of_a_classifier_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    classifier = create("vgg11", classes=5, width=4, depths=(1, 1, 1, 1, 1), hidden=16).eval()
    model = Model(Config(classes=3, trunk="vgg11", trunk_width=4, trunk_depths=(1, 1, 1, 1, 1), hidden=16)).eval()
    standing = standing_of(model)
    assert standing is not None
    placed = standing.tensors(model_module("deconvnet"), classifier.state_dict())
    own = model.state_dict()
    model.load_state_dict(own | {name: value for name, value in placed.items() if name in own})
    images = torch.rand(2, 3, 224, 224)
    pooled = model.trunk.pooled(images).map
    mine = model.fc7.conv(F.relu(model.fc6.conv(pooled))).flatten(1)
    torch.testing.assert_close(mine, classifier.classifier[3](F.relu(classifier.classifier[0](pooled.flatten(1)))))


def test_a_trunk_without_switches_is_refused() -> None:
    with pytest.raises(UsageError, match="resnet18 does not keep the places of its maxima"):
        Model(dataclasses.replace(SMALL, trunk="resnet18", trunk_width=8))


def test_the_course_goes_from_crops_around_things_to_images() -> None:
    assert [stage.name for stage in stages("deconvnet_small", "default")] == ["deconvnet_small"]
    for recipe in ("paper", "staged"):
        first, second = stages("deconvnet_small", recipe)
        assert (first.name, dict(first.settings)) == ("objects", {"object_crop": 1.2})
        assert (second.name, dict(second.settings)) == ("deconvnet_small", {})


def test_both_stages_train_one_network(tmp_path: Path) -> None:
    """The second begins with what the first has learned, and the first saw crops around things."""
    write_scenes(tmp_path / "scenes", "segment", 5, seed=0, size=96)
    small: dict[str, Any] = {"trunk_width": 4, "trunk_depths": (1, 1, 1, 1, 1), "hidden": 16, "size": 96}
    small |= {"epochs": 1, "batch": 2, "workers": 0, "ema": 0}
    saccade.train(
        "deconvnet_small", tmp_path / "scenes", out=tmp_path / "run", recipe="staged", progress=False, **small
    )
    folder = tmp_path / "run" / "stages" / "1-objects"
    assert json.loads((folder / "config.json").read_text())["settings"]["object_crop"] == 1.2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["object_crop"] == 0
    handed = load_file(folder / "adopted.safetensors")
    trained = load_file(folder / "last.safetensors")
    assert set(handed) == set(trained)
    assert all(torch.equal(value, trained[name]) for name, value in handed.items())
