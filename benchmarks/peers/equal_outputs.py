"""Does Saccade compute what the public networks and operators compute?

    python benchmarks/peers/equal_outputs.py [--only resnet]

Every network of torchvision's and timm's that Saccade has gets random weights in the peer's process, its state dict is
read here as a public checkpoint is, and both answer to the same pixels. Operators get random arrays and edge cases.
Exits with 1 where a line fails. Tolerances: logits and other raw outputs 1e-4 of the largest absolute value, at least
1e-4; final boxes 1e-2 px, scores 1e-4; the same boxes, in the same order but for scores that are equal within that
tolerance; the same pixels of every mask, but for those whose likelihood is within 1e-4 of the threshold; the same
joints, but for those with two peaks of equal height.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from environment import Peer
from equal_ops import operator_lines
from torch import Tensor

from saccade.data.types import Batch
from saccade.layers.keypoints import read_keypoints
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, fill_padding
from saccade.models import create, model_config, model_module
from saccade.ops.boxes import box_iou
from saccade.ops.roi_align import to_rois

# Saccade's name, the peer's, its library
CLASSIFIERS = [
    *((name, name, "torchvision") for name in ("resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet")),
    *((name, name, "torchvision") for name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")),
    *((name, name, "torchvision") for name in ("shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1")),
    *((name, name, "torchvision") for name in ("inception_v3", "alexnet", "vgg16", "vgg16_bn")),
    ("xception", "legacy_xception", "timm"),
    ("inception_v4", "inception_v4", "timm"),
    ("inception_resnet_v2", "inception_resnet_v2", "timm"),
    ("darknet53_timm", "darknet53", "timm"),
    *((name, name, "torchvision") for name in ("fcn_resnet50", "fcn_resnet101")),
]
TWO_STAGES = {  # Saccade's name -> torchvision's
    "faster_rcnn_r50_fpn": "fasterrcnn_resnet50_fpn",
    "mask_rcnn_r50_fpn": "maskrcnn_resnet50_fpn",
}
RAW, PIXELS, SCORE = 1e-4, 1e-2, 1e-4
Line = tuple[str, float, float, bool]  # what, largest difference, allowed, whether it holds


def load(name: str, answer: dict[str, np.ndarray], **changes: Any) -> Any:
    """Saccade's network with the peer's weights; every key must be used."""
    model = create(name, **changes).eval()
    state = {k.removeprefix("state "): torch.from_numpy(v) for k, v in answer.items() if k.startswith("state ")}
    from_public = getattr(model_module(name), "from_public", dict)
    model.load_state_dict(from_public(state))
    return model


def compare(what: str, ours: Tensor, theirs: np.ndarray, allowed: float, relative: bool = False) -> Line:
    """One line; relative tolerances are of the largest absolute value, at least 1."""
    if tuple(ours.shape) != theirs.shape:
        return f"{what}: shapes {list(ours.shape)} and {list(theirs.shape)}", float("inf"), allowed, False
    if theirs.size == 0:
        return what, 0.0, allowed, True
    scale = max(1.0, float(np.abs(theirs).max())) if relative else 1.0
    difference = float(np.abs(ours.double().numpy() - theirs.astype(np.float64)).max())
    return what, difference, allowed * scale, difference <= allowed * scale


def classifier_line(peer: Peer, name: str, theirs: str, library: str) -> Line:
    """Logits of two images of 128 pixels, which every network takes."""
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(7))
    config = model_config(name)
    mean, std = (
        getattr(config, "mean", IMAGENET_MEAN),
        getattr(config, "std", IMAGENET_STD),
    )  # of a segmenter its trunk's
    normal = Normalize(mean, std)(images)  # Saccade's networks do this themselves
    sent = {str(i): image.numpy() for i, image in enumerate(normal)}
    _, answer = peer.ask({"name": theirs, "library": library, "seed": 0}, sent)
    with torch.inference_mode():
        logits = load(name, answer)(images)
    return compare(f"{name} = {library} {theirs}: logits", logits, answer["logits"], RAW, relative=True)


def same_boxes(what: str, ours: Tensor, theirs: np.ndarray, kinds: Tensor, labels: np.ndarray) -> tuple[Tensor, Line]:
    """Match their boxes with ours of the same kind, one to one; how many stand at another rank is said in the line.

    Ranks are compared by the scores' own line: where the scores at each rank agree, boxes can only have changed places
    with boxes of equal score within its tolerance.

    Returns:
        Our row for each of their boxes, and the line.
    """
    given = torch.from_numpy(theirs)
    rows = torch.arange(len(theirs))
    if ours.shape != given.shape or len(theirs) == 0:
        return rows[: len(ours)], compare(what, ours, theirs, PIXELS)
    distance = (ours[None] - given[:, None]).abs().amax(2)
    distance[kinds[None] != torch.from_numpy(labels)[:, None]] = torch.inf
    distance += (rows[None] != rows[:, None]) * 1e-9  # of equal boxes the one at the same rank
    largest, match = distance.min(1)
    moved = int((match != rows).sum())
    good = bool((largest <= PIXELS).all()) and len(match.unique()) == len(match)
    return match, (f"{what}, {moved} at another rank", float(largest.max()), PIXELS, good)


def final_lines(name: str, found: list[Any], answer: dict[str, np.ndarray]) -> Iterator[Line]:
    """Kept boxes of each image, in order, and their masks.

    Of two boxes that overlap, NMS keeps the one with the higher score; where the scores are equal within SCORE, the
    sides may keep different ones. Such pairs are counted in the line and compared no further.
    """
    for i, annotation in enumerate(found):
        objects, labels = annotation.objects, answer[f"{i} labels"] - 1  # background is 0 there
        boxes, scores = answer[f"{i} boxes"], answer[f"{i} scores"]
        kept = np.ones(len(boxes), bool)
        if objects.boxes.shape == boxes.shape:
            kept = ~chosen_otherwise(objects, torch.from_numpy(boxes), torch.from_numpy(labels), scores)
        mine, what = objects[torch.from_numpy(kept)] if kept.shape == (len(objects),) else objects, f"{name}, image {i}"
        line = f"{what}: {len(boxes)} boxes, {int((~kept).sum())} of equal score chosen otherwise"
        match, compared = same_boxes(line, mine.boxes, boxes[kept], mine.labels, labels[kept])
        yield compared
        yield compare(f"{what}: scores at each rank", objects.scores, scores, SCORE)
        if mine.masks is not None:
            yield mask_line(what, mine.masks[match], torch.from_numpy(answer[f"{i} masks"][kept, 0]))


def chosen_otherwise(ours: Any, boxes: Tensor, labels: Tensor, scores: np.ndarray) -> np.ndarray:
    """Ranks [n] at which NMS had to choose between two overlapping boxes of one class and of equal score."""
    overlap = box_iou(ours.boxes, boxes).diagonal()
    equal = (ours.scores - torch.from_numpy(scores)).abs() <= SCORE
    differs = (ours.boxes - boxes).abs().amax(1) > PIXELS
    tied: np.ndarray = (differs & equal & (ours.labels == labels) & (overlap > 0.5)).numpy()
    return tied


def mask_line(what: str, ours: Tensor, theirs: Tensor) -> Line:
    """Pixels of masks [n, H, W] that differ, but for those whose likelihood is within SCORE of the threshold."""
    what = f"{what}: {len(theirs)} masks, pixels that differ"
    if ours.shape != theirs.shape:
        return f"{what}: shapes {list(ours.shape)} and {list(theirs.shape)}", float("inf"), 0.0, False
    wrong = (ours != (theirs > 0.5)) & ((theirs - 0.5).abs() > SCORE)
    drawn = int((theirs > 0.5).sum())
    return f"{what} of {drawn}", float(wrong.sum()), 0.0, drawn > 0 and not bool(wrong.any())


def ssd_lines(peer: Peer) -> Iterator[Line]:
    """ssd300_vgg16 on two images of 300 pixels."""
    images = smooth_images(2, 300, 300)
    sent = {str(i): image.numpy() for i, image in enumerate(images)}
    _, answer = peer.ask({"name": "ssd300_vgg16", "seed": 1}, sent)
    model = load("ssd300_coco", answer)
    with torch.inference_mode():
        logits, offsets = model(images)
        found = model.predict(Batch(images, [(300, 300)] * 2))
    yield compare("ssd300_coco: class logits", logits, answer["logits"], RAW, relative=True)
    yield compare("ssd300_coco: box offsets", offsets, answer["offsets"], RAW, relative=True)
    yield from final_lines("ssd300_coco", found, answer)


def retinanet_lines(peer: Peer) -> Iterator[Line]:
    """retinanet_resnet50_fpn on two images of different widths, the second one padded.

    torchvision also gives boxes without area, which lay outside the image before they were clipped; Saccade does not.
    They are left out here, and the best 300 of the others compared.
    """
    sizes = [(256, 320), (256, 288)]
    images = smooth_images(2, 256, 320)
    images[1, :, :, 288:] = 0
    sent = {str(i): images[i, :, :h, :w].contiguous().numpy() for i, (h, w) in enumerate(sizes)}
    _, answer = peer.ask({"name": "retinanet_resnet50_fpn", "seed": 3}, sent)
    name = "retinanet_r50_coco"
    model = load(name, answer, trunk_norm="frozen")
    with torch.inference_mode():
        logits, offsets = model(fill_padding(images, sizes, model.get_buffer("colour")))
        found = model.predict(Batch(images, sizes))
    yield compare(f"{name}: class logits", logits, answer["logits"], RAW, relative=True)
    yield compare(f"{name}: box offsets", offsets, answer["offsets"], RAW, relative=True)
    for i in range(len(sizes)):
        boxes = answer[f"{i} boxes"]
        rows = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))[:300]
        answer |= {f"{i} {key}": answer[f"{i} {key}"][rows] for key in ("boxes", "scores", "labels")}
    yield from final_lines(name, found, answer)


def two_stage_lines(peer: Peer, name: str, theirs_name: str) -> Iterator[Line]:
    """A detector on a pyramid, on two images of different widths, the second one padded; masks where it draws them."""
    sizes = [(256, 320), (256, 288)]
    images = smooth_images(2, 256, 320)
    images[1, :, :, 288:] = 0
    sent = {str(i): images[i, :, :h, :w].contiguous().numpy() for i, (h, w) in enumerate(sizes)}
    _, answer = peer.ask({"name": theirs_name, "seed": 2}, sent)
    model = load(name, answer, trunk_norm="frozen")
    limits = torch.tensor(sizes)
    with torch.inference_mode():
        levels = model.backbone(fill_padding(images, sizes, model.get_buffer("colour")))
        anchors = model.rpn(levels, images.shape[-2:])
        proposals = model.rpn.propose(anchors, limits, training=False)
        regions = model.roi_heads(levels, proposals)
        found = model.predict(Batch(images, sizes))
    objectness, offsets = torch.cat(anchors.logits, 1), torch.cat(anchors.deltas, 1)
    logits, deltas = regions.logits, regions.deltas
    yield compare(f"{name}: objectness", objectness, answer["objectness"], RAW, relative=True)
    yield compare(f"{name}: anchor offsets", offsets, answer["offsets"], RAW, relative=True)
    start = 0
    for i, count in enumerate(answer["counts"].tolist()):
        theirs = {key: answer[key][start : start + count] for key in ("proposals", "class_logits", "box_offsets")}
        start += count
        kinds = torch.zeros(count)
        what = f"{name}, image {i}: {count} proposals"
        rows, line = same_boxes(what, proposals[i, :count], theirs["proposals"], kinds, kinds.numpy())
        yield line
        what = f"{name}, image {i}: their"
        yield compare(f"{what} class logits", logits[i, rows], theirs["class_logits"], RAW, relative=True)
        yield compare(f"{what} box offsets", deltas[i, rows], theirs["box_offsets"], RAW, relative=True)
    yield from final_lines(name, found, answer)


def keypoint_rcnn_lines(peer: Peer) -> Iterator[Line]:
    """keypointrcnn_resnet50_fpn on two images of different widths: boxes, scores and the joints of each box."""
    sizes = [(256, 320), (256, 288)]
    images = smooth_images(2, 256, 320)
    images[1, :, :, 288:] = 0
    sent = {str(i): images[i, :, :h, :w].contiguous().numpy() for i, (h, w) in enumerate(sizes)}
    _, answer = peer.ask({"name": "keypointrcnn_resnet50_fpn", "seed": 3}, sent)
    name = "keypoint_rcnn_r50_fpn"
    model = load(name, answer, trunk_norm="frozen")
    with torch.inference_mode():
        found = model.predict(Batch(images, sizes))
        levels = model.backbone(fill_padding(images, sizes, model.get_buffer("colour")))
        rois = to_rois([annotation.objects.boxes for annotation in found])
        maps = model.roi_heads.joints(levels, rois).split([len(annotation.objects) for annotation in found])
    yield from final_lines(name, found, answer)
    for i, annotation in enumerate(found):
        objects, labels = annotation.objects, answer[f"{i} labels"] - 1
        rows, _ = same_boxes("", objects.boxes, answer[f"{i} boxes"], objects.labels, labels)
        theirs, boxes = torch.from_numpy(answer[f"{i} keypoints"][..., :2]), torch.from_numpy(answer[f"{i} boxes"])
        ours = read_keypoints(maps[i][rows], boxes)[..., :2]  # of equal boxes one may be a whole pixel wider
        tied = equally_high(maps[i][rows], boxes, ours, theirs)
        what = f"{name}, image {i}: {ours[..., 0].numel()} joints, {int(tied.sum())} of equal height placed otherwise"
        yield compare(what, ours[~tied], theirs[~tied].numpy(), PIXELS)


def equally_high(maps: Tensor, boxes: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Joints [n, K] whose two places differ, where both are as high in our heat maps [n, K, M, M], within RAW of the
    largest value: of two peaks of a random network either may be the higher one."""
    tied = torch.zeros(ours.shape[:2], dtype=torch.bool)
    for n, k in ((ours - theirs).abs().amax(2) > PIXELS).nonzero().tolist():
        corner, extent = boxes[n, :2], (boxes[n, 2:] - boxes[n, :2]).clamp(min=1)
        width, height = (int(v) for v in extent.ceil().tolist())
        large = torch.nn.functional.interpolate(maps[n : n + 1, k : k + 1], (height, width), mode="bicubic")[0, 0]
        cells = ((torch.stack((ours[n, k], theirs[n, k])) - corner) / extent * torch.tensor([width, height])).long()
        a, b = (large[min(max(y, 0), height - 1), min(max(x, 0), width - 1)] for x, y in cells.tolist())
        tied[n, k] = abs(a - b) <= RAW * max(1.0, float(maps.abs().max()))
    return tied


