"""Answers for the frames of a video or camera, with reading, network and drawing at work side by side.

Each of three parts has a thread: one reads frames and decodes them, one brings them to the network's size, and the
caller's computes the answers (`predict_frames`); what is done with an answer may have a fourth (`behind`). OpenCV and
torch let go of Python's lock while they compute. The parts hand on through queues of a few frames, so that memory stays
small and none is far ahead.

A file waits for the network, a camera does not: its queue holds one frame, the newest, which the network takes when it
is free. It is prepared only then, so that no answer is older than it must be.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from saccade.data.loader import collate
from saccade.data.types import Annotation, Sample
from saccade.data.video import Footage, Still
from saccade.errors import DataError
from saccade.inference.answer import Answer, Shown

if TYPE_CHECKING:
    from saccade.inference.predictor import Predictor

NAME = "saccade-video"  # of the threads
ROOM = 3  # frames that wait between two parts; of larger batches one
LOOK = 0.2  # seconds after which one who waits looks whether to stop
PATIENCE = 5.0  # seconds that a camera which gives no picture is waited for at the end
SPAN = 1.0  # seconds over which the rate is measured

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video or camera with the model's answer."""

    number: int  # from 0; of a camera those that were dropped count
    time: float  # seconds from the beginning
    pixels: np.ndarray  # [H, W, 3] uint8 RGB, upright
    answer: Answer  # in its pixels
    dropped: int  # frames of a camera between the one before and this
    rate: float  # frames/s that were answered in the last second or so


@dataclass(frozen=True, slots=True)
class Pace:
    """How far and in which steps a video is gone through."""

    most: int | None = None  # frames that are answered
    batch: int = 1  # frames of a file that the network is given at once; of a camera it is one
    stop: Callable[[], bool] = lambda: False  # whether to end before the next frame


@dataclass(frozen=True, slots=True)
class _Seen:
    still: Still
    sample: Sample | None  # None where a frame is answered by itself


