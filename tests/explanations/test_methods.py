"""Gradient saliency, occlusion, layers, filters and the way to the original pixels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.explanations.feature_maps import channel_image, first_filters, strongest_channels
from saccade.explanations.grad_cam import grad_cam
from saccade.explanations.image import Wanted, explain_image
from saccade.explanations.layers import layer_shapes, maps_of, stage_layers
from saccade.explanations.occlusion import occlusion, patch_of, patch_places
from saccade.explanations.placing import place
from saccade.explanations.saliency import saliency
from saccade.layers.classification import classification_predictions
from saccade.layers.maps import Maps
from saccade.tasks import classify, detect, localize, segment, tag
from saccade.tasks.contract import Target
from saccade.verbs.explain import find_labels


def test_saliency_is_the_gradient_by_finite_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 9, 2)).double()
    images = torch.rand(1, 3, 5, 5, dtype=torch.float64)
    scores = classify.raw_scores(model, [Target(1, 0.5), Target(0, 0.5)])
    found = saliency(images, lambda x: model(x)[:, [1, 0]])
    assert found.shape == (2, 5, 5)
    step = 1e-5
    with torch.no_grad():
        for y, x in ((0, 0), (2, 3), (4, 4)):
            by_colour = []
            for colour in range(3):
                more, less = images.clone(), images.clone()
                more[0, colour, y, x] += step
                less[0, colour, y, x] -= step
                by_colour.append(((model(more) - model(less))[0, [1, 0]] / (2 * step)).abs())
            expected = torch.stack(by_colour).amax(0).float()
            torch.testing.assert_close(found[:, y, x], expected, rtol=1e-5, atol=1e-7)
    assert scores(images).dtype == torch.float32


def test_occlusion_finds_the_pixel_that_counts() -> None:
    """The score is what one pixel holds; patches of 3 pixels, step 1: only those over it let the score fall."""
    images = torch.zeros(1, 3, 9, 11)
    images[0, :, 5, 4] = 1

    def scores(x: Tensor) -> Tensor:
        return x[:, :1, 5, 4]

    counts: list[int] = []
    heat = occlusion(images, scores, (9, 9), 3, 1, advance=counts.append)[0]
    assert sum(counts) == len(patch_places((9, 9), 3, 1)) == 49
    assert heat.argmax() == 5 * 11 + 4
    assert float(heat[5, 4]) == pytest.approx(1 - 114 / 255)  # every patch over it turns it gray
    reach = torch.zeros(9, 11, dtype=torch.bool)
    reach[3:8, 2:7] = True
    assert bool((heat[reach] > 0).all())
    assert bool((heat[~reach] == 0).all())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 61), (224, 224)])
def test_patches_cover_everything_and_stay_inside(size: tuple[int, int]) -> None:
    side, step = patch_of(size)
    covered = np.zeros(size, int)
    for y, x in patch_places(size, side, step):
        assert y >= 0
        assert x >= 0
        assert y + side <= size[0]
        assert x + side <= size[1]
        covered[y : y + side, x : x + side] += 1
    assert covered.min() >= 1
    assert len(set(patch_places(size, side, step))) == len(patch_places(size, side, step))


def test_a_detection_is_lost_where_it_is_covered() -> None:
    class Finder(nn.Module):
        """Two boxes whose scores are the mean of what lies in them."""

        boxes = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16]])

        def predict(self, batch: Batch) -> list[Annotation]:
            out = []
            for image in batch.images:
                scores = torch.stack([image[:, :8, :8].mean(), image[:, 8:, 8:].mean()])
                objects = Objects(self.boxes, torch.tensor([1, 1]), scores)
                out.append(Annotation((16, 16), objects=objects))
            return out

    images = torch.zeros(1, 3, 16, 16)
    images[..., :8, :8], images[..., 8:, 8:] = 0.9, 0.8
    model = Finder()
    answer = model.predict(Batch(images, [(16, 16)]))[0]
    targets = detect.choose_targets(answer, [], 3)
    assert [round(t.score, 3) for t in targets] == [0.9, 0.8]
    assert detect.choose_targets(answer, [0], 3) == []
    heat = occlusion(images, detect.likelihoods(model, targets, Batch(images, [(16, 16)])), (16, 16), 4, 2)
    assert heat[0, :8, :8].mean() > 10 * heat[0, 8:, 8:].abs().max()
    assert heat[1, 8:, 8:].mean() > 10 * heat[1, :8, :8].abs().max()
    with pytest.raises(UsageError, match="no score to take the gradient of"):
        detect.raw_scores(model, targets)


def test_which_classes_are_explained() -> None:
    scores = torch.tensor([0.1, 0.6, 0.3])
    answer = Annotation((4, 4), label=1, probabilities=scores)
    assert [t.label for t in classify.choose_targets(answer, [], 2)] == [1, 2]
    assert [t.label for t in classify.choose_targets(answer, [0], 2)] == [0]
    none = Annotation((4, 4), tags=torch.zeros(3, dtype=torch.bool), probabilities=scores)
    assert [t.label for t in tag.choose_targets(none, [], 3)] == [1]
    plane = torch.tensor([[2, 2, 2], [0, 0, 255]], dtype=torch.uint8)
    regions = segment.choose_targets(Annotation((2, 3), semantic=plane), [], 3)
    assert [(t.label, round(t.score, 3)) for t in regions] == [(2, 0.6), (0, 0.4)]
    assert segment.choose_targets(Annotation((2, 3), semantic=plane), [1], 3) == []
    with pytest.raises(UsageError, match="did you mean 'cat'"):
        find_labels(["catt"], ["dog", "cat"])
    assert find_labels(["cat", "dog", "cat"], ["dog", "cat"]) == [1, 0]


def test_layers_by_stage_and_by_name() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), inner, nn.AdaptiveAvgPool2d(1))
    images = torch.rand(1, 3, 8, 12)
    shapes = layer_shapes(model, [images])
    assert shapes == {"0": (4, 8, 12), "1": (4, 8, 12), "2.0": (6, 4, 6), "2.1": (6, 4, 6), "2": (6, 4, 6)}
    assert stage_layers(shapes) == ["1", "2"]
    maps = maps_of(model, [images], ["0", "1"])
    with torch.no_grad():
        expected = model[0](images)[0]
    torch.testing.assert_close(maps["0"], expected)  # not what the layer after it made of it in place
    torch.testing.assert_close(maps["1"], expected.relu())
    with pytest.raises(UsageError, match=r"'2\.7'.*1 \(4x8x12\)"):
        maps_of(model, [images], ["2.7"])


def test_filters_and_channels_as_images() -> None:
    conv = nn.Conv2d(3, 2, 2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 1] = -3
        conv.weight[0, 2, 1, 0] = 1.5
    found = first_filters(nn.Sequential(conv, nn.Conv2d(2, 2, 1)))
    assert found is not None
    name, pixels = found
    assert name == "0"
    assert pixels.shape == (2, 2, 2, 3)
    assert pixels[0, 0, 1].tolist() == [1, 128, 128]
    assert pixels[0, 1, 0].tolist() == [128, 128, 192]
    assert (pixels[1] == 128).all()
    assert first_filters(nn.Conv2d(1, 2, 3)) is None
    maps = torch.tensor([[[0.0, 1]], [[-9, 0]], [[2, 2]]])
    assert strongest_channels(maps, 2) == [2, 0]
    assert channel_image(maps[0])[0, :, 0].tolist() == [0, 255]
    assert channel_image(maps[2]).max() == 0


@pytest.mark.parametrize(("resize", "size"), [("letterbox", (64, 64)), ("stretch", (64, 48)), ("crop", (64, 64))])
def test_the_hot_spot_lies_on_the_object_in_the_original(resize: Any, size: tuple[int, int], tmp_path: Path) -> None:
    """A network that looks for red; red stands at one place of a wide image, which is resized, padded or cut."""
    model = RedFinder().eval()
    pixels = np.zeros((90, 150, 3), np.uint8)
    pixels[50:60, 80:90, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = Wanted(("grad_cam", "occlusion", "saliency"), labels=[0])
    shape = Preprocessing(size=size, resize=resize)
    found = explain_image(model, "classify", shape, tmp_path / "a.png", wanted, torch.device("cpu"))
    assert found.size == (90, 150)
    for method, heats in found.heats.items():
        heat = heats[0]
        assert heat.shape == (90, 150)
        y, x = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
        if method != "saliency":  # a linear network has the same gradient everywhere it is active
            slack = 12 if method == "occlusion" else 4
            assert 50 - slack <= y < 60 + slack, method
            assert 80 - slack <= x < 90 + slack, method
            assert np.nansum(heat[50 - slack : 60 + slack, 80 - slack : 90 + slack]) > 0.6 * np.nansum(heat), method
        assert np.isnan(heat).any() == (resize == "crop")


class RedFinder(nn.Module):
    """Class 0 is red, in cells of 4 pixels; class 1 is the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4, 4, bias=False)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[0, 0], self.conv.weight[0, 1] = 1, -1

    def forward(self, images: Tensor) -> Tensor:
        red = self.conv(images).relu().mean((2, 3))
        return torch.cat([4 * red, 0 * red], 1)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self(batch.images), batch.sizes, "classify")


