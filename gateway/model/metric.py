"""Figures as Prometheus understands them: families of samples. Knows no text format and nothing that is measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Kind(StrEnum):
    """What a figure is."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. ``suffix`` is for the parts of a histogram only; ``labels`` come from closed lists, never from outside."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One figure with all its samples. ``name`` without ``_total``, in base units (seconds, bytes)."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.endswith("_total"):
            raise ValueError(f"{self.name} is no name of a figure")


def one(name: str, kind: Kind, text: str, value: float) -> Family:
    """A figure with one sample."""
    return Family(name, kind, text, (Sample(value),))
