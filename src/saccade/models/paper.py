"""Where a system comes from."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Paper:
    """The publication that a model file follows, as lists and reports cite it."""

    title: str
    authors: str
    year: int
    where: str  # conference or archive number: "CVPR 2016", "arXiv 1512.03385"


def paper_of(module: ModuleType, name: str) -> Paper:
    """The paper of a variant: a room's PAPER is one for all, or a dictionary by name of variant."""
    paper: Paper = module.PAPER[name] if isinstance(module.PAPER, dict) else module.PAPER
    return paper
