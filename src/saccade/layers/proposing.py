"""The region proposal network: where on its maps there is an object, whichever, and how to move an anchor to its box.

The first stage of Faster R-CNN and its heirs, on the levels of a pyramid or on one map (C4, conv5). From the outputs
for every anchor `propose` takes the best boxes, always equally many, and `loss` what training needs.

Letters: b images, L levels, k anchors a cell, A anchors an image (A_l of them on level l), K proposals an image, m
anchors drawn an image.

Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3; on pyramids Lin et al., "Feature Pyramid Networks", CVPR
2017, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.layers.anchors import grid_anchors
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.layers.sampling import sample_anchors
from saccade.layers.stages import BoxStage, matched_stage, proposal_stages
from saccade.layers.targets import Targets
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import smooth_l1
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.nms import nms_padded


@dataclass(frozen=True)
class ProposalRules:
    """How proposals are chosen and learned; defaults are those of Ren et al. 2017, sections 3.1.2 to 3.3, and of
    their release."""

    before: tuple[int, int] = (12000, 6000)  # best anchors of each level that enter NMS, in training and after
    after: tuple[int, int] = (2000, 300)  # proposals an image, in training and after (K)
    nms: float = 0.7  # IoU above which a proposal suppresses another of its level
    min_side: float = 16.0  # pixels of the network's input; smaller proposals are left out
    high: float = 0.7  # IoU of a positive anchor (section 3.1.2)
    low: float = 0.3  # IoU below which an anchor is background
    inside: bool = True  # in training, leave out anchors that cross the border of their image (section 3.3)
    sample: int = 256  # anchors an image in the loss (section 3.1.3)
    positive: float = 0.5  # largest share of them that is positive
    beta: float = 1 / 9  # of smooth L1 (sigma 3 of the release)


@dataclass(slots=True)
class AnchorOutputs:
    """What the network says of every anchor, a tensor a level in the order row, column, shape."""

    logits: list[Tensor]  # [b, A_l] float32: of "an object"
    deltas: list[Tensor]  # [b, A_l, 4] float32: see `decode_boxes`
    anchors: list[Tensor]  # [A_l, 4] float32, in pixels of the network's input


class RPNHead(nn.Module):
    """3x3 convolution, then an objectness logit and four offsets an anchor; one for all levels (section 3.1, figure 3):
    maps [b, channels, h, w] -> [b, A_l] and [b, A_l, 4] of each.

    State dicts have the public keys `conv.0.0`, `cls_logits`, `bbox_pred`.

    Args:
        channels: of every map.
        shapes: k.
        hidden: channels after the 3x3 convolution; None: as many as before.
        two_way: score object and background apart, as the paper does "for simplicity": 2 k outputs, the k for
            background first; the softmax of two is the logistic function of their difference. Else k logits at once.
    """

    def __init__(self, channels: int, shapes: int, hidden: int | None = None, two_way: bool = False) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        self.two_way = two_way
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(hidden, shapes * (2 if two_way else 1), 1)
        self.bbox_pred = nn.Conv2d(hidden, 4 * shapes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)  # section 3.1.3
                nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps [b, channels, h, w] -> logits [b, A_l], offsets [b, A_l, 4] of each, in the order row, column, shape."""
        logits, deltas = [], []
        for level in levels:
            hidden = self.conv(level)
            scores = self.cls_logits(hidden)
            if self.two_way:
                background, objects = scores.chunk(2, dim=1)
                scores = objects.float() - background.float()
            logits.append(scores.permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4).float())
        return logits, deltas


