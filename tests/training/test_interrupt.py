"""Signals: the first is noted, the second ends the process, and afterwards all is as before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from saccade.training.interrupt import SIGNALS, Interrupt, Stopped, ends_with_advice


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Also where the tests themselves run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_noted_and_the_second_ends_the_process(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupt() as interrupt:
        assert interrupt.number == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as timeout(1) does, which means one
        assert interrupt.number == number
        monkeypatch.setattr("saccade.training.interrupt.ECHO", 0)
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_under_nohup_the_end_of_the_terminal_is_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.number == 0


def advice() -> str:
    return "go on"


def tell_twice(number: int) -> None:
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)


def tell_and_tell_again(number: int) -> None:
    """What is tidied up on the way out is not disturbed by the echo."""
    tidy = False
    try:
        os.kill(os.getpid(), number)
    finally:
        os.kill(os.getpid(), number)
        tidy = True
    assert tidy


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_the_loop_work_ends_at_once_with_advice(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the loop was told twice; what ends without a signal is left as it is."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match="go on") as stop, ends_with_advice(lambda: "outer"), ends_with_advice(advice):
        os.kill(os.getpid(), number)
    assert stop.value.exit_code == 128 + number
    with pytest.raises(Stopped, match="go on"), ends_with_advice(advice):
        tell_and_tell_again(number)
    monkeypatch.setattr("saccade.training.interrupt.ECHO", 0)
    with pytest.raises(Stopped, match="go on"), ends_with_advice(advice), Interrupt():
        tell_twice(number)
    for error in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(error), ends_with_advice(advice):
            raise error
    assert [signal.getsignal(number) for number in SIGNALS] == before
