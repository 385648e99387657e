"""Weights that others have published for networks of the catalogue: where each file is, its checksum, whose it is.

`--weights imagenet` (or another of `WORDS`) names one of them. A file is listed only where its owner states the SHA-256
of its content, in whole or, as torch.hub does, by its first digits in the file's name. Sources of the addresses, sizes,
scores and test views: torchvision 0.29 (`WeightsEnum`s of its models), timm 1.0 (`default_cfgs` and
results/results-imagenet.csv; sizes are not stated there, addresses only in 0.6), Cadene's pretrained-models.pytorch
(README), akamaster's pytorch_resnet_cifar10 (README). Owners resize by Pillow, timm bicubically, the others bilinearly;
means and standard deviations are the networks' own. Data sets have terms of their own: ImageNet is for research and
teaching that earn no money.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.errors import UsageError

WORDS = {
    "imagenet": "1000 classes of ILSVRC 2012",
    "imagenet_v2": "the same by torchvision's later recipe: better scores, features that transfer less simply",
    "coco": "objects of COCO 2017",
    "cifar10": "10 classes of CIFAR-10",
}
_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"
_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


@dataclass(frozen=True, slots=True)
class Published:
    """A file of weights on the web."""

    url: str
    sha256: str  # of its content, lower case: all 64 digits or the first few
    owner: str
    licence: str  # of the weights, as their owner states it
    score: str = ""  # what the owner states, and on what; empty: nothing
    mebibytes: float | None = None  # as the owner states it
    config: dict[str, Any] = field(default_factory=dict)  # fields of the model's Config that the weights want
    # Test view of the owner: shorter side of the resized image over that of the central crop. None: no crop.
    view: float | None = None

    @property
    def file(self) -> str:
        """Name of the file, also in the cache."""
        return self.url.rpartition("/")[2]

    @property
    def settings(self) -> dict[str, Any]:
        """What a run that starts from the weights sets by default: fields of the model's Config, and the test view."""
        return self.config if self.view is None else self.config | {"view": self.view}


def _torchvision(
    file: str, mebibytes: float, score: str, config: dict[str, Any] | None = None, view: float | None = None
) -> Published:
    return Published(
        _TORCHVISION + file, _digits(file), "torchvision", "BSD-3-Clause", score, mebibytes, dict(config or {}), view
    )


def _digits(file: str) -> str:
    """The digits of the checksum in a file's name: resnet18-f37072fd.pth."""
    return file.rpartition("-")[2].partition(".")[0]


