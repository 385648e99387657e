"""What a plan remembers of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from corpus import changed, coco, everywhere, masks, yolo
from saccade.errors import DataError
from saccade.training.plan import make_plan
from saccade.training.prepare import enough_steps


def test_the_splits_that_the_files_state_are_kept_beside_those_that_were_chosen(colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "val").rename(tmp_path / "set" / "test")
    plan = make_plan("resnet20", tmp_path / "set")
    assert plan.dataset.splits == {"train": 32, "val": 8, "test": 10}  # a val is held out of train, test stays a test
    assert len(plan.testing) == 10
    assert {split for id, split in plan.given.items() if id.startswith("test/")} == {"test"}
    plan = make_plan("resnet20", colours / "train")
    assert set(plan.dataset.splits) == {"train", "val"}
    assert plan.given == {record.id: None for record in plan.dataset.records}


def test_objects_in_val_alone_are_nothing_to_learn(tmp_path: Path) -> None:
    data = changed(yolo(), lambda root: [path.write_text("") for path in (root / "labels/train").iterdir()])(tmp_path)
    with pytest.raises(DataError, match=r"no object in train \(0 of 3 images have one\)"):
        make_plan("atss_small", data)


@pytest.mark.parametrize(("model", "why"), [("atss_small", "they show no object"), ("resnet20", "none has a tag")])
def test_validation_images_without_an_object_choose_nothing_which_is_said(tmp_path: Path, model: str, why: str) -> None:
    """Of a detector, and of a classifier that takes the classes of the objects for tags."""

    def warned(root: Path) -> bool:
        warnings = make_plan(model, root).dataset.ledger.warnings
        return any(f"the 1 validation images cannot choose the checkpoint, for {why}" in w for w in warnings)

    assert not warned(yolo()(tmp_path / "sound"))
    assert warned(changed(yolo(), lambda root: (root / "labels/val/4.txt").write_text(""))(tmp_path / "empty"))


def test_epochs_and_minutes_given_together_both_end_the_run(colours: Path) -> None:
    def ends_by_epochs(**flags: float) -> bool:
        return make_plan("resnet20", colours, flags=flags).ends_by_epochs

    assert ends_by_epochs()
    assert ends_by_epochs(epochs=3)
    assert not ends_by_epochs(minutes=1)  # the epochs of the recipe are set aside
    assert ends_by_epochs(epochs=3, minutes=1)


def test_a_set_of_crowds_alone_is_trained_on_as_objects(tmp_path: Path) -> None:
    root = coco(lambda c: [a.update(iscrowd=1) for a in c["annotations"]])(tmp_path)
    plan = make_plan("atss_small", root)
    assert not any(t.crowd for r in plan.training for t in r.things or [])
    assert any("all 8 objects are marked iscrowd" in w for w in plan.dataset.ledger.warnings)


def test_a_train_part_without_a_usable_object_is_refused(tmp_path: Path) -> None:
    root = coco()(tmp_path)
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").unlink()
    for split, images in (("train", {1, 2, 3}), ("val", {4})):
        part = {"images": [i for i in content["images"] if i["id"] in images], "categories": content["categories"]}
        rows = [a | {"iscrowd": int(split == "train")} for a in content["annotations"] if a["image_id"] in images]
        (root / f"{split}.json").write_text(json.dumps(part | {"annotations": rows}))
    with pytest.raises(DataError, match="of 6 objects in 3 training images 6 are marked crowd and 0 are narrower"):
        make_plan("atss_small", root)


def test_boxes_below_a_pixel_are_nothing_to_learn(tmp_path: Path) -> None:
    root = everywhere(lambda b: [b[0], b[1], 0.5, 20])(tmp_path / "thin")
    with pytest.raises(DataError, match="0 are marked crowd and 6 are narrower than a pixel"):
        make_plan("atss_small", root)
    root = everywhere(lambda b: [b[0], b[1], 1, 1])(tmp_path / "pixels")
    assert make_plan("atss_small", root).training


def test_class_maps_of_one_class_are_nothing_to_learn(tmp_path: Path) -> None:
    def blank(value: int) -> Path:
        root = masks(lambda m: m * 0 + value)(tmp_path / str(value))
        for name in ("1.png", "3.png", "4.png"):
            shutil.copy(root / "masks/2.png", root / "masks" / name)
        return root

    with pytest.raises(DataError, match="nothing to tell apart: the masks of all 3 training images show soil"):
        make_plan("unet_light", blank(0))
    with pytest.raises(DataError, match="nothing but what is ignored"):
        make_plan("unet_light", blank(255))


def test_the_data_are_called_as_they_were_named(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its format and its file, from where the person stood; `config.json` names them from anywhere."""
    shutil.copytree(colours, tmp_path / "my set")
    monkeypatch.chdir(tmp_path)
    plan = make_plan("resnet20", "folder:my set")
    assert plan.how_to_go_on(Path("a run")) == (
        "go on with: saccade train resnet20 'folder:my set' --out 'a run' --resume"
    )
    assert plan.to_json()["data"] == f"folder:{tmp_path / 'my set'}"


def test_a_recipes_batch_is_lowered_until_an_epoch_has_four_steps(colours: Path) -> None:
    """Of 40 images: from 128 to 8, and the rate by as much; what a person or a paper says stays."""
    plan = enough_steps(make_plan("resnet20", colours))
    assert (plan.settings.batch, plan.origins["batch"]) == (8, "recipe default, 128 lowered for 40 images")
    assert plan.settings.lr == make_plan("resnet20", colours).settings.lr * 8 / 128
    for flags, recipe, batch in (({"batch": 32}, "default", 32), ({}, "paper", 128)):
        plan = make_plan("resnet20", colours, flags=flags, recipe=recipe)
        assert enough_steps(plan).settings == plan.settings
        assert plan.settings.batch == batch
    kept = enough_steps(make_plan("resnet20", colours, flags={"lr": 0.5}))
    assert (kept.settings.batch, kept.settings.lr) == (8, 0.5)
