from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from saccade.errors import UsageError
from saccade.models import catalogue, find_models, model_config
from saccade.models.backbones import bn_inception, inception_resnet, inception_v4
from saccade.models.published import PUBLISHED, WORDS, Published, class_names, find_published

ENTRIES = [(name, word, entry) for name, words in PUBLISHED.items() for word, entry in words.items()]


@pytest.mark.parametrize(("name", "word", "entry"), ENTRIES, ids=[f"{n}-{w}" for n, w, _ in ENTRIES])
def test_every_entry_is_of_the_catalogue_and_can_be_checked(name: str, word: str, entry: Published) -> None:
    assert name in catalogue()
    assert word in WORDS
    assert re.fullmatch(r"https://[\w.]+/[\w./-]+\.(?:pth|th)", entry.url)
    assert re.fullmatch(r"[0-9a-f]{8,64}", entry.sha256)
    named = re.search(r"-([0-9a-f]{8,10})\.\w+$", entry.file)
    assert named
    assert entry.sha256.startswith(named[1])
    assert entry.owner
    assert entry.licence in ("BSD-3-Clause", "BSD-2-Clause", "Apache-2.0")
    assert set(entry.config) <= {field.name for field in fields(model_config(name))}
    classes = model_config(name, **entry.config).classes
    assert len(class_names(word)) == classes or class_names(word)[:classes] == ["person"]  # of poses
    if entry.mebibytes is not None:  # four bytes a parameter, and little else
        assert entry.mebibytes * 2**20 == pytest.approx(4 * catalogue()[name]["parameters"], rel=0.02)


def test_files_are_told_apart() -> None:
    assert len({entry.file for _, _, entry in ENTRIES}) == len({entry.sha256[:8] for _, _, entry in ENTRIES})
    assert len({entry.url for _, _, entry in ENTRIES}) == len(ENTRIES)


def test_what_the_owners_state() -> None:
    entry = find_published("resnet18", "imagenet")
    assert (entry.file, entry.sha256, entry.mebibytes) == ("resnet18-f37072fd.pth", "f37072fd", 44.661)
    assert entry.score == "top-1 69.758 %, top-5 89.078 % on ImageNet"
    assert find_published("xception", "imagenet").score == "top-1 79.040 %, top-5 94.382 % on ImageNet"
    assert find_published("shufflenet_v2_x1_0", "imagenet").sha256 == "5666bf0f80"
    assert find_published("resnet20", "cifar10").sha256 == "12fca82f"


@pytest.mark.parametrize(
    ("name", "word", "crop", "resized"),  # pixels, as torchvision's and timm's sources state them
    [
        ("resnet50", "imagenet", 224, 256),
        ("resnet50", "imagenet_v2", 224, 232),
        ("mobilenet_v3_large", "imagenet_v2", 224, 232),
        ("resnext101_64x4d", "imagenet", 224, 232),
        ("shufflenet_v2_x1_0", "imagenet", 224, 256),
        ("shufflenet_v2_x1_5", "imagenet", 224, 232),
        ("shufflenet_v2_x2_0", "imagenet", 224, 232),
        ("inception_v3", "imagenet", 299, 342),
        ("inception_v4", "imagenet", 299, int(299 / 0.875)),
        ("inception_resnet_v2", "imagenet", 299, int(299 / 0.8975)),
        ("xception", "imagenet", 299, 333),
        ("darknet53_timm", "imagenet", 256, int(256 / 0.887)),
        ("bn_inception_caffe", "imagenet", 224, 256),
    ],
)
def test_views(name: str, word: str, crop: int, resized: int) -> None:
    view = find_published(name, word).view
    assert view is not None
    assert catalogue()[name]["size"] == crop
    assert crop * view == pytest.approx(resized)


def test_classifiers_of_photographs_have_a_view() -> None:
    assert all((entry.view is None) == (word in ("coco", "cifar10")) for _, word, entry in ENTRIES)


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("plain34", "imagenet", r"no published imagenet weights for plain34; published: alexnet, .*--weights FILE"),
        ("resnet20", "imagenet", r"no published imagenet weights for resnet20; published: cifar10$"),
        (
            "ssd300",
            "coco",
            r"published: faster_rcnn_r50_fpn, keypoint_.*, mask_rcnn_r50_fpn, retinanet_r50_coco, ssd300_coco\.",
        ),
    ],
)
def test_what_is_not_published(name: str, word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_published(name, word)


@pytest.mark.parametrize("word", WORDS)
def test_class_names_are_different_ones(word: str) -> None:
    names = class_names(word)
    assert len(set(names)) == len(names)
    assert all(name == name.strip() and name for name in names)


def test_class_names_by_number() -> None:
    imagenet, coco = class_names("imagenet"), class_names("coco")
    assert [imagenet[i] for i in (0, 1, 281, 388, 999)] == [
        "tench",
        "goldfish",
        "tabby",
        "giant panda",
        "toilet tissue",
    ]
    ids = {
        1: "person",
        13: "stop sign",
        18: "dog",
        44: "bottle",
        67: "dining table",
        72: "tv",
        84: "book",
        90: "toothbrush",
    }
    assert {number: coco[number - 1] for number in ids} == ids
    assert class_names("cifar10")[3] == "cat"


def test_the_list_of_models_says_so() -> None:
    words = {entry["name"]: entry["weights"] for entry in find_models()}
    assert words["resnet50"] == ["imagenet", "imagenet_v2"]
    assert words["plain34"] == []
    assert Path(__file__).parents[2].joinpath("docs/models.md").read_text(encoding="utf-8").count("imagenet_v2") == 7


@pytest.mark.parametrize(("room", "key"), [(inception_v4, "last_linear"), (inception_resnet, "classif")])
def test_the_background_class_is_left_out(room: object, key: str) -> None:
    public = {
        f"{key}.weight": torch.arange(2002.0).view(1001, 2),
        f"{key}.bias": torch.arange(1001.0),
        "x": torch.ones(1001),
    }
    repaired = room.from_public(public)  # type: ignore[attr-defined]
    assert repaired[f"{key}.weight"].shape == (1000, 2)
    assert repaired[f"{key}.bias"][0] == 1
    assert len(repaired["x"]) == 1001
    ours = {f"{key}.bias": torch.zeros(7)}
    assert len(room.from_public(ours)[f"{key}.bias"]) == 7  # type: ignore[attr-defined]


def test_norms_of_bn_inception_lose_their_first_side() -> None:
    public = {"conv1_7x7_s2.weight": torch.zeros(64, 3, 7, 7), "conv1_7x7_s2_bn.weight": torch.ones(1, 64)}
    repaired = bn_inception.from_public(public)
    assert sorted(tuple(value.shape) for value in repaired.values()) == [(64,), (64, 3, 7, 7)]
