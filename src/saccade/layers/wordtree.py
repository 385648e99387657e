"""Classes that are a tree: a softmax among the children of each node, and probabilities along the path to it.

Source of all: Redmon & Farhadi, "YOLO9000", CVPR 2017, section 4, "Hierarchical classification".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from saccade.data.types import Objects
from saccade.errors import UsageError
from saccade.ops.suppression import suppress


class WordTree(nn.Module):
    """Probabilities of the N nodes of a tree from N logits (YOLO9000, Redmon & Farhadi 2017, section 4).

    Args:
        parents: of each node the number of its parent, or -1 under the root, which is no node itself. Where all are -1
            the tree is flat, and this is a softmax.

    Raises:
        UsageError: a parent that does not exist, or a node that is its own ancestor.
    """

    group: Tensor
    path: Tensor
    parent: Tensor

    def __init__(self, parents: Sequence[int]) -> None:
        super().__init__()
        paths = [_path(parents, node) for node in range(len(parents))]
        depth = max(map(len, paths))
        groups = {parent: i for i, parent in enumerate(dict.fromkeys(parents))}
        self.groups = len(groups)
        # Shorter paths go on at N, where there stands a zero.
        table = [[*path, *[len(parents)] * (depth - len(path))] for path in paths]
        self.register_buffer("group", torch.tensor([groups[parent] for parent in parents]), persistent=False)
        self.register_buffer("path", torch.tensor(table), persistent=False)
        self.register_buffer("parent", torch.tensor([p if p >= 0 else len(parents) for p in parents]), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Logits [..., N] -> ln P(node) [..., N]: the sum of ln P(node | its parent) along the path from the root. Its
        negative at the true node is the loss: the cross-entropies of all decisions on the way."""
        index = self.group.expand_as(logits)
        highest = logits.new_full((*logits.shape[:-1], self.groups), float("-inf"))
        highest = highest.scatter_reduce(-1, index, logits, "amax").detach()
        apart = logits - highest.gather(-1, index)
        total = torch.zeros_like(highest).scatter_add(-1, index, apart.exp())
        conditional = apart - total.log().gather(-1, index)
        padded = torch.cat((conditional, torch.zeros_like(conditional[..., :1])), dim=-1)
        return torch.stack([padded[..., column] for column in self.path.unbind(1)]).sum(0)

    def deepest(self, probabilities: Tensor, least: float) -> Tensor:
        """P(node) [..., N], but 0 where a child is at least as likely as `least`: that child is the better answer."""
        shape = (*probabilities.shape[:-1], probabilities.shape[-1] + 1)
        best = probabilities.new_zeros(shape).scatter_reduce(
            -1, self.parent.expand_as(probabilities), probabilities, "amax"
        )
        return probabilities.where(best[..., :-1] < least, 0)


def _path(parents: Sequence[int], node: int) -> list[int]:
    """The node and its ancestors, from the node up."""
    path: list[int] = []
    while node != -1:
        if node in path:
            raise UsageError(f"class {node} of the tree is its own ancestor: {' -> '.join(map(str, [*path, node]))}")
        if not 0 <= node < len(parents):
            raise UsageError(f"class {path[-1]} of the tree has parent {node}, and there are {len(parents)} classes")
        path.append(node)
        node = parents[node]
    return path


def nearest_known(parents: Sequence[int], known: Collection[int]) -> Tensor:
    """[N] of each class itself, or the nearest above it that is known; itself where there is none. So YOLO9000 (Redmon
    & Farhadi 2017, section 4) is scored on classes that are inner nodes of its tree.

    Args:
        parents: of each class the number of its parent, -1 at the top.
        known: classes of a truth.
    """
    return torch.tensor([next((n for n in _path(parents, i) if n in known), i) for i in range(len(parents))])


def lifted(objects: Objects, above: Tensor, nms_iou: float) -> Objects:
    """Answers in the classes that a truth knows: a terrier is a dog where the truth has dogs alone.

    What overlaps a better box of the same class by more than `nms_iou` is then left out: several kinds of one class are
    answers for one object. Darknet (Redmon & Farhadi 2017) scores such a class by its own probability, by the `map` of
    its region layer; here the likeliest kind gives it.

    Args:
        objects: n boxes with labels and scores.
        above: [N] what `nearest_known` gave.
    """
    labels = above[objects.labels]
    if objects.scores is None or torch.equal(labels, objects.labels):
        return objects
    kept, _ = suppress(objects.boxes, objects.scores, labels, nms_iou, len(labels))
    return dataclasses.replace(objects, labels=labels)[kept]
