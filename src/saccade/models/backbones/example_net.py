"""The example network of a lecture on counting parameters: one convolution, one pool, one fully connected layer.

Ten 5x5 filters on a gray image (260 parameters), a 2x2 max-pool to 10x13x13 = 1,690 values, 200 fully connected units
(338,200): 338,460 in all, to which the ten outputs add 2,010. The lecture does not say how the map comes to be
13x13. Here the image is 28x28, the size of the usual digits, and the convolution pads one pixel: 28 -> 26 -> 13. An
image of 30x30 without padding, or of 26x26 with two pixels, would have the same count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions
from saccade.layers.layout import adaptive_pool
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="CNNs and Object Detection (lecture)",
    authors="Course staff of AC 209b",
    year=2019,
    where="Harvard AC 209b, advanced section 3",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network."""

    classes: Natural = 10  # outputs; 0 for the 200 units alone, the 338,460 parameters that the lecture counts
    task: str = "classify"  # or "tag": independent logistic outputs
    filters: Count = 10
    hidden: Count = 200
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5,)  # gray in [0, 1]
    std: tuple[Positive, ...] = (0.25,)


VARIANTS: dict[str, Config] = {"example_net": Config()}
SIZE = 28

_DEFAULT: dict[str, Any] = {
    "size": 28,
    "batch": 32,
    "epochs": 30,
    "optimizer": "sgd",
    "lr": 0.02,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "stretch",
    "flip": 0.0,
    "jitter": 0.1,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT},
    "paper": {"*": _DEFAULT | {"jitter": 0.0, "color": 0.0}},  # the lecture trains nothing: plain images, no more
}


class Model(nn.Module):
    """The example network; colour images are averaged to gray."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.conv = nn.Conv2d(1, config.filters, 5, padding=1)
        self.hidden = nn.Linear(config.filters * 13 * 13, config.hidden)
        self.out = nn.Linear(config.hidden, config.classes) if config.classes else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1], H and W at least 4; with no classes the hidden units.

        The pooled map is averaged to 13x13 (the identity at 28), so that other sizes are classified too.
        """
        x = self.normalize(images.mean(1, keepdim=True))
        x = adaptive_pool(F.max_pool2d(F.relu(self.conv(x)), 2), 13)
        x = F.relu(self.hidden(x.flatten(1)))
        return x if self.out is None else self.out(x)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(self(batch.images), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self(batch.images), batch.sizes, self.config.task)
