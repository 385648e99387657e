from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.models.segmenters.unet import (
    VARIANTS,
    Config,
    Model,
    adapt,
    input_side,
    mirror,
    output_side,
)

VALID = Config(classes=3, width=4, levels=2, padding="valid", batch_norm=False, tile=20, dice=0.0)
SAME = Config(classes=3, width=8, levels=3)
FORMS = {
    "valid": VALID,
    "same": SAME,
    "light": Config(classes=3, trunk="resnet18", trunk_width=8, decoder_width=4, head_stride=2),
    "subpixel": Config(classes=3, trunk="resnet18", trunk_width=8, decoder_width=4, head_stride=2, logits="subpixel"),
    "resnet": Config(classes=3, trunk="resnet18", trunk_width=8, decoder_width=4),
    "vgg": Config(classes=3, trunk="vgg11_bn", trunk_width=8, decoder_width=4),
    "cifar": Config(classes=3, trunk="resnet20", decoder_width=4),
}


def batch_of(images: torch.Tensor, maps: list[torch.Tensor]) -> Batch:
    truth = [Annotation((m.shape[0], m.shape[1]), semantic=m.to(torch.uint8)) for m in maps]
    return Batch(images, [t.size for t in truth], truth)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 31_030_658),
        ({"in_channels": 3}, 31_031_810),
        ({"in_channels": 3, "classes": 21}, 31_033_045),
        ({"classes": 1}, 31_030_593),
    ],
)
def test_parameters_of_the_paper(changes: dict, parameters: int):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS["unet_paper"], **changes))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_sides_of_the_paper():
    sides: list[int] = []
    with torch.device("meta"):
        model = Model(VARIANTS["unet_paper"]).eval()
        images = torch.empty(1, 3, 572, 572)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(
                lambda _, inputs, output: sides.extend((inputs[0].shape[-1], output.shape[-1]))
            )
    assert tuple(model(images).shape) == (1, 2, 388, 388)
    inner = [side for i, side in enumerate(sides) if i == 0 or side != sides[i - 1]]
    seen = [
        side for side in inner if side not in (570, 282, 138, 66, 30, 54, 102, 198, 390)
    ]  # between two convolutions
    assert seen == [572, 568, 284, 280, 140, 136, 68, 64, 32, 28, 56, 52, 104, 100, 200, 196, 392, 388]


def test_input_and_output_sides():
    assert output_side(572) == 388
    assert input_side(388) == 572
    assert input_side(373) == 572
    assert input_side(372) == 556
    for side in (571, 570, 92, 12):
        with pytest.raises(ValueError, match=str(side)):
            output_side(side)


def test_valid_form_refuses_a_side_that_does_not_pass():
    with pytest.raises(ValueError, match="does not pass"):
        Model(VALID)(torch.rand(1, 3, 63, 64))


def test_mirror_by_hand():
    row = torch.tensor([1.0, 2, 3]).view(1, 1, 1, 3)
    assert mirror(row, 3, 1, 9)[0, 0, 0].tolist() == [2, 3, 2, 1, 2, 3, 2, 1, 2]
    assert mirror(torch.ones(1, 1, 1, 1), 2, 5, 5).tolist() == torch.ones(1, 1, 5, 5).tolist()


@pytest.mark.parametrize("size", [(61, 77), (20, 20), (5, 45)])
def test_overlap_tiles_give_the_result_of_the_whole_image(size: tuple[int, int]):
    torch.manual_seed(0)
    model = Model(VALID).double().eval()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model._tiled(images), model._whole(images))


def test_valid_form_predicts_each_image_as_if_alone():
    torch.manual_seed(0)
    model = Model(VALID).eval()
    small = torch.rand(1, 3, 30, 41)
    padded = torch.zeros(1, 3, 50, 60)
    padded[:, :, :30, :41] = small
    alone = model.predict(Batch(small, [(30, 41)]))[0]
    together = model.predict(Batch(padded, [(30, 41)]))[0]
    assert (alone.semantic == together.semantic).float().mean() > 0.99  # of two that tie, either may win


