"""Which camera took an image, for models that answer in metres: read from files of KITTI's calibrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from saccade.data.formats.kitti import CALIBRATION, read_camera
from saccade.errors import DataError, UsageError
from saccade.tasks.table import find_task

Cameras = Callable[[Path], np.ndarray]  # of an image file: [3, 4], in pixels of the upright original


def cameras_for(task: str, camera: str | Path | None) -> Cameras | None:
    """The cameras of image files; None for a task that needs none.

    Args:
        camera: a file for all images, or a folder with NAME.txt for the image NAME.png; by default calib/NAME.txt
            beside the folder of the image, as in KITTI. A file that is missing or damaged is told for its image.

    Raises:
        UsageError: a camera for a task that has no use for it.
        DataError: the file for all images cannot be read.
    """
    if not find_task(task).cuboids:
        if camera is not None:
            raise UsageError(f"--camera is for models that answer in metres; this one is to {task}")
        return None
    if camera is not None and not Path(camera).is_dir():
        known = matrix_of(Path(camera))
        return lambda path: known

    def own(path: Path) -> np.ndarray:
        folder = path.absolute().parent.parent / CALIBRATION if camera is None else Path(camera)
        try:
            return matrix_of(folder / f"{path.stem}.txt")
        except DataError as error:
            hint = "; --camera FILE gives one for all images" if camera is None else ""
            raise DataError(f"{path}: its camera is not known: {error}{hint}") from None

    return own


def matrix_of(path: Path) -> np.ndarray:
    """[3, 4] float64: P2 of a calibration file. Raises DataError where it cannot be read."""
    return np.array(read_camera(path), np.float64).reshape(3, 4)
