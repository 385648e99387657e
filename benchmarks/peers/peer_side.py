"""The peers' end of `environment.Peer`: reads requests, calls one function, writes its answers.

Needs numpy and safetensors alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Handle = Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]


def serve(handle: Handle) -> None:
    """Answer until the input ends. What libraries print goes to stderr, so that it cannot mix with the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        message = json.loads(line)
        answer, results = handle(message["request"], load_file(message["there"]))
        save_file({name: np.ascontiguousarray(array) for name, array in results.items()}, message["back"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
