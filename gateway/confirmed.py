"""The confirmed policy as the daemon's side reads it: the document that is active, the profiles in it, the gateway's own ways out.

Root's wardgate-policy wrote and checked the file. Refuses to write it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def confirmed_document(path: Path) -> dict[str, Any]:
    """The document that is active; the empty one before the first."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"version": 1, "devices": {}, "sets": {}}
    return loaded


def applied_profiles(path: Path) -> dict[str, str]:
    """The texts of profiles that were applied (``wardgate policy apply``), by id; they are in the document itself."""
    found = confirmed_document(path).get("profiles", {})
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def with_broker(document: dict[str, Any], flows: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """The broker, name and time servers: the gateway itself speaks to them; the kernel opens nothing else toward the hospital."""
    sets = document["sets"]
    for address, protocol, port in flows:
        name, element = f"uplink{6 if ':' in address else 4}", [address, protocol, port]
        sets[name] = sorted([*(e for e in sets.get(name, []) if e != element), element], key=str)
    return document
