from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import IGNORE, Annotation, Batch
from saccade.errors import UsageError
from saccade.models.segmenters.patch import (
    TO_YUV,
    VARIANTS,
    Config,
    Model,
    draw_pixels,
    normalize_locally,
    split,
    stitch,
    window_side,
)

# One network a way to see further, small enough to be asked of every window by itself.
KINDS = {
    "one": Config(3, stages=((4, 3, 3), (6, 3, 2)), cell=2, hidden=(8,), scales=1, pyramid="gaussian"),
    "levels": Config(3, stages=((4, 4, 2), (6, 3, 2)), hidden=(8,), pyramid="gaussian", batch_norm=True),
    "bands": Config(3, stages=((4, 3, 2), (6, 2, 1)), hidden=(8,), activation="relu"),
    "again": Config(3, stages=((4, 3, 2), (6, 2, 2)), hidden=(), scales=1, passes=2, pyramid="gaussian"),
    "thrice": Config(3, stages=((4, 2, 2),), hidden=(), scales=1, passes=3, pyramid="gaussian"),
}


def model_of(kind: str) -> Model:
    torch.manual_seed(0)
    model = Model(KINDS[kind]).double().eval()
    for module in model.modules():  # statistics that are not the ones of the start
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def test_windows_of_the_papers() -> None:
    """46 (Farabet et al., section 3), 133 and, for one and two passes, 25 and 121 (Pinheiro & Collobert, section 4)."""
    assert window_side(VARIANTS["patch_multiscale"]) == 46
    assert window_side(VARIANTS["patch_single"]) == 133
    assert [window_side(VARIANTS["patch_recurrent"], passes) for passes in (1, 2)] == [25, 121]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(7, 12), (10, 5)])
