"""The command `saccade`, also `python -m saccade`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, Ctrl-C included from the first moment on.

    While libraries are loaded, and when all is done, there is nothing to save, and an exception might come out of an
    import as any other one: the process ends at once there.
    """
    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored, as in a background job
    if watched:
        signal.signal(signal.SIGINT, _leave)
    from saccade.cli_start import main as run

    try:
        if watched:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if watched:
            signal.signal(signal.SIGINT, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
