"""Signals: the first is noted, the second ends the process, and afterwards all is as before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from saccade.training.interrupt import SIGNALS, Interrupt


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Also where the tests themselves run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_noted_and_the_second_ends_the_process(number: int) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupt() as interrupt:
        assert interrupt.number == 0
        os.kill(os.getpid(), number)
        assert interrupt.number == number
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_under_nohup_the_end_of_the_terminal_is_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.number == 0