def test_all_windows_at_once_are_answered_as_one_by_one(kind: str, size: tuple[int, int]) -> None:
    model, images = model_of(kind), torch.rand(2, 3, *size, dtype=torch.float64)
    at_once = model(images)
    model.config = dataclasses.replace(model.config, by="crops")
    one_by_one = model(images)
    assert at_once.shape == (2, 3, *size)
    assert at_once.std() > 1e-3
    torch.testing.assert_close(at_once, one_by_one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pixel_is_named_by_its_window_alone(kind: str) -> None:
    """The gradient of one answer by the image is zero outside the window around it, and reaches its border."""
    model, side = model_of(kind), window_side(KINDS[kind])
    reach = side // 2 * 2 ** (KINDS[kind].scales - 1)
    images = torch.rand(1, 3, 4 * reach, 4 * reach, dtype=torch.float64, requires_grad=True)
    place = 2 * reach
    model(images)[0, :, place, place].sum().backward()
    assert images.grad is not None
    touched = images.grad.abs().sum((0, 1)).nonzero()
    least, most = touched.amin(0).tolist(), touched.amax(0).tolist()
    frame = 8 * 2 ** (KINDS[kind].scales - 1) if KINDS[kind].pyramid == "laplacian" else 0  # its neighbourhoods
    assert all(place - reach - frame <= value for value in least)
    assert all(value < place + reach + frame + 2 ** (KINDS[kind].scales - 1) for value in most)
    if KINDS[kind].scales == 1 and KINDS[kind].passes == 1:
        assert least == [place - side // 2] * 2
        assert most == [place - side // 2 + side - 1] * 2


def test_split_and_stitch_by_hand() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    parts = split(x, 2)
    assert parts[:, 0].tolist() == [[[0, 2], [8, 10]], [[1, 3], [9, 11]], [[4, 6], [0, 0]], [[5, 7], [0, 0]]]
    assert torch.equal(stitch(parts, 2)[:, :, :3], x)
    y = torch.rand(2, 3, 10, 9)
    assert torch.equal(stitch(split(y, 3), 3)[:, :, :10, :9], y)


def test_pooling_from_every_start_is_the_pooling_of_the_moved_image() -> None:
    """Why shift and stitch is exact: part (i, j) is what pooling gives of the image without i rows and j columns."""
    x = torch.rand(1, 1, 7, 9)
    parts = split(F.max_pool2d(x, 2, stride=1), 2)
    for part, (i, j) in zip(parts, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        moved = F.max_pool2d(x[:, :, i:, j:], 2)[0]
        assert torch.equal(part[:, : moved.shape[1], : moved.shape[2]], moved)


@pytest.mark.parametrize(("balance", "shares"), [(1.0, (0.5, 0.5)), (0.0, (0.9, 0.1)), (0.5, (0.75, 0.25))])
def test_drawn_pixels_are_balanced(balance: float, shares: tuple[float, float]) -> None:
    torch.manual_seed(0)
    target = torch.zeros(2, 100, 100, dtype=torch.int64)
    target[:, :10] = 1
    target[1, :, 50:] = IGNORE
    images, rows, columns = draw_pixels(target, 3, 1000, balance)
    drawn = target[images, rows, columns]
    assert len(set(zip(images.tolist(), rows.tolist(), columns.tolist(), strict=True))) == 1000
    assert not (drawn == IGNORE).any()
    for c, share in enumerate(shares):
        assert float((drawn == c).double().mean()) == pytest.approx(share, abs=0.04)


def test_where_too_little_is_labelled_the_rest_counts_for_nothing() -> None:
    target = torch.full((1, 6, 6), IGNORE, dtype=torch.int64)
    target[0, 2, 3] = 1
    images, rows, columns = draw_pixels(target, 3, 100, 1.0)
    drawn = target[images, rows, columns]
    assert len(drawn) == 36
    assert drawn[0] == 1
    assert int((drawn != IGNORE).sum()) == 1


def test_answers_do_not_depend_on_what_an_image_shares_its_batch_with() -> None:
    for kind in KINDS:
        model, image = model_of(kind), torch.rand(1, 3, 11, 13, dtype=torch.float64)
        alone = model.predict(Batch(image, [(11, 13)]))[0].semantic
        padded = F.pad(image, (0, 8, 0, 6), value=0.7)
        other = torch.rand(1, 3, 17, 21, dtype=torch.float64)
        together = model.predict(Batch(torch.cat([padded, other]), [(11, 13), (17, 21)]))[0].semantic
        assert alone is not None
        assert together is not None
        assert torch.equal(alone, together), kind


def test_the_loss_is_that_of_the_dense_answers_at_the_drawn_pixels() -> None:
    model = model_of("again")
    images = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    truth = torch.randint(0, 3, (6, 7), dtype=torch.uint8)
    model.config = dataclasses.replace(model.config, windows=6 * 7)  # all of them
    losses = model.loss(Batch(images, [(6, 7)], truth=[Annotation((6, 7), semantic=truth)]))
    whole = F.cross_entropy(model(images), truth.long()[None])
    assert set(losses) == {"cross_entropy", "pass_1"}
    assert losses["cross_entropy"].item() == pytest.approx(whole.item(), rel=1e-5)
    model.config = dataclasses.replace(model.config, windows=1)
    short = model.classify([torch.rand(4, 3, model.window, model.window, dtype=torch.float64)], 1)
    assert short.shape == (4, 3)


def test_local_normalisation() -> None:
    torch.manual_seed(0)
    x = 5 + 3 * torch.rand(1, 2, 40, 40, dtype=torch.float64)
    y = normalize_locally(x)[:, :, 15:25, 15:25]
    assert abs(float(y.mean())) < 0.3
    assert float(y.std()) == pytest.approx(1, abs=0.2)
    flat = normalize_locally(torch.ones(1, 1, 40, 40, dtype=torch.float64))[:, :, 14:-14, 14:-14]
    assert not flat.any()


def test_gray_has_no_colour_difference() -> None:
    matrix = torch.tensor(TO_YUV)
    torch.testing.assert_close(matrix.sum(1), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_several_passes_over_several_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="need scales=1"):
        Model(Config(passes=2))
    with pytest.raises(UsageError, match="need scales=1"):
        Model(Config(cell=3))
