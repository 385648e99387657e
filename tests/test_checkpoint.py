"""Checkpoints: whole, verified, without code."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import checkpoint
from saccade.checkpoint import Checkpoint
from saccade.errors import ModelFileError


def _example() -> Checkpoint:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 4)}
    return Checkpoint(
        "resnet18", {"classes": 2}, ["cat", "d\u00f6g"], "classify", {"size": [8, 8]}, weights, {"top1": 0.5}
    )


def test_round_trip_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    checkpoint.save(_example(), one)
    loaded = checkpoint.load(one)
    checkpoint.save(loaded, two)
    assert one.read_bytes() == two.read_bytes()
    assert loaded.classes == ["cat", "d\u00f6g"]
    assert torch.equal(loaded.weights["a"], _example().weights["a"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(_example(), path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="checksum"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x00" * 200, "truncated or not"),
        (b"\xff" * 64, "truncated or not"),
    ],
)
def test_what_people_really_have_in_hand(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        checkpoint.load(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = tmp_path / "a.safetensors"
    checkpoint.save(_example(), whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(1, len(data), 37):
        cut.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            checkpoint.load(cut)


def test_nan_weights_are_named(tmp_path: Path) -> None:
    broken = _example()
    broken.weights["a"][0, 0] = float("nan")
    checkpoint.save(broken, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="weights a hold NaN"):
        checkpoint.load(tmp_path / "a.safetensors")


class _Canary:
    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_no_file_runs_code(tmp_path: Path, name: str, writer: str) -> None:
    canary, path = tmp_path / "ran", tmp_path / name
    content = {"a": _Canary(str(canary))}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelFileError):
        checkpoint.read_public(path)
    assert not canary.exists()


def test_public_files_lose_their_wrappers(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.fc.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pth")
    assert list(checkpoint.read_public(tmp_path / "a.pth")) == ["fc.weight"]


def test_runs_are_found(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such run"):
        checkpoint.find(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="is this a run folder"):
        checkpoint.find(tmp_path)
    checkpoint.save(_example(), tmp_path / "last.safetensors")
    assert checkpoint.find(tmp_path).name == "last.safetensors"
    checkpoint.save(_example(), tmp_path / "best.safetensors")
    assert checkpoint.find(tmp_path).name == "best.safetensors"


def test_archives_that_unpack_to_more_than_the_network_are_refused(tmp_path: Path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, zeros=np.zeros(2**20, np.float32))
    assert path.stat().st_size < 2**14
    assert checkpoint.read_public(path, 2**23)["zeros"].shape == (2**20,)
    with pytest.raises(
        ModelFileError, match=r"bomb\.npz: 4 MiB when unpacked, more than the network can need \(1 MiB\)"
    ):
        checkpoint.read_public(path, 2**20)
    np.savez(path, noise=np.ones(2**16, np.float32))  # as large on the disk: no bomb
    assert checkpoint.read_public(path, 2**10)["noise"].shape == (2**16,)


def test_an_array_whose_head_promises_more_than_the_file_holds(tmp_path: Path):
    np.savez(tmp_path / "a.npz", a=np.ones(16, np.float32))
    head = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("a.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, head)
    with pytest.raises(ModelFileError, match="not a numpy archive of plain numbers"):
        checkpoint.read_public(tmp_path / "a.npz", 2**20)


def test_numpy_archives_are_read_without_running_code(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **{"conv.weight": np.ones((2, 3), np.float32)})
    assert checkpoint.read_public(tmp_path / "a.npz")["conv.weight"].tolist() == [[1.0] * 3] * 2
    np.savez(tmp_path / "b.npz", evil=np.array([print], dtype=object))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-9])
    for name in ("b.npz", "c.npz"):
        with pytest.raises(ModelFileError, match="not a numpy archive of plain numbers"):
            checkpoint.read_public(tmp_path / name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thresholds", "0.5"),
        ("thresholds", ["0.5", "0.5"]),
        ("thresholds", [0.5, 7.0]),
        ("thresholds", [0.5, True]),
        ("classes", "cat"),
        ("classes", [1, 2]),
        ("classes", {"cat": 0}),
        ("config", [1]),
        ("preprocessing", None),
        ("metrics", [0.5]),
        ("versions", 3),
        ("task", ["classify"]),
        ("model", None),
    ],
)
def test_a_header_with_values_of_other_types(tmp_path: Path, field: str, value: object) -> None:
    state = _example()
    setattr(state, field, value)
    checkpoint.save(state, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="the header of this checkpoint is damaged"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({3: torch.ones(2)}, "a tensor is called 3"),
        ({"a": torch.eye(2).to_sparse()}, "a is torch.sparse_coo"),
        ({"a": torch.empty(2, device="meta")}, "a is no numbers"),
        ({"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, "a is quantised"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is torch.complex64; save plain tensors"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a is torch.float8_e4m3fn"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a hold NaN or infinite"),
        ({"a": torch.ones(1).expand(10**9)}, "a .1000000000. is more than the file holds"),
        ({"a": [torch.ones(1)]}, "expected a dictionary of tensors"),
        (torch.ones(1), "expected a dictionary of tensors"),
    ],
)
def test_tensors_that_are_not_plain_numbers(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match=message):
        checkpoint.read_public(tmp_path / "a.pth")


@pytest.mark.parametrize("fault", ["encrypted", "packing", "head", "no archive"])
def test_numpy_archives_that_are_malformed(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(16, np.float32))
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    if fault == "encrypted":
        data[6] |= 1
        data[central + 8] |= 1
    elif fault == "packing":
        data[8] = data[central + 10] = 99
    elif fault == "head":
        data[data.index(b"{'descr'") : data.index(b"{'descr'") + 4] = b"\xff{{{"
    path.write_bytes(data)
    if fault == "no archive":
        np.save(tmp_path / "b.npy", np.ones(3))
        (tmp_path / "b.npy").rename(path)
    with pytest.raises(ModelFileError, match="not a numpy archive of plain numbers"):
        checkpoint.read_public(path, 2**20)
