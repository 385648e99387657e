"""What recipes of several models have in common."""

from __future__ import annotations

from typing import Any

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
