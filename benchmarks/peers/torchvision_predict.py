"""The peers' side of predict.py: torchvision, timm and segmentation-models-pytorch as their own pages say to use them,
and SegNet in plain torch.

Default eager mode, fp32, `torch.inference_mode`, the batch as a contiguous float tensor after their own conversion and
normalisation.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from peer_side import serve
from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OBJECTS = ("detect", "instances")  # tasks whose networks take a list of images
STATE: dict[str, Any] = {}


def build(request: dict[str, Any]) -> nn.Module:
    """The peer's network, untrained."""
    import torchvision

    name, size = request["network"], request["size"]
    if request["peer"] == "timm":
        import timm

        return timm.create_model(name)
    if request["peer"] == "smp":
        import segmentation_models_pytorch

        return segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, classes=21)
    if request["peer"] == "plain":
        from plain_segnet import SegNet

        return SegNet()
    if name == "fcn_resnet50":  # as its published weights make it, with the auxiliary head
        return torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    if name in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
        make = getattr(torchvision.models.detection, name)
        return make(weights=None, weights_backbone=None, min_size=size, max_size=size)
    if name == "ssd300_vgg16":
        return torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None)
    if name in ("googlenet", "inception_v3"):
        return torchvision.models.get_model(name, weights=None, init_weights=True)
    return torchvision.models.get_model(name, weights=None)


def enliven(model: nn.Module, task: str) -> None:
    """Statistics and biases as a trained network might have them: nothing dies out, and few boxes pass."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        layer: Any = module
        if isinstance(module, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.8, 1.2, generator=generator)
        if task in OBJECTS and isinstance(module, nn.Conv2d | nn.Linear) and name.endswith("cls_score"):
            with torch.no_grad():
                layer.weight.normal_(0, 0.1, generator=generator)
                layer.bias[0] += 4
        if task in OBJECTS and "classification_head.module_list" in name and isinstance(module, nn.Conv2d):
            with torch.no_grad():
                layer.bias.view(-1, 91)[:, 0] += 6


def predict(images: torch.Tensor) -> Any:
    """What one call costs: uint8 images to answers."""
    from torchvision.transforms import functional as transform

    floats = transform.convert_image_dtype(images)
    with torch.inference_mode():
        if STATE["task"] in OBJECTS:
            return STATE["model"](list(floats))
        outputs = STATE["model"](transform.normalize(floats, *IMAGENET))
        if isinstance(outputs, dict):
            outputs = outputs["out"]
        return outputs.softmax(1) if STATE["task"] == "classify" else outputs.argmax(1)


def memory(field: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def handle(request: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """make: a network and its state dict in a file; load: read it; time: some calls, in milliseconds."""
    if request["do"] == "make":
        torch.manual_seed(0)
        model = build(request).eval()
        enliven(model, request["task"])
        torch.save(model.state_dict(), request["file"])
        return {"parameters": sum(p.numel() for p in model.parameters())}, {}
    if request["do"] == "load":
        import torchvision  # noqa: F401  # before the measure: its memory is not the network's

        STATE.update(base=memory("VmRSS"), task=request["task"])
        model = build(request)
        model.load_state_dict(torch.load(request["file"], weights_only=True))
        STATE["model"] = model.eval()
        return {}, {}
    images = torch.from_numpy(arrays["images"])
    times = []
    for _ in range(request["calls"]):
        start = time.perf_counter()
        answer = predict(images)
        times.append(1000 * (time.perf_counter() - start))
    found = {}
    if STATE["task"] == "classify":
        found = {"scores": answer.numpy()}
    elif STATE["task"] == "segment":
        found = {"classes": answer.to(torch.uint8).numpy()}
    elif STATE["task"] in OBJECTS:
        found = {key: answer[0][key].numpy() for key in ("boxes", "scores", "labels")}
    return {"times": times, "peak": memory("VmHWM") - STATE["base"]}, found


if __name__ == "__main__":
    serve(handle)
