"""Detectors that state a `side_step` answer alike however far the padding reaches; the others are not cut."""

from __future__ import annotations

import pytest
import torch

from models.forms import Form, all_forms
from models.pictures import CLASSES, pictures
from saccade.data.loader import without_padding
from saccade.data.pipelines import Preprocessing
from saccade.errors import UsageError
from saccade.inference.predictor import Predictor
from saccade.models import create, model_module
from saccade.models.contract import one_person, side_step, takes_proposals

DETECTORS = {name: form for name, form in all_forms().items() if ".detectors." in model_module(form.name).__name__}
LETTERBOX = Preprocessing((128, 128), "letterbox")


def made(form: Form) -> torch.nn.Module:
    torch.manual_seed(0)
    return create(form.name, **{"classes": CLASSES} | form.changes).eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_priors_do_not_hang_on_the_padding_and_answers_stay_inside(name: str) -> None:
    form = DETECTORS[name]
    room, model = model_module(form.name), made(form)
    step = side_step(model)
    if step is None:
        pytest.skip("is not cut")
    batch = pictures(room.TASKS[0], 2, 128, takes_proposals(room), one_person(room))
    batch.sizes = [(50, 128), (128, 40)]
    parts = list(without_padding(batch, step))
    assert [tuple(part.images.shape) for part in parts] == [(1, 3, 64, 128), (1, 3, 128, 64)]
    for part, (height, width) in zip(parts, batch.sizes, strict=True):
        (answer,) = model.predict(part)
        assert answer.size == (height, width)
        assert (answer.objects.boxes <= torch.tensor([width, height] * 2)).all()
    if not hasattr(model, "scored_boxes"):
        return
    for parameter in model.parameters():
        parameter.data.zero_()  # what is left are the priors, each at its cell
    with torch.no_grad():
        whole = {tuple(box) for box in model.scored_boxes(batch.images[:1])[1][0].round(decimals=2).tolist()}
        for part in parts:
            boxes = model.scored_boxes(part.images)[1][0]
            assert 0 < len(boxes) < len(whole)
            assert {tuple(box) for box in boxes.round(decimals=2).tolist()} <= whole


def test_which_detectors_are_cut() -> None:
    cut = {model_module(form.name).__name__.rsplit(".", 1)[-1] for form in DETECTORS.values() if side_step(made(form))}
    everyone = {model_module(form.name).__name__.rsplit(".", 1)[-1] for form in DETECTORS.values()}
    assert everyone - cut == {"yolo1", "ssd", "sliding_window", "rcnn"}


@pytest.mark.parametrize("name", ["yolo1_small", "ssd300", "resnet18"])
def test_others_refuse_rect(name: str) -> None:
    with torch.device("meta"):
        model = create(name, classes=CLASSES)
    task = model_module(name).TASKS[0]
    predictor = Predictor.__new__(Predictor)
    predictor.network, predictor.preprocessing, predictor.task = model, LETTERBOX, task
    with pytest.raises(UsageError, match="rect cuts off the padding"):
        predictor.set_rect()
