"""What a run learns from besides its data set: a tree of its classes, and joined images that have a class alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config import Settings
from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.joined import absolute, join
from saccade.data.word_tree import Tree, grow_into, read_tree
from saccade.errors import DataError, UsageError
from saccade.models import catalogue, model_module
from saccade.models.contract import Room, takes_labels
from saccade.training.divide import refuse_bad_data


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run learns from, as a person names it."""

    data: str | Path
    join: str | Path | None = None  # a data set whose images have a class and no boxes
    tree: str | Path | None = None  # a file with the tree of the classes


@dataclass(frozen=True, slots=True)
class Joint:
    """The same, read; the classes of both data sets are those of the run."""

    parents: tuple[int, ...] = ()  # of each class the number of its parent; none: a flat tree
    join: str | None = None  # the joined data set, and the file of the tree, as config.json holds them: from any folder
    tree: str | None = None
    other: DataSet | None = None

    def grown(self, config: Any) -> Any:
        """A model's Config with the tree."""
        return dataclasses.replace(config, tree=self.parents) if self.parents else config

    def added(self, dataset: DataSet, training: list[Record], settings: Settings) -> list[Record]:
        """The training images and those that are joined to them. Raises DataError where too many are refused."""
        if self.other is None:
            return training
        joined = join(dataset, self.other)
        refuse_bad_data(self.other, settings)
        return [*training, *joined]


def sources_of(data: str | Path | Sources) -> Sources:
    """A data set alone, or what was given with it."""
    return data if isinstance(data, Sources) else Sources(data)


def read_joint(sources: Sources, dataset: DataSet, module: Room, model: str) -> Joint:
    """Read tree and joined data, and give `dataset` the classes of both.

    Raises:
        UsageError: the model has no use for them; the tree is none, or does not fit the data.
        DataError: the joined data cannot be used.
    """
    if sources.join is None and sources.tree is None:
        return Joint()
    _refuse_for_others(sources, module, model)
    other = _read_other(sources.join)
    both = [dataset] if other is None else [dataset, other]
    join = None if sources.join is None else absolute(sources.join)
    if sources.tree is None:
        names = list(dict.fromkeys(name for each in both for name in each.classes))
        for each in both:
            each.take_classes(names)
        return Joint((), join, None, other)
    tree = read_tree(Path(sources.tree))
    grow_into(tree, both, Path(sources.tree).name)
    return Joint(tree.parents, join, str(Path(sources.tree).resolve()), other)


def stored_joint(sources: Sources, dataset: DataSet, stored: Mapping[str, Any]) -> Joint:
    """What a run that goes on began with, from its `config.json`.

    The joined data may lie elsewhere now; that they are the same is found by their fingerprint.

    Raises:
        UsageError: another tree is given, or something joined to a run that had nothing joined.
        DataError: what was joined is not there any more.
    """
    parents, classes = tuple(stored["config"].get("tree", ())), tuple(stored["classes"])
    joined = stored.get("join")
    tree = Tree(classes, parents or (-1,) * len(classes))
    if sources.tree is not None and (not parents or read_tree(Path(sources.tree)) != tree):
        raise UsageError(f"--resume cannot change the tree of the classes ({sources.tree}); start a new run")
    if sources.join is not None and joined is None:
        raise UsageError(f"--resume cannot join {sources.join}: nothing was joined to this run; start a new one")
    if joined is None and not parents:
        return Joint()
    if joined is not None and sources.join is None and not Path(joined.split(":", 1)[-1]).exists():
        raise DataError(f"the run joined {joined}, which is not there any more; say where it is by --join")
    other = None if joined is None else _read_other(sources.join or joined)
    grow_into(tree, [dataset] if other is None else [dataset, other], "the run's classes")
    return Joint(parents, None if joined is None else absolute(sources.join or joined), stored.get("tree"), other)


def _refuse_for_others(sources: Sources, module: Room, model: str) -> None:
    if sources.join is not None and not takes_labels(module):
        raise UsageError(
            f"{model} learns nothing from images that have a class and no boxes (join); these models do: "
            f"{', '.join(_models_that_learn_from_labels())}"
        )
    if sources.tree is not None and not hasattr(module.VARIANTS[model], "tree"):
        raise UsageError(
            f"the classes of {model} are no tree; these models have one: {', '.join(_models_that_learn_from_labels())}"
        )


def _models_that_learn_from_labels() -> list[str]:
    detectors = [name for name, entry in catalogue().items() if "detect" in entry["tasks"]]
    return [name for name in detectors if takes_labels(model_module(name))]


def _read_other(place: str | Path | None) -> DataSet | None:
    return None if place is None else read(place, "classify")
