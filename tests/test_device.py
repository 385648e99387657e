"""Where and how precisely to compute."""

from __future__ import annotations

import os

import pytest
import torch

from saccade.device import loader_workers, only_deterministic
from saccade.errors import UsageError


def test_processes_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = [(loader_workers(None, cpu, n), loader_workers(None, gpu, n)) for n in (1, 2, 4, 8, 32)]
    assert found == [(8, 8), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert loader_workers(3, cpu, 8) == loader_workers(3, gpu, 8) == 3


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    def scatter() -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # which of the two stays is left open

    with only_deterministic(False):
        scatter()
    message = r"deterministic: put_ .*; train on another --device, or without it"
    with pytest.raises(UsageError, match=message), only_deterministic(True):
        scatter()
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_faults_are_passed_on_and_what_was_set_before_returns() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with only_deterministic(True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        with pytest.raises(RuntimeError, match="shape"), only_deterministic(True):
            raise RuntimeError("another shape")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
