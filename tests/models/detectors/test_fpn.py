from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError, UsageError
from saccade.layers.anchors import cell_anchors, shapes_of
from saccade.layers.box_coding import decode_boxes
from saccade.layers.proposing import ProposalRules, RegionProposalNetwork, RPNHead
from saccade.models.configs import config_from_json, unknown_fields
from saccade.models.detectors import fpn
from saccade.models.detectors.fpn import VARIANTS, Config, Model, adapt, from_public
from saccade.ops.boxes import box_iou, clip_boxes

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "fasterrcnn_resnet50_fpn.json"
# What later papers did for boxes, off as in this one.
OFF: dict[str, Any] = {"aligned": False, "cascade": (), "box_loss": "smooth_l1", "box_weight": 1.0, "score": "softmax"}
TINY: dict[str, Any] = {"classes": 3, "trunk_width": 16, "channels": 32, "head_width": 64}
SMALL = dataclasses.replace(VARIANTS["faster_rcnn_small"], **TINY, **OFF)


def annotation(
    boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, side: int = 128
) -> Annotation:
    objects = Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        crowd=None if crowd is None else torch.tensor(crowd),
    )
    return Annotation((side, side), objects=objects)


def scenes(n: int = 4, side: int = 128) -> Batch:
    """Bright rectangles of three colours on a gray ground, two an image."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, side, side, generator=generator) * 0.1 + 0.4
    truth = []
    for i in range(n):
        boxes = [[10.0 + 5 * i, 12, 50 + 5 * i, 60], [70, 64.0 - 4 * i, 110, 104 - 4 * i]]
        labels = [i % 3, (i + 1) % 3]
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            images[i, :, int(y0) : int(y1), int(x0) : int(x1)] = 0.1
            images[i, label, int(y0) : int(y1), int(x0) : int(x1)] = 0.95
        truth.append(annotation(boxes, labels))
    return Batch(images, [(side, side)] * n, truth)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(SMALL)


@pytest.fixture(scope="module")
def public() -> Model:
    with torch.device("meta"):
        return Model(VARIANTS["faster_rcnn_r50_fpn"])


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_counts_and_layout_of_the_public_checkpoint(public: Model) -> None:
    assert count(public) == 41_808_406
    layout = {key: tuple(shape) for key, shape in json.loads(LAYOUT.read_text()).items()}
    assert {key: tuple(value.shape) for key, value in public.state_dict().items()} == layout
    weights = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    public.load_state_dict(from_public(weights), strict=True, assign=True)
    old = {
        key.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in weights.items()
    }
    assert old.keys() != weights.keys()
    assert from_public(old).keys() == weights.keys()


def test_counts_of_other_forms() -> None:
    with torch.device("meta"):
        assert count(Model(Config(classes=20))) == 41_449_656
        assert count(Model(Config(trunk_norm="frozen"))) == 41_755_286


def test_anchors_of_the_public_checkpoint() -> None:
    """numbers.json: 268,569 anchors at 800 x 1344; corners of size 32 rounded to whole pixels."""
    config = Config()
    assert shapes_of(config.anchors[0]).tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert torch.equal(shapes_of(config.anchors[4]), cell_anchors([512], [0.5, 1, 2], rounded=True))
    head = RPNHead(config.channels, 3)
    rpn = RegionProposalNetwork(head, [shapes_of(level) for level in config.anchors], ProposalRules())
    levels = [torch.empty(1, 1, -(-800 // s), -(-1344 // s), device="meta") for s in (4, 8, 16, 32, 64)]
    anchors = rpn.anchors(levels, (800, 1344))
    assert sum(len(a) for a in anchors) == 268_569
    coarse = anchors[4].view(13, 21, 3, 4)
    assert (coarse[1, 1, 0] - coarse[0, 0, 0]).tolist() == [64, 61, 64, 61]  # 1344 // 21 and 800 // 13


def test_shapes_do_not_depend_on_the_content(model: Model) -> None:
    model.eval()
    for images in (torch.rand(2, 3, 96, 128), torch.zeros(2, 3, 96, 128)):
        objectness, offsets, proposals, logits, deltas = model(images)
        anchors = 3 * (12 * 16 + 6 * 8 + 3 * 4 + 2 * 2)
        proposed = model.config.rpn_after[1]
        assert objectness.shape == (2, anchors)
        assert offsets.shape == (2, anchors, 4)
        assert proposals.shape == (2, proposed, 4)
        assert logits.shape == (2, proposed, 4)
        assert deltas.shape == (2, proposed, 16)
        assert (proposals[..., 2] <= 128).all()
        assert (proposals[..., 3] <= 96).all()


def test_padding_changes_nothing() -> None:
    """An image padded with noise answers as the same image padded with anything else, and boxes stay inside it."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, score_threshold=0.0)
    model = Model(config).eval()
    images = torch.rand(2, 3, 128, 128)
    sizes = [(128, 128), (80, 100)]
    other = images.clone()
    other[1, :, 80:] = 0.9
    other[1, :, :, 100:] = 0.1
    first, second = (model.predict(Batch(x, sizes))[1].objects for x in (images, other))
    assert first is not None
    assert second is not None
    assert len(first) == config.detections
    assert torch.equal(first.boxes, second.boxes)
    assert first.boxes[:, 2].max() <= 100
    assert first.boxes[:, 3].max() <= 80