def predict_frames(
    predictor: Predictor,
    footage: Footage,
    pace: Pace = Pace(),
    answer: Callable[[np.ndarray], Annotation] | None = None,
    shown: Shown | None = None,
) -> Generator[Frame]:
    """The frames of `footage` with answers, in order: all of a file, the newest of a camera.

    Args:
        answer: the answer for the pixels of a frame, where this is more than the network's for the whole of it, as for
            the people that a detector finds there (`inference.regions.answer_in_boxes`).
        shown: what is given of the answers; None: all.

    Raises:
        DataError: behind the answers, see `Footage.stills`.
        UsageError: the model is given boxes with each image.
    """

    def prepared(stills: Generator[Still], batch: int) -> Generator[list[_Seen]]:
        group: list[_Seen] = []
        ended = None
        with closing(stills):
            try:
                for still in stills:
                    group.append(_Seen(still, predictor.see(still.pixels) if answer is None else None))
                    if len(group) == batch:
                        yield group
                        group = []
            except DataError as error:  # of the end: what came before it is answered
                ended = error
            if group:
                yield group
            if ended is not None:
                raise ended

    def answered(group: list[_Seen]) -> Iterator[Annotation]:
        if answer is not None:
            return (answer(seen.still.pixels) for seen in group)
        batch = collate([seen.sample for seen in group if seen.sample is not None])
        return (found for _, found in predictor.predict_batches([batch]))

    if footage.is_camera:
        groups = prepared(ahead(footage.stills(), 1, pace.stop, newest=True), 1)
    else:
        stills = ahead(footage.stills(pace.most), ROOM, pace.stop)
        groups = ahead(prepared(stills, pace.batch), max(1, ROOM // pace.batch), pace.stop)
    shown = shown or Shown(predictor.task, predictor.classes, None, None)
    last, count, rate, moments = -1, 0, 0.0, deque([(time.monotonic(), 0)])
    with closing(groups):
        for group in groups:
            for place, (seen, found) in enumerate(zip(group, answered(group), strict=True)):
                rate = _rate(moments, len(group)) if place == 0 else rate
                still = seen.still
                dropped = still.number - last - 1
                yield Frame(still.number, still.time, still.pixels, shown.of(found, still.pixels), dropped, rate)
                last, count = still.number, count + 1
            if count == pace.most or pace.stop():
                return


def _rate(moments: deque[tuple[float, int]], frames: int) -> float:
    """Frames/s since the first of the moments, each with the frames that were answered then; `frames` now are added,
    and moments before the last `SPAN` are taken out."""
    moments.append((time.monotonic(), frames))
    while len(moments) > 2 and moments[-1][0] - moments[0][0] > SPAN:
        moments.popleft()
    passed = moments[-1][0] - moments[0][0]
    return sum(count for _, count in list(moments)[1:]) / passed if passed > 0 else 0.0


class _Lane:
    """Things on their way from one thread to another, `room` at most."""

    def __init__(self, room: int, newest: bool) -> None:
        self.room, self.newest = room, newest
        self.things: deque[Any] = deque()
        self.changed = threading.Condition()
        self.ended = self.closed = False
        self.error: BaseException | None = None

    def fill(self, items: Generator[Any]) -> None:
        """Put in all of `items`, where full by waiting or (newest) by dropping the oldest; runs in a thread."""
        try:
            with closing(items):
                for item in items:
                    if not self._put(item):
                        break
        except BaseException as error:  # raised again by the one who takes
            self.error = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _put(self, item: Any) -> bool:
        with self.changed:
            while len(self.things) >= self.room and not self.closed:
                if self.newest:
                    self.things.popleft()
                else:
                    self.changed.wait()
            self.things.append(item)
            self.changed.notify_all()
            return not self.closed

    def take(self, stop: Callable[[], bool]) -> Iterator[Any]:
        """What was put in, until it ends, is closed, or `stop` says so while there is none."""
        while True:
            with self.changed:
                while not self.things:
                    if self.error is not None:
                        raise self.error
                    if self.ended or self.closed or stop():
                        return
                    self.changed.wait(LOOK)
                item = self.things.popleft()
                self.changed.notify_all()
            yield item

    def close(self) -> None:
        """Let both sides end."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def ahead(
    items: Generator[T], room: int, stop: Callable[[], bool] = lambda: False, newest: bool = False
) -> Generator[T]:
    """What `items` gives, in order, computed by a thread of its own ahead of the one who asks.

    Args:
        room: how many may wait to be asked for.
        stop: whether to end where nothing is there yet.
        newest: where there is no more room the oldest is dropped, and the thread does not wait.

    Raises:
        What `items` raises, behind what it gave before.
    """
    lane = _Lane(room, newest)
    worker = threading.Thread(None, lane.fill, NAME, (items,), daemon=True)  # a camera may never come back from a read
    worker.start()
    try:
        yield from lane.take(stop)
    finally:
        lane.close()
        worker.join(PATIENCE)


def behind(items: Iterator[T], work: Callable[[T], R], room: int = ROOM) -> Generator[R]:
    """`work(item)` of every item, in order, computed by a thread of its own while the next items are made; each is
    given as soon as it is there, and at most `room` are waited for.

    Raises:
        DataError: of `items`, behind the results of those before it.
        What `work` raises.
    """
    waiting: deque[Future[R]] = deque()
    ended = None
    worker = ThreadPoolExecutor(1, NAME)
    try:
        try:
            for item in items:
                waiting.append(worker.submit(work, item))
                while waiting and (waiting[0].done() or len(waiting) > room):
                    yield waiting.popleft().result()
        except DataError as error:
            ended = error
        while waiting:
            yield waiting.popleft().result()
        if ended is not None:
            raise ended
    finally:
        worker.shutdown(cancel_futures=True)
