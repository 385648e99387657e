"""A classification network without its last layer, as R-CNN takes it: of every file that has one such layer."""

from __future__ import annotations

import pytest
import torch

from saccade.errors import UsageError
from saccade.models import catalogue
from saccade.models.backbones import create_extractor

REFUSED = ("googlenet", "inception_v3", "lenet5")  # auxiliary classifiers, or an output that is no layer
BY_SIZE = sorted(catalogue().items(), key=lambda entry: entry[1]["macs"], reverse=True)
SMALLEST = {e["module"]: name for name, e in BY_SIZE if ".backbones." in e["module"]}


@pytest.mark.parametrize("name", sorted(SMALLEST.values()))
def test_it_gives_the_features_that_it_states(name: str) -> None:
    side = catalogue()[name]["size"]
    with torch.device("meta"):
        if name in REFUSED:
            with pytest.raises(UsageError, match=r"does not end in one layer of classes.*such as resnet18"):
                create_extractor(name)
            return
        extractor = create_extractor(name).train()
        pooled, hidden = extractor(torch.empty(2, 3, side, side))
    assert tuple(pooled.shape) == (2, extractor.pooled)
    assert tuple(hidden.shape) == (2, extractor.hidden)


def test_fully_connected_layers_are_apart() -> None:
    with torch.device("meta"):
        assert (create_extractor("alexnet").pooled, create_extractor("alexnet").hidden) == (9216, 4096)
        small = create_extractor("resnet20", width=8, depths=(1, 1, 1))
    assert (small.pooled, small.hidden) == (32, 32)
