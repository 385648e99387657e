"""A window of OpenCV's that shows pictures one after another."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cv2
import numpy as np

from saccade.errors import UsageError

_END_KEYS = (ord("q"), 27)  # 27 is Escape


class Window:
    """Shows pictures while it is open as a context.

    Args:
        title: stands in its frame.
        wanted: nothing is opened without.
    """

    def __init__(self, title: str, wanted: bool) -> None:
        self.title, self.wanted = title, wanted

    @staticmethod
    def check(videos: Sequence[str]) -> None:
        """Raises UsageError where there is no video to show, or OpenCV cannot open a window here."""
        if not videos:
            raise UsageError("--show is for videos and cameras; pictures with their answers go to --out DIR")
        windows = (line.split(":")[1] for line in cv2.getBuildInformation().splitlines() if "GUI:" in line)
        if next(windows, "").strip() in ("", "NONE"):
            raise UsageError(
                "--show: this OpenCV is the headless build, which has no windows; look at the video in --out DIR, or "
                "put the other build in its place: pip uninstall opencv-python-headless; pip install opencv-python"
            )
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UsageError("--show: there is no display (DISPLAY is not set); look at the video in --out DIR")

    def __enter__(self) -> Window:
        if self.wanted:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
        return self

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            cv2.destroyWindow(self.title)

    def show(self, image: np.ndarray | None) -> bool:
        """Show [H, W, 3] uint8 RGB. Whether the person wants more: q, Escape and closing the window say no."""
        if not self.wanted or image is None:
            return True
        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        return key not in _END_KEYS and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
