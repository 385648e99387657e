"""A network and a training loop of your own, with Saccade's data, predictions and scores around them:
`python examples/own_loop.py [--images 1500] [--epochs 20]`.

To have all of Saccade for your network (recipes, resumed runs, reports, export), make it a file of the zoo:
docs/own_network.md says how. This is the other way: you keep the loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import saccade
from saccade.config import Settings
from saccade.data.loader import Loader
from saccade.data.orders import Shuffled
from saccade.data.pipelines import preprocessing_of
from saccade.data.scenes import write_scenes
from saccade.data.split import split
from saccade.data.types import Annotation, Batch
from saccade.data.views import training_view
from saccade.inference.predictor import Predictor
from saccade.inference.score import Pass, score
from saccade.layers.classification import classification_predictions
from saccade.losses.classification import classification_loss


class SmallNet(nn.Module):
    """Three convolutions, a mean over the map, a linear layer."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]."""
        return self.out(self.layers(images - 0.5).mean((2, 3)))

    def loss(self, batch: Batch) -> Tensor:
        return classification_loss(self(batch.images), batch.truth, "classify")["classification"]

    def predict(self, batch: Batch) -> list[Annotation]:
        """What a `Predictor` asks of a network."""
        return classification_predictions(self(batch.images), batch.sizes, "classify")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/own-loop"), help="where the pictures are left")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    if not options.out.exists():
        write_scenes(options.out, "classify", options.images, seed=0, size=32)

    dataset = saccade.read(options.out)
    split(dataset)  # fills what the folders leave open; here they say train and val
    parts = {name: [r for r in dataset.records if r.split == name] for name in ("train", "val")}
    settings = Settings(size=32, resize="stretch", flip=0.0, jitter=0.2, color=0.3)
    view = training_view("classify", settings)
    loader = Loader(dataset, parts["train"], "classify", view, Shuffled(seed=0), batch=32)

    torch.manual_seed(0)
    network = SmallNet(len(dataset.classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for epoch in range(options.epochs):
        losses = []
        for batch in loader.epoch(epoch):
            loss = network.loss(batch.to("cpu"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}: loss {float(torch.stack(losses).mean()):.3f}")

    network.eval()
    predictor = Predictor(network, "classify", dataset.classes, preprocessing_of("classify", settings))
    found = score(predictor, dataset, parts["val"], Pass(workers=0), bootstrap=200)
    top1 = found.metrics["top1"]
    print(f"top-1 {top1.value:.3f}, with 95 % confidence between {top1.low:.3f} and {top1.high:.3f}")


if __name__ == "__main__":
    main()