@pytest.mark.parametrize("kind", ["none", "mixed", "crowd"])
def test_images_without_objects(model: Model, kind: str) -> None:
    """Finite losses, box losses exactly 0 where nothing is drawn, and a gradient for every parameter."""
    batch = scenes(2)
    nothing = annotation([], [])
    crowd = annotation([[0.0, 0, 128, 128]], [1], [True])
    assert batch.truth is not None
    batch.truth = {"none": [nothing, nothing], "mixed": [batch.truth[0], nothing], "crowd": [crowd, crowd]}[kind]
    losses = model.loss(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box"}
    if kind != "mixed":
        assert losses["rpn_box"].item() == losses["box"].item() == 0
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


OPTIONS: dict[str, dict[str, Any]] = {  # of later papers; each is off in the paper's form
    "giou": {"box_loss": "giou", "box_weight": 10.0},
    "iou": {"score": "iou"},
    "quality": {"score": "quality"},
    "cascade": {"cascade": (0.6, 0.7)},
    "all": {"box_loss": "ciou", "score": "iou", "cascade": (0.6,), "aligned": True},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("some", [True, False])
def test_every_option_reaches_every_parameter_and_answers(option: str, some: bool) -> None:
    """Also where no image has objects; outputs of one shape whatever the image shows; answers inside the image."""
    torch.manual_seed(0)
    model, batch = Model(dataclasses.replace(SMALL, **OPTIONS[option])), scenes(2)
    assert batch.truth is not None
    batch.truth = [batch.truth[0] if some else annotation([], []), annotation([], [])]
    losses = model.loss(batch)
    heads = range(2, 2 + len(model.config.cascade))
    own = ["class", "box"] + (["iou"] if model.config.score == "iou" else [])
    expected = own + [f"{name}_{head}" for head in heads for name in own]
    assert set(losses) == {"rpn_objectness", "rpn_box", *expected}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    shapes = [[tuple(out.shape) for out in model(images)] for images in (batch.images, torch.zeros(2, 3, 128, 128))]
    assert shapes[0] == shapes[1]
    for answer in model.predict(batch):
        assert answer.objects is not None
        assert (answer.objects.boxes <= 128).all()


def test_options_are_exported() -> None:
    torch.manual_seed(0)
    model, image = Model(dataclasses.replace(SMALL, **OPTIONS["all"])).eval(), torch.rand(1, 3, 64, 64)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image), atol=1e-4, rtol=1e-4)