def smooth_images(count: int, height: int, width: int) -> Tensor:
    """Random images [count, 3, height, width] in [0, 1] with structure at several scales, as photographs have."""
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros(count, 3, height, width)
    for cells in (3, 9, 27, 81):
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return total / 4


def show(line: Line) -> bool:
    """Print a line; whether it holds."""
    what, difference, allowed, holds = line
    print(f"{what:72} {difference:10.2e} {allowed:10.2e}  {'equal' if holds else 'DIFFERS'}", flush=True)
    return holds


def main() -> None:
    """Print the table; exit with 1 where a line fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this, or `operators`")
    only = parser.parse_args().only
    print(f"{'what':72} {'largest':>10} {'allowed':>10}")
    good = True
    if only in "operators":
        with Peer("torchvision_ops.py", threads=torch.get_num_threads()) as peer:
            for line in operator_lines(peer):
                good &= show(line)
    with Peer("torchvision_models.py", threads=torch.get_num_threads()) as peer:
        for name, theirs, library in CLASSIFIERS:
            if only in name:
                good &= show(classifier_line(peer, name, theirs, library))
        for name, lines in (
            ("ssd300_coco", ssd_lines),
            ("retinanet_r50_coco", retinanet_lines),
            ("keypoint_rcnn_r50_fpn", keypoint_rcnn_lines),
        ):
            if only in name:
                for line in lines(peer):
                    good &= show(line)
        for name, theirs in TWO_STAGES.items():
            if only in name:
                for line in two_stage_lines(peer, name, theirs):
                    good &= show(line)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
