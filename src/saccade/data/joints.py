"""The joints of a pose: their names, which of them trade places in a mirror, and which are joined by bones.

They come from the files of a data set and travel with it and with the checkpoint; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST = 1000  # joints of one object; more are no pose

# How far apart people set the same joint, as a share of the square root of the object's area, times 2: the constants of
# COCO's evaluation (keypoints page of cocodataset.org; Ronchi and Perona, "Benchmarking and Error Diagnosis in
# Multi-Instance Pose Estimation", ICCV 2017, section 2.2).
_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
OTHER_SIGMA = 0.079  # of joints that COCO does not have: that of a shoulder, as CrowdPose takes for head and neck

_SIDES = (("left", "right"), ("Left", "Right"), ("l_", "r_"), ("L_", "R_"))


@dataclass(frozen=True, slots=True)
class Joints:
    """The joints that every object of a data set has, k of them, in the order of `Objects.keypoints`."""

    names: tuple[str, ...]  # k, each once
    pairs: tuple[tuple[int, int], ...] = ()  # left and right: they trade places when the image is mirrored
    bones: tuple[tuple[int, int], ...] = ()  # joints that are joined by a line in drawings

    def __post_init__(self) -> None:
        """Raises ValueError where names repeat, or a pair or bone names no joint or the same one twice."""
        k = len(self.names)
        if not 1 <= k <= MOST or len(set(self.names)) != k:
            raise ValueError(f"{k} joints of {len(set(self.names))} names; 1 to {MOST} needed, each once")
        for ends in (*self.pairs, *self.bones):
            if len(ends) != 2 or not all(type(i) is int and 0 <= i < k for i in ends) or ends[0] == ends[1]:
                raise ValueError(f"{ends} are no two of {k} joints")
        paired = [i for pair in self.pairs for i in pair]
        if len(set(paired)) != len(paired):
            raise ValueError("a joint is in two pairs of left and right")

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "pairs": list(map(list, self.pairs)), "bones": list(map(list, self.bones))}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Joints:
        """Raises ValueError, TypeError or KeyError where it is no such state."""
        pairs, bones = ([(a, b) for a, b in state[name]] for name in ("pairs", "bones"))
        names = tuple(state["names"])
        if not all(isinstance(name, str) for name in names):
            raise ValueError("the names of joints are not all text")
        return cls(names, tuple(pairs), tuple(bones))

    @property
    def sigmas(self) -> list[float]:
        """How exactly each joint can be set, for OKS: COCO's constant of the part of the body that its name ends in
        (`left_knee`, `r_knee`: that of a knee), else OTHER_SIGMA."""
        return [_SIGMAS.get(name.replace(" ", "_").split("_")[-1].lower(), OTHER_SIGMA) for name in self.names]

    def find(self, *names: str) -> int | None:
        """The number of the first of these names that is there."""
        return next((self.names.index(name) for name in names if name in self.names), None)


def named_joints(names: Sequence[str], bones: Sequence[tuple[int, int]] = ()) -> Joints:
    """Joints whose pairs follow from their names: the same but for left and right, or l_ and r_ at the beginning."""
    where = {name: i for i, name in enumerate(names)}
    pairs = []
    for name, i in where.items():
        for left, right in _SIDES:
            short = left.endswith("_")
            other = right + name.removeprefix(left) if short else name.replace(left, right)
            if (name.startswith(left) if short else left in name) and other in where:
                pairs.append((i, where[other]))
                break
    return Joints(tuple(names), tuple(pairs), tuple(bones))


COCO_PERSON = named_joints(
    ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
     "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
     "right_ankle"),
    ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
     (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)  # fmt: skip
"""The 17 joints of a person in COCO, with its skeleton."""

LSP = named_joints(
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
     "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top"),
    ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (8, 12), (9, 12), (2, 8), (3, 9), (2, 3),
     (12, 13)),
)  # fmt: skip
"""The 14 joints of Leeds Sports Pose (Johnson and Everingham, "Clustered Pose and Nonlinear Appearance Models for Human
Pose Estimation", BMVC 2010); left and right are those of the person."""

MPII = named_joints(
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "upper_neck",
     "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    ((0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7), (13, 7),
     (13, 14), (14, 15)),
)  # fmt: skip
"""The 16 joints of MPII Human Pose (Andriluka et al., "2D Human Pose Estimation", CVPR 2014)."""
