from __future__ import annotations

import torch
from torch import nn

from saccade.layers.normalize import Normalize, fill_padding, mean_colour


def test_channels_are_shifted_and_scaled() -> None:
    images = torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    found = Normalize((0.5, 0.0, 0.5), (1.0, 0.5, 0.25))(images)
    assert found.shape == images.shape
    assert found[1, :, 3, 4].tolist() == [0.0, 0.5, 2.0]


def test_padding_gets_the_mean_colour() -> None:
    network = nn.Sequential(nn.Identity(), Normalize((0.5, 0.25, 1.0)))
    colour = mean_colour(network)
    images = torch.rand(2, 3, 4, 6)
    filled = fill_padding(images, [(4, 6), (3, 5)], colour)
    assert torch.equal(filled[0], images[0])
    assert torch.equal(filled[1, :, :3, :5], images[1, :, :3, :5])
    assert filled[1, :, 3, 0].tolist() == filled[1, :, 0, 5].tolist() == [0.5, 0.25, 1.0]
    assert fill_padding(images, [(4, 6)] * 2, colour) is images


def test_a_trunk_whose_owner_normalises_passes_images_on() -> None:
    images = torch.rand(1, 3, 2, 2)
    assert Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(images) is images
    assert Normalize((0.0,), (2.0,))(images) is not images
