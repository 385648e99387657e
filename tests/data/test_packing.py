from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.cache import ImageCache, Kept
from saccade.data.packing import Packed, Spool, pack, unpack
from saccade.data.types import Annotation, Objects


def test_packed_items_come_back() -> None:
    items = [b"abc", b"", b"\0\xff", b"z" * 1000]
    packed = Packed(items)
    assert [packed[i] for i in range(len(packed))] == items
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]


def test_annotations_come_back() -> None:
    objects = Objects(
        torch.rand(3, 4), torch.arange(3), masks=torch.rand(3, 5, 7) > 0.5, crowd=torch.tensor([True, False, True])
    )
    annotations = [
        Annotation((5, 7), objects=objects),
        Annotation((2, 3), label=4, tags=torch.tensor([True, False, True]), semantic=torch.ones(2, 3).byte()),
        Annotation((1, 1), objects=Objects.empty(scored=True)),
    ]
    buffer, layout = pack(annotations)
    assert buffer.dtype == torch.uint8
    first, second, third = unpack(buffer, layout)
    assert first.objects is not None
    for name in ("boxes", "labels", "masks", "crowd"):
        assert torch.equal(getattr(first.objects, name), getattr(objects, name))
    assert first.objects.keypoints is None
    assert (second.size, second.label) == ((2, 3), 4)
    assert second.tags is not None
    assert second.tags.tolist() == [True, False, True]
    assert third.objects is not None
    assert third.objects.boxes.shape == (0, 4)
    assert third.objects.scores is not None
    assert unpack(*pack([])) == []


def test_what_lies_in_a_file_comes_back_in_any_order() -> None:
    nothing = Annotation((1, 1), objects=Objects.empty())
    some = Annotation((5, 7), semantic=torch.arange(35).view(5, 7).byte())
    with Spool() as kept:
        kept[0, "a"], kept[1, "a"] = nothing, some
        assert kept[1, "a"].semantic is not None
        assert torch.equal(kept[1, "a"].semantic, some.semantic)
        assert kept[0, "a"].objects is not None
        assert len(kept[0, "a"].objects) == 0
        with pytest.raises(KeyError):
            kept[2, "a"]


@pytest.mark.parametrize("maps", [False, True])
def test_cache_keeps_images_and_class_maps(maps: bool) -> None:
    sizes = [(4, 5), (6, 7)]
    assert ImageCache.for_sizes(sizes, 185, maps=True) is None
    assert ImageCache.for_sizes([], 100) is None
    cache = ImageCache.for_sizes(sizes, 186 if not maps else 248, maps)
    assert cache is not None
    assert cache.get(1) is None
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    semantic = np.arange(6, dtype=np.uint8).reshape(2, 3) if maps else None
    cache.put(1, Kept(image, semantic, (2.5, 3.0)))  # smaller than announced
    kept = cache.get(1)
    assert kept is not None
    assert np.array_equal(kept.image, image)
    kept.image[:] = 0
    again = cache.get(1)
    assert again is not None
    assert np.array_equal(again.image, image)
    assert again.scale == (2.5, 3.0)
    assert again.semantic is semantic is None or np.array_equal(again.semantic, semantic)
    assert cache.get(0) is None
    with pytest.raises(ValueError):
        cache.put(0, Kept(np.zeros((5, 5, 3), np.uint8), None, (1.0, 1.0)))


def test_a_column_of_one_number_is_packed_whatever_its_stride() -> None:
    """The score of a lone box, as a column of its row: torch takes it for contiguous."""
    rows = torch.arange(5.0).reshape(1, 5)
    one = Objects(rows[:, :4], torch.zeros(1, dtype=torch.int64), rows[:, 4])
    (back,) = unpack(*pack([Annotation((8, 8), objects=one)]))
    assert back.objects is not None
    assert back.objects.scores is not None
    assert back.objects.scores.tolist() == [4.0]
