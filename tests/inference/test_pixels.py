"""Objects in class maps: what watershed makes of scores, and the way from objects through a segmenter to mask AP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from saccade.data.borders import interiors
from saccade.data.image import decode_values
from saccade.data.loader import collate
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch
from saccade.errors import ResourceError, UsageError
from saccade.inference import pixels
from saccade.inference.pixels import PixelObjects
from saccade.inference.predictor import Predictor


def discs(size: tuple[int, int], *places: tuple[int, int, int]) -> np.ndarray:
    """[H, W] int32 numbers of discs y, x, radius."""
    y, x = np.mgrid[: size[0], : size[1]]
    numbers = np.zeros(size, np.int32)
    for i, (cy, cx, radius) in enumerate(places, start=1):
        numbers[(y - cy) ** 2 + (x - cx) ** 2 <= radius * radius] = i
    return numbers


TWO = discs((40, 60), (20, 20, 10), (20, 38, 10))  # they overlap by two pixels


def scores_of(classes: np.ndarray, count: int) -> Tensor:
    return 6 * torch.nn.functional.one_hot(torch.from_numpy(classes).long(), count).movedim(-1, 0)[None].float()


def test_touching_objects_are_told_apart_by_their_border() -> None:
    classes = np.where(TWO == 0, 0, np.where(interiors(TWO, 2), 1, 2))
    reader = PixelObjects(["background", "cell", "border"], border=True)
    answer = reader.answer(reader.planes(scores_of(classes, 3))[0])
    objects = answer.objects
    assert reader.names == ["cell"]
    assert objects is not None
    assert len(objects) == 2
    assert objects.masks is not None
    assert (objects.masks.any(0).numpy() == (TWO > 0)).all()  # the borders belong to them
    assert int(objects.masks.sum(0).max()) == 1
    for mask, box in zip(objects.masks, objects.boxes.int().tolist(), strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        assert box == [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    assert (objects.scores > 0.99).all()  # type: ignore[operator]


def test_touching_objects_are_told_apart_by_their_shape() -> None:
    """A network without the border class; one object cut by the edge of the image is one."""
    reader = PixelObjects(["background", "cell"], border=False)
    objects = reader.answer(reader.planes(scores_of((TWO > 0).astype(int), 2))[0]).objects
    assert objects is not None
    assert sorted(objects.boxes[:, 0].int().tolist()) == [10, 30]  # the column between them is the first one's
    half = discs((40, 40), (20, 0, 12))
    cut = reader.answer(reader.planes(scores_of((half > 0).astype(int), 2))[0]).objects
    assert cut is not None
    assert len(cut) == 1


def test_small_parts_borders_alone_and_classes() -> None:
    """Specks are none; a part that is all border is an object; two classes that touch are two."""
    classes = np.zeros((30, 40), int)
    classes[2:4, 2:4] = 1
    classes[10:14, 2:8] = 3
    classes[10:20, 20:28], classes[10:20, 28:36] = 1, 2
    reader = PixelObjects(["background", "cell", "dirt", "border"], border=True)
    objects = reader.answer(reader.planes(scores_of(classes, 4))[0]).objects
    assert objects is not None
    assert sorted(zip(objects.boxes.int().tolist(), objects.labels.tolist(), strict=True)) == [
        ([2, 10, 8, 14], 0),
        ([20, 10, 28, 20], 0),
        ([28, 10, 36, 20], 1),
    ]
    none = reader.answer(reader.planes(scores_of(0 * classes, 4))[0]).objects
    assert none is not None
    assert len(none) == 0
    assert none.scores is not None


def test_masks_beyond_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST", 1000)
    with pytest.raises(ResourceError, match="2 objects in 60 x 40 pixels"):
        pixels.objects_of(TWO, 0 * TWO, np.ones(TWO.shape, np.float32))


class Painted(nn.Module):
    """A segmenter that reads the class of a pixel from its red value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return 9 * torch.nn.functional.one_hot((images[:, 0] * 255).round().long() // 50, 3).movedim(-1, 1).float()

    def predict(self, batch: Batch) -> list[Annotation]:
        maps = self(batch.images).argmax(1).to(torch.uint8)
        return [Annotation(size, semantic=m[: size[0], : size[1]]) for size, m in zip(batch.sizes, maps, strict=True)]


def test_a_segmenter_answers_as_a_model_to_instances() -> None:
    """In the pixels of the original, with tiles as without."""
    numbers = discs((200, 300), (30, 30, 20), (70, 30, 20), (150, 250, 30), (100, 120, 25), (199, 0, 15))
    classes = np.where(numbers == 0, 0, np.where(interiors(numbers, 2), 1, 2))
    picture = np.repeat((50 * classes).astype(np.uint8)[..., None], 3, 2)
    shape = Preprocessing(None, "stretch", border=2)
    predictor = Predictor(Painted(), "segment", ["background", "cell", "border"], shape, "cpu", "fp32")
    predictor.find_instances()
    assert (predictor.task, predictor.classes) == ("instances", ["cell"])
    whole, tiled = predictor.predict(picture).objects, predictor.predict(picture, tile=128).objects
    assert whole is not None
    assert tiled is not None
    assert len(whole) == len(tiled) == 5
    assert whole.masks is not None
    assert tiled.masks is not None
    assert torch.equal(whole.masks.any(0), torch.from_numpy(numbers > 0))
    assert torch.equal(tiled.masks.any(0), whole.masks.any(0))


@pytest.mark.parametrize(("name", "changes"), [("unet", {}), ("unet_paper", {"tile": 40}), ("fcn8s_small", {})])
def test_answers_do_not_hang_on_the_pictures_beside(name: str, changes: dict[str, int]) -> None:
    """Pictures of several sizes in one batch get the answers that each gets alone, up to their borders."""
    torch.manual_seed(0)
    width = {"width": 4, "levels": 2} if name.startswith("unet") else {}
    network = saccade.create(name, classes=3, **width, **changes).eval()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 52), (72, 64), (72, 64), (50, 70))]
    predictor = Predictor(
        network, "segment", ["background", "cell", "border"], Preprocessing(None, "stretch", border=2)
    )
    for of_objects in (False, True):
        if of_objects:
            predictor.find_instances()
        batch = collate([predictor.see(picture) for picture in pictures])
        together = [answer for _, answer in predictor.predict_batches([batch])]
        for answer, alone in zip(together, map(predictor.answer, pictures), strict=True):
            assert answer.size == alone.size
            if answer.semantic is not None and alone.semantic is not None:
                assert torch.equal(answer.semantic, alone.semantic)
            if answer.objects is not None and alone.objects is not None:
                assert torch.equal(answer.objects.boxes, alone.objects.boxes)
                assert len(answer.objects)


