"""Eigenfaces (Turk & Pentland 1991): a face as its coordinates along the directions in which faces differ most.

The baseline without learning by gradients: gray pixels of the training pictures less their mean, and the principal
components of what is left. A picture's vector are its coordinates along them at length 1, so that two are compared by
the cosine of the angle between them, as seen from the mean face.

Letters: b images of H x W pixels, p = s^2 numbers that are looked at (3 s^2 of colours), k components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.layers.embedding import embedding_answers
from saccade.layers.layout import adaptive_pool
from saccade.models.paper import Paper
from saccade.models.stage import Fit, Given, Solve
from saccade.ranges import Count

PAPER = Paper(
    title="Eigenfaces for Recognition",
    authors="Turk, Pentland",
    year=1991,
    where="Journal of Cognitive Neuroscience 3(1), 71-86",
)
TASKS = ("embed",)


@dataclass(frozen=True)
class Config:
    """The projection; defaults are eigenfaces'."""

    classes: Count = 1000  # identities of training; they change nothing
    side: Count = 56  # pixels to which a picture is averaged, in height and width
    colour: bool = False  # red, green and blue of each pixel; the paper's are gray
    components: Count = 50  # coordinates that are kept; with fewer training pictures the last are 0


VARIANTS: dict[str, Config] = {"eigenfaces": Config()}
SIZE = 112
_SETTINGS: dict[str, Any] = {"size": 112, "resize": "stretch", "batch": 32}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {"default": {"*": _SETTINGS}, "paper": {"*": _SETTINGS}}
GRAY = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


class Model(nn.Module):
    """The mean face and the eigenfaces."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        pixels = config.side**2 * (3 if config.colour else 1)
        self.mean = nn.Parameter(torch.full((pixels,), 0.5))
        self.directions = nn.Parameter(torch.randn(config.components, pixels) / pixels**0.5)
        self.register_buffer("gray", torch.tensor(GRAY), persistent=False)

    def pixels(self, images: Tensor) -> Tensor:
        """What is looked at, [b, p] float32, of images [b, 3, H, W]."""
        seen = images.float()
        if not self.config.colour:
            seen = (seen * self.get_buffer("gray").view(3, 1, 1)).sum(1, keepdim=True)
        return adaptive_pool(seen, self.config.side).flatten(1)

    def coordinates(self, pixels: Tensor) -> Tensor:
        """Along the components, [b, k] float32, of pixels [b, p]."""
        return F.linear(pixels - self.mean, self.directions).float()

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, k] of length 1 of images [b, 3, H, W] in [0, 1], float32."""
        return F.normalize(self.coordinates(self.pixels(images)))

    def forward(self, images: Tensor) -> Tensor:
        """`embed`."""
        return self.embed(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`reconstruction`: the mean squared difference of pixels and what the coordinates say of them, which the
        principal components make least (Turk & Pentland 1991, "Calculating eigenfaces")."""
        pixels = self.pixels(batch.images)
        drawn = self.coordinates(pixels) @ self.directions + self.mean
        return {"reconstruction": F.mse_loss(drawn.float(), pixels)}

    def predict(self, batch: Batch) -> list[Annotation]:
        return embedding_answers(self.embed(batch.images), batch.sizes)


def principal_components(given: Given) -> dict[str, Tensor]:
    """The mean face and the directions of most variance over the training pictures, strongest first (Turk & Pentland
    1991, equations 1 to 7; computed by scikit-learn).

    Raises:
        DataError: fewer than two training pictures, or all of them are the same.
    """
    from sklearn.decomposition import PCA

    network: Any = given.network
    with torch.inference_mode():
        rows = [network.pixels(batch.to(given.device).images).cpu() for batch in given.batches()]
    pixels = torch.cat(rows).double().numpy()
    if len(pixels) < 2 or not pixels.var(0).any():
        raise DataError(f"{len(pixels)} training pictures in which nothing differs have no principal components")
    config: Config = network.config
    found = PCA(min(config.components, len(pixels) - 1, pixels.shape[1]), svd_solver="full").fit(pixels)
    directions = torch.zeros(config.components, pixels.shape[1])
    directions[: len(found.components_)] = torch.from_numpy(found.components_).float()
    share = float(found.explained_variance_ratio_.sum())
    given.show(f"{len(found.components_)} eigenfaces of {len(pixels)} pictures hold {share:.1%} of their variance")
    return {"mean": torch.from_numpy(found.mean_).float(), "directions": directions}


def stages(name: str, recipe: str) -> list[Fit | Solve]:
    """A solve alone."""
    return [Solve("principal_components", principal_components)]
