"""The peers' end of `environment.Peer`: reads requests, calls one function, writes its answers. Needs numpy alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Handle = Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]


def serve(handle: Handle) -> None:
    """Answer until the input ends. What libraries print goes to stderr, so that it cannot mix with the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        message = json.loads(line)
        with np.load(message["there"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        answer, results = handle(message["request"], arrays)
        np.savez(message["back"], **results)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
