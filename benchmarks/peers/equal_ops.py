"""The operators' lines of equal_outputs.py: Saccade's on the arrays that torchvision's kernels get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from environment import Peer
from torch import Tensor

from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.ops.boxes import box_iou
from saccade.ops.nms import batched_nms, nms
from saccade.ops.roi_align import roi_align
from saccade.ops.roi_pool import roi_pool

Line = tuple[str, float, float, bool]


def ask(peer: Peer, op: str, settings: dict[str, Any], **arrays: Tensor) -> list[np.ndarray]:
    """The peer's results."""
    _, results = peer.ask({"op": op, "settings": settings}, {name: a.detach().numpy() for name, a in arrays.items()})
    return [results[str(i)] for i in range(len(results))]


def boxes_of(n: int, seed: int, whole: bool = False) -> Tensor:
    """n boxes in 200 x 160 pixels; some without area, some far outside, on whole pixels where asked."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([220.0, 180.0]) - 20
    side = torch.rand(n, 2, generator=generator).square() * 90
    boxes = torch.cat((corner, corner + side), 1)
    boxes[::17, 2] = boxes[::17, 0]
    return boxes.round() if whole else boxes


def worst(pairs: list[tuple[Tensor, np.ndarray]], what: str, allowed: float) -> Line:
    """One line for several results; their shapes must agree."""
    difference = 0.0
    for ours, theirs in pairs:
        if tuple(ours.shape) != theirs.shape:
            return f"{what}: shapes {list(ours.shape)} and {list(theirs.shape)}", float("inf"), allowed, False
        if theirs.size:
            difference = max(difference, float(np.abs(ours.double().numpy() - theirs).max()))
    return what, difference, allowed, difference <= allowed


def suppression_lines(peer: Peer) -> Iterator[Line]:
    """Kept indices, in order: random boxes, boxes on whole pixels with tied scores, none, one, all equal."""
    pairs, batched = [], []
    for seed, n in enumerate((0, 1, 2, 50, 1000, 5000)):
        for whole in (False, True):
            boxes = boxes_of(n, seed, whole)
            generator = torch.Generator().manual_seed(seed)
            scores = torch.rand(n, generator=generator)
            scores = (scores * 10).round() / 10 if whole else scores
            labels = torch.randint(0, 5, (n,), generator=generator)
            for threshold in (0.0, 0.5, 0.7, 1.0):
                given = {"boxes": boxes, "scores": scores}
                pairs.append((nms(boxes, scores, threshold), ask(peer, "nms", {"threshold": threshold}, **given)[0]))
                theirs = ask(peer, "batched_nms", {"threshold": threshold}, labels=labels, **given)[0]
                ours = batched_nms(boxes, scores, labels, threshold)
                # Its own loop over labels leaves tied scores in any order; below 4000 numbers it moves the boxes apart
                # by label, which keeps whole pixels whole but rounds others.
                batched.append((ours.sort().values, np.sort(theirs)) if whole else (ours, theirs))
    same = torch.tensor([[1.0, 2, 30, 40]]).expand(20, 4).contiguous()
    theirs = ask(peer, "nms", {"threshold": 0.5}, boxes=same, scores=torch.ones(20))[0]
    pairs.append((nms(same, torch.ones(20), 0.5), theirs))
    yield worst(pairs, f"nms: {len(pairs)} cases, kept indices in order", 0.0)
    yield worst(batched, f"batched_nms: {len(batched)} cases, kept indices (in order where no scores tie)", 0.0)


def geometry_lines(peer: Peer) -> Iterator[Line]:
    """IoU of pairs, encoding and decoding."""
    pairs = []
    for n, m in ((0, 3), (3, 0), (1, 1), (300, 200)):
        a, b = boxes_of(n, 1), boxes_of(m, 2)
        # 0 / 0 of two boxes without area is NaN there and 0 here.
        pairs.append((box_iou(a, b), np.nan_to_num(ask(peer, "box_iou", {}, a=a, b=b)[0])))
    yield worst(pairs, "box_iou, boxes without area included", 1e-6)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        sides = torch.tensor([0.0, 0, 1, 1])
        boxes, anchors = boxes_of(500, 3) + sides, boxes_of(500, 4) + sides
        (theirs,) = ask(peer, "encode_boxes", {"weights": weights}, boxes=boxes, anchors=anchors)
        allowed = 1e-6 * max(1.0, float(np.abs(theirs).max()))
        yield worst([(encode_boxes(boxes, anchors, weights), theirs)], f"box encoding, weights {weights}", allowed)
        deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(5)) * 3
        (theirs,) = ask(peer, "decode_boxes", {"weights": weights}, deltas=deltas, anchors=anchors)
        allowed = 1e-6 * max(1.0, float(np.abs(theirs).max()))
        yield worst([(decode_boxes(deltas, anchors, weights), theirs)], f"box decoding, weights {weights}", allowed)


def pooling_lines(peer: Peer) -> Iterator[Line]:
    """RoIAlign and RoIPool with gradients: regions partly outside the map, without area, on whole pixels, none."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(2, 19, 40, 50, generator=generator)
    for op in ("roi_align", "roi_pool"):
        for aligned in (False, True) if op == "roi_align" else (False,):
            for ratio in (0, 2) if op == "roi_align" else (0,):
                pairs = []
                for case, (n, scale) in enumerate(((0, 0.25), (1, 0.25), (150, 0.25), (150, 0.0625), (150, 0.3))):
                    whole = bool(case % 2)
                    rois = torch.cat((torch.arange(n)[:, None] % 2, boxes_of(n, 7 + case, whole)), 1)
                    for size in (7, 2) if n != 1 else (14,):
                        gradient = torch.randn(n, 19, size, size, generator=generator)
                        settings = {"size": size, "scale": scale, "ratio": ratio, "aligned": aligned}
                        given = {"features": features, "rois": rois, "gradient": gradient}
                        theirs = ask(peer, op, settings, **given)
                        leaf = features.clone().requires_grad_()
                        if op == "roi_align":
                            out = roi_align(leaf, rois, size, scale, ratio, aligned)
                        else:
                            out = roi_pool(leaf, rois, size, scale)
                        ours = torch.autograd.grad(out, leaf, gradient)[0]
                        pairs += [(out.detach(), theirs[0]), (ours, theirs[1])]
                form = f", aligned {aligned}, sampling ratio {ratio}" if op == "roi_align" else ""
                yield worst(pairs, f"{op}{form}: values and gradients", 1e-4)


def operator_lines(peer: Peer) -> Iterator[Line]:
    """All lines."""
    yield from suppression_lines(peer)
    yield from geometry_lines(peer)
    yield from pooling_lines(peer)
