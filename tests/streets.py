"""Made streets in KITTI's layout: cuboids with a coloured front, as a known camera sees them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from saccade.ops.cuboids import corners, observation_angles, project, projected_boxes

SIZE = (96, 320)  # height, width
CAMERA = np.array([[180.0, 0, 160, 9], [0, 180, 40, 0.1], [0, 0, 1, 0.003]])
KINDS = {"Car": (1.5, 1.7, 4.0), "Pedestrian": (1.75, 0.7, 0.8)}  # height width length, metres
FACES = ((0, 1, 5, 4), (3, 2, 6, 7), (0, 3, 7, 4), (1, 2, 6, 5), (4, 5, 6, 7))  # front, back, sides, top
COLOURS = {
    "Car": ((240, 60, 40), (90, 10, 10), (60, 90, 220), (60, 220, 90), (200, 200, 210)),
    "Pedestrian": ((250, 220, 60), (110, 90, 0), (190, 60, 200), (40, 200, 200), (240, 240, 240)),
}


def draw_street(cuboids: list[tuple[str, np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """[H, W, 3] uint8: the cuboids, the farthest first."""
    image = rng.integers(90, 120, (*SIZE, 3), dtype=np.uint8)
    for kind, cuboid in sorted(cuboids, key=lambda each: -each[1][5]):
        space = corners(cuboid[None])[0]
        seen = project(space, CAMERA)[:, :2]
        faces = sorted(range(5), key=lambda f: -space[list(FACES[f]), 2].mean())
        for f in faces:
            points = (seen[list(FACES[f])] * 16).round().astype(np.int32)
            cv2.fillConvexPoly(image, points, COLOURS[kind][f], lineType=cv2.LINE_AA, shift=4)
    return image


def make_street(root: Path, frames: int, seed: int = 0) -> Path:
    """training/ of KITTI with `frames` pictures of two or three objects, and a region without labels in the first."""
    rng = np.random.default_rng(seed)
    for part in ("image_2", "label_2", "calib"):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    for frame in range(frames):
        found = []
        for place in range(2 + frame % 2):
            kind = "Pedestrian" if place == 1 else "Car"
            size = np.array(KINDS[kind]) * rng.uniform(0.92, 1.08)
            z = rng.uniform(9, 22)
            x = (place - 1) * z * 0.5 + rng.uniform(-0.8, 0.8)
            found.append((kind, np.array([*size, x, 1.4, z, rng.uniform(-np.pi, np.pi)])))
        write_frame(root / "training", f"{frame:06d}", found, draw_street(found, rng), frame == 0)
    return root


def write_frame(
    part: Path, stem: str, found: list[tuple[str, np.ndarray]], image: np.ndarray, unlabelled: bool = False
) -> None:
    Image.fromarray(image).save(part / "image_2" / f"{stem}.png")
    lines = []
    for kind, cuboid in found:
        box = np.clip(projected_boxes(cuboid[None], CAMERA)[0], 0, [SIZE[1], SIZE[0]] * 2)
        alpha = observation_angles(cuboid[None])[0]
        numbers = " ".join(f"{v:.4f}" for v in (alpha, *box, *cuboid))
        lines.append(f"{kind} 0.00 0 {numbers}")
    if unlabelled:
        lines.append("DontCare -1 -1 -10 2.00 30.00 22.00 44.00 -1 -1 -1 -1000 -1000 -1000 -10")
    (part / "label_2" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    matrix = " ".join(f"{v:.12e}" for v in CAMERA.ravel())
    (part / "calib" / f"{stem}.txt").write_text(f"P0: {matrix}\nP2: {matrix}\nR0_rect: 1 0 0 0 1 0 0 0 1\n")
