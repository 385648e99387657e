"""What a detector did on its way to an answer, as boxes that can be drawn: `answer_stages` of the contract of rooms.

A stage is a set of boxes with a name and words: proposals, anchors and what they matched, the bins of a pooled region,
boxes before non-maximum suppression and after. The functions below make those that several rooms have.

Letters: n boxes of a stage, A anchors, r regions, C classes, g boxes a region (C + 1, or 1 for all classes), k bins
along a side of a pooled region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.cells import CellOutputs, responsible
from saccade.layers.regions import PyramidPooling, RegionOutputs, RegionRules, decode_answers, foreground
from saccade.layers.targets import Targets, detection_targets
from saccade.ops.boxes import valid_boxes
from saccade.ops.roi_pool import bin_edges


@dataclass(slots=True)
class BoxStage:
    """The boxes of one stage, in pixels of the network's input, on the CPU."""

    name: str  # a few words: "proposals"
    words: str  # a full sentence or two: what the boxes are, and what they become
    boxes: Tensor  # [n, 4] float32
    scores: Tensor | None = None  # [n] float32 in [0, 1]; of a stage with scores the best are drawn
    labels: Tensor | None = None  # [n] int64; without, the boxes are of no class
    nms: float | None = None  # the IoU of the suppression by class that comes next, which is then drawn step by step
    bins: bool = False  # the boxes are the bins of one region, of which all are drawn


def given_stage(boxes: Tensor) -> BoxStage:
    """The regions [r, 4] that an image is given, best first where their source ranks them."""
    words = (
        "Boxes that are given with the image, from selective search, a file or another model; the network looks at "
        "each, and finds nothing that none of them holds."
    )
    boxes = boxes.detach().float().cpu()
    return BoxStage("given proposals", words, boxes[valid_boxes(boxes)])


def windows_stage(windows: Tensor, scores: Tensor) -> BoxStage:
    """Windows [A, 4] that slide over an image, each with the score of its likeliest class; zeros are no windows.

    Args:
        scores: [A, C] in [0, 1].
    """
    best, labels = (each.cpu() for each in scores.detach().float().max(1))
    rows = valid_boxes(windows).cpu().nonzero()[:, 0]
    rows = rows[best[rows].argsort(descending=True, stable=True)]
    words = (
        "The classifier looks at every window at every step, of some scales and shapes. Those of the highest scores "
        "are drawn; each is named by itself."
    )
    return BoxStage("windows", words, windows.float().cpu()[rows], best[rows], labels[rows])


def proposal_stages(logits: Tensor, anchors: Tensor, proposals: Tensor, least: int = 100) -> list[BoxStage]:
    """The anchors that a proposal network likes best, and the proposals that it makes of all.

    Args:
        logits: [A] of "an object", of one image.
        anchors: [A, 4].
        proposals: [r, 4] by falling score; zeros in empty places.
        least: anchors that are shown.
    """
    best, rows = logits.detach().float().sigmoid().topk(min(least, len(logits)))
    liked = BoxStage(
        "best anchors",
        "Anchors that the proposal network takes for an object with the highest scores, before it moves them.",
        anchors[rows].float().cpu(),
        best.cpu(),
    )
    kept = proposals[valid_boxes(proposals)].detach().float().cpu()
    words = "What the proposal network makes of its anchors: moved, clipped, thinned out; the first are the likeliest."
    return [liked, BoxStage("proposals", words, kept)]


def found_targets(batch: Batch, answers: Sequence[Annotation], classes: int) -> Targets:
    """The answers for a batch in place of its truth, to ask which anchors would learn them."""
    empty = Objects.empty(scored=True)
    found = [answer.objects if answer.objects is not None else empty for answer in answers]
    truth = [
        Annotation(answer.size, objects=Objects(objects.boxes.cpu(), objects.labels.cpu())[_sound(objects)])
        for answer, objects in zip(answers, found, strict=True)
    ]
    return detection_targets(replace(batch, truth=truth), classes)


def _sound(objects: Objects) -> Tensor:
    return valid_boxes(objects.boxes.cpu())


