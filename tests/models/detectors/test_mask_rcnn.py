from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from saccade.config import Settings
from saccade.data.formats import read
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.data.views import inference_view
from saccade.errors import DataError
from saccade.layers.masks import mask_targets, paste_masks
from saccade.layers.targets import RegionTargets
from saccade.models.detectors import fpn
from saccade.models.detectors.mask_rcnn import RECIPES, VARIANTS, Config, Model, adapt, from_public
from saccade.tasks.contract import task_of

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "maskrcnn_resnet50_fpn.json"
NARROW = {"trunk_width": 16, "channels": 32, "head_width": 64, "head_sample": 32, "mask_width": 16, "mask_depth": 1}
SMALL = dataclasses.replace(VARIANTS["mask_rcnn_small"], classes=3, **NARROW)  # type: ignore[arg-type]


def annotation(boxes: list[list[float]], labels: list[int], masks: list[torch.Tensor], side: int = 96) -> Annotation:
    planes = torch.stack(masks) if masks else torch.zeros(0, side, side, dtype=torch.bool)
    table = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Annotation((side, side), objects=Objects(table, torch.tensor(labels, dtype=torch.int64), masks=planes))


def scenes(n: int = 2, side: int = 96) -> Batch:
    """Bright discs, and diamonds of label 1, of three colours on a gray ground, two an image."""
    images = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.4
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    truth = []
    for i in range(n):
        boxes = [[6.0 + 5 * i, 8, 46 + 5 * i, 52], [50, 48.0 - 4 * i, 90, 88 - 4 * i]]
        labels, masks = [i % 3, (i + 1) % 3], []
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            u, v = (x - (x0 + x1) / 2).abs() / (x1 - x0) * 2, (y - (y0 + y1) / 2).abs() / (y1 - y0) * 2
            mask = u + v <= 1 if label == 1 else u**2 + v**2 <= 1
            images[i][:, mask] = 0.1
            images[i, label][mask] = 0.95
            masks.append(mask)
        truth.append(annotation(boxes, labels, masks, side))
    return Batch(images, [(side, side)] * n, truth)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(SMALL)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_counts_and_layout_of_the_public_checkpoint() -> None:
    with torch.device("meta"):
        public, frozen = Model(Config()), Model(Config(trunk_norm="frozen"))
        assert (count(public), count(frozen)) == (44_454_513, 44_401_393)
        assert count(Model(Config(classes=80))) == 44_400_693
        assert count(Model(Config(classes=20))) == 44_077_773
        assert count(Model(Config(classes=80, trunk="resnet101"))) == 63_392_821
    layout = {key: tuple(shape) for key, shape in json.loads(LAYOUT.read_text()).items()}
    assert len(layout) == 360
    assert {key: tuple(value.shape) for key, value in public.state_dict().items()} == layout
    weights = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    public.load_state_dict(from_public(weights), strict=True, assign=True)


def test_keys_of_the_released_files_are_repaired() -> None:
    layout = json.loads(LAYOUT.read_text())
    renamed = {".mask_head.0.0.": ".mask_head.mask_fcn1.", ".mask_head.3.0.": ".mask_head.mask_fcn4."}
    renamed |= {"_blocks.0.0.": "_blocks.0.", "rpn.head.conv.0.0.": "rpn.head.conv."}
    old = {key: torch.empty(0) for key in layout}
    for new, released in renamed.items():
        old = {key.replace(new, released): value for key, value in old.items()}
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    assert list(from_public(old)) == list(layout)


def test_fields_are_those_of_the_detector_and_those_of_masks() -> None:
    """What later papers did for boxes is left out, and off in the detector that it is made from."""
    own, shared = dataclasses.asdict(Config()), dataclasses.asdict(fpn.Config())
    assert {name: shared.pop(name) for name in set(shared) - set(own)} == {
        "cascade": (),
        "box_loss": "smooth_l1",
        "box_weight": 1.0,
        "score": "softmax",
    }
    assert {name: own[name] for name in shared} == shared


def test_recipes_name_settings() -> None:
    known = {f.name for f in dataclasses.fields(Settings)}
    for recipe in RECIPES.values():
        for name, values in recipe.items():
            assert name == "*" or name in VARIANTS
            assert set(values) <= known


