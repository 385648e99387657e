"""Ctrl-C, SIGTERM and a closed terminal. In the training loop the handler only sets a flag; the loop saves at the next
step and ends (`Interrupt`). Around it, where there is nothing to save, work ends at once (`ends_with_advice`). Either
way a person is told how to go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
ECHO = 0.5  # seconds in which signals count as one: timeout(1) sends its own to the process and again to its group
SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None]


class Stopped(Exception):
    """Work ended by a signal, and how to go on with it. `exit_code` is 128 + its number: 130 for Ctrl-C (SIGINT), 143
    for SIGTERM, 129 for SIGHUP."""

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(advice)
        self.exit_code = 128 + number


class Interrupt:
    """Context in which the first SIGINT, SIGTERM or SIGHUP sets `number`; a second one, if it is no echo of the first,
    ends the process at once.

    A SIGHUP that the caller has ignored, as `nohup` does, stays ignored: the run outlives its terminal.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = _handle(self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since >= ECHO:
            raise SystemExit(128 + number)


@contextmanager
def ends_with_advice(advice: Callable[[], str]) -> Iterator[None]:
    """Context in which SIGINT, SIGTERM or SIGHUP ends what is done at once: what is whole on the disk stays, and
    `Stopped` says what `advice` gives then. A context of its kind, or an `Interrupt`, within it comes first.

    Raises:
        Stopped: a signal came.
    """
    came: list[int] = []
    since = 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal since
        if came and time.monotonic() - since < ECHO:
            return
        since = time.monotonic()
        came.append(number)
        raise KeyboardInterrupt  # which no `except Exception` on its way holds up

    before = _handle(end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code - 128 in SIGNALS:
            came.append(error.code - 128)  # the second one within an `Interrupt`
        if not came:
            raise
        raise Stopped(came[-1], advice()) from None
    finally:
        _restore(before)


Handler = Callable[[int, FrameType | None], None]


def _handle(handler: Handler) -> dict[int, Any]:
    """Let `handler` take the signals, but a SIGHUP that is ignored; those that took them before."""
    if threading.current_thread() is not threading.main_thread():  # signals can be set nowhere else
        return {}
    heard = [n for n in SIGNALS if n != HANG_UP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
