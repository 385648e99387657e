"""Ctrl-C, SIGTERM and a closed terminal: the handler only sets a flag; the loop saves at the next step and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None]


class Stopped(Exception):
    """A run ended by a signal, after saving. `exit_code` is 128 + its number: 130 for Ctrl-C (SIGINT), 143 for
    SIGTERM, 129 for SIGHUP."""

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(advice)
        self.exit_code = 128 + number


class Interrupt:
    """Context in which the first SIGINT, SIGTERM or SIGHUP sets `number`; a second one ends the process at once.

    A SIGHUP that the caller has ignored, as `nohup` does, stays ignored: the run outlives its terminal.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # signals can be set nowhere else
            for number in SIGNALS:
                if number != HANG_UP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.number:
            raise SystemExit(128 + number)
        self.number = number