def test_what_has_no_instances(run: Path) -> None:
    with pytest.raises(UsageError, match="objects are found in class maps; this model is to classify"):
        saccade.load(run, instances=True)
    with pytest.raises(UsageError, match="none of the classes background has objects"):
        PixelObjects(["background"], border=False)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs, some of which touch, with maps of their ids in 16 bits."""
    root = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(10):
        y, x = (int(v) for v in rng.integers(14, 34, 2))
        numbers = discs((64, 64), (y, x, 9), (y + 16, x, 9), (12, 52, 8))
        pixels_ = np.where(numbers > 0, 170, 40) + rng.integers(0, 40, numbers.shape)
        edge = (numbers > 0) & ~interiors(numbers, 1)
        pixels_[edge] -= 60
        Image.fromarray(np.repeat(pixels_.astype(np.uint8)[..., None], 3, 2)).save(root / "images" / f"{i}.png")
        Image.fromarray((257 * numbers).astype(np.uint16)).save(root / "masks" / f"{i}.png")
    return root


def test_from_objects_through_a_segmenter_to_mask_ap(
    cells: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    """Train on class maps with borders, resume, score maps and objects, predict objects and a map of their numbers."""
    made = tmp_path / "run"
    small = ["--set", "width=8", "--set", "levels=2", "--size", 64, "--batch", 4, "--set", "precision=fp32"]
    words = ["--set", "border_class=2", "--workers", 0, "--seed", 0, "--out", made]
    code, _, err = shell("train", "unet", cells, *small, *words, "--epochs", 20, "--set", "lr=0.01", "--json")
    assert code == 0, err
    assert json.loads((made / "config.json").read_text())["classes"] == ["background", "object", "border"]
    code, _, err = shell("train", "unet", cells, "--out", made, "--resume", "--json")
    assert code == 0, err
    code, out, err = shell("evaluate", made, cells, "--json")
    assert code == 0, err
    maps = json.loads(out)
    assert [row["name"] for row in maps["per_class"]] == ["background", "object", "border"]
    assert maps["metrics"]["mean_iou"]["value"] > 0.5
    code, out, err = shell("evaluate", made, cells, "--instances", "--json", "--out", tmp_path / "report")
    assert code == 0, err
    objects = json.loads(out)
    assert objects["images"] == maps["images"] == 2  # the same that training held out
    assert objects["metrics"]["mask_ap50"]["value"] > 0.9
    assert "--instances" in (tmp_path / "report" / "report.html").read_text()
    picture, folder = cells / "images" / "0.png", tmp_path / "answers"
    code, out, err = shell("predict", made, picture, "--instances", "--masks", "png", "--out", folder, "--json")
    assert code == 0, err
    answer = json.loads(out)[0]["objects"]
    assert set(answer["names"]) == {"object"}
    drawn = decode_values(folder / answer["map"])
    assert drawn.max() == len(answer["boxes"]) >= 3


def test_words_that_do_not_fit(cells: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = shell("train", "resnet20", cells, "--set", "border_class=2", "--out", tmp_path / "a")
    assert code == 2
    assert "border_class is for models to segment; resnet20 serves" in err
    (tmp_path / "results.json").write_text("[]")
    code, _, err = shell("evaluate", tmp_path / "results.json", cells, "--instances")
    assert code == 2
    assert "a results file holds objects as it is" in err
