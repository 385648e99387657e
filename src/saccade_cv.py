"""What the command `saccade` starts: it makes sure that the package of that name is ours before importing it.

On the package index the name `saccade` belongs to an observability library; this toolkit is distributed as `saccade-cv`
(the import and the command stay `saccade`). Where both lie in one environment they overwrite each other's files, so
that either could answer; that is said instead of importing whichever came last.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import NoReturn

AUTHORS = "The Saccade authors"


def stranger() -> str | None:
    """Name and version of another project's distribution called `saccade` in this environment; None where none is."""
    try:
        other = distribution("saccade")
    except PackageNotFoundError:
        return None
    return None if other.metadata["Author"] == AUTHORS else f"saccade {other.version}"


def main() -> NoReturn:
    """The command line, or exit code 2 where a stranger's package has the same name."""
    other = stranger()
    if other is not None:
        sys.exit(_refuse(other))
    from saccade.__main__ import main as run

    run()


def _refuse(other: str) -> int:
    print(
        f"saccade: error: another project's package, {other}, is installed beside saccade-cv, and both use the name "
        "saccade. Take both away and put ours back: pip uninstall saccade saccade-cv; pip install saccade-cv. Or give "
        "saccade-cv an environment of its own.",
        file=sys.stderr,
    )
    return 2