def test_cells_are_placed_by_their_centres() -> None:
    plane = np.array([[0.0, 1.0], [0.0, 0.0]])
    same = place(plane, (4, 4), np.eye(3), (4, 4))
    assert same[0].tolist() == [0, 0.25, 0.75, 1]
    half = np.array([[1.0, 0, -2], [0, 1, 0], [0, 0, 1]])  # the image begins 2 pixels into the network's input
    moved = place(plane, (4, 4), half, (4, 4))
    np.testing.assert_allclose(moved[:, :2], same[:, 2:])
    assert np.isnan(moved[:, 2:]).all()
    checks = np.indices((64, 64)).sum(0) % 2
    np.testing.assert_allclose(place(checks, (64, 64), np.diag([1 / 8, 1 / 8, 1]), (8, 8)), 0.5)


def test_a_localizer_is_asked_for_its_class_and_shows_its_box() -> None:
    """Its answer is (logits, boxes), and its trunk's maps are those of a method inside the network."""

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.maps = nn.Conv2d(3, 4, 4, 4), Maps()

        def features(self, images: Tensor) -> list[Tensor]:
            maps: list[Tensor] = self.maps([self.conv(images).tanh()])
            return maps

    class Localizer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.fc = Trunk(), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            pooled = self.trunk.features(images)[-1].mean((2, 3))
            return self.fc(pooled), images.new_zeros(len(images), 1, 4)

        def predict(self, batch: Batch) -> list[Annotation]:
            """The box lies by half its width aside."""
            half = Objects(torch.tensor([[2.0, 2, 4, 4]]), torch.tensor([2]), torch.tensor([0.5]))
            chances = self(batch.images)[0].softmax(1).detach()
            return [Annotation((16, 16), probabilities=row, objects=half) for row in chances]

    torch.manual_seed(0)
    model, images = Localizer(), torch.rand(1, 3, 16, 16)
    box = Objects(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([2]), torch.tensor([0.5]))
    answer = Annotation((16, 16), label=2, probabilities=torch.tensor([0.2, 0.3, 0.5]), objects=box)
    targets = localize.choose_targets(answer, [], 2)
    assert [(t.label, t.box) for t in targets] == [(2, (1, 2, 3, 4)), (1, None)]
    found = grad_cam(model, images, localize.raw_scores(model, targets))
    assert found.layer == "trunk.features[0]"
    chances = localize.likelihoods(model, targets, Batch(images, [(16, 16)]))(images)
    of_classes = model(images)[0].softmax(1)[:, [2, 1]].detach()
    torch.testing.assert_close(chances, of_classes * torch.tensor([1 / 3, 1.0]))  # of the one with a box by its overlap
    assert stage_layers(layer_shapes(model, [images])) == ["trunk.features[0]"]


def test_filters_of_networks_that_take_blue_first_are_shown_in_their_colours() -> None:
    class Caffe(nn.Module):
        def __init__(self, bgr: bool) -> None:
            super().__init__()
            self.config = SimpleNamespace(bgr=bgr)
            self.conv = nn.Conv2d(3, 1, 2)
            nn.init.zeros_(self.conv.weight)
            nn.init.ones_(self.conv.weight[:, 0])

    for bgr, colour in ((False, [255, 128, 128]), (True, [128, 128, 255])):
        found = first_filters(Caffe(bgr))
        assert found is not None
        assert found[1][0, 0, 0].tolist() == colour


def test_a_network_that_takes_only_some_sizes_says_so(tmp_path: Path) -> None:
    """Unpadded segmenters predict in tiles; their `forward` refuses the whole image."""

    class Unpadded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("a side of 16 does not pass the poolings")

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    shape = Preprocessing(size=(16, 16), resize="stretch")
    with pytest.raises(UsageError, match="cannot be explained on the whole image: a side of 16"):
        explain_image(Unpadded(), "segment", shape, tmp_path / "a.png", Wanted(("saliency",)), torch.device("cpu"))
