"""Boxes in three dimensions: their corners, their picture, their angles, their overlap. Plain numpy, float64.

A cuboid is h w l x y z rotation_y, as KITTI writes it: height, width and length in metres; the middle of its lower face
in the coordinates of the camera, x to the right, y down, z ahead, in metres; and the angle in radians by which it is
turned about the y axis, 0 where its length lies along x and its front shows to the right, pi/2 where the front shows to
the camera. A camera is the projection matrix [3, 4] that takes x y z 1 to pixels times depth, such as P2 of KITTI.

Source: Geiger, Lenz, Urtasun, "Are we ready for autonomous driving? The KITTI vision benchmark suite", CVPR 2012, and
the development kit of its object benchmark (readme.txt; computeBox3D.m for corners and projection).
"""

from __future__ import annotations

import numpy as np

NEAR = 0.1  # metres: what is nearer to the plane of the camera is not seen
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corners: the lower face, the upper face, the upright edges."""
FRONT = ((0, 5), (1, 4))  # the diagonals of the front face
_LONG = np.array([1, 1, -1, -1, 1, 1, -1, -1]) / 2  # shares of the length from the middle to each corner
_WIDE = np.array([1, -1, -1, 1, 1, -1, -1, 1]) / 2
_HIGH = np.array([0, 0, 0, 0, -1, -1, -1, -1.0])  # y shows down


def offsets(sizes: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """From the middle of the lower face to the corners [n, 8, 3], the four of the lower face first, those of the front
    0, 1, 4 and 5, for sizes [n, 3] (h w l) and rotations [n]."""
    h, w, l = sizes.astype(np.float64)[:, :, None].transpose(1, 0, 2)  # noqa: E741  (the usual name of a length)
    cos, sin = np.cos(rotations)[:, None], np.sin(rotations)[:, None]
    long, wide = l * _LONG, w * _WIDE
    return np.stack([cos * long + sin * wide, h * _HIGH, cos * wide - sin * long], axis=-1)


def corners(cuboids: np.ndarray) -> np.ndarray:
    """The corners [n, 8, 3] of cuboids [n, 7], in metres; in the order of `offsets`."""
    cuboids = cuboids.astype(np.float64)
    return offsets(cuboids[:, :3], cuboids[:, 6]) + cuboids[:, None, 3:6]


def project(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Points [..., 3] in metres -> [..., 3]: x and y in pixels, and the depth. Pixels of points that are not in front
    of the camera (depth 0 or less) mean nothing."""
    seen = points @ camera[:, :3].T + camera[:, 3]
    depth = seen[..., 2:]
    return np.concatenate([seen[..., :2] / np.where(depth == 0, 1, depth), depth], axis=-1)