def test_shapes_do_not_depend_on_the_content(model: Model) -> None:
    model.eval()
    for images in (torch.rand(2, 3, 96, 128), torch.zeros(2, 3, 96, 128)):
        shapes = [tuple(value.shape) for value in model(images)]
        assert shapes[:5] == [(2, 768), (2, 768, 4), (2, 200, 4), (2, 200, 4), (2, 200, 16)]
        assert shapes[5:] == [(2, 100, 4), (2, 100), (2, 100), (2, 100, 28, 28)]


@pytest.mark.slow
def test_exports_with_roi_pool() -> None:
    model = Model(dataclasses.replace(SMALL, pooling="pool", detections=20)).eval()
    program = torch.export.export(model, (torch.rand(1, 3, 64, 64),))
    other = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(program.module()(other), model(other))


def test_what_is_exported_is_what_is_predicted(model: Model) -> None:
    """Boxes, labels and scores; and the masks, laid over the image."""
    model.eval()
    batch = scenes(1)
    with torch.no_grad():
        boxes, labels, scores, masks = (value[0] for value in model(batch.images)[5:])
    found = model.predict(batch)[0].objects
    assert found is not None
    assert found.masks is not None
    assert len(found) == SMALL.detections
    torch.testing.assert_close(found.boxes, boxes)
    torch.testing.assert_close(found.scores, scores)
    assert torch.equal(found.labels, labels)
    pasted = paste_masks(masks, boxes, (96, 96), aligned=True)
    assert pasted.any()
    assert (pasted == found.masks).float().mean() > 0.999  # masks hardly begun lie about one half


