"""A benchmark's figure, and how repeated readings become one: the median, with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One reading: ``value`` in ``unit`` at ``devices``; ``floor`` measured in the same run; ``ratio`` = value / floor."""

    name: str
    devices: int
    value: float
    unit: str
    floor: float | None
    ratio: float | None
    spread: float
    note: str = ""


def figure(name: str, devices: int, readings: Sequence[float], unit: str, floors: Sequence[float] = (), note: str = "") -> Figure:
    """The median of ``readings`` with its spread (max - min), against the median of ``floors`` from the same run."""
    value = statistics.median(readings)
    floor = statistics.median(floors) if floors else None
    return Figure(name, devices, value, unit, floor, value / floor if floor else None, max(readings) - min(readings), note)
