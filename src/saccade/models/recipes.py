"""What recipes of several models have in common, and the one that every classifier has beside its own."""

from __future__ import annotations

from typing import Any

from saccade.config import Settings

# Classifiers of photographs, from scratch, on sets of hundreds or thousands of images: the default recipe.
PHOTOGRAPHS: dict[str, Any] = {
    "size": 224,
    "batch": 32,
    "epochs": 60,
    "optimizer": "sgd",
    "lr": 0.025,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "label_smoothing": 0.1,
    "resize": "crop",
}

# Networks that embed faces (or other pictures that are cut out alike), from scratch, on some hundred images: a face is
# turned, moved and mirrored a little, and keeps its shape.
FACES: dict[str, Any] = {
    "batch": 64,
    "epochs": 100,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 5.0,
    "ema": 0.99,
    "resize": "letterbox",
    "rotate": 10.0,
    "jitter": 0.15,
    "flip": 0.5,
    "color": 0.5,
}

# Linear probing then fine-tuning (Kumar et al. 2022): given weights get a fitted output layer, and the fit goes on from
# there, shorter and at a lower rate than from a random start.
PROBE = "probe"
FINE_TUNE_EPOCHS = 15
FINE_TUNE_RATE = 0.1  # of the default recipe's lr


def probe_recipe(default: dict[str, Any], config: Any) -> dict[str, Any]:
    """The recipe "probe" of a classifier: its default recipe, shorter and slower.

    Args:
        config: the variant's Config.
    """
    rate = default.get("lr", Settings().lr) * FINE_TUNE_RATE
    return default | without_last_relu(config) | {"epochs": FINE_TUNE_EPOCHS, "lr": rate}


def without_last_relu(config: Any) -> dict[str, Any]:
    """The change of Config by which a network that ends in a ReLU ends in its output layer, as others do."""
    return {"last_relu": False} if hasattr(config, "last_relu") else {}
