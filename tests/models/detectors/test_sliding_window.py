from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models.detectors.sliding_window import VARIANTS, Config, Model, WindowNet, adapt, cut, shake
from saccade.ops.boxes import box_iou, valid_boxes

TINY = dataclasses.replace(
    VARIANTS["sliding_window_small"], classes=3, trunk_width=8, hidden=(32,), shapes=((32, 32), (48, 32), (40, 60))
)


@pytest.fixture
def model() -> Model:
    """Weights as after some training: norms that do something, logits that differ."""
    torch.manual_seed(0)
    model = Model(TINY)
    nn.init.normal_(model.net.fully[-1].weight, std=1.0)  # type: ignore[arg-type]
    for _ in range(3):
        model.net(torch.rand(8, 3, 48, 48))
    return model.eval()


def by_crops(model: Model, images: Tensor) -> Tensor:
    model.config = dataclasses.replace(model.config, by="crops")
    answer: Tensor = model(images)
    return answer


def test_windows_one_by_one_and_by_convolution_are_equal(model: Model) -> None:
    """Without padding the two ways are one function, images of any size and proportions included."""
    for height, width in ((96, 128), (57, 211), (20, 30)):
        images = torch.rand(2, 3, height, width)
        with torch.no_grad():
            at_once = model(images)
            torch.testing.assert_close(by_crops(model, images), at_once, rtol=1e-5, atol=1e-5)
        assert at_once.std() > 0.1
        model.config = TINY


def test_padding_makes_them_differ() -> None:
    torch.manual_seed(0)
    changes = {"padding": "zeros", "trunk_depths": (1, 1, 1, 1, 1), "stride": 16, "window": 64}
    model = Model(dataclasses.replace(TINY, **changes)).eval()
    images = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        assert (model(images) - by_crops(model, images)).abs().max() > 1e-4


def test_a_fully_connected_layer_is_a_convolution_of_its_weights() -> None:
    """SYSTEMS 1.3, at the sizes of VGG-16 made narrow: 7 x 7 maps, 32 hidden units."""
    torch.manual_seed(0)
    net = WindowNet(
        dataclasses.replace(VARIANTS["sliding_window_vgg16"], trunk_width=4, hidden=(32, 32), classes=5)
    ).eval()
    assert (net.side, net.step) == (7, 32)
    linear = [nn.Linear(layer.weight[0].numel(), len(layer.weight)) for layer in net.fully]  # type: ignore[arg-type]
    for full, layer in zip(linear, net.fully, strict=True):
        full.load_state_dict({"weight": layer.weight.flatten(1), "bias": layer.bias})  # type: ignore[operator]
    window = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        x = net.map(window).flatten(1)
        assert x.shape[1] == 32 * 7 * 7
        for full in linear[:-1]:
            x = F.relu(full(x))
        torch.testing.assert_close(net(window).flatten(1), linear[-1](x))
        assert net(torch.rand(1, 3, 288, 256)).shape == (1, 6, 3, 2)


def test_windows_reach_from_border_to_border_and_hold_what_the_network_sees(model: Model) -> None:
    images = torch.rand(1, 3, 90, 130)
    windows, at = model.windows(images), 0
    assert windows.min() == 0
    for (rows, columns), (w, h) in zip(model.counts((90, 130)), TINY.shapes, strict=True):
        own = windows[at : at + rows * columns].view(rows, columns, 4)
        at += rows * columns
        torch.testing.assert_close(own[0, 0, :2], torch.zeros(2))
        torch.testing.assert_close(own[-1, -1, 2:], torch.tensor([130.0, 90]))
        sides = own[..., 2:] - own[..., :2]
        assert (sides / torch.tensor([w, h]) - 1).abs().max() < 0.15
        step = own[0, 1, 0] - own[0, 0, 0]
        torch.testing.assert_close(step, sides[0, 0, 0] * 8 / 48)
    assert at == len(windows) == model(images).shape[1]
    number = at // 2
    seen = cut(images, windows[None, number : number + 1], (48, 48))
    with torch.no_grad():
        torch.testing.assert_close(model.net(seen).flatten(), model(images)[0, number], rtol=1e-4, atol=1e-4)


def test_a_window_larger_than_the_image_is_the_image() -> None:
    model = Model(dataclasses.replace(TINY, shapes=((500, 500),)))
    assert model.windows(torch.zeros(1, 3, 40, 60)).tolist() == [[0, 0, 60, 40]]


def test_shaken_boxes_lie_near() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[[10.0, 10, 30, 50], [0, 0, 0, 0]]])
    near = shake(boxes, 200).view(2, 200, 4)
    overlap = box_iou(boxes[0, :1], near[0])[0]
    assert overlap.min() > 0.5
    assert overlap.std() > 0.05
    assert not valid_boxes(near[1]).any()


def test_boxes_stay_in_their_image(model: Model) -> None:
    model.config = dataclasses.replace(TINY, score_threshold=0.0)
    sizes = [(96, 96), (60, 70)]
    images = torch.rand(2, 3, 96, 96)
    other = images.clone()
    other[1, :, 60:], other[1, :, :, 70:] = 0.9, 0.1
    first, second = (model.predict(Batch(x, sizes))[1].objects for x in (images, other))
    assert first is not None
    assert second is not None
    assert len(first) > 0
    assert torch.equal(first.boxes, second.boxes)
    assert first.boxes[:, 2].max() <= 70
    assert first.boxes[:, 3].max() <= 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 6}, "vgg11_bn has maps at strides 1, 2, 4, 8, 16.*one at 6"),
        ({"trunk": "resnet18", "trunk_depths": None, "stride": 32}, "resnet18 with padding=none takes no window of 48"),
        ({"window": 24}, "vgg11_bn with padding=none takes no window of 24 pixels"),
    ],
)
def test_windows_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model(dataclasses.replace(TINY, **changes))


def test_any_trunk_serves_with_its_padding() -> None:
    for trunk, width in (("resnet18", 4), ("mobilenet_v2", 0.25)):
        config = dataclasses.replace(
            TINY, trunk=trunk, trunk_width=width, trunk_depths=None, padding="zeros", stride=None, window=64
        )
        assert Model(config).eval().scored_boxes(torch.rand(1, 3, 96, 80))[0].shape[2] == 3


def test_the_count_of_the_paper_form_is_that_of_vgg16() -> None:
    """numbers.json: VGG-16 with an output of 21."""
    with torch.device("meta"):
        assert sum(p.numel() for p in Model(Config()).parameters()) == 134_346_581


def test_adapt_fits_the_boxes() -> None:
    boxes = torch.stack((torch.zeros(30), torch.zeros(30), torch.linspace(10, 40, 30), torch.linspace(20, 80, 30)), 1)
    truth = Annotation((96, 96), objects=Objects(boxes, torch.zeros(30, dtype=torch.int64)))
    fitted = adapt(TINY, [truth])
    assert len(fitted.shapes) == len(TINY.shapes)
    assert all(h == pytest.approx(2 * w, rel=0.05) for w, h in fitted.shapes)