class RegionProposalNetwork(nn.Module):
    """Proposals from maps by sliding a small network over them (Ren et al. 2017, section 3.1).

    Holds the head under the public key `rpn.head`, and the anchor shapes of each level.

    Args:
        head: scores the k anchors of a cell.
        cells: shapes [k, 4] of each level around the origin of a cell, in pixels (`shapes_of`, `reference_anchors`).
        rules: how proposals are chosen and learned.
        stride: distance of the cells of a single map in pixels, such as 16. None: whole pixels by division of the
            padded image's side, as the public weights were trained: 61 instead of 64 where P6 of 800 has 13 rows.
        offset: where in its cell the origin of a shape lies, in strides: 0, or 0.5 for its centre.

    Raises:
        ValueError: levels with different numbers of shapes.
    """

    def __init__(
        self,
        head: RPNHead,
        cells: Sequence[Tensor],
        rules: ProposalRules,
        stride: int | None = None,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.head, self.rules, self.stride, self.offset = head, rules, stride, offset
        shapes = {len(cell) for cell in cells}
        if len(shapes) != 1:
            raise ValueError(f"all levels need equally many anchor shapes, one head serves them; got {sorted(shapes)}")
        for i, cell in enumerate(cells):
            self.register_buffer(f"cell{i}", cell, persistent=False)

    def forward(self, levels: Sequence[Tensor], size: Sequence[int]) -> AnchorOutputs:
        """Maps [b, channels, h, w] of padded images of `size` (height, width), one a level of anchors."""
        logits, deltas = self.head(levels)
        return AnchorOutputs(logits, deltas, self.anchors(levels, size))

    def anchors(self, levels: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Anchors [A_l, 4] of each level for padded images of `size` (height, width)."""
        grids = []
        for i, level in enumerate(levels):
            h, w = level.shape[-2:]
            stride = (size[0] // h, size[1] // w) if self.stride is None else (self.stride, self.stride)
            grids.append(grid_anchors(self.get_buffer(f"cell{i}"), (h, w), stride, self.offset))
        return grids

    @torch.no_grad()
    def propose(self, outputs: AnchorOutputs, sizes: Tensor, training: bool) -> Tensor:
        """The best boxes after NMS within each level (section 3.3; FPN section 4.1).

        Args:
            sizes: [b, 2] height and width of each image inside the padding, to which boxes are clipped.
            training: which of the rules' two numbers count.

        Returns:
            [b, K, 4] by falling score; zeros in places for which there was no box.
        """
        rules = self.rules
        before, after = (pair[0 if training else 1] for pair in (rules.before, rules.after))
        most = min(before, max(logits.shape[1] for logits in outputs.logits))
        scores, boxes = [], []
        for logits, deltas, anchors in zip(outputs.logits, outputs.deltas, outputs.anchors, strict=True):
            best, rows = logits.topk(min(before, logits.shape[1]), dim=1)
            offsets = deltas.gather(1, rows[..., None].expand(-1, -1, 4))
            box = clip_boxes(decode_boxes(offsets, anchors[rows]), sizes[:, None])
            usable = valid_boxes(box, rules.min_side)
            lacking = most - rows.shape[1]
            scores.append(F.pad(best.masked_fill(~usable, -torch.inf), (0, lacking), value=-torch.inf))
            boxes.append(F.pad(torch.where(usable[..., None], box, 0), (0, 0, 0, lacking)))
        box = torch.stack(boxes, 1)  # [b, L, most, 4]
        kept = nms_padded(box, torch.stack(scores, 1), rules.nms, after)
        chosen = box.flatten(1, 2).gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, 4))
        return torch.where(kept[..., None] >= 0, chosen, 0)

    def stages(self, outputs: AnchorOutputs, proposals: Tensor, targets: Targets, sizes: Tensor) -> list[BoxStage]:
        """Of one image: the best anchors, the proposals [1, K, 4], and the anchors that would learn the found objects.

        Args:
            targets: `stages.found_targets`.
            sizes: [1, 2] height and width inside the padding.
        """
        rules, anchors = self.rules, torch.cat(outputs.anchors)
        matches = self._match(anchors, targets, sizes)
        rule = f"an IoU of at least {rules.high:g} with it, or the highest that it has with any anchor"
        liked, proposed = proposal_stages(torch.cat(outputs.logits, 1)[0], anchors, proposals[0])
        return [liked, proposed, matched_stage(anchors, matches[0], targets, rule)]

    def _match(self, anchors: Tensor, targets: Targets, sizes: Tensor) -> Tensor:
        """[b, A]: which object each anchor answers for (section 3.1.2)."""
        rules = self.rules
        usable = _inside(anchors, sizes) if rules.inside else None
        return targets.match(anchors, rules.high, rules.low, force_best=True, usable=usable)

    def loss(self, outputs: AnchorOutputs, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of drawn anchors, smooth L1 of the positive ones; both over the number drawn.

        The paper divides the box loss by the number of cells and weighs it by 10, which comes to nearly the same
        (equation 1 and the text below it); the release divides as here.

        Args:
            sizes: [b, 2] height and width of each image inside the padding.

        Returns:
            `rpn_objectness` and `rpn_box`, scalars.
        """
        rules, anchors = self.rules, torch.cat(outputs.anchors)
        matches = self._match(anchors, targets, sizes)
        wanted = targets.of(anchors, matches, sample_anchors(matches, rules.sample, rules.positive))
        positive, drawn = wanted.positive, wanted.drawn
        logits = wanted.take(torch.cat(outputs.logits, 1))
        objectness = F.softplus(torch.where(positive, -logits, logits)).where(drawn, 0)
        target = encode_boxes(wanted.boxes, wanted.regions).where(positive[..., None], 0)
        box = smooth_l1(wanted.take(torch.cat(outputs.deltas, 1)), target, rules.beta).where(positive[..., None], 0)
        whole = mean_over_processes(drawn.sum()).clamp(min=1)
        return {"rpn_objectness": objectness.sum() / whole, "rpn_box": box.sum() / whole}


def _inside(anchors: Tensor, sizes: Tensor) -> Tensor:
    """[b, A]: which anchors [A, 4] lie in each image of sizes [b, 2] (height, width)."""
    corner = sizes.flip(-1)[:, None]
    return (anchors[:, :2] >= 0).all(-1) & (anchors[:, 2:] <= corner).all(-1)
