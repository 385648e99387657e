"""Small forms of the catalogue's networks, one or more a room, that `test_contract.py` trains in seconds.

A room without a form here is tested in the smallest of its variants, narrowed where its Config has the usual fields; a
form makes the test faster, or shows a second way through the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from darknet_files import cfg_text
from saccade.models import catalogue, model_module
from saccade.models.make_catalogue import model_modules


@dataclass(frozen=True)
class Form:
    """A variant made small, and what is its own in the contract's tests."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    side: int = 64  # of the images
    strides: tuple[int, ...] | None = (4, 8, 16, 32)  # of the trunk; None: no trunk, or one with a test of its own
    rounding: Callable[[float], int] = math.ceil  # of side / stride
    learns: bool = True  # as part of the fast tests; otherwise of the slow ones
    quick: dict[str, Any] = field(default_factory=dict)  # further changes, with which it learns in a few steps
    lr: float = 3e-3
    falls: bool = True  # the rate, evenly to 0 at the last step
    steps: int = 60
    images: int = 8  # that it learns by heart


MLP = {"widths": (12, 16, 16, 16, 16), "hidden": 32, "dropout": 0.0}
RESIDUAL = {"depths": (1, 2, 1, 1), "width": 8}
INCEPTION = {"width": 0.125, "dropout": 0.0}
LOCALIZER = {"trunk_width": 8, "reduced": 16, "box_hidden": (32,)}
ATSS = {"trunk_width": 8, "trunk_depths": (1, 1, 1, 1), "channels": 16}
RCNN = {"trunk_width": 8, "trunk_depths": (1, 1, 1), "hidden": 32, "side": 16, "context": 1, "sample": 64, "regions": 8}
SPPNET = {"trunk_width": 8, "trunk_depths": (1, 1), "hidden": 32, "sample": 64, "regions": 8}
ONE_MAP = {"trunk_width": 16, "head_width": 64}
FULLY_CONNECTED = {"trunk": "vgg11_bn", "trunk_width": 8, "trunk_hidden": 64}
CELLS = {"trunk": "resnet18", "trunk_width": 16, "convs": ((32, 1),), "grid": 4, "dropout": 0.0}
FCN = {"trunk_width": 8, "trunk_depths": (1, 1, 1, 1), "hidden": 32, "dropout": 0.0}
DARKNET = {
    # One line a layer: `darknet_files.cfg_text`. Of three boxes a cell of 16 pixels.
    "yolo": cfg_text(
        128,
        *("c 3 16 2", "c 3 32 2", "c 3 32 2", "c 3 64 2", "c 1 32", "c 3 64", "shortcut from=-3", "h 75"),
        "yolo classes=20 num=3 anchors=24,24,48,40,64,80",
    ),
    "region": cfg_text(
        128,
        *("c 3 16 2", "c 3 32 2", "c 3 32 2", "route layers=-1", "reorg stride=2", "c 3 64", "h 75"),
        "region classes=20 num=3 anchors=1.5,1.5,3,2.5,4,5 softmax=1 rescore=1 object_scale=5",
    ),
}
FORMS: dict[str, Form] = {
    "alexnet": Form("alexnet", MLP, 67, (4, 8, 16)),
    "alexnet_paper": Form("alexnet_paper", MLP, 67, (4, 8, 16), quick={"init": "he"}),
    "bn_inception": Form("bn_inception", INCEPTION, 33, learns=False),
    "darknet19": Form("darknet19", {"stages": ((4,), (8,), (12, 8, 12), (16,), (20,), (24, 8, 24))}, learns=False),
    "darknet53": Form("darknet53", {"blocks": (1, 1, 2, 1, 1), "width": 4}, learns=False),
    "darknet_reference": Form(
        "darknet_reference",
        {"stages": ((4,), (4,), (6,), (6,), (8,), (8,), (8,))},
        strides=(4, 8, 16, 32, 64),
        learns=False,
    ),
    "densenet_bc": Form("densenet121", {"depths": (2, 3, 1, 2), "growth": 4, "stem_channels": 8}, strides=None),
    "densenet": Form("densenet40_k12", {"depths": (2, 3, 2), "growth": 4, "stem_channels": 8}, 32, strides=None),
    "example_net": Form("example_net", {"hidden": 32}, 28, strides=None),
    "googlenet": Form("googlenet", INCEPTION | {"auxiliary_dropout": 0.0}, 32, None),
    "googlenet_paper": Form(
        "googlenet_paper", INCEPTION | {"auxiliary_dropout": 0.0, "width": 0.25}, 64, None, learns=False
    ),
    "inception_resnet_v1": Form(
        "inception_resnet_v1_face", INCEPTION | {"depths": (1, 1, 1), "embedding": 16}, 75, None, learns=False
    ),
    "inception_resnet_v2": Form("inception_resnet_v2", INCEPTION | {"depths": (1, 1, 2)}, 75, learns=False),
    "inception_v3": Form("inception_v3", INCEPTION, 75, learns=False),
    "inception_v4": Form("inception_v4", INCEPTION | {"depths": (1, 1, 1)}, 75, learns=False),
    "lenet5": Form("lenet5", {}, 32, strides=None, steps=150),
    "lenet5_modern": Form("lenet5_modern", {}, 32, strides=None, steps=150),
    "lenet_1990": Form("lenet_1990", {}, 28, strides=None, lr=1e-2),
    "mobilenet": Form("mobilenet_w25", learns=False),
    "mobilenet_v2": Form("mobilenet_v2", {"width": 0.25, "dropout": 0.0}, learns=False, lr=1e-3, steps=120),
    "mobilenet_v3_small": Form("mobilenet_v3_small", {"width": 0.25, "dropout": 0.0}, learns=False),
    "mobilenet_v3_large": Form("mobilenet_v3_large", {"width": 0.25, "dropout": 0.0}, learns=False),
    "nin": Form(
        "nin_cifar10",
        {"widths": ((8, 8, 8), (8, 8, 8), (8, 8)), "dropouts": (0.0, 0.0)},
        32,
        (1, 2, 4),
        rounding=math.floor,
        quick={"widths": ((16, 16, 16), (16, 16, 16), (16, 16))},
        lr=5e-3,
    ),
    "preact_resnet": Form("preact_resnet18", RESIDUAL),
    "preact_resnet_bottleneck": Form("preact_resnet50", RESIDUAL, learns=False),
    "prelunet": Form(
        "prelunet_a",
        {"width": 0.0625, "depths": (2, 1, 1), "hidden": 32, "dropout": 0.0},
        64,
        (2, 4, 8, 16),
        learns=False,
    ),
    "prelunet_small": Form(
        "prelunet_small",
        {"width": 0.25, "depths": (1, 1, 1), "hidden": 32, "dropout": 0.0},
        32,
        (1, 2, 4, 8),
    ),
    "resnet": Form("resnet18", RESIDUAL),
    "resnet_cifar": Form("resnet20", {"depths": (1, 1, 1)}, 32, (1, 2, 4)),
    "resnet_bottleneck": Form("resnet50", RESIDUAL, learns=False),
    "resnext": Form("resnext50_32x4d", RESIDUAL | {"groups": 4, "group_width": 2}),
    "resnext_cifar": Form(
        "resnext29_8x64d", {"depths": (1, 1, 1), "groups": 4, "group_width": 2, "width": 8}, 32, (1, 2, 4), learns=False
    ),
    "shufflenet": Form("shufflenet_g2", {"width": 32}, learns=False),
    "shufflenet_v2": Form("shufflenet_v2_x1_0", {"width": 16, "last": 64}, learns=False),
    "squeezenet1_0": Form("squeezenet1_0", {"width": 0.25, "dropout": 0.0}, strides=None, learns=False),
    "squeezenet1_1": Form("squeezenet1_1", {"width": 0.5, "dropout": 0.0}, strides=None, learns=False, lr=1e-3),
    "vgg_bn": Form(
        "vgg16_bn",
        {"width": 4, "hidden": 16, "dropout": 0.0},
        48,
        (1, 2, 4, 8, 16),
        rounding=math.floor,
        quick={"width": 8, "depths": (1, 1, 1, 1, 1), "hidden": 64},
    ),
    "xception": Form(
        "xception",
        {"stem": (8, 8), "entry": (12, 16, 24), "middle": 1, "exit": (24, 32, 48), "dropout": 0.0},
        strides=None,
    ),
    "zfnet": Form("zfnet", MLP, 47, (2, 8, 16)),
    "localizer": Form("localizer_small", LOCALIZER, strides=None, quick={"trunk_width": 16}, images=6),
    "localizer_per_class": Form(
        "localizer_small",
        LOCALIZER | {"per_class": True},
        strides=None,
        learns=False,
        quick={"trunk_width": 16},
        images=6,
    ),
    "atss": Form("atss_small", ATSS, 128, None, quick={"trunk_width": 16, "channels": 32}, lr=4e-3, images=2),
    "yolo1": Form(
        "yolo1_small",
        {"trunk_width": 8, "trunk_depths": (1, 1, 1), "convs": ((16, 1),)},
        128,
        None,
        quick={"trunk_width": 16, "convs": ((64, 1),)},
        images=4,
    ),
    "yolo1_full": Form("yolo1_tiny", CELLS | {"hidden": 64}, 128, None, learns=False, steps=200, images=4),
    "yolo1_local": Form("yolo1_released", CELLS, 128, None, learns=False, steps=200, images=4),
    "yolo2": Form(
        "yolo2_small",
        {"trunk_width": 8, "trunk_depths": (1, 1, 1), "convs": (16,), "joined": 16},
        128,
        None,
        quick={"trunk_width": 16, "convs": (64,), "joined": 64},
        lr=4e-3,
        images=2,
    ),
    "yolo2_anchors": Form(
        "yolo2_tiny",
        {"trunk": "resnet18", "trunk_width": 8, "dilated": False, "location": "anchor", "convs": (16,)},
        128,
        None,
        learns=False,
        quick={"trunk_width": 16, "convs": (64,)},
        lr=4e-3,
        images=4,
    ),
    "yolo9000": Form(
        "yolo9000_small",
        {"trunk_width": 8, "trunk_depths": (1, 1, 1), "convs": (16,), "joined": 16},
        128,
        None,
        quick={"trunk_width": 16, "convs": (64,), "joined": 64},
        lr=4e-3,
        images=2,
    ),
    "yolo3": Form(
        "yolo3_small",
        {"trunk_width": 8, "trunk_depths": (1, 1, 1, 1), "widths": (16, 8, 8)},
        128,
        None,
        quick={"trunk_width": 16, "widths": (32, 24, 16)},
        lr=4e-3,
        images=2,
    ),
    "darknet_yolo": Form("darknet_cfg", {"cfg": DARKNET["yolo"]}, 128, None, lr=4e-3, images=4),
    "darknet_region": Form("darknet_cfg", {"cfg": DARKNET["region"]}, 128, None, learns=False, lr=4e-3, images=4),
    "retinanet": Form(
        "retinanet_small", ATSS | {"depth": 1}, 128, None, quick={"trunk_width": 16, "channels": 32}, lr=4e-3, images=2
    ),
    "ssd": Form("ssd300", {"width": 2}, 300, None, learns=False, quick={"width": 8}, lr=4e-3, images=4),
    "fcn": Form("fcn8s_small", FCN, 64, None, images=4, lr=1e-2),
    "fcn_vgg": Form(
        "fcn8s",
        FCN | {"trunk": "vgg11_bn", "trunk_depths": None, "pad": 100, "balance": 0.25},
        64,
        None,
        learns=False,
        images=4,
        lr=1e-2,
    ),
    "fcn_dilated": Form(
        "fcn_resnet50",
        {"trunk_width": 4, "trunk_depths": (1, 1, 1, 1), "balance": 0.25},
        64,
        None,
        learns=False,
        quick={"trunk_width": 8},
        images=4,
        lr=1e-2,
    ),
    "fast_rcnn": Form("fast_rcnn_small", ONE_MAP, 128, None, lr=2e-3, falls=False, images=2),
    "fast_rcnn_vgg": Form("fast_rcnn_vgg16", FULLY_CONNECTED, 128, None, learns=False, lr=2e-3, images=4),
    "faster_rcnn": Form("faster_rcnn_c4_small", ONE_MAP | {"rpn_channels": 32}, 128, None, lr=2e-3, images=2),
    "faster_rcnn_vgg": Form(
        "faster_rcnn_vgg16",
        FULLY_CONNECTED | {"rpn_channels": 32, "rpn_inside": False, "rpn_after": (300, 100)},
        128,
        None,
        learns=False,
        quick={"trunk_hidden": 512},  # the weights of fc6 and fc7 begin at 0.01, for thousands of units
        lr=2e-3,
        steps=250,
        images=4,
    ),
    "fpn": Form(
        "faster_rcnn_small",
        {"trunk_width": 16, "channels": 32, "head_width": 64},
        128,
        None,
        lr=4e-3,
        falls=False,
        steps=110,
        images=4,
        learns=False,  # test_mask_rcnn.py shows it of the same pyramid and heads
    ),
    "rcnn": Form("rcnn_small", RCNN, 96, None, learns=False, lr=1e-2, falls=False, images=4),
    "sppnet": Form("sppnet_small", SPPNET, 96, None, learns=False, lr=1e-2, falls=False, images=4),
    "mask_rcnn": Form(
        "mask_rcnn_small",
        {"trunk_width": 16, "channels": 32, "head_width": 64, "head_sample": 32, "mask_width": 16, "mask_depth": 1},
        96,
        None,
        learns=False,  # test_mask_rcnn.py shows it, with masks that are no boxes
        lr=4e-3,
        falls=False,
        images=2,
    ),
    "keypoint_rcnn": Form(
        "keypoint_rcnn_small",
        {
            "trunk_width": 16,
            "channels": 32,
            "head_width": 64,
            "head_sample": 32,
            "joint_width": 16,
            "joint_depth": 1,
            "joints": 4,
        },
        96,
        None,
        learns=False,  # test_keypoint_rcnn.py shows it
        lr=4e-3,
        falls=False,
        images=2,
    ),
    "hourglass": Form(
        "hourglass_small",
        {"width": 16, "depth": 2, "stacks": 2, "joints": 4, "pairs": ((0, 1),)},
        64,
        None,
        quick={"width": 32, "depth": 1, "stacks": 1, "flip_test": False},  # corners of a square are no left and right
        lr=1e-2,
        steps=120,
        images=2,
    ),
    "eigenfaces": Form("eigenfaces", {"side": 16, "components": 8}, 32, strides=None, quick={"colour": True}),
    "facenet": Form("facenet_small", {"trunk_width": 8, "embedding": 16}, strides=None),
    "facenet_nn1": Form(
        "facenet_nn1", {"width": 0.125, "embedding": 16, "loss": "arcface"}, strides=None, learns=False
    ),
    "facenet_nn2": Form(
        "facenet_nn2", {"width": 0.125, "embedding": 16, "loss": "softmax"}, strides=None, learns=False
    ),
    "siamese": Form("siamese_small", {"trunk_width": 8, "embedding": 16}, strides=None),
    "siamese_koch": Form(
        "siamese_koch", {"width": 0.125, "embedding": 32}, 105, None, learns=False, lr=1e-3, steps=120
    ),
    "deepface": Form("deepface_small", {"size": (64, 64), "hidden": 32, "dropout": 0.0}, strides=None),
    "multibin": Form(
        "multibin_small",
        {"trunk_width": 8, "trunk_depths": (1, 1, 1), "hidden": 16, "side": 32, "grid": 2, "boxes": 4},
        96,
        None,
        learns=False,  # test_multibin.py shows it, with cuboids
        images=2,
    ),
    "rfcn": Form(
        "rfcn_small",
        {"trunk_width": 16, "trunk_depths": (1, 1, 1), "channels": 64, "rpn_channels": 64, "head_sample": 64},
        96,
        None,
        lr=6e-3,
        steps=110,
        images=2,
    ),
    "sliding_window": Form(
        "sliding_window_small",
        {"trunk_width": 8, "hidden": (32,), "sample": 32, "shapes": ((30, 36), (40, 40))},
        96,
        None,
        images=2,
    ),
    "deconvnet": Form(
        "deconvnet_small",
        {"trunk_width": 4, "trunk_depths": (1, 1, 1, 1, 1), "hidden": 16},
        96,
        strides=None,
        learns=False,
        quick={"trunk_width": 16, "hidden": 64},
        lr=1e-2,
        images=2,
    ),
    "patch": Form(
        "patch_small",
        {"stages": ((8, 3, 2), (16, 3, 1)), "hidden": (32,), "scales": 3, "windows": 256},
        48,
        strides=None,
        # Its norms see windows in training; the test shows them whole images before it asks.
        quick={"stages": ((16, 3, 2), (32, 3, 1)), "hidden": (64,), "batch_norm": False, "windows": 512},
        lr=1e-2,
        images=2,
    ),
    "patch_levels": Form(
        "patch_multiscale",
        {"stages": ((8, 3, 2), (16, 3, 1)), "hidden": (32,), "windows": 256},
        48,
        strides=None,
        learns=False,
        lr=1e-2,
        images=2,
    ),
    "patch_again": Form(
        "patch_recurrent",
        {"stages": ((16, 4, 2), (32, 3, 2)), "windows": 256},
        48,
        strides=None,
        learns=False,
        lr=1e-2,
        images=2,
    ),
    "segnet": Form(
        "segnet_small",
        {"trunk_width": 4, "trunk_depths": (1, 1, 1, 1, 1)},
        strides=None,
        quick={"trunk_width": 16},
        lr=1e-2,
        images=2,
    ),
    "unet_valid": Form(
        "unet_paper",
        {"width": 4, "levels": 2, "tile": 20, "dropout": 0.0},
        strides=None,
        learns=False,
        quick={"width": 8, "in_channels": 3},  # these colours are all of one gray
        lr=1e-2,
        images=2,
    ),
    "unet_same": Form("unet", {"width": 8, "levels": 3}, strides=None, lr=1e-2, images=2),
    "unet_light": Form(
        "unet_light",
        {"trunk_width": 8, "decoder_width": 4},
        strides=None,
        quick={"trunk_width": 16, "decoder_width": 8},
        lr=1e-2,
        images=2,
    ),
}
# What makes a network small that nobody gave a form, where its Config has such fields.
NARROW = {"width": 8, "trunk_width": 8, "channels": 16, "hidden": 32, "head_width": 32, "dropout": 0.0}


def all_forms() -> dict[str, Form]:
    """FORMS, and one for each further room, by the name of its module."""
    forms = dict(FORMS)
    covered = {model_module(form.name).__name__ for form in FORMS.values()}
    for room in model_modules():
        if room.__name__ not in covered:
            name = min(room.VARIANTS, key=lambda name: catalogue()[name]["parameters"])
            config = room.VARIANTS[name]
            kinds = {f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config)}
            narrow = {k: v for k, v in NARROW.items() if kinds.get(k) is type(v)}
            side = min(128, catalogue()[name]["size"])
            forms[name] = Form(name, narrow, side, None, learns=False, images=4)
    return forms
