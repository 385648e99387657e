from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.inference.fuse import prepare_for_inference
from saccade.models import create, model_module
from saccade.models.segmenters.segnet import VARIANTS, Config, Enlarge, Model, adapt
from saccade.models.standing import standing_of

SMALL = Config(classes=3, trunk="vgg13_bn", trunk_width=4)


@pytest.mark.parametrize(("classes", "parameters"), [(11, 29_449_355), (12, 29_449_932), (21, 29_455_125)])
def test_parameters(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS["segnet"], classes=classes))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_decoder_mirrors_the_encoder() -> None:
    """Figure 2: 13 convolutions down, 13 up, at the same sides."""
    seen = []
    with torch.device("meta"):
        model = Model(VARIANTS["segnet"]).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, _, y: seen.append((m.in_channels, m.out_channels, y.shape[-1])))
        model(torch.empty(1, 3, 224, 224))
    assert len(seen) == 26
    down, up = seen[:13], seen[13:]
    assert down[0] == (3, 64, 224)
    assert up[-1] == (64, 11, 224)
    assert [(c_out, c_in, side) for c_in, c_out, side in reversed(up[:-1])] == down[1:]


def plain_segnet(model: Model, images: torch.Tensor) -> torch.Tensor:
    """A second implementation: the layers of the model in a list, torch's own pooling and unpooling between them."""
    x, kept = model.trunk.features.normalize(images), []
    for layer in list(model.trunk.features.children())[1:]:
        if isinstance(layer, nn.MaxPool2d):
            size = x.shape
            x, indices = nn.MaxPool2d(2, return_indices=True)(x)
            kept.append((indices, size))
        else:
            x = layer(x)
    for stage in model.decoder.stages:
        indices, size = kept.pop()
        x = nn.MaxUnpool2d(2)(x, indices, output_size=size)
        for block in stage:
            x = block(x) if isinstance(block, nn.Conv2d) else F.relu(block.norm(block.conv(x)))
    return x


def test_logits_are_those_of_a_plain_implementation() -> None:
    torch.manual_seed(0)
    model = Model(SMALL).double().eval()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(model(images), plain_segnet(model, images))


def test_sides_that_the_poolings_do_not_divide_are_continued() -> None:
    torch.manual_seed(0)
    model = Model(SMALL).eval()
    images = torch.rand(1, 3, 45, 61)
    assert model(images).shape == (1, 3, 45, 61)
    continued = torch.cat([images, images[:, :, -1:].expand(-1, -1, 19, -1)], 2)
    continued = torch.cat([continued, continued[:, :, :, -1:].expand(-1, -1, -1, 3)], 3)
    torch.testing.assert_close(model(images), model(continued)[:, :, :45, :61])
    assert model(torch.rand(1, 3, 1, 5)).shape == (1, 3, 1, 5)


def test_the_folded_network_gives_the_same() -> None:
    torch.manual_seed(0)
    model = Model(SMALL).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folded, images = prepare_for_inference(model), torch.rand(1, 3, 64, 40)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), model(images), atol=1e-5, rtol=1e-4)


def test_public_weights_of_the_trunk_have_a_place() -> None:
    with torch.device("meta"):
        standing = standing_of(Model(VARIANTS["segnet"]))
        public = create("vgg16_bn").state_dict()
        model = Model(VARIANTS["segnet"]).state_dict()
    assert standing is not None
    placed = standing.tensors(model_module("segnet"), public)
    trunk = {name for name in model if name.startswith("trunk.")}
    assert trunk <= set(placed)
    assert all(placed[name].shape == model[name].shape for name in trunk)


def test_class_weights_come_from_the_training_images_unless_they_are_given() -> None:
    rows = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2]])
    truth = [Annotation((2, 4), semantic=rows.to(torch.uint8))]
    assert adapt(SMALL, truth).class_weights == pytest.approx((1 / 6, 1, 1), abs=1e-4)
    assert adapt(dataclasses.replace(SMALL, balance=0.0), truth).class_weights is None
    given = dataclasses.replace(SMALL, class_weights=(1.0, 2.0, 3.0))
    assert adapt(given, truth) == given


def test_class_weights_and_ignored_pixels_in_the_loss() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, class_weights=(1.0, 2.0, 4.0))).eval()
    images = torch.rand(1, 3, 32, 32)
    target = torch.randint(0, 3, (32, 32))
    target[:5] = 255
    batch = Batch(images, [(32, 32)], [Annotation((32, 32), semantic=target.to(torch.uint8))])
    likely = model(images).log_softmax(1)[0].gather(0, target.clamp(max=2)[None])[0]
    weights = torch.tensor([1.0, 2.0, 4.0])[target.clamp(max=2)] * (target != 255)
    expected = -(weights * likely).sum() / (target != 255).sum()
    torch.testing.assert_close(model.loss(batch)["cross_entropy"], expected)


def test_a_trunk_without_indices_is_refused() -> None:
    with pytest.raises(UsageError, match="resnet18 does not keep the places of its maxima"):
        create("segnet_small", trunk="resnet18", trunk_width=8)


WAYS = ("unpool", "nearest", "bed_of_nails", "bilinear", "transposed_3", "transposed_4")


def enlarged_plainly(way: str, layer: Enlarge, x: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """A second implementation, of torch's own functions; `full` is the map that `x` was pooled from."""
    height, width = full.shape[2:]
    if way == "unpool":
        return F.max_unpool2d(*F.max_pool2d(full, 2, return_indices=True), 2)
    if way == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    nails = torch.zeros_like(full)
    nails[:, :, ::2, ::2] = x
    if way == "bed_of_nails":
        return nails
    if way == "bilinear":  # between the samples, and fading out behind the last
        return F.interpolate(F.pad(x, (0, 1, 0, 1)), size=(height + 1, width + 1), mode="bilinear", align_corners=True)[
            :, :, :height, :width
        ]
    kernel = layer.transposed.weight.flip(2, 3)  # a transposed convolution is a convolution of the nails
    side = kernel.shape[-1]
    before, after = side - 2, side - 2 + (side == 4)
    nails = F.pad(nails, (before, after - 1 + (side == 3), before, after - 1 + (side == 3)))
    return F.conv2d(nails, kernel, groups=len(kernel))[:, :, :height, :width]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_enlarging(way: str) -> None:
    torch.manual_seed(0)
    layer = Enlarge(way, 3).double()
    full = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    pooled, indices = F.max_pool2d(full, 2, return_indices=True)
    enlarged = layer(pooled, indices, (8, 12))
    torch.testing.assert_close(enlarged, enlarged_plainly(way, layer, pooled, full))


@pytest.mark.parametrize("way", WAYS)
def test_the_network_trains_and_exports_with_every_way(way: str) -> None:
    torch.manual_seed(0)
    config = Config(classes=3, trunk="vgg11_bn", trunk_width=4, trunk_depths=(1, 1, 1, 1, 1), upsampling=way)
    model = Model(config)
    batch = Batch(
        torch.rand(1, 3, 64, 64), [(64, 64)], truth=[Annotation((64, 64), semantic=torch.zeros(64, 64).byte())]
    )
    model.loss(batch)["cross_entropy"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    model.eval()
    images = torch.rand(1, 3, 64, 64)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images), atol=1e-5, rtol=1e-5)