_IMAGENET = [  # variant, file, MiB, top-1 and top-5 % on the validation images, one central crop
    ("alexnet", "alexnet-owt-7be5be79.pth", 233.087, 56.522, 79.066),
    ("vgg11", "vgg11-8a719046.pth", 506.84, 69.02, 88.628),
    ("vgg11_bn", "vgg11_bn-6002323d.pth", 506.881, 70.37, 89.81),
    ("vgg13", "vgg13-19584684.pth", 507.545, 69.928, 89.246),
    ("vgg13_bn", "vgg13_bn-abd245e5.pth", 507.59, 71.586, 90.374),
    ("vgg16", "vgg16-397923af.pth", 527.796, 71.592, 90.382),
    ("vgg16_bn", "vgg16_bn-6c64b313.pth", 527.866, 73.36, 91.516),
    ("vgg19", "vgg19-dcbb9e9d.pth", 548.051, 72.376, 90.876),
    ("vgg19_bn", "vgg19_bn-c79401a0.pth", 548.143, 74.218, 91.842),
    ("squeezenet1_0", "squeezenet1_0-b66bff10.pth", 4.778, 58.092, 80.42),
    ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 4.729, 58.178, 80.624),
    ("googlenet", "googlenet-1378be20.pth", 49.731, 69.778, 89.53),
    ("inception_v3", "inception_v3_google-0cc3c7bd.pth", 103.903, 77.294, 93.45),
    ("resnet18", "resnet18-f37072fd.pth", 44.661, 69.758, 89.078),
    ("resnet34", "resnet34-b627a593.pth", 83.275, 73.314, 91.42),
    ("resnet50", "resnet50-0676ba61.pth", 97.781, 76.13, 92.862),
    ("resnet101", "resnet101-63fe2227.pth", 170.511, 77.374, 93.546),
    ("resnet152", "resnet152-394f9c45.pth", 230.434, 78.312, 94.046),
    ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth", 95.789, 77.618, 93.698),
    ("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth", 339.586, 79.312, 94.526),
    ("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", 319.318, 83.246, 96.454),
    ("densenet121", "densenet121-a639ec97.pth", 30.845, 74.434, 91.972),
    ("densenet161", "densenet161-8d451a50.pth", 110.369, 77.138, 93.56),
    ("densenet169", "densenet169-b2777c0a.pth", 54.708, 75.6, 92.806),
    ("densenet201", "densenet201-c1103571.pth", 77.373, 76.896, 93.37),
    ("mobilenet_v2", "mobilenet_v2-b0353104.pth", 13.555, 71.878, 90.286),
    ("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth", 21.114, 74.042, 91.34),
    ("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", 9.829, 67.668, 87.402),
    ("shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth", 5.282, 60.552, 81.746),
    ("shufflenet_v2_x1_0", "shufflenetv2_x1-5666bf0f80.pth", 8.791, 69.362, 88.316),
    ("shufflenet_v2_x1_5", "shufflenetv2_x1_5-3c479a10.pth", 13.557, 72.996, 91.086),
    ("shufflenet_v2_x2_0", "shufflenetv2_x2_0-8be3c8ee.pth", 28.433, 76.23, 93.006),
]
_IMAGENET_V2 = [
    ("resnet50", "resnet50-11ad3fa6.pth", 97.79, 80.858, 95.434),
    ("resnet101", "resnet101-cd907fc2.pth", 170.53, 81.886, 95.78),
    ("resnet152", "resnet152-f82ba261.pth", 230.474, 82.284, 96.002),
    ("resnext50_32x4d", "resnext50_32x4d-1a0047aa.pth", 95.833, 81.198, 95.34),
    ("resnext101_32x8d", "resnext101_32x8d-110c445d.pth", 339.673, 82.834, 96.228),
    ("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", 13.598, 72.154, 90.822),
    ("mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth", 21.107, 75.274, 92.566),
]
# Pixels that torchvision resizes to and crops: 256 and 224, but for these and all of _IMAGENET_V2.
_LATER = 232 / 224
_VIEWS = {
    "inception_v3": 342 / 299,
    "resnext101_64x4d": _LATER,
    "shufflenet_v2_x1_5": _LATER,
    "shufflenet_v2_x2_0": _LATER,
}
_CIFAR10 = [  # variant, file, top-1 % on the test images
    ("resnet20", "resnet20-12fca82f.th", 91.73),
    ("resnet32", "resnet32-d509ac18.th", 92.63),
    ("resnet44", "resnet44-014dd654.th", 93.10),
    ("resnet56", "resnet56-4bfd9763.th", 93.39),
    ("resnet110", "resnet110-1d1ed7c2.th", 93.68),
]
_OTHERS: dict[str, dict[str, Published]] = {
    "xception": {
        "imagenet": Published(
            _TIMM + "v0.1-cadene/xception-43020ad28.pth",
            "43020ad28",
            "Chollet, ported by Cadene, published by timm",
            "Apache-2.0",
            "top-1 79.040 %, top-5 94.382 % on ImageNet",
            view=333 / 299,
        )
    },
    "inception_v4": {
        "imagenet": Published(
            _TIMM + "v0.1-cadene/inceptionv4-8e4777a0.pth",
            "8e4777a0",
            "Google, ported by Cadene, published by timm",
            "Apache-2.0",
            "top-1 80.156 %, top-5 94.968 % on ImageNet",
            view=341 / 299,
        )
    },
    "inception_resnet_v2": {
        "imagenet": Published(
            _TIMM + "v0.1-weights/inception_resnet_v2-940b1cd6.pth",
            "940b1cd6",
            "Google, ported and published by timm",
            "Apache-2.0",
            "top-1 80.462 %, top-5 95.308 % on ImageNet",
            view=333 / 299,
        )
    },
    "darknet53_timm": {
        "imagenet": Published(
            _TIMM + "v0.1-tpu-weights/darknet53_256_c2ns-3aeff817.pth",
            "3aeff817",
            "timm",
            "Apache-2.0",
            "top-1 80.536 %, top-5 95.434 % on ImageNet at 288 pixels",
            view=288 / 256,
        )
    },
    "bn_inception_caffe": {
        "imagenet": Published(
            "https://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
            "52deb473314542a5c2f87e9e6f26f4ca42fe863d15f986414dbae8c2dfdd2353",
            "Xiong, ported by Cadene",
            "BSD-3-Clause",
            "top-1 73.524 %, top-5 91.562 % on ImageNet",
            view=256 / 224,
        )
    },
    "ssd300_coco": {
        "coco": _torchvision("ssd300_vgg16_coco-b556d3b4.pth", 135.988, "AP 25.1 % on COCO val2017"),
    },
    "faster_rcnn_r50_fpn": {
        "coco": _torchvision(
            "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
            159.743,
            "AP 37.0 % on COCO val2017",
            {"trunk_norm": "frozen", "trunk_norm_eps": 0.0},
        ),
    },
    "retinanet_r50_coco": {
        "coco": _torchvision(
            "retinanet_resnet50_fpn_coco-eeacb38b.pth",
            130.267,
            "AP 36.4 % on COCO val2017",
            {"trunk_norm": "frozen", "trunk_norm_eps": 0.0},
        ),
    },
    "mask_rcnn_r50_fpn": {
        "coco": _torchvision(
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
            169.84,
            "AP 37.9 % of boxes, 34.6 % of masks on COCO val2017",
            {"trunk_norm": "frozen", "trunk_norm_eps": 0.0},
        ),
    },
    "keypoint_rcnn_r50_fpn": {
        "coco": _torchvision(
            "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
            226.054,
            "AP 54.6 % of boxes, 65.0 % of poses on COCO val2017",
            {"trunk_norm": "frozen", "trunk_norm_eps": 0.0},
        ),
    },
}


