"""Cuboids: corners and pictures by hand, moves of the camera, and overlaps against OpenCV's rotated rectangles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from saccade.ops.cuboids import (
    corners,
    cuboid_ious,
    edges_seen,
    mirrored,
    moved_camera,
    observation_angles,
    project,
    projected_boxes,
    ray_angles,
    wrap,
)

CAMERA = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]])


def some(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = [1, 0.5, 0.5, -8, 0.5, 8, -4], [3, 3, 6, 8, 2, 50, 4]
    return rng.uniform(low, high, (count, 7))


def test_corners_of_a_car_that_drives_to_the_right_and_one_that_comes() -> None:
    right, comes = corners(np.array([[1.5, 2, 4, 10, 1, 20, 0], [1.5, 2, 4, 10, 1, 20, np.pi / 2]]))
    assert right[0].tolist() == pytest.approx([12, 1, 21])  # front, at its left as it drives: away from the camera
    assert right[1].tolist() == pytest.approx([12, 1, 19])
    assert right[6].tolist() == pytest.approx([8, -0.5, 19])
    assert comes[[0, 1, 4, 5], 2].tolist() == pytest.approx([18] * 4)  # the front is nearer by half the length


def test_a_picture_by_hand() -> None:
    camera = np.array([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0]])
    cube = np.array([[2.0, 2, 2, 0, 1, 5, 0]])  # from 4 to 6 metres ahead: 1/4 of a metre is a pixel share of 25
    assert projected_boxes(cube, camera)[0].tolist() == pytest.approx([25, 15, 75, 65])
    assert project(np.array([1.0, 1, 4]), camera).tolist() == pytest.approx([75, 65, 4])
    assert ray_angles(np.array([[150.0, 40], [50, 99]]), camera).tolist() == pytest.approx([np.pi / 4, 0])


def test_what_lies_behind_the_camera_is_cut_off() -> None:
    passing = np.array([[2.0, 2, 4, 2, 1, 0, np.pi / 2]])  # its rear half is beside and behind
    ends = edges_seen(passing[0], CAMERA)
    assert np.isfinite(ends).any()
    assert np.isnan(ends).any()
    assert projected_boxes(passing, CAMERA)[0, 0] > 600  # right of the middle, though points behind project to the left
    behind = np.array([[2.0, 2, 4, 0, 1, -9, 0], [np.nan] * 7])
    assert np.isnan(projected_boxes(behind, CAMERA)).all()


@pytest.mark.parametrize("turned_over", [False, True])
def test_a_moved_camera_sees_what_the_moved_picture_shows(turned_over: bool) -> None:
    matrix = np.array([[0.7, 0.1, -30], [-0.2, 1.3, 12], [0, 0, 1]])
    if turned_over:
        matrix = matrix @ np.diag([-1.0, 1, 1])
    cuboids = some(20)
    before = project(corners(cuboids), CAMERA)[..., :2] @ matrix[:2, :2].T + matrix[:2, 2]
    camera, world = moved_camera(CAMERA, matrix), mirrored(cuboids) if turned_over else cuboids
    after = project(corners(world), camera)[..., :2]
    order = [1, 0, 3, 2, 5, 4, 7, 6] if turned_over else list(range(8))  # in a mirror left corners are right ones
    np.testing.assert_allclose(after[:, order], before, atol=1e-8)
    if not turned_over:
        return
    plain = moved_camera(CAMERA, np.diag([-1.0, 1, 1]))
    assert np.linalg.det(plain[:, :3]) > 0
    np.testing.assert_allclose(moved_camera(plain, np.diag([-1.0, 1, 1])), CAMERA)


def test_a_mirror_turns_the_observed_angle() -> None:
    cuboids = some(20)
    np.testing.assert_allclose(
        np.cos(observation_angles(mirrored(cuboids))), -np.cos(observation_angles(cuboids)), atol=1e-12
    )
    np.testing.assert_allclose(wrap(mirrored(mirrored(cuboids))[:, 6] - cuboids[:, 6]), 0, atol=1e-12)


def test_overlaps_against_rotated_rectangles() -> None:
    a, b = some(40), some(40, 1)
    for each in (a, b):
        each[:, [3, 5]] /= 6  # near each other
    above, inside = cuboid_ious(a, b)
    for i in range(40):
        for j in range(40):
            rectangles = [((r[3], r[5]), (r[2], r[1]), -np.degrees(r[6])) for r in (a[i], b[j])]
            meets, points = cv2.rotatedRectangleIntersection(*rectangles)
            shared = cv2.contourArea(cv2.convexHull(points)) if meets else 0.0
            ground = a[i, 1] * a[i, 2], b[j, 1] * b[j, 2]
            assert above[i, j] == pytest.approx(shared / (sum(ground) - shared), abs=1e-3)
            high = max(0.0, min(a[i, 4], b[j, 4]) - max(a[i, 4] - a[i, 0], b[j, 4] - b[j, 0]))
            union = ground[0] * a[i, 0] + ground[1] * b[j, 0] - shared * high
            assert inside[i, j] == pytest.approx(shared * high / union, abs=1e-3)
    assert (above > 0.05).sum() > 100


def test_overlaps_by_hand() -> None:
    car = np.array([[1.5, 2, 4, 0, 1, 10, 0.3]])
    turned, raised, aside = car.copy(), car.copy(), car.copy()
    turned[0, 6] += np.pi
    raised[0, 4] -= 0.75
    aside[0, [3, 5]] += [np.cos(0.3), -np.sin(0.3)]  # a metre along its length
    both = np.concatenate([car, turned, raised, aside, np.full((1, 7), np.nan)])
    above, inside = cuboid_ious(car, both)
    assert above[0].tolist() == pytest.approx([1, 1, 1, 3 / 5, 0])
    assert inside[0].tolist() == pytest.approx([1, 1, 1 / 3, 3 / 5, 0])
    assert cuboid_ious(np.zeros((0, 7)), both)[0].shape == (0, 5)