def matched_stage(anchors: Tensor, matches: Tensor, targets: Targets, rule: str) -> BoxStage:
    """The anchors that would answer for the found objects, were these the truth.

    Args:
        anchors: [A, 4].
        matches: [A] int64 of one image, of `Targets.match`.
        targets: `found_targets`.
        rule: how matches are made, as it ends a sentence: "an IoU of at least 0.7, or the highest of an object".
    """
    own = (matches >= 0).nonzero()[:, 0]
    words = (
        f"Were the found objects the truth, these anchors would learn them: {rule}. Each has the colour of its "
        "object's class; all others would learn that there is nothing, or are left out."
    )
    labels = targets.labels[0, matches[own]] if len(own) else matches[:0]
    return BoxStage("matched anchors", words, anchors[own].float().cpu(), labels=labels.cpu())


def prior_stage(cells: CellOutputs, priors: Sequence[Tensor], targets: Targets) -> BoxStage:
    """The priors of YOLO's cells that would answer for the found objects, each in the middle of its cell.

    Args:
        cells: what the maps state of one image.
        priors: [k, 2] of each map, in pixels.
        targets: `found_targets`.

    Source: Redmon & Farhadi, "YOLO9000", CVPR 2017, section 2.
    """
    places, counts = (each[0] for each in responsible(targets, cells, priors))
    anchors = cells.anchors()
    matches = places.new_full((len(anchors),), -1)
    matches[places[counts]] = counts.nonzero()[:, 0]
    rule = "of each object the prior whose shape overlaps it most, in the cell where the object has its centre"
    return matched_stage(anchors, matches, targets, rule)


def best_region(scores: Tensor, regions: Tensor) -> Tensor:
    """The region [4], on the CPU, that some class is surest of; of zeros where no region is a box.

    Args:
        scores: [r, C].
        regions: [r, 4].
    """
    sure = scores.detach().amax(1).masked_fill(~valid_boxes(regions), -1)
    return regions[sure.argmax()].detach().float().cpu()


def aligned_bins(region: Tensor, side: int, words: str = "") -> BoxStage:
    """The k x k equal bins into which RoIAlign divides a region [4] on the CPU, without rounding.

    Args:
        side: k.
        words: what is said of them, where it is not RoIAlign.
    """
    steps = torch.arange(side + 1) / side
    x, y = (region[i] + steps * (region[i + 2] - region[i]) for i in (0, 1))
    words = words or (
        f"RoIAlign divides the region of the surest answer into {side} x {side} equal bins and reads the map at points "
        "within each, between its cells where need be."
    )
    return _bins(words, torch.stack((x[:-1], x[1:]), 1), torch.stack((y[:-1], y[1:]), 1))


def pooled_bins(region: Tensor, side: int, scale: float, level: Tensor) -> BoxStage:
    """The k x k bins of RoIPool for a region [4] on the CPU: whole cells of the map, neighbours may share some.

    Args:
        side: k.
        scale: map pixels per image pixel.
        level: the map [b, c, h, w].
    """
    roi = torch.cat((torch.zeros(1), region))[None]
    rows, columns = (edges[0] / scale for edges in bin_edges(roi, level.shape, side, side, scale, True))
    words = (
        f"RoIPool rounds the region of the surest answer to whole cells of the map, of {1 / scale:g} pixels, and takes "
        f"the maximum of each of {side} x {side} bins; bins of neighbours may share cells."
    )
    return _bins(words, columns, rows)


def pyramid_bins(pooling: PyramidPooling, levels: Sequence[Tensor], region: Tensor, side: int) -> BoxStage:
    """The bins of a region [4] on the CPU, on the level of a pyramid that it is read from."""
    if pooling.how == "align":
        return aligned_bins(region, side)
    place = pooling.level_of(region[None])
    return pooled_bins(region, side, 1 / pooling.strides[int(place)], levels[int(place)])


def _bins(words: str, x: Tensor, y: Tensor) -> BoxStage:
    """Bins, row by row, that begin and end along x and along y at [k, 2] each, in pixels."""
    columns, rows = x[None].expand(len(y), -1, -1), y[:, None].expand(-1, len(x), -1)
    boxes = torch.stack((columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]), 2)
    return BoxStage("bins of a region", words, boxes.flatten(0, 1).float(), bins=True)


