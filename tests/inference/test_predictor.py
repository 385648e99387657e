"""The predictor: what it answers with, and that the model it was made from stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.inference.predictor import Predictor
from saccade.models import create
from saccade.ops.fused_conv import FusedConv2d

PREPROCESSING = Preprocessing(size=(32, 32), resize="stretch", scale=1.0)
SMALL = {"width": 4, "depths": (1, 1, 1), "classes": 3}


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def types(predictor: Predictor) -> set[torch.dtype]:
    return {part.weight.tensor.dtype for part in predictor.network.modules() if isinstance(part, FusedConv2d)}


def test_a_model_in_training_is_not_disturbed() -> None:
    torch.manual_seed(0)
    model = create("resnet20", **SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "bf16")
    predictor.predict(image())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss = model(torch.rand(2, 3, 32, 32)).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_both_precisions_answer_alike() -> None:
    torch.manual_seed(0)
    model = create("resnet20", **SMALL)
    exact = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "fp32")
    rough = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "bf16")
    assert (types(exact), types(rough)) == ({torch.float32}, {torch.bfloat16})
    for _ in range(3):  # plain, packing, packed
        a, b = exact.predict(image()), rough.predict(image())
        assert a.probabilities is not None
        assert b.probabilities is not None
        assert a.probabilities.dtype == b.probabilities.dtype == torch.float32
        torch.testing.assert_close(b.probabilities, a.probabilities, atol=0.02, rtol=0)


def test_a_precision_that_it_does_not_have() -> None:
    with pytest.raises(UsageError, match="allowed: auto, fp32, bf16"):
        Predictor(create("resnet20", **SMALL), "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "fp16")


class Corner(nn.Module):
    """Says of each image one box, all of it, and keeps the shapes that it was shown."""

    side_step = 32

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def predict(self, batch: Batch) -> list[Annotation]:
        self.seen.append(tuple(batch.images.shape))
        boxes = [torch.tensor([[0.0, 0.0, w, h]]) for h, w in batch.sizes]
        found = zip(batch.sizes, boxes, strict=True)
        return [Annotation(s, objects=Objects(b, torch.tensor([0]), torch.tensor([0.9]))) for s, b in found]


def test_rect_shows_each_image_without_padding_and_answers_in_its_pixels() -> None:
    wide, tall = np.zeros((40, 160, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)
    for rect, shapes in ((False, [(3, 3, 96, 96)]), (True, [(2, 3, 32, 96), (1, 3, 96, 64)])):
        predictor = Predictor(Corner(), "detect", ["a"], Preprocessing((96, 96), "letterbox"), precision="fp32")
        if rect:
            predictor.set_rect()
        answers = predictor.predict([wide, wide, tall])
        assert predictor.network.seen == shapes
        assert [answer.objects.boxes.tolist() for answer in answers if answer.objects is not None] == [
            [[0, 0, 160, 40]],
            [[0, 0, 160, 40]],
            [[0, 0, 100, 200]],
        ]


def test_rect_is_for_images_with_padding() -> None:
    for preprocessing in (Preprocessing((96, 96), "stretch"), Preprocessing(None, "letterbox")):
        with pytest.raises(UsageError, match="rect cuts off the padding"):
            Predictor(Corner(), "detect", ["a"], preprocessing).set_rect()
