"""Videos and cameras, frame by frame. Video files are opened by what they are: a container that is known by its first
bytes, a regular file, never an address.

FFmpeg takes a name for an address ("tcp:HOST:PORT.mp4" opens a connection, "12:30:00.mp4" is of no known protocol) and
a text for a script that names other files and servers ("ffconcat", "#EXTM3U"). It is therefore given the absolute
path, no protocol but `file`, and no formats but the containers below.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from saccade.data.image import pixel_limit
from saccade.errors import DataError, ResourceError

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"})
"""Suffixes (lower case) of files that are taken for videos; what is inside is judged when the file is opened."""

_ALLOWED = "allowed: MP4, MOV, AVI, Matroska, WebM, MPEG"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # with one of these an MP4 or MOV begins
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # OpenCV reads it at every opening
_FILES_ALONE = "protocol_whitelist;file|format_whitelist;mov,matroska,avi,mpegts,mpeg,mpegvideo"
_environment = threading.Lock()
_CAMERA = re.compile("camera:([0-9]{1,3})")
_USUAL_RATE = 25.0  # frames a second, where neither file nor camera says
CUT = 0.9  # a video that ends before this share of the frames that it promises is cut off; their number is an estimate


@dataclass(frozen=True, slots=True)
class Still:
    """One frame of a video or camera."""

    number: int  # from 0, of all that were read
    time: float  # seconds from the beginning
    pixels: np.ndarray  # [H, W, 3] uint8 RGB, upright


class Footage:
    """A video file or a camera, open, to be read once from its first frame on.

    Args:
        source: a path, or "camera:0".

    Raises:
        DataError: see `open_video`; no such camera.
    """

    def __init__(self, source: str | Path) -> None:
        self.name = str(source)
        number = camera_number(self.name)
        self.is_camera = number is not None
        self._capture = open_video(Path(source)) if number is None else _open_camera(number)
        if not self._capture.isOpened():
            raise DataError(f"{self.name}: no such camera, or another program uses it")
        stated = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = stated if 0 < stated < float("inf") else _USUAL_RATE
        self.promised = 0.0 if self.is_camera else max(0.0, self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def stills(self, most: int | None = None) -> Generator[Still]:
        """The frames in order, `most` at most; the end of them closes the file or camera.

        Raises:
            DataError: behind the last frame that could be read: there was none, the file ends before about as many as
                it promises, or the camera gives no more.
        """
        number, seconds, begun = 0, 0.0, time.monotonic()
        try:
            while most is None or number < most:
                there, pixels = self._capture.read()
                if not there:
                    self._check_end(number, most)
                    return
                if self.is_camera:
                    begun = time.monotonic() if number == 0 else begun
                    seconds = time.monotonic() - begun
                else:
                    stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    seconds = stated if number == 0 or stated > seconds else seconds + 1 / self.rate
                yield Still(number, seconds, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                number += 1
        finally:
            self._capture.release()

    def _check_end(self, number: int, most: int | None) -> None:
        if self.is_camera:
            raise DataError(f"{self.name}: gives no more pictures" if number else f"{self.name}: gives no picture")
        if not number:
            raise DataError(f"{self.name}: no frame could be read; is it whole, and of a codec that FFmpeg knows?")
        if number < CUT * min(self.promised, most or self.promised):
            raise DataError(f"{self.name}: ends after {number} of about {self.promised:.0f} frames; is it whole?")


def camera_number(source: str) -> int | None:
    """Which camera `source` names ("camera:0"), if it names one."""
    found = _CAMERA.fullmatch(source)
    return None if found is None else int(found[1])


def _open_camera(number: int) -> cv2.VideoCapture:
    """A camera, open or not; OpenCV's warnings of one that is not there would stand before our own error."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(number)
    finally:
        cv2.utils.logging.setLogLevel(before)


def open_video(path: Path) -> cv2.VideoCapture:
    """A video file, ready to be read from its first frame.

    Raises:
        DataError: no regular file, not a video of an allowed container, damaged, or of frames above the pixel limit.
    """
    _refuse_other_files(path)
    with _environment:
        before = os.environ.get(_OPTIONS)
        os.environ[_OPTIONS] = _FILES_ALONE
        try:
            capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        finally:
            if before is None:
                del os.environ[_OPTIONS]
            else:
                os.environ[_OPTIONS] = before
    if not capture.isOpened():
        raise DataError(
            f"{path}: cannot be opened as a video; is it whole, and of a codec that FFmpeg knows? {_ALLOWED}"
        )
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > pixel_limit():
        capture.release()
        raise DataError(f"{path}: frames of {width} x {height} pixels, allowed are {pixel_limit() / 1e6:g} Mpixel")
    return capture


class Film:
    """A video file that is written frame by frame and stands at its place when it is whole.

    Args:
        path: the MP4 to make or replace; without one nothing is written.
        rate: frames a second.
    """

    def __init__(self, path: Path | None, rate: float) -> None:
        self.path, self.rate = path, rate
        self.frames = 0
        self.size = (0, 0)  # (width, height) of all frames
        self._temporary = None if path is None else path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
        self._writer: Any = None

    def add(self, frame: np.ndarray, times: int = 1) -> list[str]:
        """Append [H, W, 3] uint8 RGB, brought to the size of the first frame. Gives a note where the video cannot be
        written, once.

        Args:
            times: for how many frames it stands, so that the film keeps time where a camera's were left out.
        """
        if self._temporary is None:
            return []
        if self._writer is None:
            self.size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._temporary.unlink(missing_ok=True)
            if is_utf8(self._temporary):
                self._writer = cv2.VideoWriter(str(self._temporary), code, self.rate, self.size)
            if self._writer is None or not self._writer.isOpened():
                self._temporary = self._writer = None
                width, height = self.size
                return [
                    f"the video with the answers cannot be written, frames of {width} x {height} pixels: {self.path}"
                ]
        if (frame.shape[1], frame.shape[0]) != self.size:  # the writer would leave it out
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(pixels)
        self.frames += times
        return []

    def close(self) -> None:
        """Put the video at its place. Raises ResourceError where not all frames are in it: OpenCV does not say so."""
        if self._writer is None or self._temporary is None or self.path is None:
            return
        self._writer.release()
        try:
            capture = open_video(self._temporary)
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
            if written != self.frames:
                raise DataError(f"{written} of {self.frames} frames")
            self._temporary.replace(self.path)
        except (DataError, OSError) as error:
            raise ResourceError(f"{self.path}: not written whole ({error}); is there space on the disk?") from error
        finally:
            self._temporary.unlink(missing_ok=True)
            self._writer = None


def _refuse_other_files(path: Path) -> None:
    """Raises DataError for what FFmpeg must not see."""
    if not is_utf8(path):
        raise DataError(f"{str(path)!r}: the name of a video must be UTF-8; rename it")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DataError(f"{path}: not a regular file; only those are read as videos")
        if not _is_container(file.read(600)):
            raise DataError(f"{path}: cannot be opened as a video: its content is none; {_ALLOWED}")


def is_utf8(path: Path) -> bool:
    """Whether OpenCV may be given this path: at another it ends the whole process."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _is_container(head: bytes) -> bool:
    """Whether a file that begins so is a video: MP4 and MOV (ISO/IEC 14496-12), Matroska and WebM (RFC 8794), AVI,
    MPEG program and elementary streams (ISO/IEC 11172), transport streams in packets of 188 or 192 bytes (13818-1)."""
    if head[4:8] in _BOXES or head.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3")):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    return any(len(head) > at + 2 * step and set(head[at::step][:3]) == {0x47} for at, step in ((0, 188), (4, 192)))
