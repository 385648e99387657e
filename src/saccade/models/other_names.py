"""What is near a model that is not in the catalogue: names that other tools gave, and misspelt ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

NEAREST = 3  # names in an answer at most

# A pattern of names elsewhere, lower case, and what is nearest here; the first that fits counts.
_OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(yolo|rtdetr|yolact).*seg.*", ("mask_rcnn_small", "mask_rcnn_r50_fpn")),
    (r"yolo.*pose.*", ("keypoint_rcnn_small", "hourglass_small")),
    (r"yolo.*cls.*", ("resnet18", "resnet50")),
    (r"(yolov?\d.*|yolo|yolo[-_]?(nas|r|x|world).*)", ("atss_small", "yolo3_small", "yolo3")),
    (r"(rt[-_]?|deformable[-_]?)?detr.*|efficientdet.*|fcos.*|centernet.*", ("atss_small", "retinanet_small")),
    (r"faster[-_]?rcnn.*", ("faster_rcnn_small", "faster_rcnn_r50_fpn", "faster_rcnn_vgg16")),
    (r"mask[-_]?rcnn.*", ("mask_rcnn_small", "mask_rcnn_r50_fpn")),
    (r"keypoint[-_]?rcnn.*|hrnet.*|openpose.*|vitpose.*", ("keypoint_rcnn_small", "hourglass_small")),
    (r"retinanet.*", ("retinanet_small", "retinanet_r50")),
    (r"ssd.*", ("ssd_small", "ssd300", "ssd512")),
    (r"deeplab.*|segformer.*|pspnet.*|lraspp.*|u[-_]?net.*", ("unet_light", "unet_resnet34", "fcn8s")),
    (r"fcn.*", ("fcn8s", "fcn_resnet50")),
    (r"(efficientnet|convnext|vit|deit|swin|regnet|mnasnet|maxvit|clip|dino).*", ("resnet18", "resnet50")),
    (r"(wide[-_]?|se[-_]?)?resnet.*", ("resnet18", "resnet50", "resnet20")),
    (r"mobilenet.*", ("mobilenet_v3_small", "mobilenet_v2")),
)


def nearest_models(name: str, known: Iterable[str]) -> list[str]:
    """At most three models of `known` for a name that is none of them, the nearest first; none where nothing is near.

    The letters of a misspelt name count first, then the family of a name of another tool, then the models whose names
    hold this one: of a family, small ones first.
    """
    names = sorted(known)
    plain = re.sub(r"\.(pt|pth|yaml|yml|onnx)$", "", name.strip().lower().rsplit("/", 1)[-1])
    bare = re.sub(r"[^a-z0-9]", "", plain)
    same = [model for model in names if model.replace("_", "") == bare]
    close = difflib.get_close_matches(plain, names, n=NEAREST, cutoff=0.9)
    if same or close:
        return (same + [model for model in close if model not in same])[:NEAREST]
    for pattern, models in _OTHERS:
        if re.fullmatch(pattern, plain):
            return [model for model in models if model in names][:NEAREST]
    family = [model for model in names if len(bare) > 2 and bare in model.replace("_", "")]
    family.sort(key=lambda model: (not model.startswith(plain), not model.endswith("_small")))
    return family[:NEAREST] or difflib.get_close_matches(plain, names, n=NEAREST, cutoff=0.6)


def unknown_model(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is no model."""
    near = nearest_models(name, known)
    hint = f"the nearest here: {', '.join(near)}. " if near else ""
    own = f"./{name}.py" if Path(f"{name}.py").is_file() else "./my_net.py"
    return f"unknown model {name!r}; {hint}`saccade models` lists all, and a file of your own is named {own}"
