"""Pictures in tiles: what is stitched and merged, and that a picture which fits is answered as without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.inference.pixels import ClassMaps
from saccade.inference.predictor import Predictor
from saccade.inference.tiles import Tiling, merged, ramp, stitched
from saccade.models import create

REGIONS = ["--regions", "foreground"]
PIXELS = Preprocessing(size=None, resize="stretch")


@pytest.mark.parametrize("length", [64, 65, 96, 100, 128, 129, 500, 1000, 1023, 4096])
@pytest.mark.parametrize(("side", "overlap"), [(64, 0), (64, 32), (100, None), (128, 33), (512, None)])
def test_tiles_cover_a_side(length: int, side: int, overlap: int | None) -> None:
    spans = Tiling(side, overlap).spans(length, 1 / 16)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start <= side and start % 32 == 0 for start, end in spans)
    shared = [end - start for (_, end), (start, _) in pairwise(spans)]
    assert len(set(shared)) <= 1
    assert min(shared, default=overlap or 0) >= (overlap or 0)
    assert len(spans) == 1 or length > side // 32 * 32


def test_no_tile_is_needlessly_small() -> None:
    """3 tiles of 736 rather than two of 1024 and one of 128 for 2048 pixels."""
    assert Tiling(1024, 64).spans(2048, 1 / 16) == [(0, 736), (672, 1408), (1344, 2048)]


@pytest.mark.parametrize(("side", "overlap"), [(32, None), (128, -1), (128, 65), (128, 100)])
def test_tiles_that_cannot_be(side: int, overlap: int | None) -> None:
    with pytest.raises(UsageError, match="tile"):
        Tiling(side, overlap)


def test_the_weights_of_neighbours_add_up() -> None:
    weights = ramp(32)
    assert weights[:8].tolist() == [0.0] * 8
    assert weights[-8:].tolist() == [1.0] * 8
    torch.testing.assert_close(weights + weights.flip(0), torch.ones(32))


class Blur(nn.Module):
    """A segmenter of a field of view of 5 pixels: two classes by a weighted mean of the neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 5, padding=2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        out: Tensor = self.layer(images)
        return out

    def predict(self, batch: Batch) -> list[Annotation]:
        maps = self(batch.images).argmax(1).to(torch.uint8)
        return [Annotation(size, semantic=m) for size, m in zip(batch.sizes, maps, strict=True)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def segmenter(model: nn.Module, preprocessing: Preprocessing = PIXELS, classes: int = 4) -> Predictor:
    return Predictor(model, "segment", [str(k) for k in range(classes)], preprocessing, "cpu", "fp32")


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("size", [(200, 333), (64, 640), (321, 96)])
def test_tiles_answer_as_the_whole(size: tuple[int, int], scale: float) -> None:
    """Where the field of view ends within a quarter of the overlap; and no pass is larger than a tile."""
    predictor = segmenter(Blur(), replace(PIXELS, scale=scale))
    whole = predictor.predict(picture(*size)).semantic
    network = predictor.network
    assert isinstance(network.seen, list)
    network.seen.clear()
    tiled = predictor.predict(picture(*size), tile=Tiling(128, 32)).semantic
    assert whole is not None
    assert tiled is not None
    assert (tiled != whole).sum() <= 2  # blending may round a tie of two classes the other way
    assert max(max(shape[2:]) for shape in network.seen) <= max(64, 128 * scale)
    assert len(network.seen) > 1


@pytest.mark.parametrize("name", ["unet_light", "unet"])
def test_networks_of_the_zoo_in_tiles(name: str) -> None:
    """With the whole overlap that there may be, few pixels differ; a picture of one tile is the same bit for bit."""
    torch.manual_seed(0)
    predictor = segmenter(create(name, classes=4).eval())
    pixels = np.ascontiguousarray(np.kron(picture(16, 24), np.ones((16, 16, 1), np.uint8)))
    whole = predictor.predict(pixels).semantic
    assert whole is not None
    assert torch.equal(predictor.predict(pixels, tile=512).semantic, whole)  # type: ignore[arg-type]
    tiled = predictor.predict(pixels, tile=Tiling(192, 96)).semantic
    assert (tiled != whole).float().mean() < 0.04


def test_tiles_of_the_valid_form() -> None:
    """Whose `forward` answers for the middle of what it sees."""
    torch.manual_seed(0)
    predictor = segmenter(create("unet_paper", width=4, tile=68, classes=4).eval())
    pixels = picture(100, 130)
    whole, tiled = predictor.predict(pixels).semantic, predictor.predict(pixels, tile=192).semantic
    assert torch.equal(whole, tiled)  # type: ignore[arg-type]
    assert predictor.predict(pixels, tile=64).semantic.shape == (100, 130)  # type: ignore[union-attr]


def test_what_is_kept_of_scores_is_small() -> None:
    """Besides a tile one row of overlaps: of 40 rows of tiles no more than of two."""
    scores = torch.rand(3, 64, 64)
    rows, columns = Tiling(64, 32).spans(1000, 0), Tiling(64, 32).spans(100, 0)
    calls = []

    def of(window: tuple[int, int, int, int]) -> Tensor:
        x1, y1, x2, y2 = window
        calls.append(window)
        return scores[:, : y2 - y1, : x2 - x1].clone()

    planes = stitched(of, rows, columns, ClassMaps().planes)
    assert planes.shape == (1, 1000, 100)
    assert len(calls) == len(rows) * len(columns)


def test_boxes_of_several_tiles_become_one() -> None:
    """Tile 0 is the whole, tile 1 ends at x = 100, tile 2 begins at 80."""
    rows = [
        ((10, 10, 30, 30), 0.9, 0, 1, False),  # seen whole by tile 1 ...
        ((11, 10, 31, 30), 0.6, 0, 0, False),  # ... and by the whole: one object
        ((60, 40, 100, 60), 0.8, 0, 1, True),  # a part of ...
        ((60, 40, 140, 60), 0.5, 0, 0, False),  # ... what the whole sees with more than half its score
        ((80, 40, 140, 60), 0.7, 0, 2, True),  # the other part, larger than the first is in it
        ((81, 41, 99, 59), 0.4, 1, 2, False),  # another class inside of it
        ((12, 10, 29, 31), 0.3, 0, 1, False),  # in the tile of the first: its detector has let both stay
        ((85, 80, 99, 90), 0.2, 0, 2, False),
        ((85, 80, 100, 90), 0.9, 0, 1, True),  # cut off, but of more than twice the score: the better one
    ]
    boxes, scores, labels, sources, cut = zip(*rows, strict=True)
    kept = merged(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(scores),
        torch.tensor(labels),
        torch.tensor(sources),
        torch.tensor(cut),
    )
    assert sorted(kept.tolist()) == [0, 3, 5, 6, 8]


class Blobs(nn.Module):
    """A detector that finds the bright rectangles of an image as it sees it, with masks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, batch: Batch) -> list[Annotation]:
        from scipy import ndimage

        found = []
        for image, size in zip(batch.images, batch.sizes, strict=True):
            parts, count = ndimage.label(image[0].numpy() > 0.9)
            places = ndimage.find_objects(parts)
            boxes = [[float(v) for v in (x.start, y.start, x.stop, y.stop)] for y, x in places]
            masks = torch.from_numpy(np.stack([parts == i + 1 for i in range(count)] or [np.zeros(parts.shape, bool)]))
            scores = torch.linspace(0.9, 0.5, count)
            objects = Objects(
                torch.tensor(boxes).reshape(-1, 4), torch.zeros(count, dtype=torch.int64), scores, masks[:count]
            )
            found.append(Annotation(size, objects=objects))
        return found


@pytest.fixture
def scene() -> tuple[np.ndarray, list[list[float]]]:
    """A picture of 400 x 600 with small, cut and large rectangles, and their boxes."""
    boxes = [[10.0, 10, 30, 40], [100, 90, 140, 130], [590, 390, 600, 400], [200, 200, 480, 380], [250, 20, 275, 60]]
    pixels = np.zeros((400, 600, 3), np.uint8)
    for x1, y1, x2, y2 in np.array(boxes, int):
        pixels[y1:y2, x1:x2] = 255
    return pixels, boxes


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_objects_of_tiles(task: str, scene: tuple[np.ndarray, list[list[float]]]) -> None:
    """Each is found once, where it is, the one that is larger than a tile too; masks lie over their boxes."""
    pixels, boxes = scene
    shape = Preprocessing(size=(128, 128), resize="letterbox")
    predictor = Predictor(Blobs(), task, ["thing"], shape, "cpu", "fp32")
    objects = predictor.predict(pixels, tile=128).objects
    assert objects is not None
    near = (objects.boxes[:, None] - torch.tensor(boxes)[None]).abs().amax(2) <= 5  # the large one is seen at a fifth
    assert near.sum(0).tolist() == [1] * len(boxes)
    assert objects.scores.tolist() == sorted(objects.scores.tolist(), reverse=True)  # type: ignore[union-attr]
    assert objects.masks is not None
    for box, mask in zip(objects.boxes.round().int().tolist(), objects.masks, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        hull = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert max(abs(a - b) for a, b in zip(box, hull, strict=True)) <= 3
    small = predictor.predict(pixels).objects  # at a fifth of its size small ones are lost or moved
    assert small is not None
    assert len(objects) >= len(small)


def test_a_picture_of_one_tile_is_the_whole(scene: tuple[np.ndarray, list[list[float]]]) -> None:
    predictor = Predictor(Blobs(), "detect", ["thing"], Preprocessing((128, 128), "letterbox"), "cpu", "fp32")
    tiled, whole = predictor.predict(scene[0], tile=608).objects, predictor.predict(scene[0]).objects
    assert tiled is not None
    assert whole is not None
    assert torch.equal(tiled.boxes, whole.boxes)


@pytest.mark.parametrize("options", [["--tile", "128", "--overlap", "32"], ["--tile", "64"]])
def test_tiles_from_the_command_line(
    shell: Callable[..., tuple[int, str, str]], tmp_path: Path, masked: Path, segmenter_run: Path, options: list[str]
) -> None:
    """`predict` and `evaluate` say nearly the same with tiles as without, and the report's command names them."""
    import json

    code, out, _ = shell("predict", segmenter_run, masked / "images" / "0.png", "--json", "--precision", "fp32")
    code2, tiled, _ = shell("predict", segmenter_run, masked / "images" / "0.png", "--json", *options)
    assert (code, code2) == (0, 0)
    whole, parts = json.loads(out)[0]["mask"], json.loads(tiled)[0]["mask"]
    assert sum(p["pixels"] for p in whole.values()) == sum(p["pixels"] for p in parts.values()) == 150 * 220
    code, out, err = shell(
        "evaluate", segmenter_run, masked, "--split", "all", "--json", *options, *REGIONS, "--out", tmp_path / "r"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["tile"] == int(options[1])
    assert found["metrics"]["v_rand"]["value"] > 0
    assert found["metrics"]["warping_error"]["low"] is not None
    report = (tmp_path / "r" / "report.html").read_text()
    assert f"--tile {options[1]}" in report
    assert "--regions foreground" in report
    code, _, err = shell("evaluate", segmenter_run, masked, "--regions", "cell")
    assert code == 2
    assert "--regions 'cell': allowed: background, foreground" in err


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masked")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(2):
        mask = np.zeros((150, 220), np.uint8)
        mask[20 + i : 90, 30:160] = 255
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        Image.fromarray(np.stack([mask // 2 + 40] * 3, 2) + picture(150, 220, i) // 8).save(
            root / "images" / f"{i}.png"
        )
    return root


@pytest.fixture(scope="module")
def segmenter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained segmenter as a run folder."""
    import dataclasses

    from saccade import checkpoint
    from saccade.models import model_config, model_module

    torch.manual_seed(0)
    config = model_config("unet_light", classes=2, trunk_width=8, decoder_width=2)
    model = model_module("unet_light").Model(config)
    state = checkpoint.Checkpoint(
        "unet_light",
        dataclasses.asdict(config),
        ["background", "foreground"],
        "segment",
        PIXELS.to_json(),
        model.state_dict(),
    )
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(state, folder / "best.safetensors")
    return folder


def test_what_tiles_are_not_for(run: Path, segmenter_run: Path, tmp_path: Path) -> None:
    """Answers for the whole, videos, given boxes, an overlap without tiles."""
    with pytest.raises(UsageError, match=r"this model \(classify\) answers for the picture as a whole"):
        saccade.load(run).predict(picture(300, 300), tile=128)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match=r"--tile is for images; .*a.mp4 is a video"):
        saccade.predict(segmenter_run, tmp_path / "a.mp4", tile=128)
    with pytest.raises(UsageError, match="give their side too"):
        saccade.predict(segmenter_run, tmp_path / "a.mp4", overlap=32)
    with pytest.raises(UsageError, match="tile is 10, allowed: at least 64 pixels"):
        saccade.load(segmenter_run).predict(picture(100, 100), tile=10)