def edges_seen(cuboid: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The edges of a cuboid [7] as they are seen, [12, 2, 2] (edge of EDGES, end, x y in pixels), each cut at NEAR;
    NaN for an edge that lies behind."""
    space = corners(cuboid[None])[0]
    ends = space[np.array(EDGES)]  # [12, 2, 3]
    depth = ends @ camera[2, :3] + camera[2, 3]
    step = depth[:, 1] - depth[:, 0]
    crossing = (depth[:, 0] < NEAR) != (depth[:, 1] < NEAR)
    share = np.divide(NEAR - depth[:, 0], step, out=np.zeros(len(ends)), where=crossing)
    cut = ends[:, 0] + share[:, None] * (ends[:, 1] - ends[:, 0])
    ends = np.where((crossing[:, None] & (depth < NEAR))[..., None], cut[:, None], ends)
    seen = project(ends, camera)[..., :2]
    return np.where((depth < NEAR).all(axis=1)[:, None, None], np.nan, seen)


def projected_boxes(cuboids: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The upright hulls x1 y1 x2 y2 of what is seen of cuboids [n, 7], in pixels, not clipped: [n, 4]; NaN where a
    cuboid lies wholly behind the camera or is not known (NaN)."""
    boxes = np.full((len(cuboids), 4), np.nan)
    for row, cuboid in enumerate(cuboids.astype(np.float64)):
        ends = edges_seen(cuboid, camera).reshape(-1, 2)
        ends = ends[~np.isnan(ends).any(axis=1)]
        if len(ends):
            boxes[row] = *ends.min(axis=0), *ends.max(axis=0)
    return boxes


def wrap(angles: np.ndarray) -> np.ndarray:
    """Angles in radians, brought to [-pi, pi)."""
    return (angles + np.pi) % (2 * np.pi) - np.pi


def mirrored(cuboids: np.ndarray) -> np.ndarray:
    """Cuboids [n, 7] in the world behind a mirror that exchanges left and right: x -> -x, rotation -> pi - rotation."""
    out = cuboids.copy()
    out[:, 3] *= -1
    out[:, 6] = wrap(np.pi - cuboids[:, 6])
    return out


def turns_over(matrix: np.ndarray) -> bool:
    """Whether an affine step [3, 3] of pixels shows a mirror image."""
    return bool(np.linalg.det(matrix[:2, :2]) < 0)


def moved_camera(camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The camera [3, 4] that sees what a picture shows after the affine step `matrix` [3, 3] of its pixels.

    After a step that `turns_over` it looks at the world of `mirrored` cuboids, so that it remains a camera which has
    right at its right; in both cases what is projected is what was projected before, moved by the step.
    """
    moved = matrix @ camera
    return moved * [-1, 1, 1, 1] if turns_over(matrix) else moved


def ray_angles(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """[n] radians about the y axis from straight ahead to the ray through each pixel [n, 2]; positive to the right.

    Source: Mousavian et al. 2017, section 3.2 and figure 3 (theta_ray, there counted from the x axis).
    """
    pixels = np.concatenate([points.astype(np.float64), np.ones((len(points), 1))], axis=1)
    rays = np.linalg.solve(camera[:, :3], pixels.T)
    return np.asarray(np.arctan2(rays[0], rays[2]))


def observation_angles(cuboids: np.ndarray) -> np.ndarray:
    """[n] radians: KITTI's alpha, the rotation less the direction in which a cuboid [n, 7] is seen."""
    cuboids = cuboids.astype(np.float64)
    return wrap(cuboids[:, 6] - np.arctan2(cuboids[:, 3], cuboids[:, 5]))


def cuboid_ious(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union of cuboids [n, 7] and [m, 7] as seen from above and in space, [n, m] each; 0 for one
    that is not known (NaN) or has no volume.

    Seen from above they are rectangles of length and width; heights overlap as intervals. Source: the development kit
    of KITTI, 2017 (evaluate_object_3d_offline.cpp: groundBoxOverlap, box3DOverlap).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    known = np.isfinite(a).all(1)[:, None] & np.isfinite(b).all(1)[None]
    half = [np.hypot(each[:, 1], each[:, 2]) / 2 for each in (a, b)]
    apart = np.hypot(a[:, None, 3] - b[None, :, 3], a[:, None, 5] - b[None, :, 5])
    i, j = np.nonzero(known & (apart < half[0][:, None] + half[1][None]))
    shared = _rectangles_shared(a[i], b[j])
    ground_a, ground_b = a[i, 1] * a[i, 2], b[j, 1] * b[j, 2]
    top, bottom = np.maximum(a[i, 4] - a[i, 0], b[j, 4] - b[j, 0]), np.minimum(a[i, 4], b[j, 4])
    volume = shared * np.maximum(bottom - top, 0)
    union = ground_a + ground_b - shared, a[i, 0] * ground_a + b[j, 0] * ground_b - volume
    out = np.zeros((2, len(a), len(b)))
    for place, (top_, low) in enumerate(((shared, union[0]), (volume, union[1]))):
        out[place, i, j] = np.divide(top_, low, out=np.zeros(len(i)), where=low > 0)
    return out[0], out[1]


def _rectangles_shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[p] areas that the rectangles of cuboids [p, 7] share with those of [p, 7], row by row, in the plane of x and z.

    The common part is convex: its corners are the corners of each within the other, and the crossings of their edges.
    """
    first, second = (corners(each)[:, :4][..., [0, 2]] for each in (a, b))  # [p, 4, 2]
    middle = first.mean(axis=1, keepdims=True)
    first, second = first - middle, second - middle  # near the origin, where rounding is small
    points = np.concatenate([first, second, _crossings(first, second)], axis=1)  # [p, 24, 2]
    inside = np.concatenate([_within(first, second), _within(second, first)], axis=1)
    valid = np.concatenate([inside, np.isfinite(points[:, 8:]).all(-1)], axis=1)
    points = np.where(valid[..., None], points, 0.0)
    count = valid.sum(axis=1)
    centre = points.sum(axis=1) / np.maximum(count, 1)[:, None]
    points = np.where(valid[..., None], points - centre[:, None], 0.0)
    angle = np.where(valid, np.arctan2(points[..., 1], points[..., 0]), np.inf)
    order = np.argsort(angle, axis=1)
    points = np.take_along_axis(points, order[..., None], axis=1)
    last = np.maximum(count - 1, 0)  # places behind the last are the last again, and enclose nothing
    places = np.minimum(np.arange(points.shape[1])[None], last[:, None])
    points = np.take_along_axis(points, places[..., None], axis=1)
    after = np.roll(points, -1, axis=1)
    area = np.abs((points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0]).sum(axis=1)) / 2
    return np.where(count >= 3, area, 0.0)


def _within(points: np.ndarray, rectangle: np.ndarray) -> np.ndarray:
    """[p, 4] bool: which points [p, 4, 2] lie in a rectangle [p, 4, 2], its border included."""
    origin = rectangle[:, :1]
    inside = np.ones(points.shape[:2], bool)
    for side in (rectangle[:, 1:2] - origin, rectangle[:, 3:4] - origin):
        along, whole = ((points - origin) * side).sum(-1), (side * side).sum(-1)
        inside &= (along >= -1e-9 * whole) & (along <= (1 + 1e-9) * whole)
    return inside


def _crossings(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[p, 16, 2]: where the edges of polygons [p, 4, 2] cross; NaN where they do not, or are parallel."""
    a, c = first[:, :, None], second[:, None]  # [p, 4, 1, 2], [p, 1, 4, 2]
    ab, cd = np.roll(first, -1, 1)[:, :, None] - a, np.roll(second, -1, 1)[:, None] - c
    cross = ab[..., 0] * cd[..., 1] - ab[..., 1] * cd[..., 0]
    between = c - a
    scale = np.sqrt((ab**2).sum(-1) * (cd**2).sum(-1))
    turned = np.abs(cross) > 1e-12 * scale
    safe = np.where(turned, cross, 1.0)
    s = (between[..., 0] * cd[..., 1] - between[..., 1] * cd[..., 0]) / safe
    t = (between[..., 0] * ab[..., 1] - between[..., 1] * ab[..., 0]) / safe
    meet = turned & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    return np.where(meet[..., None], a + s[..., None] * ab, np.nan).reshape(len(first), 16, 2)
