"""Alignment by landmarks: the similarity transform against scikit-image's, where landmarks come to lie, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.transform import estimate_transform

from saccade.data.alignment import SIDE, TEMPLATE, Landmarks, align, read_landmarks, similarity_transform
from saccade.errors import DataError


@pytest.mark.parametrize("points", [2, 3, 5])
def test_the_transform_against_scikit_image(points: int) -> None:
    rng = np.random.default_rng(points)
    for _ in range(20):
        source, target = rng.normal(size=(2, points, 2)) * 30
        expected = estimate_transform("similarity", source, target).params[:2]
        np.testing.assert_allclose(similarity_transform(source, target), expected, atol=1e-9)


def test_the_transform_undoes_a_known_one() -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    source = np.random.default_rng(0).normal(size=(5, 2))
    found = similarity_transform(source, 3 * source @ turn.T + [7, -2])
    np.testing.assert_allclose(found, np.concatenate([3 * turn, [[7], [-2]]], axis=1), atol=1e-12)
    mirrored = similarity_transform(source, source * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) > 0  # a face is turned, never mirrored
    with pytest.raises(DataError, match="all lie in one place"):
        similarity_transform(np.ones((3, 2)), source[:3])


def drawn(scale: float, turn: float, size: int) -> tuple[np.ndarray, Landmarks]:
    """An image with a bright square about each landmark, turned by `turn` radians; the eyes `35 * scale` apart."""
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    image = np.zeros((size, size, 3), np.uint8)
    middle = np.array([SIDE / 2, SIDE / 2])
    places = {name: matrix @ (np.array(at) - middle) + size / 2 for name, at in TEMPLATE.items()}
    half = max(2, round(2 * scale))
    for x, y in places.values():
        image[round(y) - half : round(y) + half, round(x) - half : round(x) + half] = 255
    return image, {name: (float(x), float(y)) for name, (x, y) in places.items()}


@pytest.mark.parametrize(
    ("scale", "turn", "size"), [(1.0, 0.0, 112), (1.0, 0.5, 200), (0.5, -0.3, 90), (5.3, 0.3, 900)]
)
def test_landmarks_come_to_lie_on_the_template(scale: float, turn: float, size: int) -> None:
    image, landmarks = drawn(scale, turn, size)
    face = align(image, landmarks)
    assert face.shape == (SIDE, SIDE, 3)
    for x, y in TEMPLATE.values():
        window = face[round(y) - 6 : round(y) + 6, round(x) - 6 : round(x) + 6, 0].astype(float)
        rows, columns = np.mgrid[round(y) - 6 : round(y) + 6, round(x) - 6 : round(x) + 6] + 0.5
        found = [(columns * window).sum() / window.sum(), (rows * window).sum() / window.sum()]
        np.testing.assert_allclose(found, [x, y], atol=0.3 + 0.5 / min(scale, 1))
    eyes = {name: landmarks[name] for name in ("left_eye", "right_eye")}
    assert np.abs(align(image, eyes).astype(int) - face).mean() < 8  # two points say as much of a face so drawn
    with pytest.raises(DataError, match="right_eye and left_eye are needed"):
        align(image, {"nose": (1.0, 2.0)})


def test_landmarks_of_files(tmp_path: Path) -> None:
    expected = {"a/1.png": {"left_eye": (30.5, 12.0), "right_eye": (10.0, 12.0)}}
    (tmp_path / "l.json").write_text('{"a/1.png": {"left_eye": [30.5, 12], "right_eye": [10, 12]}}')
    (tmp_path / "l.csv").write_text(
        "image,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y\na/1.png,30.5,12,10,12,,\n"
    )
    assert read_landmarks(tmp_path / "l.json") == expected
    assert read_landmarks(tmp_path / "l.csv") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"a.png": {"chin": [1, 2]}}',
        '{"a.png": {"nose": [1]}}',
        '{"a.png": {"nose": [1, NaN]}}',
        '{"a.png": 7}',
        "image,nose_x\na.png,3",
        "image,nose_x,nose_y\na.png,three,4",
    ],
)
def test_landmarks_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "l").write_text(text)
    with pytest.raises(DataError, match="no landmarks"):
        read_landmarks(tmp_path / "l")
    with pytest.raises(DataError, match="no landmarks"):
        read_landmarks(tmp_path / "missing")
