"""Where and how precisely to compute."""

from __future__ import annotations

import os

import pytest
import torch

from saccade.errors import UsageError, is_out_of_memory
from saccade.machine.device import Reading, loader_workers, only_deterministic, pick_device, timed_convolutions


def test_processes_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = [(loader_workers(None, cpu, n), loader_workers(None, gpu, n)) for n in (1, 2, 4, 8, 32)]
    assert found == [(8, 8), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert loader_workers(3, cpu, 8) == loader_workers(3, gpu, 8) == 3
    for wanted in (-1, 65):
        with pytest.raises(UsageError, match=f"workers is {wanted}, allowed: 0 to 64"):
            loader_workers(wanted, cpu)


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


def test_the_cpu_is_picked_without_a_question_to_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> bool:
        raise AssertionError("CUDA was asked")

    monkeypatch.setattr(torch.cuda, "is_available", ask)
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


def test_a_device_has_its_number_as_its_tensors_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device(torch.device("cuda")) == torch.device("cuda:0")
    assert pick_device(torch.device("mps")) == torch.device("mps:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(None) == pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="'cuda:2' is not on this machine; available: cpu, cuda, cuda:0, cuda:1"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert pick_device("cuda") == torch.device("cuda:1")


def test_a_reading_gives_the_numbers() -> None:
    assert Reading(torch.tensor([1.5, -2.0])).floats() == [1.5, -2.0]


def test_timing_of_convolutions_ends_where_it_began() -> None:
    before = torch.backends.cudnn.benchmark
    with timed_convolutions(not before):
        assert torch.backends.cudnn.benchmark is not before
    assert torch.backends.cudnn.benchmark is before


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_libraries_of_cuda_say_in_their_own_words_that_memory_ran_out(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
