"""From the cells of a map to the pixels of the image that the user knows."""

from __future__ import annotations

import cv2
import numpy as np

from saccade.data.geometry import Size, map_points, scaling, shift


def place(plane: np.ndarray, network: Size, to_image: np.ndarray, size: Size) -> np.ndarray:
    """A map of the network's input, stretched over that input and taken to an image, linearly between cell centres.

    Args:
        plane: [h, w] float; its cells divide the network's input evenly.
        network: (height, width) of the network's input, padding included.
        to_image: [3, 3], pixels of the network's input to pixels of the image (`Batch.to_original`).
        size: (height, width) of the image.

    Returns:
        [*size] float32; NaN where the network saw nothing of the image (cut off by a crop).
    """
    plane = plane.astype(np.float32)
    matrix = to_image @ scaling(network[1] / plane.shape[1], network[0] / plane.shape[0])
    while abs(np.linalg.det(matrix[:2, :2])) ** 0.5 < 0.5 and min(plane.shape) > 1:  # against aliasing
        halved = cv2.resize(plane, (-(-plane.shape[1] // 2), -(-plane.shape[0] // 2)), interpolation=cv2.INTER_AREA)
        matrix = matrix @ scaling(plane.shape[1] / halved.shape[1], plane.shape[0] / halved.shape[0])
        plane = halved
    centred = shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5)
    out = cv2.warpAffine(
        plane, centred[:2], (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    seen = map_points(np.stack([x, y], axis=-1), np.linalg.inv(to_image))
    outside = ((seen < 0) | (seen > [network[1], network[0]])).any(axis=-1)
    out[outside] = np.nan
    return out
