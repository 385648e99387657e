"""Heat maps over images: colours, scales, what was not seen."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from saccade.plots.figures import to_png
from saccade.plots.heat import HeatPanel, overlay, plot_heat_maps

pytestmark = pytest.mark.usefixtures("drawn_figures")


def test_the_strongest_place_has_colour_and_the_rest_stays_gray() -> None:
    image = np.full((6, 8, 3), (200, 100, 0), np.uint8)
    heat = np.zeros((6, 8), np.float32)
    heat[2, 3], heat[4, 4] = 5, np.nan
    out = overlay(image, heat)
    assert out[0, 0].tolist() == [100, 100, 100]
    assert np.ptp(out[2, 3].astype(int)) > 30
    assert out[4, 4].max() < 50
    assert image[0, 0].tolist() == [200, 100, 0]


def test_signs_have_colours_of_their_own() -> None:
    image, heat = np.full((1, 3, 3), 128, np.uint8), np.array([[2.0, 0.0, -2.0]])
    red, gray, blue = overlay(image, heat, signed=True)[0].astype(int)
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    assert gray.tolist() == [128, 128, 128]


def test_a_map_without_heat_is_the_gray_image() -> None:
    image = np.full((3, 3, 3), 90, np.uint8)
    assert (overlay(image, np.zeros((3, 3))) == 90).all()
    with pytest.raises(ValueError, match="of size"):
        overlay(image, np.zeros((3, 4)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (300, 3), (40, 60)])
def test_the_figure_of_any_shape(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*shape, 3), np.uint8)
    panels = [
        HeatPanel("Grad-CAM", rng.random(shape), "evidence"),
        HeatPanel("occlusion", np.full(shape, np.nan), "fall", signed=True),
    ]
    figure = plot_heat_maps(image, panels, "$\\frac{ _hidden 日本", box=(0, 0, 1, 1))
    assert len(figure.axes) == 5  # three pictures, two colour bars
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = to_png(figure)
    assert Image.open(io.BytesIO(png)).width > 300


def test_a_map_of_zeros_has_no_scale_and_says_so() -> None:
    zeros = HeatPanel("occlusion", np.zeros((40, 60)), "fall", signed=True)
    figure = plot_heat_maps(np.zeros((40, 60, 3), np.uint8), [zeros], "", box=(-50, -50, 500, 500))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["image", "occlusion: nothing, everywhere 0"]
    x = np.asarray(figure.axes[0].lines[0].get_xdata())
    assert (x.min(), x.max()) == (-0.5, 59.5)  # what lies outside of the picture would make it small


def test_a_few_strong_values_share_the_end_of_the_scale() -> None:
    image, heat = np.full((10, 20, 3), 128, np.uint8), np.ones((10, 20))
    heat[3, 4] = 1000
    alone, shared = overlay(image, heat), overlay(image, heat, end=0.99)
    assert np.abs(alone[0, 0].astype(int) - 128).max() < 8
    assert np.abs(shared[0, 0].astype(int) - 128).max() > 40
    assert shared[0, 0].tolist() == shared[3, 4].tolist()
