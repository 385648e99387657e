"""The fused convolution against convolution, sum and activation one after the other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.ops.fused_conv import Activation, FusedConv2d, activate, can_fuse, has_fused_operators

FORMS: dict[str, dict[str, int]] = {
    "3x3": {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "padding": 1},
    "1x1/2": {"in_channels": 6, "out_channels": 8, "kernel_size": 1, "stride": 2},
    "depthwise": {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 8},
    "groups": {"in_channels": 8, "out_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 4},
    "dilated": {"in_channels": 3, "out_channels": 5, "kernel_size": 3, "padding": 2, "dilation": 2},
}
ACTIVATIONS: list[Activation | None] = [
    None,
    ("relu", ()),
    ("hardtanh", (0.0, 6.0)),
    ("leaky_relu", (0.1,)),
    ("hardswish", ()),
    ("swish", ()),
]


def images(channels: int, batch: int = 2, side: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, channels, side, side, generator=generator)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_every_call_gives_what_the_plain_steps_give(form: str, activation: Activation | None) -> None:
    """With another shape the first call is plain, the second packs, the third is packed."""
    torch.manual_seed(1)
    conv = nn.Conv2d(**FORMS[form])  # type: ignore[arg-type]
    fused = FusedConv2d(conv, torch.float32)
    packed = []
    for batch in (2, 2, 2, 1, 2, 2):
        x = images(conv.in_channels, batch)
        expected = conv(x)
        other = torch.randn_like(expected).to(memory_format=torch.channels_last)
        torch.testing.assert_close(fused(x, None, activation), activate(expected, activation), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            fused(x, other, activation), activate(expected + other, activation), atol=1e-5, rtol=1e-5
        )
        packed.append(fused.weight.use is not None)
    if has_fused_operators(torch.float32):
        assert packed == [True] * 6  # each batch asks twice: the second question packs
    assert torch.equal(conv.weight, conv.weight.contiguous())


@torch.inference_mode()
def test_shapes_that_alternate_stay_plain() -> None:
    conv = nn.Conv2d(3, 4, 3)
    fused = FusedConv2d(conv, torch.float32)
    for turn, batch in enumerate((1, 2, 1, 2)):
        torch.testing.assert_close(fused(images(3, batch)), conv(images(3, batch)), atol=1e-5, rtol=1e-5)
        if turn:
            assert fused.weight.use is None


@torch.inference_mode()
def test_the_same_question_gets_the_same_answer_from_the_first_call_on() -> None:
    fused = FusedConv2d(nn.Conv2d(48, 80, 3, padding=1), torch.bfloat16)
    x = images(48, 2)
    first = fused(x)
    assert all(torch.equal(fused(x), first) for _ in range(3))


@torch.inference_mode()
def test_weights_survive_packing_and_unpacking_unchanged() -> None:
    conv = nn.Conv2d(48, 80, 3, padding=1)
    fused = FusedConv2d(conv, torch.float32)
    for batch in (1, 1, 1, 3):
        fused(images(48, batch))
    assert fused.weight.use is None
    assert torch.equal(fused.weight.tensor, conv.weight)


@torch.inference_mode()
def test_another_number_of_threads_is_another_use() -> None:
    fused, before = FusedConv2d(nn.Conv2d(3, 4, 3), torch.float32), torch.get_num_threads()
    fused(images(3))
    fused(images(3))
    try:
        torch.set_num_threads(before + 1)
        fused(images(3))
        assert fused.weight.use is None
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_a_sum_may_broadcast_or_be_of_another_type() -> None:
    conv = nn.Conv2d(3, 4, 3)
    fused = FusedConv2d(conv, torch.float32)
    for other in (torch.randn(4, 1, 1), torch.randn(2, 4, 7, 7, dtype=torch.float64), torch.randn(1, 4, 7, 7)):
        for _ in range(3):
            expected = F.relu(conv(images(3)) + other)
            torch.testing.assert_close(fused(images(3), other, ("relu", ())), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_bfloat16_casts_inputs_and_rounds_once() -> None:
    conv = nn.Conv2d(16, 8, 3, padding=1)
    fused = FusedConv2d(conv, torch.bfloat16)
    x, other = images(16), images(8, seed=1)
    for _ in range(3):
        y = fused(x, other.to(torch.bfloat16), ("relu", ()))
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), F.relu(conv(x) + other), atol=0.05, rtol=0.02)
    assert conv.weight.dtype == torch.float32


@torch.inference_mode()
def test_threads_that_share_it_get_right_answers() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    fused = FusedConv2d(conv, torch.float32)
    wrong: list[int] = []
    expected = {batch: conv(images(8, batch)) for batch in (1, 2, 3)}

    @torch.inference_mode()
    def work(batch: int) -> None:
        wrong.extend(i for i in range(30) if not torch.allclose(fused(images(8, batch)), expected[batch], atol=1e-5))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_it_cannot_stand_for() -> None:
    assert can_fuse(nn.Conv2d(3, 4, 3, padding=1))
    assert not can_fuse(nn.Conv2d(3, 4, 3, padding="same"))
    assert not can_fuse(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    assert not can_fuse(nn.ConvTranspose2d(3, 4, 3))
    with pytest.raises(ValueError, match="leaky_relu"):
        activate(torch.zeros(1), ("softsign", ()))


def test_builds_without_the_operators_compute_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.ops.fused_conv.has_fused_operators", lambda dtype: False)
    conv = nn.Conv2d(3, 4, 3)
    fused = FusedConv2d(conv, torch.float32)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(
                fused(images(3), None, ("relu", ())), F.relu(conv(images(3))), atol=1e-5, rtol=1e-5
            )
    assert fused.weight.use is None
    assert not has_fused_operators(torch.int64)