@pytest.mark.parametrize("kind", ["none", "mixed"])
@pytest.mark.parametrize("pooling", ["align", "pool"])
def test_images_without_objects(kind: str, pooling: str) -> None:
    """Finite losses, that of the masks exactly 0 where no object is, and a gradient for every parameter."""
    model = Model(dataclasses.replace(SMALL, pooling=pooling))  # type: ignore[arg-type]
    batch, nothing = scenes(2), annotation([], [], [])
    assert batch.truth is not None
    batch.truth = [nothing, nothing] if kind == "none" else [batch.truth[0], nothing]
    losses = model.loss(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "mask"}
    assert (losses["mask"].item() == 0) == (kind == "none")
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_crowd_teaches_no_mask(model: Model) -> None:
    """A region of many objects is no target, and the masks of the others keep their places."""
    batch = scenes(1)
    assert batch.truth is not None
    objects = batch.truth[0].objects
    assert objects is not None
    assert objects.masks is not None
    losses = []
    for first in (objects[:0], objects[:1]):  # the crowd comes first, and is far from the object
        crowd = torch.cat((torch.ones(len(first)), torch.zeros(1))).bool()
        boxes, labels, masks = (
            torch.cat((getattr(first, n), getattr(objects, n)[1:])) for n in ("boxes", "labels", "masks")
        )
        batch.truth = [Annotation((96, 96), objects=Objects(boxes, labels, masks=masks, crowd=crowd))]
        model.rules = dataclasses.replace(model.rules, positive_iou=0.99, sample=4)  # only the true box is positive
        losses.append(model.loss(batch)["mask"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_hundreds_of_objects_one_pixel_boxes_and_a_crowd() -> None:
    """400 objects of 1 to 4 pixels, some of them equal or with an empty mask, in front of a crowd region: losses and
    gradients are finite, and so are answers."""
    torch.manual_seed(0)
    model = Model(SMALL)
    y, x = (torch.arange(400) // 20 * 4.0, torch.arange(400) % 20 * 4.0)
    side = 1.0 + torch.arange(400) % 4
    boxes = torch.cat((torch.stack((x, y, x + side, y + side), 1), torch.tensor([[60.0, 60, 96, 96]])))
    masks = torch.zeros(401, 96, 96, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    masks[7] = False
    boxes[11] = boxes[12]
    crowd = torch.arange(401) == 400
    many = Objects(boxes, torch.arange(401) % 3, masks=masks, crowd=crowd)
    batch = scenes(2)
    assert batch.truth is not None
    batch.truth[0] = Annotation((96, 96), objects=many)
    losses = model.loss(batch)
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.rules = dataclasses.replace(model.rules, detections=400, nms=1.0)
    found = model.eval().predict(batch)[0].objects
    assert found is not None
    assert found.masks is not None
    assert len(found) == len(found.masks) == 400
    assert found.boxes.isfinite().all()


def test_a_mask_beside_its_box_is_learned_as_empty() -> None:
    """Boxes say where regions are, masks what is drawn in them; what lies outside of a region is not seen."""
    batch = scenes(1)
    assert batch.truth is not None
    objects = batch.truth[0].objects
    assert objects is not None
    assert objects.masks is not None
    beside = dataclasses.replace(objects, masks=objects.masks.flip(0))
    boxes = objects.boxes[None]
    numbers = torch.arange(2)[None]
    wanted = RegionTargets(numbers, boxes, numbers, numbers + 1, boxes, numbers >= 0, numbers >= 0)
    assert mask_targets(wanted, batch.truth, 28, aligned=True).masks.mean() > 0.4
    assert not mask_targets(wanted, [Annotation((96, 96), objects=beside)], 28, aligned=True).masks.any()


def test_truth_without_masks_is_refused(model: Model) -> None:
    batch = scenes(1)
    assert batch.truth is not None
    assert batch.truth[0].objects is not None
    batch.truth[0].objects.masks = None
    with pytest.raises(DataError, match="without masks"):
        model.loss(batch)


def test_adapt_fits_the_anchors_alone() -> None:
    boxes = [[float(i), 0, i + 20, 40] for i in range(12)]
    truth = annotation(boxes, [0] * 12, [torch.ones(96, 96, dtype=torch.bool)] * 12)
    fitted = adapt(SMALL, [truth])
    assert fitted.anchors != SMALL.anchors
    assert dataclasses.replace(fitted, anchors=SMALL.anchors) == SMALL


def test_adapt_makes_room_for_the_objects_of_the_fullest_image() -> None:
    """Crowds do not count; the limits of training stay."""
    boxes = torch.arange(300)[:, None] % 90 + torch.tensor([[0.0, 0, 4, 4]])
    crowd = torch.arange(300) >= 240
    full = Annotation((96, 96), objects=Objects(boxes, torch.zeros(300, dtype=torch.int64), crowd=crowd))
    fitted = adapt(SMALL, [full, annotation([], [], [])])
    assert fitted.detections == 360
    assert fitted.rpn_before == (SMALL.rpn_before[0], 960)
    assert fitted.rpn_after == (SMALL.rpn_after[0], 960)
    assert fitted.rpn_sample == SMALL.rpn_sample


def test_learns_two_images() -> None:
    """Every object found, and drawn with an overlap above 0.75."""
    torch.manual_seed(0)
    batch = scenes()
    assert batch.truth is not None
    model = Model(adapt(SMALL, batch.truth)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    metric = task_of("instances").make_metric(["disc", "diamond", "other"])
    for i, (truth, found) in enumerate(zip(batch.truth, model.eval().predict(batch), strict=True)):
        metric.add(str(i), truth, found)
    values = metric.result().metrics
    assert values["ap50"].value == 1
    assert (values["mask_ap75"].value or 0) > 0.95


@pytest.mark.slow
@pytest.mark.shared
def test_learns_eight_photographs_by_heart(shared_data: Path) -> None:
    """The small form on 8 images of Penn-Fudan at 224 pixels, in a minute on one core: every pedestrian is drawn."""
    dataset = read(shared_data / "penn_fudan")
    view = inference_view("instances", Preprocessing(size=(224, 224), resize="letterbox"))
    loader = Loader(dataset, dataset.records[:8], "instances", view, InOrder(), 8, Work(0))
    batch = next(iter(loader.epoch(0))).to("cpu")
    assert batch.truth is not None
    torch.manual_seed(0)
    model = Model(adapt(dataclasses.replace(VARIANTS["mask_rcnn_small"], classes=1), batch.truth)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    steps, peak = 180, 3e-3
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 10) * (1 - step / steps)
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(20):  # the running statistics of so short a training lag behind the weights
            model.backbone(batch.images)
    metric = task_of("instances").make_metric(dataset.classes)
    for i, (truth, found) in enumerate(zip(batch.truth, model.eval().predict(batch), strict=True)):
        metric.add(str(i), truth, found)
    values = metric.result(bootstrap=0).metrics
    assert (values["mask_ap50"].value or 0) > 0.9
    assert (values["mask_ap75"].value or 0) > 0.5
