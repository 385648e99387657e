from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.checkpoint import read_public
from saccade.errors import ModelFileError, UsageError
from saccade.models.backbones.squeezenet import VARIANTS, Config, Fire, Model, read_deep_compression
from saccade.models.weights import start_from

SMALL = Config(classes=4, width=0.25, dropout=0.0)


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [("squeezenet1_0", [256, 512, 512], (54, 27, 13)), ("squeezenet1_1", [128, 256, 512], (55, 27, 13))],
)
def test_trunk_maps(name: str, channels: list[int], sides: tuple[int, ...]):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], classes=0)).eval()
        maps = model(torch.empty(1, 3, 224, 224))
    assert [tuple(m.shape) for m in maps] == [(1, c, s, s) for c, s in zip(channels, sides, strict=True)]
    assert (model.channels, model.strides) == (channels, [4, 8, 16])


def test_keys_and_shapes_of_the_public_checkpoints():
    with torch.device("meta"):
        states = {name: Model(VARIANTS[name]).state_dict() for name in ("squeezenet1_0", "squeezenet1_1")}
    numbers = {
        name: sorted({int(k.split(".")[1]) for k in s if k.startswith("features")}) for name, s in states.items()
    }
    assert numbers == {"squeezenet1_0": [0, 3, 4, 5, 7, 8, 9, 10, 12], "squeezenet1_1": [0, 3, 4, 6, 7, 9, 10, 11, 12]}
    landmarks = {
        "features.0.weight": (96, 3, 7, 7),
        "features.5.squeeze.weight": (32, 128, 1, 1),
        "features.9.expand1x1.bias": (192,),
        "features.12.expand3x3.weight": (256, 64, 3, 3),
        "classifier.1.weight": (1000, 512, 1, 1),
    }
    assert {key: tuple(states["squeezenet1_0"][key].shape) for key in landmarks} == landmarks
    assert len(states["squeezenet1_0"]) == len(states["squeezenet1_1"]) == 52


def test_fire_by_hand():
    fire = Fire(2, 1, 1)
    for parameter in fire.parameters():
        torch.nn.init.ones_(parameter)
    y = fire(torch.ones(1, 2, 3, 3))  # squeezed: 1 + 1 + 1 = 3
    assert y[0, 0].tolist() == [[4.0] * 3] * 3
    assert y[0, 1].tolist() == [[13.0, 19, 13], [19, 28, 19], [13, 19, 13]]


@pytest.mark.parametrize(("version", "smallest"), [("1.0", 21), ("1.1", 17)])
def test_smallest_image(version: str, smallest: int):
    with torch.device("meta"):
        model = Model(dataclasses.replace(SMALL, version=version)).eval()
        assert model(torch.empty(1, 3, smallest, smallest)).shape == (1, 4)
        with pytest.raises(
            UsageError, match=f"30x{smallest - 1} pixels is too small .* at least {smallest}x{smallest}"
        ):
            model(torch.empty(1, 3, smallest - 1, 30))


def test_caffe_colours():
    """The caffe form of the same weights sees BGR in 0..255 minus (104, 117, 123)."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(VARIANTS["squeezenet1_0_caffe"], classes=4)).eval()
    plain = Model(Config(classes=4, mean=(0.0,) * 3, std=(1.0,) * 3)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    bgr = images.flip(1) * 255 - torch.tensor([104.0, 117, 123]).view(1, 3, 1, 1)
    torch.testing.assert_close(model(images), plain(bgr), rtol=1e-4, atol=1e-4)


def compress(model: Model) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A file of Deep Compression with random sparse weights, and what it holds."""
    generator = np.random.default_rng(0)
    counts, body, state = [], b"", {}
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        codebook = np.concatenate([[0], generator.normal(size=255)]).astype(np.float32)
        size = layer.weight.numel()
        codes = np.where(generator.random(size) < 0.1, generator.integers(1, 256, size), 0)
        skips, stored, last = [], [], -1
        for i in np.flatnonzero(codes).tolist():
            while i - last > 16:
                last += 16
                skips, stored = [*skips, 15], [*stored, 0]
            skips, stored, last = [*skips, i - last - 1], [*stored, int(codes[i])], i
        halves = [*skips, 0] if len(skips) % 2 else skips
        bias = generator.normal(size=layer.out_channels).astype(np.float32)
        packed = bytes(low + 16 * high for low, high in zip(halves[0::2], halves[1::2], strict=True))
        body += codebook.tobytes() + bias.tobytes() + bytes(stored) + packed
        counts.append(len(stored))
        state[f"{name}.weight"] = torch.from_numpy(codebook[codes]).view(layer.weight.shape)
        state[f"{name}.bias"] = torch.from_numpy(bias)
    return np.array(counts, "<u4").tobytes() + body, state


def test_compressed_file(tmp_path: Path):
    model = Model(SMALL)
    content, wanted = compress(model)
    path = tmp_path / "small.net"
    path.write_bytes(content)
    found = read_deep_compression(path, model)
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert start_from(model, sys.modules[Model.__module__], path).fresh == []
    assert torch.equal(model.features.get_submodule("0").weight, wanted["features.0.weight"])


@pytest.mark.parametrize("change", ["cut", "long", "empty", "short"])
def test_damaged_compressed_file(change: str, tmp_path: Path):
    content, _ = compress(Model(SMALL))
    path = tmp_path / "bad.net"
    path.write_bytes({"cut": content[:-3], "long": content + b"x", "empty": b"", "short": content[:30]}[change])
    with pytest.raises(ModelFileError, match="truncated, or not the compressed file"):
        read_deep_compression(path, Model(SMALL))


def photographs(shared_data: Path) -> tuple[torch.Tensor, list[int]]:
    """Short side 256 as they are, centre crop 227."""
    root = shared_data / "imagenet_photos"
    with (root / "labels.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))[1:]
    pictures = []
    for file, *_ in rows:
        image = Image.open(root / "images" / Path(file).name).convert("RGB")
        left, top = (image.width - 227) // 2, (image.height - 227) // 2
        pictures.append(np.asarray(image.crop((left, top, left + 227, top + 227))))
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1), [int(row[1]) for row in rows]


@pytest.mark.shared
def test_published_weights_score_what_their_readme_states(shared_data: Path):
    folder = shared_data / "weights/squeezenet1_0_imagenet"
    model = Model(VARIANTS["squeezenet1_0_caffe"]).eval()
    state = read_deep_compression(folder / "compressed_SqueezeNet.net", model)
    decoded = read_public(folder / "squeezenet1_0.npz")
    assert list(state) == list(decoded)
    assert all(torch.equal(state[name], decoded[name]) for name in decoded)
    model.load_state_dict(state)
    images, labels = photographs(shared_data)
    with torch.no_grad():
        best = torch.cat([model(part.float() / 255).topk(5).indices for part in images.split(10)])
    hits = best == torch.tensor(labels)[:, None]
    assert (len(labels), int(hits[:, 0].sum()), int(hits.any(1).sum())) == (100, 62, 82)