def _table() -> dict[str, dict[str, Published]]:
    table: dict[str, dict[str, Published]] = {name: dict(words) for name, words in _OTHERS.items()}
    for word, rows in (("imagenet", _IMAGENET), ("imagenet_v2", _IMAGENET_V2)):
        for name, file, mebibytes, top1, top5 in rows:
            score = f"top-1 {top1:.3f} %, top-5 {top5:.3f} % on ImageNet"
            view = _LATER if word == "imagenet_v2" else _VIEWS.get(name, 256 / 224)
            table.setdefault(name, {})[word] = _torchvision(file, mebibytes, score, view=view)
    for name, file, top1 in _CIFAR10:
        table.setdefault(name, {})["cifar10"] = Published(
            _AKAMASTER + file, _digits(file), "akamaster", "BSD-2-Clause", f"top-1 {top1:.2f} % on CIFAR-10"
        )
    return table


PUBLISHED = _table()  # by variant and word


def find_published(model: str, word: str, trunk: str | None = None) -> Published:
    """The file that `--weights WORD` means for a model: its own, or else that of the network that it stands on.

    Raises:
        UsageError: none is published of either.
    """
    for name in (model, trunk):
        if name is not None and word in PUBLISHED.get(name, {}):
            return PUBLISHED[name][word]
    wanted = model if trunk is None else f"{model}, nor for its trunk {trunk}"
    words = [
        f"{each} ({name})" if trunk else each
        for name in (model, trunk)
        for each in sorted(PUBLISHED.get(name or "", {}))
    ]
    if words:
        raise UsageError(f"no published {word} weights for {wanted}; published: {', '.join(words)}")
    having = sorted(name for name, others in PUBLISHED.items() if word in others)
    raise UsageError(
        f"no published {word} weights for {wanted}; published: {', '.join(having)}. A file of your own: --weights FILE"
    )


def class_names(word: str) -> list[str]:
    """Names of the classes of published weights, in the order of their outputs."""
    if word == "coco":
        return list(_COCO)
    if word == "cifar10":
        return list(_CIFAR10_CLASSES)
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# By category id, from 1. COCO's paper lists 91 categories; eleven of them have no annotations in its data: street sign,
# hat, shoe, eye glasses, plate, mirror, window, desk, door, blender and the last, hair brush, which has no output.
_COCO = tuple(
    """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|street sign|stop sign
parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|hat|backpack|umbrella|shoe|eye glasses
handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard
tennis racket|bottle|plate|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog
pizza|donut|cake|chair|couch|potted plant|bed|mirror|dining table|window|desk|toilet|door|tv|laptop|mouse|remote
keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|blender|book|clock|vase|scissors|teddy bear|hair drier
toothbrush""".replace("\n", "|").split("|")
)
