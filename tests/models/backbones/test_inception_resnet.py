from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.models import catalogue
from saccade.models.backbones.inception_resnet import PLANS, VARIANTS, Block, Config, Model, from_public

NARROW = Config(classes=4, width=0.125, depths=(1, 1, 2))
NARROW_FACE = dataclasses.replace(NARROW, version=1, embedding=16)


def convolution(channels_in: int, channels_out: int, area: int = 1) -> int:
    return channels_in * channels_out * area + 2 * channels_out  # scale and shift of its norm


def test_parameters_of_v1_by_hand():
    """Figures 10 to 14 of the paper, convolution by convolution."""
    c = convolution
    stem = c(3, 32, 9) + c(32, 32, 9) + c(32, 64, 9) + c(64, 80) + c(80, 192, 9) + c(192, 256, 9)
    a = 3 * c(256, 32) + 3 * c(32, 32, 9) + 96 * 256 + 256
    reduction_a = c(256, 384, 9) + c(256, 192) + c(192, 192, 9) + c(192, 256, 9)
    b = 2 * c(896, 128) + 2 * c(128, 128, 7) + 256 * 896 + 896
    reduction_b = 3 * c(896, 256) + c(256, 384, 9) + 3 * c(256, 256, 9)
    block_c = 2 * c(1792, 192) + 2 * c(192, 192, 3) + 384 * 1792 + 1792
    trunk = stem + 5 * a + reduction_a + 10 * b + reduction_b + 5 * block_c
    assert catalogue()["inception_resnet_v1"]["parameters"] == trunk + 1792 * 1000 + 1000
    head = 1792 * 512 + 2 * 512 + 512 * 8631 + 8631
    assert catalogue()["inception_resnet_v1_face"]["parameters"] == trunk + block_c + head


def test_public_face_state_dict_loads_strictly():
    """facenet-pytorch counts the groups of blocks repeat_1, repeat_2, repeat_3 and calls the classifier logits."""
    with torch.device("meta"):
        model = Model(VARIANTS["inception_resnet_v1_face"])
    names = {"repeat": "repeat_1", "repeat_1": "repeat_2", "repeat_2": "repeat_3", "classif": "logits"}
    public = {}
    for key, value in model.state_dict().items():
        first, rest = key.split(".", 1)
        public[f"{names.get(first, first)}.{rest}"] = value
    assert {key for key in public if key.startswith(("block8.c", "last", "logits"))} == {
        *("block8.conv2d.weight", "block8.conv2d.bias", "last_linear.weight", "logits.weight", "logits.bias"),
        *(f"last_bn.{t}" for t in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }
    assert len({key.split(".")[1] for key in public if key.startswith("repeat_3.")}) == 5
    model.load_state_dict(from_public(public))


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("inception_resnet_v1", [(192, 71, 71), (256, 35, 35), (896, 17, 17), (1792, 8, 8)]),
        ("inception_resnet_v2", [(192, 71, 71), (320, 35, 35), (1088, 17, 17), (1536, 8, 8)]),
    ],
)
def test_maps_of_the_paper(name: str, maps: list[tuple[int, int, int]]):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], classes=0, depths=(1, 1, 1)))
        assert [tuple(m.shape[1:]) for m in model(torch.empty(1, 3, 299, 299))] == maps
    assert model.channels == [channels for channels, _, _ in maps]


def test_residuals_are_scaled_and_the_last_block_is_linear():
    x = torch.randn(2, 320, 3, 3)
    for scale, wanted in ((0.17, (x + 0.17 * 2).clamp(min=0)), (None, x + 2)):
        block = Block(Config(), 320, PLANS[2].block35, (3, 3), scale)
        torch.nn.init.zeros_(block.conv2d.weight)
        torch.nn.init.constant_(block.conv2d.bias, 2)
        torch.testing.assert_close(block(x), wanted)
    with torch.device("meta"):
        model = Model(VARIANTS["inception_resnet_v2"])
    groups = (model.repeat, model.repeat_1, model.repeat_2)
    assert [(len(group), group[0].scale) for group in groups] == [(10, 0.17), (20, 0.10), (9, 0.20)]
    assert model.block8 is not None
    assert model.block8.scale is None


def test_embeddings_have_length_one_and_lead_to_the_logits():
    torch.manual_seed(0)
    model = Model(NARROW_FACE).eval()
    images = torch.rand(2, 3, 75, 75)
    vectors = model.embed(images)
    assert vectors.shape == (2, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert model(images).shape == (2, 4)
    with torch.device("meta"), pytest.raises(ValueError, match="no embedding"):
        Model(NARROW).embed(torch.empty(1, 3, 75, 75))


def test_norms_have_the_epsilon_of_the_public_weights():
    with torch.device("meta"):
        model = Model(VARIANTS["inception_resnet_v2"])
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
