"""Signals: the first is noted, the second ends the process, and afterwards all is as before."""

from __future__ import annotations

import os
import signal

import pytest

from saccade.training.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_ends_the_process(number: int) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert interrupt.number == 0
        os.kill(os.getpid(), number)
        assert interrupt.number == number
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
