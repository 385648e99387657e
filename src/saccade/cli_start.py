"""What stands around every command: streams that may be closed, faults as one clear line, exit codes."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import typer

from saccade.cli import app
from saccade.cli_habits import advice
from saccade.cli_output import say_fault, without_reader
from saccade.errors import UsageError
from saccade.machine.terminal import printable

# How often a thread of torch looks whether the others have finished before it lets the core go. libgomp's own 300,000
# times are lost to the one that is waited for where another process (a loader's worker) holds its core: beside two busy
# processes training was 1.5 to 8 times as fast with this. Read when torch is loaded.
SPINS = "2000"


def main() -> NoReturn:
    """Run the command line; faults become one clear line and the exit code of docs/reference/cli.md."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")  # names that the terminal's encoding has no sign for
    sys.exit(run())


def run() -> int:
    """Run the command that `sys.argv` holds; the exit code of docs/reference/cli.md."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where its folder of fonts cannot be kept
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        habit = advice(sys.argv[1:])
        if habit is not None:
            return say_fault(UsageError(habit))
        code = app(standalone_mode=False)
        sys.stdout.flush()  # what is still held back meets a reader that has left here, not when Python ends
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        return without_reader()
    except SystemExit as stop:  # click and rich end with 1 where the reader of our output has left
        if isinstance(stop.__context__, BrokenPipeError):
            return without_reader()
        raise
    except Exception as error:
        show = getattr(error, "show", None)  # typer's own complaints; their class moved between its versions
        try:
            if show is None:
                return say_fault(error)
            error.message = printable(getattr(error, "message", ""))  # type: ignore[attr-defined]
            show()
        except OSError:  # the terminal is gone; the code still says what happened
            without_reader()
        return 2 if show is not None else getattr(error, "exit_code", 1)
