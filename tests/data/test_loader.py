from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import sources
from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.loader import Loader, Work, collate, iter_images, without_padding
from saccade.data.orders import InOrder, Order, Repeated, Shuffled
from saccade.data.transforms import Flip, RandomCrop, RandomResizedCrop, Resize, Scale
from saccade.data.types import Annotation, Batch, Objects, Sample
from saccade.data.views import View
from saccade.errors import DataError, ResourceError, UsageError

COUNT = 23
SHUFFLED = Shuffled(3)


class Mirror:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < 0.5:
            sample.image = sample.image[:, ::-1]
        return sample


@dataclass(frozen=True)
class Mix:
    needs_others = True

    def __call__(self, sample: Sample, rng: np.random.Generator, fetch: Callable[[], Sample]) -> Sample:
        sample.image = sample.image // 2 + fetch().image[:1, :1] // 2
        return sample


class Draw:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image[:] = rng.integers(256)
        return sample


class Die:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.id == "7.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


class Stop:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        os.kill(os.getpid(), signal.SIGSTOP)
        return sample


class Sleep:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.id == "7.png":
            time.sleep(0.4)
        return sample


class Give:
    """As many boxes as the height says: none of every third image."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        count = sample.truth.size[0] % 3
        boxes = torch.arange(4 * count).reshape(-1, 4).float()
        return replace(sample, given=Objects(boxes, torch.zeros(count, dtype=torch.int64), scores=torch.rand(count)))


class Fail:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise RuntimeError("a fault of ours")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    records = []
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).save(root / f"{i}.png")
        things = [Thing(0, (1, 2, 3, 4 + i), polygons=[[1, 2, 3, 2, 3, 4 + i, 1, 4 + i]])] * (i % 3)
        records.append(Record(f"{i}.png", (20 + i, 30), things=things))
    return DataSet(root, "test", "instances", ["a"], records)


def loader(dataset: DataSet, *transforms: object, order: Order = SHUFFLED, batch: int = 4, **work: int) -> Loader:
    view = View(transforms or (Mirror(), Mix()))  # type: ignore[arg-type]
    return Loader(dataset, dataset.records, "instances", view, order, batch, Work(**work))


def same(a: Batch, b: Batch) -> bool:
    assert a.truth is not None
    assert b.truth is not None
    if a.ids != b.ids or a.sizes != b.sizes or not torch.equal(a.images, b.images):
        return False
    for one, two in zip(a.truth, b.truth, strict=True):
        assert one.objects is not None
        assert two.objects is not None
        if not torch.equal(one.objects.boxes, two.objects.boxes):
            return False
        assert one.objects.masks is not None
        assert two.objects.masks is not None
        if not torch.equal(one.objects.masks, two.objects.masks) or one.size != two.size:
            return False
    return True


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_start_and_cache_change_nothing(dataset: DataSet, workers: int) -> None:
    alone = loader(dataset)
    many = loader(dataset, workers=workers, cache_bytes=1 << 20)
    state = torch.get_rng_state()
    for epoch in (0, 1):
        expected = list(alone.epoch(epoch))
        found = list(many.epoch(epoch))
        assert len(expected) == len(found) == len(many) == 6
        assert all(same(a, b) for a, b in zip(expected, found, strict=True))
        next(many.epoch(1 - epoch))  # an epoch that is left early
        rest = list(many.epoch(epoch, start_step=4))
        assert all(same(a, b) for a, b in zip(expected[4:], rest, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    many.close()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", ["segment", "classify"])
def test_what_is_kept_behind_fixed_transforms_changes_nothing(tmp_path: Path, task: str, workers: int) -> None:
    rng = np.random.default_rng(0)
    records = []
    for i in range(9):
        Image.fromarray(rng.integers(0, 255, (20 + i, 31, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 2, (20 + i, 31), dtype=np.uint8)).save(tmp_path / f"m{i}.png")
        records.append(Record(f"{i}.png", (20 + i, 31), label=i % 2, semantic=f"m{i}.png"))
    dataset = DataSet(tmp_path, "test", task, ["a", "b"], records)
    first: Scale | Resize = Scale(0.5) if task == "segment" else Resize((8, 70))  # half; smaller, but wider
    view = View((first, RandomCrop((9, 9)), Flip()))
    planes = 4 if task == "segment" else 3
    kept = sum(h * w * planes for h, w in (first.fixed_size(record.size) for record in records))
    plain, caching = (
        Loader(dataset, records, task, view, Shuffled(3), 4, Work(w, bytes_)) for w, bytes_ in ((0, 0), (workers, kept))
    )
    expected = [list(plain.epoch(epoch)) for epoch in (0, 1)]
    for epoch in (0, 1):
        found = list(caching.epoch(epoch))
        for record in records:  # nothing is read a second time
            (tmp_path / record.id).unlink(missing_ok=True)
            (tmp_path / str(record.semantic)).unlink(missing_ok=True)
        for a, b in zip(expected[epoch], found, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.images, b.images)
            for one, two in zip(a.truth or [], b.truth or [], strict=True):
                assert one.size == two.size
                assert one.label == two.label
                assert one.semantic is two.semantic is None or torch.equal(one.semantic, two.semantic)
            assert all(np.array_equal(x, y) for x, y in zip(a.to_original, b.to_original, strict=True))
            assert a.original_sizes == b.original_sizes
    caching.close()


def test_epochs_and_samples_differ(dataset: DataSet) -> None:
    first, second = (list(loader(dataset).epoch(epoch)) for epoch in (0, 1))
    ids = [[i for b in epoch for i in b.ids] for epoch in (first, second)]
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(r.id for r in dataset.records)
    assert ids[0] != ids[1]
    other = [i for b in loader(dataset, order=Shuffled(4)).epoch(0) for i in b.ids]
    assert other != ids[0]
    by_id = [{i: b.images[row] for b in epoch for row, i in enumerate(b.ids)} for epoch in (first, second)]
    changed = sum(not torch.equal(by_id[0][i][:, :20, :30], by_id[1][i][:, :20, :30]) for i in ids[0])
    assert changed > COUNT / 2


@pytest.mark.parametrize("order", [InOrder(3), Shuffled(3)])
@pytest.mark.parametrize(("processes", "batch"), [(2, 4), (3, 7), (4, 5)])
def test_processes_share_every_step(dataset: DataSet, processes: int, batch: int, order: Order) -> None:
    shuffle = isinstance(order, Shuffled)
    whole = list(loader(dataset, batch=batch, order=order).epoch(2))
    parts = [
        list(loader(dataset, batch=batch, order=order, processes=processes, rank=rank).epoch(2))
        for rank in range(processes)
    ]
    dropped = int(shuffle and 0 < COUNT % batch < processes)
    steps = len(whole) - dropped
    for step in range(steps):
        ids = [i for part in parts if step < len(part) for i in part[step].ids]
        assert ids == whole[step].ids
    if shuffle:
        assert {len(part) for part in parts} == {steps}


def test_incomplete_last_step(dataset: DataSet) -> None:
    assert [len(b) for b in loader(dataset, batch=10).epoch(0)] == [10, 10, 3]
    assert [len(b) for b in loader(dataset, batch=10, order=Shuffled(3, drop_last=True)).epoch(0)] == [10, 10]
    assert [len(b) for b in loader(dataset, batch=50, order=Shuffled(3, drop_last=True)).epoch(0)] == [COUNT]


def test_padding() -> None:
    samples = [Sample(np.full((h, w, 3), 9, np.uint8), Annotation((h, w))) for h, w in ((3, 8), (5, 2))]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 5, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes == [(3, 8), (5, 2)]
    assert batch.images[0].sum() == 9 * 3 * 3 * 8
    assert batch.images[1, :, :5, :2].eq(9).all()
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_neighbours_of_one_size_come_without_their_padding() -> None:
    sizes = [(40, 96), (60, 96), (70, 96), (96, 31), (96, 96), (40, 96)]
    batch = Batch(torch.arange(6)[:, None, None, None].expand(6, 3, 96, 96), sizes, ids=list("abcdef"))

    def found(step: int) -> list[tuple[list[str], tuple[int, ...]]]:
        parts = list(without_padding(batch, step))
        assert [size for part in parts for size in part.sizes] == sizes
        assert [part.images[:, 0, 0, 0].tolist() for part in parts] == [
            ["abcdef".index(i) for i in p.ids] for p in parts
        ]
        return [(part.ids, tuple(part.images.shape[2:])) for part in parts]

    assert [ids for ids, _ in found(1)] == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert [size for _, size in found(1)] == sizes
    assert found(32) == [
        (["a", "b"], (64, 96)),
        (["c"], (96, 96)),
        (["d"], (96, 32)),
        (["e"], (96, 96)),
        (["f"], (64, 96)),
    ]


def test_the_longer_side_of_a_frame_stays() -> None:
    batch = Batch(torch.zeros(2, 3, 64, 100), [(64, 40), (30, 100)])
    assert [tuple(part.images.shape) for part in without_padding(batch, 32)] == [(1, 3, 64, 100), (1, 3, 32, 100)]
    assert [tuple(part.images.shape) for part in without_padding(batch)] == [(1, 3, 64, 40), (1, 3, 30, 100)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_given_boxes_come_with_their_images(dataset: DataSet, workers: int) -> None:
    for batch in loader(dataset, Give(), workers=workers).epoch(0):
        assert batch.given is not None
        for size, given, truth in zip(batch.sizes, batch.given, batch.truth, strict=True):
            assert given.boxes.tolist() == torch.arange(4 * (size[0] % 3)).reshape(-1, 4).tolist()
            assert given.scores is not None
            assert truth.size == size
    assert next(loader(dataset, workers=workers).epoch(0)).given is None


def test_all_images_of_a_batch_are_given_boxes_or_none() -> None:
    samples = [Sample(np.zeros((3, 8, 3), np.uint8), Annotation((3, 8))) for _ in range(2)]
    samples[1].given = Objects.empty()
    with pytest.raises(ValueError, match="1 of 2 images"):
        collate(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named(tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_text("no image")
    records = [Record("bad.png", (4, 4), label=0)]
    dataset = DataSet(tmp_path, "test", "classify", ["a"], records)
    bad = Loader(dataset, records, "classify", View(), Shuffled(), 2, Work(workers))
    with pytest.raises(DataError, match=r"bad\.png: not an image") as caught:
        list(bad.epoch(0))
    assert "Traceback" not in str(caught.value)
    bad.close()


def test_a_dead_worker_is_reported(dataset: DataSet) -> None:
    dying = loader(dataset, Die(), workers=1)
    with pytest.raises(ResourceError, match="--workers 0"):
        list(dying.epoch(0))
    dying.close()


def test_slow_workers_are_waited_for_and_stuck_ones_are_not(dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.data.loader._POLL", 0.05)
    slow = loader(dataset, Sleep(), workers=1)
    assert [b.ids for b in slow.epoch(0)] == [b.ids for b in loader(dataset).epoch(0)]
    monkeypatch.setattr("saccade.data.loader.TIMEOUT", 0.15)
    with pytest.raises(ResourceError, match=r"no batch in 0\.\d+ seconds"):
        list(slow.epoch(0))
    slow.close()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_worker_that_stands_still_when_an_epoch_starts(
    dataset: DataSet, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    monkeypatch.setattr("saccade.data.loader._POLL", 0.05)
    slow, alone = loader(dataset, workers=1), loader(dataset)
    assert len(list(slow.epoch(0))) == 6
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    if goes_on:
        threading.Timer(0.5, os.kill, (worker.pid, signal.SIGCONT)).start()
        for epoch in (1, 2):
            found = list(slow.epoch(epoch))
            assert all(same(a, b) for a, b in zip(found, alone.epoch(epoch), strict=True))
    else:
        monkeypatch.setattr("saccade.data.loader.TIMEOUT", 0.15)
        with pytest.raises(ResourceError, match=r"hangs or is starved .* when \d+\.png, .* were due"):
            list(slow.epoch(1))
    slow.close()
    gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_stopped_worker_is_named_by_its_images_and_does_not_stay(
    dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.data.loader._POLL", 0.05)
    monkeypatch.setattr("saccade.data.loader.TIMEOUT", 0.15)
    stopped = loader(dataset, Stop(), workers=1)
    with pytest.raises(ResourceError, match=r"hangs or is starved .* when \d+\.png, .* were due"):
        list(stopped.epoch(0))
    stopped.close()
    gc.collect()
    assert not multiprocessing.active_children()


def test_the_fault_of_a_transform_keeps_its_traceback(dataset: DataSet) -> None:
    failing = loader(dataset, Fail(), workers=1)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*a fault of ours"):
        list(failing.epoch(0))
    failing.close()


def test_wrong_arguments(dataset: DataSet) -> None:
    with pytest.raises(UsageError, match="batch 0"):
        loader(dataset, batch=0)
    for options in ({"workers": -1}, {"processes": 2, "rank": 2}):
        with pytest.raises(UsageError, match="0 <= rank < processes"):
            loader(dataset, **options)
    with pytest.raises(DataError, match="no images"):
        Loader(dataset, [], "detect", View(), InOrder(), 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_for_prediction_keep_their_order(dataset: DataSet, tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_text("no image")
    paths = [dataset.root / r.id for r in dataset.records[:5]]
    paths.insert(2, tmp_path / "bad.png")
    failed: list[tuple[Path, DataError]] = []
    batches = list(iter_images(paths, View(), 2, workers, on_error=lambda path, error: failed.append((path, error))))
    assert [i for b in batches for i in b.ids] == [str(p) for p in paths if p.name != "bad.png"]
    assert [path for path, _ in failed] == [tmp_path / "bad.png"]
    assert all(b.truth is None for b in batches)
    assert batches[0].original_sizes == [(20, 30), (21, 30)]
    with pytest.raises(DataError, match="bad"):
        list(iter_images(paths, View(), 2, workers))
    assert list(iter_images([], View(), 2)) == []


def test_repeated_images_come_as_different_samples_in_epochs_of_one_length(dataset: DataSet) -> None:
    repeats = np.ones(COUNT)
    repeats[5] = 6.5
    many = loader(dataset, Draw(), order=Repeated(repeats, 3, drop_last=True))
    assert len(many) == 7  # 28.5 images, rounded up, in whole batches of 4
    seen: list[str] = []
    for epoch in range(6):
        batches = list(many.epoch(epoch))
        assert len(batches) == 7
        assert all(same(a, b) for a, b in zip(batches[3:], many.epoch(epoch, start_step=3), strict=True))
        seen += [id for batch in batches for id in batch.ids]
        drawn = [int(b.images[i, 0, 0, 0]) for b in batches for i in range(len(b)) if b.ids[i] == "5.png"]
        assert len(set(drawn)) > 1
    assert 30 <= seen.count("5.png") <= 42
    alone = loader(dataset, Draw())
    ones = loader(dataset, Draw(), order=Repeated(np.ones(COUNT), 3))
    assert {id for b in alone.epoch(0) for id in b.ids} == {id for b in ones.epoch(0) for id in b.ids}


def test_large_jpegs_are_decoded_as_finely_as_the_drawn_crop_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[:640, :960]
    image = np.stack([128 + 100 * np.sin(x / 60), 128 + 100 * np.cos(y / 40), (x + y) / 8], 2)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "1.jpg", quality=95)
    record = Record("1.jpg", (640, 960), label=0)
    dataset = DataSet(tmp_path, "test", "classify", ["a", "b"], [record])
    read, reductions = sources.read_sample, []

    def read_and_note(record: Record, dataset: DataSet, task: str, min_side: int | None, known: object) -> Sample:
        sample = read(record, dataset, task, min_side, None)
        reductions.append(round(640 / sample.image.shape[0]))
        return sample

    def images(min_side: int | None) -> torch.Tensor:
        view = View((RandomResizedCrop((32, 48), 0.02), Flip()), min_side)
        crops = Loader(dataset, [record], "classify", view, Shuffled(), 1)
        return torch.cat([batch.images for epoch in range(40) for batch in crops.epoch(epoch)]).float()

    whole = images(None)
    monkeypatch.setattr(sources, "read_sample", read_and_note)
    reduced = images(10_000)
    assert set(reductions) == {2, 4, 8}  # from 10,000 pixels none would follow
    same_window = (whole - reduced).abs().mean((1, 2, 3)) < 6  # mirrored or not; other windows differ by 20 and more
    assert same_window.sum() >= 38  # whether a window still fits can hang on the rounding to decoded pixels
