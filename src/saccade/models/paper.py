"""Where a system comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paper:
    """The publication that a model file follows, as lists and reports cite it."""

    title: str
    authors: str
    year: int
    where: str  # conference or archive number: "CVPR 2016", "arXiv 1512.03385"
