"""Cuboids in pictures: their edges where they project to, and the view from above."""

from __future__ import annotations

import numpy as np
import torch

from saccade.data.types import Annotation, Objects
from saccade.plots.cuboids import beside_from_above, from_above
from saccade.plots.draw import draw, fit
from saccade.plots.palette import class_colour

CAMERA = np.array([[200.0, 0, 200, 0], [0, 200, 60, 0], [0, 0, 1, 0]])


def street(*rows: list[float], crowd: bool = False) -> Annotation:
    n = len(rows)
    objects = Objects(torch.tensor([[150.0, 40, 250, 100]] * n).reshape(-1, 4), torch.arange(n))
    objects.cuboids = torch.tensor(rows).reshape(-1, 7)
    objects.crowd = torch.full((n,), crowd)
    return Annotation((140, 400), objects=objects, camera=CAMERA)


def test_edges_stand_where_the_camera_sees_them() -> None:
    image = np.zeros((140, 400, 3), np.uint8)
    box = street([2.0, 2, 2, 0, 1, 5, 0])  # from 4 to 6 metres: the near face is 100 pixels wide, from (150, 10)
    drawn = draw(image, box, ["car"])
    colour = np.array(class_colour(0))
    assert (drawn[110, 160:240] == colour).all(-1).all()  # the lower edge, where no plate is
    assert not (drawn[40, 151:159] == colour).all(-1).any()  # no frame of the box in pixels
    small, fitted = fit(image, box, 200)
    again = draw(small, fitted, ["car"])
    assert (again[55, 82:118] == colour).all(-1).all()
    behind = draw(image, street([2.0, 2, 2, 0, 1, -5, 0]), ["car"])
    assert not (behind[110, 160:240] == colour).all(-1).any()
    unknown = draw(image, street([float("nan")] * 7), ["car"])
    assert (unknown[45:95, 150] == colour).all()  # a box in pixels alone is drawn as ever


def test_a_region_of_any_class_is_drawn_once() -> None:
    nan = [float("nan")] * 7
    image = np.zeros((140, 400, 3), np.uint8)
    drawn = draw(image, street(nan, nan, nan, crowd=True), ["a", "b", "c"])
    colours = [(drawn == np.array(class_colour(k))).all(-1).any() for k in range(3)]
    assert sum(colours) == 1


def test_from_above() -> None:
    near, far = [1.5, 2, 4, -4, 1, 8, 0.0], [1.5, 2, 4, 5, 1, 16, 0.5]
    view = from_above([street(near, far), street(near)], 300)
    assert view.shape == (300, 225, 3)
    left, right = ((view == np.array(class_colour(k))).all(-1) for k in (0, 1))
    assert np.argwhere(left)[:, 1].mean() < 112 < np.argwhere(right)[:, 1].mean()
    assert np.argwhere(left)[:, 0].mean() > np.argwhere(right)[:, 0].mean()  # what is nearer stands lower
    assert (view == 255).all(-1).any()  # the outline of the truth
    assert from_above([street()], 120).shape == (120, 90, 3)
    image = np.zeros((140, 400, 3), np.uint8)
    assert beside_from_above(image, street(near)).shape == (140, 505, 3)
    flat = Annotation((140, 400), objects=Objects.empty())
    assert beside_from_above(image, flat) is image