@pytest.mark.parametrize("form", ["valid", "same", "light"])
def test_all_pixels_ignored_give_zero_that_reaches_every_parameter(form: str):
    model = Model(dataclasses.replace(FORMS[form], dice=1.0, border=10.0, class_weights=(1.0, 2.0, 3.0)))
    losses = model.loss(batch_of(torch.rand(1, 3, 64, 64), [torch.full((64, 64), 255)]))
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_padding_of_the_batch_takes_no_part_in_the_loss():
    """The normaliser and the sum count the pixels of each image's own size only."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(VALID, width=2)).eval()
    target = [torch.randint(0, 3, (40, 40)), torch.randint(0, 3, (24, 30))]
    images = torch.rand(2, 3, 40, 40)
    losses = model.loss(batch_of(images, target))
    logits = model._whole(images)
    by_hand = sum(
        torch.nn.functional.cross_entropy(logits[i : i + 1, :, : t.shape[0], : t.shape[1]], t[None], reduction="sum")
        for i, t in enumerate(target)
    ) / (40 * 40 + 24 * 30)
    torch.testing.assert_close(losses["cross_entropy"], by_hand)


def test_border_weight_raises_the_loss_between_cells_only():
    torch.manual_seed(0)
    target = torch.zeros(24, 24, dtype=torch.int64)
    target[4:20, 2:11] = target[4:20, 13:22] = 1
    images = torch.rand(1, 3, 24, 24)
    plain = Config(classes=2, width=4, levels=2, dice=0.0)
    bordered = dataclasses.replace(plain, border=10.0)
    model = Model(plain).eval()
    twin = Model(bordered).eval()
    twin.load_state_dict(model.state_dict())
    batch = batch_of(images, [target])
    assert twin.loss(batch)["cross_entropy"] > model.loss(batch)["cross_entropy"]
    one = batch_of(images, [target.clone().index_fill_(1, torch.arange(12, 24), 0)])
    torch.testing.assert_close(twin.loss(one)["cross_entropy"], model.loss(one)["cross_entropy"])


def test_adapt_fills_class_weights_once():
    examples = [Annotation((1, 4), semantic=torch.tensor([[0, 0, 0, 1]], dtype=torch.uint8))]
    config = adapt(Config(classes=2, balance=1.0), examples)
    assert config.class_weights == pytest.approx((2 / 3, 2.0), rel=1e-3)
    assert adapt(config, []) is config
    assert adapt(Config(balance=0.0), examples) == Config(balance=0.0)
    weights = Model(config).class_weights
    assert weights.tolist() == pytest.approx(config.class_weights)
    assert "class_weights" not in Model(config).state_dict()


def test_a_trunk_that_cannot_be_is_named_with_those_that_can():
    with pytest.raises(UsageError, match="did you mean 'resnet1"):
        Model(Config(trunk="resnet17"))
    with pytest.raises(UsageError, match=r"resnet20 has maps at strides 1, 2, 4, and needs one at 8 .*densenet121"):
        Model(Config(trunk="resnet20", head_stride=8))


def test_each_pixel_of_a_cell_has_scores_of_its_own() -> None:
    """They begin equal; then one of four, below and right, is moved alone."""
    torch.manual_seed(0)
    model = Model(FORMS["subpixel"]).eval()
    images = torch.rand(1, 3, 45, 62)
    before = model(images)
    assert before.shape == (1, 3, 45, 62)
    cells = before[:, :, :44].unflatten(3, (31, 2)).unflatten(2, (22, 2))
    assert torch.equal(cells, cells[:, :, :, :1, :, :1].expand_as(cells))
    with torch.no_grad():
        model.classifier.bias[4 * 1 + 3] += 1  # class 1
    moved = model(images) - before
    assert moved[:, 1, 1::2, 1::2].allclose(torch.ones(()))
    moved[:, 1, 1::2, 1::2] = 0
    assert not moved.any()
