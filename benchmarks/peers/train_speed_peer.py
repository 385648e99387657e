"""The peers' side of train_speed.py: their own loops on the same files; runs in the peers' environment.

    python train_speed_peer.py '{"system": "torchvision", "model": "resnet18", "data": ..., "size": ..., "batch": ...}'

torchvision: its reference scripts' loop as its defaults are (float32, contiguous tensors, Pillow decoding, the
reference transforms in DataLoader workers, SGD with momentum). ultralytics: its own trainer. The output is that of
train_speed_saccade.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch.utils.flop_counter import FlopCounterMode


def describe(model: torch.nn.Module, images: Any) -> None:
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(images)
    model.train(was_training)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"gmacs": flops.get_total_flops() / 2e9, "parameters": parameters}), flush=True)


def without_end(loader: Iterable[Any]) -> Iterator[Any]:
    for _ in count():
        yield from loader


def train_classifier(task: dict[str, Any]) -> None:
    """torchvision's references/classification/train.py with its default preset for training."""
    import torchvision
    from torchvision import transforms as T

    size = task["size"]
    transform = T.Compose(
        [
            T.RandomResizedCrop(size),
            T.RandomHorizontalFlip(),
            T.PILToTensor(),
            T.ConvertImageDtype(torch.float),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    data = torchvision.datasets.ImageFolder(str(Path(task["data"]) / "train"), transform)
    loader = torch.utils.data.DataLoader(
        data, task["batch"], shuffle=True, num_workers=task["workers"], drop_last=True, persistent_workers=True
    )
    model = torchvision.models.get_model(task["model"], weights=None, num_classes=len(data.classes))
    describe(model, torch.rand(1, 3, size, size))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    images = 0
    for image, target in without_end(loader):
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        images += len(image)
        print(time.monotonic(), images, flush=True)


class VocBoxes(torch.utils.data.Dataset):
    """The training images of a Pascal VOC folder with boxes and labels, Pillow-decoded."""

    def __init__(self, folder: Path, transform: Any) -> None:
        names = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
        self.files = [self._image(folder, name) for name in names]
        self.transform = transform
        parsed = [self._boxes(folder / "Annotations" / f"{name}.xml") for name in names]
        self.classes = sorted({label for rows in parsed for label, _ in rows})
        kept = [(file, rows) for file, rows in zip(self.files, parsed, strict=True) if rows]
        self.files, self.rows = [file for file, _ in kept], [rows for _, rows in kept]

    @staticmethod
    def _image(folder: Path, name: str) -> Path:
        return next(p for s in (".jpg", ".jpeg", ".png") if (p := folder / "JPEGImages" / f"{name}{s}").is_file())

    @staticmethod
    def _boxes(file: Path) -> list[tuple[str, list[float]]]:
        rows = []
        for thing in ElementTree.parse(file).getroot().iter("object"):
            box = [float(thing.findtext(f"bndbox/{k}") or 0) for k in ("xmin", "ymin", "xmax", "ymax")]
            if box[2] > box[0] and box[3] > box[1]:
                rows.append((thing.findtext("name") or "", box))
        return rows

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image
        from torchvision import tv_tensors

        image = Image.open(self.files[i]).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            [box for _, box in self.rows[i]], format="XYXY", canvas_size=(image.height, image.width)
        )
        labels = torch.tensor([1 + self.classes.index(label) for label, _ in self.rows[i]])
        return self.transform(image, {"boxes": boxes, "labels": labels})


def train_detector(task: dict[str, Any]) -> None:
    """torchvision's references/detection/train.py: preset `ssd` for SSD, `hflip` for Faster R-CNN."""
    import torchvision
    from torchvision.transforms import v2 as T

    small = task["model"].startswith("ssd")
    steps: list[Any] = [T.RandomHorizontalFlip(0.5), T.PILToTensor(), T.ToDtype(torch.float, scale=True)]
    if small:
        expand = T.RandomZoomOut(fill={object: (123.0, 117.0, 104.0), "others": 0})
        steps = [T.RandomPhotometricDistort(), expand, T.RandomIoUCrop(), *steps, T.SanitizeBoundingBoxes()]
    data = VocBoxes(Path(task["data"]), T.Compose([T.ToImage(), *steps] if small else steps))
    loader = torch.utils.data.DataLoader(
        data,
        task["batch"],
        shuffle=True,
        num_workers=task["workers"],
        drop_last=True,
        persistent_workers=True,
        collate_fn=lambda rows: tuple(zip(*rows, strict=True)),
    )
    sides = {} if small else {"min_size": task["size"], "max_size": task["size"]}
    model = torchvision.models.get_model(
        task["model"], weights=None, weights_backbone=None, num_classes=len(data.classes) + 1, **sides
    )
    describe(model, [torch.rand(3, task["size"], task["size"])])
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=5e-4)
    images = 0
    for image, target in without_end(loader):
        loss = sum(model(list(image), list(target)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        images += len(image)
        print(time.monotonic(), images, flush=True)


def train_ultralytics(task: dict[str, Any]) -> None:
    """Ultralytics' trainer from a model's yaml (no pretrained weights), with its default augmentation."""
    from ultralytics import YOLO
    from ultralytics.utils import SETTINGS

    SETTINGS.update({"sync": False})
    model = YOLO(task["model"] + ".yaml")
    images = 0

    def after_step(trainer: Any) -> None:
        nonlocal images
        images += task["batch"]
        print(time.monotonic(), images, flush=True)

    def before(trainer: Any) -> None:
        describe(trainer.model, torch.rand(1, 3, task["size"], task["size"]))

    model.add_callback("on_pretrain_routine_end", before)
    model.add_callback("on_train_batch_end", after_step)
    with tempfile.TemporaryDirectory() as folder:
        model.train(
            data=task["data"],
            imgsz=task["size"],
            batch=task["batch"],
            workers=task["workers"],
            epochs=1000,
            device="cpu",
            project=folder,
            pretrained=False,
            plots=False,
            val=False,
            save=False,
            verbose=False,
        )


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    kind = {"classify": train_classifier, "detect": train_detector, "ultralytics": train_ultralytics}
    kind[asked["kind"]](asked)
