"""Saccade: train, evaluate, explain and export visual recognition on your own images.

    import saccade
    run = saccade.train("resnet18", "photos/", minutes=10)
    print(saccade.evaluate(run["run"], "photos/"))
    print(saccade.load(run["run"]).predict("cat.jpg").label_name)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from saccade.version import __version__

if TYPE_CHECKING:
    from saccade.data.formats import read as read
    from saccade.data.types import Annotation as Annotation
    from saccade.data.types import Objects as Objects
    from saccade.errors import DataError as DataError
    from saccade.errors import DivergedError as DivergedError
    from saccade.errors import ModelFileError as ModelFileError
    from saccade.errors import ResourceError as ResourceError
    from saccade.errors import SaccadeError as SaccadeError
    from saccade.errors import UsageError as UsageError
    from saccade.inference.answer import Answer as Answer
    from saccade.inference.predictor import Predictor as Predictor
    from saccade.inference.predictor import load as load
    from saccade.models import create as create
    from saccade.models.own_file import trust as trust
    from saccade.ops.suppression import NmsRule as NmsRule
    from saccade.training.tensorboard import TensorBoard as TensorBoard
    from saccade.verbs.anchors import anchors as anchors
    from saccade.verbs.check import check as check
    from saccade.verbs.compare import compare as compare
    from saccade.verbs.convert import convert as convert
    from saccade.verbs.evaluate import evaluate as evaluate
    from saccade.verbs.explain import explain as explain
    from saccade.verbs.export import export as export
    from saccade.verbs.predict import predict as predict
    from saccade.verbs.train import train as train
    from saccade.verbs.transfer import transfer as transfer
    from saccade.verbs.weights import weights as weights

_PUBLIC = {
    "Annotation": "saccade.data.types",
    "Answer": "saccade.inference.answer",
    "DataError": "saccade.errors",
    "DivergedError": "saccade.errors",
    "ModelFileError": "saccade.errors",
    "NmsRule": "saccade.ops.suppression",
    "Objects": "saccade.data.types",
    "Predictor": "saccade.inference.predictor",
    "ResourceError": "saccade.errors",
    "SaccadeError": "saccade.errors",
    "TensorBoard": "saccade.training.tensorboard",
    "UsageError": "saccade.errors",
    "anchors": "saccade.verbs.anchors",
    "check": "saccade.verbs.check",
    "compare": "saccade.verbs.compare",
    "convert": "saccade.verbs.convert",
    "create": "saccade.models",
    "evaluate": "saccade.verbs.evaluate",
    "explain": "saccade.verbs.explain",
    "export": "saccade.verbs.export",
    "load": "saccade.inference.predictor",
    "predict": "saccade.verbs.predict",
    "read": "saccade.data.formats",
    "train": "saccade.verbs.train",
    "transfer": "saccade.verbs.transfer",
    "trust": "saccade.models.own_file",
    "weights": "saccade.verbs.weights",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
