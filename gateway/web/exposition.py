"""PURE. Figures as text for Prometheus: its format 0.0.4, or OpenMetrics 1.0.0 for a scraper that asks for it.

Refuses to know what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from gateway.model.metric import Family, Kind, Sample

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> str:
    """The content type for an Accept header."""
    return OPENMETRICS if "application/openmetrics-text" in accept else PLAIN


def exposition(families: Iterable[Family], content_type: str = PLAIN) -> str:
    """The whole text. A counter's samples end in ``_total``; only the plain format says so in its HELP and TYPE too."""
    lines = []
    for f in families:
        total = "_total" if f.kind is Kind.COUNTER else ""
        head = f.name if content_type == OPENMETRICS else f.name + total
        lines += [f"# HELP {head} {_escaped(f.help, content_type == OPENMETRICS)}", f"# TYPE {head} {f.kind}"]
        lines += [f"{f.name}{s.suffix or total}{_labels(s)} {number(s.value)}" for s in f.samples]
    if content_type == OPENMETRICS:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A value as both formats write it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _labels(s: Sample) -> str:
    return "{" + ",".join(f'{n}="{_escaped(v, True)}"' for n, v in s.labels) + "}" if s.labels else ""


def _escaped(text: str, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
