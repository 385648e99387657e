"""A size that a network cannot take is one clear line, whichever the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus import encoded, folders, pixels, put
from saccade.errors import UsageError
from saccade.models import catalogue, model_module
from saccade.models.dry_run import model_of_shapes, smallest_side, takes

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`

# by a network of each kind of stem and pooling: the smallest side of an image
SMALLEST = {
    "alexnet": 63,
    "alexnet_paper": 67,
    "densenet121": 29,
    "densenet40_k12": 4,
    "googlenet": 15,
    "googlenet_paper": 31,
    "inception_resnet_v2": 75,
    "inception_v3": 75,
    "inception_v4": 75,
    "lenet5": 16,
    "nin": 39,
    "resnet18": 1,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "vgg11": 32,
    "zfnet": 47,
}
SEARCHED = ("alexnet", "lenet5", "nin", "resnet18", "squeezenet1_1", "vgg11", "zfnet")  # those of few layers


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_side(name: str) -> None:
    module = model_module(name)
    model = model_of_shapes(module, module.VARIANTS[name])
    least = SMALLEST[name]
    if name in SEARCHED:
        assert smallest_side(module, model, catalogue()[name]["size"]) == least
    assert takes(module, model, least, least + 9)
    assert not takes(module, model, least - 1, least + 9)


@pytest.mark.parametrize("name", ["densenet121", "inception_v3", "zfnet"])
def test_training_refuses_what_is_smaller_before_the_first_step(name: str, tmp_path: Path, shell: Shell) -> None:
    data = folders()(tmp_path / "data")
    side = SMALLEST[name] - 1
    code, out, err = shell("train", name, data, "--size", side, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert f"size {side}x{side} is too small for {name}, which needs at least {SMALLEST[name]}x{SMALLEST[name]}" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_one_image_of_one_cell_teaches_batch_norm_nothing(tmp_path: Path, shell: Shell) -> None:
    """Not the last batch of an epoch either, which is left out or all there is."""
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        put(tmp_path / "data" / "train" / name / "1.png", encoded(pixels(seed)))
        put(tmp_path / "data" / "val" / name / "1.png", encoded(pixels(9 + seed)))
    small = ["--set", "width=4", "--set", "depths=[1,1,1,1]", "--size", 32, "--epochs", 1, "--workers", 0]
    words = ["train", "resnet18", tmp_path / "data", "--out", tmp_path / "run", "--precision", "fp32", *small]
    for more in (["--batch", 1], ["--batch", 2, "--set", "accumulate=2"]):
        code, _, err = shell(*words, *more)
        assert code == 2
        assert "use a larger --batch or --size" in err
    for more in (["--batch", 2], ["--batch", 0, "--overwrite"]):
        code, _, err = shell(*words, *more)
        assert code == 0, err


def test_a_network_of_many_more_layers_than_a_file_holds_is_given_up() -> None:
    module = model_module("resnet20")
    config = module.VARIANTS["resnet20"]
    tensors = len(model_of_shapes(module, config).state_dict())
    assert len(model_of_shapes(module, config, tensors).state_dict()) == tensors
    with pytest.raises(UsageError, match=f"the file holds {tensors}"):
        model_of_shapes(module, dataclasses.replace(config, depths=(10**9, 1, 1)), tensors)