def test_heads_in_a_row_refine_the_boxes_of_the_one_before() -> None:
    """A second head that moves nothing draws the first head's boxes; one that moves by a tenth (2 for its weights of
    20) moves them; its class is the mean of both."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, cascade=(0.6,), score_threshold=0.0, nms=1.0)
    model, batch = Model(config).eval(), scenes(1)
    first, second = model.roi_heads.box_predictor, model.cascade[0].box_predictor
    nn.init.zeros_(second.bbox_pred.weight)
    with torch.no_grad():
        first.bbox_pred.bias.copy_(torch.tensor([0.0, 0, -2.0, -2.0]))
    _, _, unmoved, logits, deltas = model(batch.images)
    with torch.no_grad():
        second.bbox_pred.bias.copy_(torch.tensor([2.0, 0, 0, 0]))
    _, _, regions, _, moved = model(batch.images)
    assert not deltas.any()
    assert torch.equal(unmoved, regions)
    found = decode_boxes(moved, regions, model.rules_of_heads[1].weights)
    torch.testing.assert_close(found[..., 0], regions[..., 0] + 0.1 * (regions[..., 2] - regions[..., 0]))
    levels = model.backbone(batch.images)
    sizes = torch.tensor([[128, 128]])
    proposals = model.rpn.propose(model.rpn(levels, (128, 128)), sizes, training=False)
    votes = [model.roi_heads(levels, proposals).logits, model.cascade[0](levels, regions).logits]
    torch.testing.assert_close(logits.softmax(2), (votes[0].softmax(2) + votes[1].softmax(2)) / 2)
    begun = decode_boxes(model.roi_heads(levels, proposals).deltas, proposals, config.box_weights)
    torch.testing.assert_close(regions, clip_boxes(begun, (128, 128)))


def test_small_checkpoints_of_before_draw_boxes_as_they_did() -> None:
    now = dataclasses.asdict(VARIANTS["faster_rcnn_small"])
    before = {name: value for name, value in now.items() if name not in OFF}
    assert config_from_json(fpn, "faster_rcnn_small", before) == dataclasses.replace(
        VARIANTS["faster_rcnn_small"], **OFF
    )
    assert {name: getattr(VARIANTS["faster_rcnn_r50_fpn"], name) for name in OFF} == OFF


def test_the_same_seed_gives_the_same_losses(model: Model) -> None:
    batch = scenes(2)
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        values.append([loss.item() for loss in model.loss(batch).values()])
    assert values[0] == values[1]


def test_bad_truth_is_refused(model: Model) -> None:
    batch = scenes(1)
    with pytest.raises(DataError, match="no boxes"):
        model.loss(Batch(batch.images, batch.sizes))
    batch.truth = [annotation([[5.0, 5, 20, 20]], [3])]
    batch.ids = ["a.jpg"]
    with pytest.raises(DataError, match=r"a\.jpg.*label 3"):
        model.loss(batch)


def test_bad_anchors_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        Model(dataclasses.replace(SMALL, anchors=(((8, 8),), ((8, 8), (9, 9)), ((8, 8),), ((8, 8),))))
    with pytest.raises(UsageError, match="need 3 at least"):
        Model(dataclasses.replace(SMALL, anchors=SMALL.anchors[:2]))


@pytest.mark.parametrize("trunk", ["densenet121", "vgg11", "mobilenet_v3_small"])
def test_any_trunk_with_the_strides_serves(trunk: str) -> None:
    """VGG, whose last map has stride 16, gets two coarser levels for its anchors; a step reaches every parameter."""
    width = {"vgg11": 4, "mobilenet_v3_small": 0.25}.get(trunk)
    depths = (1, 1, 1, 1) if trunk == "densenet121" else None
    config = dataclasses.replace(SMALL, trunk=trunk, trunk_width=width, trunk_depths=depths)
    model = Model(config)
    model(torch.rand(1, 3, 96, 64))
    torch.stack(list(model.loss(scenes(1)).values())).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "classifier" not in n)


def test_trunks_without_the_strides_are_refused() -> None:
    with pytest.raises(UsageError, match=r"resnet20 has maps at strides 1, 2, 4.*stride 8"):
        Model(dataclasses.replace(SMALL, trunk="resnet20"))


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_of_the_first_versions_are_read(name: str) -> None:
    """They wrote out the residual network: its block, depths, width and norms."""
    own = {"block": "basic", "depths": [2, 2, 2, 2], "width": 32, "norm": "batch", "norm_eps": 1e-5}
    own = own if name == "faster_rcnn_small" else own | {"block": "bottleneck", "depths": [3, 4, 6, 3], "width": 64}
    now = dataclasses.asdict(VARIANTS[name])
    before = {key: value for key, value in now.items() if not key.startswith("trunk") and key not in OFF} | own
    assert unknown_fields(fpn, name, before) == []
    with torch.device("meta"):
        read = Model(config_from_json(fpn, name, before))
        made = Model(dataclasses.replace(VARIANTS[name], **OFF))
    assert {k: v.shape for k, v in read.state_dict().items()} == {k: v.shape for k, v in made.state_dict().items()}


def test_adapt_fits_the_boxes_and_leaves_little_data_alone() -> None:
    few = [annotation([[0.0, 0, 10, 10]], [0])]
    assert adapt(SMALL, few) == SMALL
    generator = torch.Generator().manual_seed(0)
    side = 15 * 8 ** torch.rand(400, generator=generator)  # 15 to 120 pixels, all twice as high as wide
    boxes = torch.stack((side * 0, side * 0, side, side * 2), 1).tolist()
    fitted = adapt(SMALL, [annotation(boxes, [0] * 400, side=400)])
    assert len(fitted.anchors) == len(SMALL.anchors)
    assert json.loads(json.dumps(dataclasses.asdict(fitted)))["anchors"][0][0] == list(fitted.anchors[0][0])

    def coverage(config: Config) -> float:
        shapes = torch.cat([shapes_of(level) for level in config.anchors])
        centred = torch.stack((-side / 2, -side, side / 2, side), 1)
        return box_iou(centred, shapes).amax(1).mean().item()

    assert coverage(fitted) > max(coverage(SMALL), 0.75)
