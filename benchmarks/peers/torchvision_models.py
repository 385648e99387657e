"""Peer's side of equal_outputs.py: public networks with random weights, and what they answer to given images."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
import torchvision
from peer_side import serve
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.rpn import concat_box_prediction_layers

Results = dict[str, Tensor]


def settle(model: nn.Module, images: Tensor) -> None:
    """Batch-norm statistics of these images, each then changed by up to a fifth, and random scales and shifts.

    With the statistics of initialisation (0 and 1) the activations of deep networks overflow or vanish, and an error in
    the statistics could not be seen.
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.eval()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
        norm.running_mean += torch.randn_like(norm.running_mean) * 0.1 * norm.running_var.sqrt()


def rescale(layer: nn.Module, values: Tensor, deviation: float) -> None:
    """Scale an output layer so that its `values` get this standard deviation."""
    factor = deviation / values.std()
    for parameter in layer.parameters():
        parameter.data *= factor


def classifier(name: str, library: str, images: Tensor) -> tuple[nn.Module, Results]:
    """Logits of normalised images; of a segmenter those of every pixel."""
    if library == "timm":
        model = timm.create_model(name, pretrained=False)
    elif name.startswith("fcn"):
        make = getattr(torchvision.models.segmentation, name)
        model = make(weights=None, weights_backbone=None, aux_loss=True)
    else:
        quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = getattr(torchvision.models, name)(weights=None, **quick)
    model.eval()
    settle(model, images)
    with torch.no_grad():
        answer = model(images)
        return model, {"logits": answer["out"] if isinstance(answer, dict) else answer}


def final(answers: list[dict[str, Tensor]]) -> Results:
    """What the detectors give for each image."""
    return {f"{i} {key}": value for i, answer in enumerate(answers) for key, value in answer.items()}


def ssd(images: list[Tensor]) -> tuple[nn.Module, Results]:
    """Head outputs and final predictions of SSD300."""
    model = detection.ssd300_vgg16(weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        maps = list(model.backbone(model.transform(images)[0].tensors).values())
        head = model.head(maps)
        rescale(model.head.classification_head, head["cls_logits"], 3.0)
        rescale(model.head.regression_head, head["bbox_regression"], 1.0)
        head = model.head(maps)
        raw = {"logits": head["cls_logits"], "offsets": head["bbox_regression"]}
        return model, raw | final(model(images))


def two_stage(name: str, images: list[Tensor]) -> tuple[nn.Module, Results]:
    """Outputs of both stages and final predictions of Faster or Mask R-CNN; a short side of 256 is not resized."""
    make = getattr(detection, name)
    model = make(weights=None, weights_backbone=None, min_size=256, max_size=1333).eval()
    model.transform.size_divisible = 32
    with torch.no_grad():
        batch, _ = model.transform(images)
        settle(model.backbone, batch.tensors)
        maps = model.backbone(batch.tensors)
        logits, offsets = model.rpn.head(list(maps.values()))
        rescale(model.rpn.head.cls_logits, torch.cat([x.flatten() for x in logits]), 2.0)
        rescale(model.rpn.head.bbox_pred, torch.cat([x.flatten() for x in offsets]), 0.3)
        logits, offsets = concat_box_prediction_layers(*model.rpn.head(list(maps.values())))
        proposals, _ = model.rpn(batch, maps)
        heads = model.roi_heads
        hidden = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
        classes, boxes = heads.box_predictor(hidden)
        rescale(heads.box_predictor.cls_score, classes, 3.0)
        rescale(heads.box_predictor.bbox_pred, boxes, 1.0)
        classes, boxes = heads.box_predictor(hidden)
        if heads.mask_predictor is not None:
            pooled = heads.mask_roi_pool(maps, proposals, batch.image_sizes)[:50]
            rescale(heads.mask_predictor.mask_fcn_logits, heads.mask_predictor(heads.mask_head(pooled)), 3.0)
        raw = {
            "objectness": logits.view(len(images), -1),
            "offsets": offsets.view(len(images), -1, 4),
            "proposals": torch.cat(proposals),
            "counts": torch.tensor([len(p) for p in proposals]),
            "class_logits": classes,
            "box_offsets": boxes,
        }
        return model, raw | final(model(images))


def retinanet(images: list[Tensor]) -> tuple[nn.Module, Results]:
    """Head outputs and final predictions of RetinaNet; a short side of 256 is not resized."""
    model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=256, max_size=1333).eval()
    model.transform.size_divisible, model.detections_per_img = 32, 400
    with torch.no_grad():
        batch, _ = model.transform(images)
        settle(model.backbone, batch.tensors)
        maps = list(model.backbone(batch.tensors).values())
        head = model.head(maps)
        rescale(model.head.classification_head.cls_logits, head["cls_logits"], 2.0)
        rescale(model.head.regression_head.bbox_reg, head["bbox_regression"], 0.3)
        bias = nn.init.constant_(model.head.classification_head.cls_logits.bias, -4.0)  # which was rescaled too
        bias.view(-1, 91)[:, 0] = -30.0  # as in trained weights: nothing is ever of the class "background"
        head = model.head(maps)
        raw = {"logits": head["cls_logits"], "offsets": head["bbox_regression"]}
        return model, raw | final(model(images))


def keypoint_rcnn(images: list[Tensor]) -> tuple[nn.Module, Results]:
    """Final predictions of Keypoint R-CNN; a short side of 256 is not resized."""
    model = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=256, max_size=1333).eval()
    model.transform.size_divisible = 32
    with torch.no_grad():
        batch, _ = model.transform(images)
        settle(model.backbone, batch.tensors)
        maps = model.backbone(batch.tensors)
        logits, offsets = model.rpn.head(list(maps.values()))
        rescale(model.rpn.head.cls_logits, torch.cat([x.flatten() for x in logits]), 2.0)
        rescale(model.rpn.head.bbox_pred, torch.cat([x.flatten() for x in offsets]), 0.3)
        proposals, _ = model.rpn(batch, maps)
        heads = model.roi_heads
        hidden = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
        classes, boxes = heads.box_predictor(hidden)
        rescale(heads.box_predictor.cls_score, classes, 0.5)  # steeper ones make rounding visible in scores
        rescale(heads.box_predictor.bbox_pred, boxes, 1.0)
        places = heads.keypoint_head(heads.keypoint_roi_pool(maps, proposals, batch.image_sizes))
        rescale(heads.keypoint_predictor.kps_score_lowres, heads.keypoint_predictor(places), 3.0)
        return model, final(model(images))


def handle(request: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """{name, library, seed} with images -> the network's state dict (`state KEY`) and its results."""
    torch.manual_seed(request["seed"])
    images = [torch.from_numpy(arrays[name]) for name in sorted(arrays)]
    if request["name"] == "ssd300_vgg16":
        model, results = ssd(images)
    elif request["name"] in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
        model, results = two_stage(request["name"], images)
    elif request["name"] == "retinanet_resnet50_fpn":
        model, results = retinanet(images)
    elif request["name"] == "keypointrcnn_resnet50_fpn":
        model, results = keypoint_rcnn(images)
    else:
        model, results = classifier(request["name"], request["library"], torch.stack(images))
    state = {f"state {key}": value.numpy() for key, value in model.state_dict().items()}
    return {}, state | {key: value.numpy() for key, value in results.items()}


serve(handle)