def suppression_stages(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    threshold: float,
    nms: float,
    answer: Annotation,
    side: float = 1e-2,
) -> list[BoxStage]:
    """Boxes above the threshold before non-maximum suppression, and what is left of them.

    Args:
        boxes: [r, C, 4], or [r, 4] where one serves all classes, in pixels.
        scores: [r, C] in [0, 1].
        size: (height, width) of the image inside the padding, to which boxes are clipped.
        threshold: of the scores.
        nms: IoU above which a box suppresses another of its class.
        answer: what the network says in the end.
        side: boxes with a side of no more pixels are left out.
    """
    boxes, scores = boxes.detach().float().cpu(), scores.detach().float().cpu()
    row, label = (scores > threshold).nonzero().unbind(1)
    chosen = boxes[row, label] if boxes.ndim == 3 else boxes[row]
    limit = chosen.new_tensor([size[1], size[0]] * 2)
    chosen = torch.minimum(chosen.clamp(min=0), limit)
    usable = valid_boxes(chosen, side)
    order = scores[row, label][usable].argsort(descending=True, stable=True)
    row, label, chosen = row[usable][order], label[usable][order], chosen[usable][order]
    words = (
        f"All boxes with a score above {threshold:g}. Of each class the best stays, and those that overlap it by more "
        f"than {nms:g} go; then the best of the rest stays, and so on."
    )
    return [
        BoxStage("before suppression", words, chosen, scores[row, label], label, nms),
        answer_stage(answer),
    ]


def scored_stage(scores: Tensor, boxes: Tensor, threshold: float = 0.05) -> BoxStage:
    """Of a network that says no more of itself: the best class of each box above a threshold.

    Args:
        scores: [1, A, C] in [0, 1].
        boxes: [1, A, 4] in pixels.
    """
    best, labels = scores[0].detach().float().cpu().max(1)
    rows = (best > threshold).nonzero()[:, 0]
    rows = rows[best[rows].argsort(descending=True, stable=True)]
    words = f"All boxes with a score above {threshold:g}, of which some suppress the others."
    return BoxStage("scored boxes", words, boxes[0].detach().float().cpu()[rows], best[rows], labels[rows])


def answer_stage(answer: Annotation) -> BoxStage:
    """The objects of an answer."""
    objects = answer.objects if answer.objects is not None else Objects.empty(scored=True)
    objects = objects.to("cpu")
    return BoxStage("answer", "What the network says in the end.", objects.boxes, objects.scores, objects.labels)


@dataclass(slots=True)
class SecondStage:
    """What the second stage says of the regions of one image, as it is drawn."""

    boxes: Tensor  # [r, C, 4], clipped to the image
    scores: Tensor  # [r, C]
    region: Tensor  # [4] on the CPU: of the surest answer
    rules: RegionRules

    @classmethod
    def of(cls, outputs: RegionOutputs, regions: Tensor, size: tuple[int, int], rules: RegionRules) -> SecondStage:
        """Of regions [1, r, 4] in an image of size (height, width) inside the padding."""
        return cls.decoded(*foreground(outputs, rules), regions, size, rules)

    @classmethod
    def decoded(
        cls, scores: Tensor, offsets: Tensor, regions: Tensor, size: tuple[int, int], rules: RegionRules
    ) -> SecondStage:
        """As `of`, from scores [1, r, C] in [0, 1] and offsets [1, r, C, 4]."""
        limits = torch.tensor([size]).to(regions.device)
        boxes, scores = decode_answers(scores, offsets, regions, limits, rules)
        return cls(boxes[0], scores[0], best_region(scores[0], regions[0]), rules)

    def to_answer(self, answer: Annotation) -> list[BoxStage]:
        """Boxes before suppression, and the answer of the network."""
        rules = self.rules
        return suppression_stages(self.boxes, self.scores, answer.size, rules.score_threshold, rules.nms, answer)
