"""A network that cannot be built, or does not take the run's images, is refused at the plan: by what is at fault."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from saccade.config import Settings
from saccade.errors import UsageError
from saccade.models import model_module
from saccade.training import buildable
from saccade.training.buildable import check_buildable
from saccade.training.plan import make_plan


def check(model: str, size: int, given: dict[str, Any], settings: Settings | None = None) -> None:
    module = model_module(model)
    config = dataclasses.replace(module.VARIANTS[model], **given)
    check_buildable(module, model, config, list(given), settings or Settings(), (size, size))


def test_the_size_of_the_run_is_tried_not_the_usual_one() -> None:
    deep = {"depths": (1,) * 7}  # six poolings; the usual side is 32
    check("densenet40_k12", 64, deep)
    named = r"densenet40_k12 with depths=\(1, 1, 1, 1, 1, 1, 1\)"
    with pytest.raises(UsageError, match=f"size 32x32 is too small for {named}, which needs at least 64x64: use a l"):
        check("densenet40_k12", 32, deep)
    with pytest.raises(UsageError, match="size 32x32 is too small for densenet40_k12"):  # 96 varied by up to 0.7
        check("densenet40_k12", 96, deep, Settings(multi_scale=0.7))


def test_the_valid_form_takes_the_size_of_its_recipe(shared_data: Path) -> None:
    """Its forward pass does not, 388 pixels are what it answers of 572; its loss mirrors the image to these."""
    check("unet_paper", 388, {"width": 2})
    check("unet_paper", 388, {"width": 2, "levels": 6})
    make_plan("unet_paper", shared_data / "isbi2012_membrane")


def test_where_nothing_is_given_the_size_is_named_alone(colours: Path) -> None:
    with pytest.raises(UsageError, match=r"^size 40x40 is too small for zfnet, which needs at least 47x47"):
        make_plan("zfnet", colours, flags={"size": 40})


def test_fields_are_named_where_no_size_would_do() -> None:
    with pytest.raises(UsageError, match=r"densenet40_k12 with depths=.* takes no image of 40x40, nor of 32 or 64 or"):
        check("densenet40_k12", 40, {"depths": (1,) * 12})
    with pytest.raises(UsageError, match=r"unet cannot be built with mean=\(0.5, 0.5\)"):
        check("unet", 256, {"mean": (0.5, 0.5)})


def test_the_network_is_built_once(monkeypatch: pytest.MonkeyPatch, colours: Path) -> None:
    built = []
    build = buildable.model_of_shapes
    monkeypatch.setattr(buildable, "model_of_shapes", lambda *a: built.append(a) or build(*a))
    make_plan("resnet20", colours, flags={"width": 4})
    assert len(built) == 1
