"""PURE. The draft of a profile, written as TOML: flows that somebody proposes, and what only a person can say left open.

Whoever proposes (a maker's MUD file, a device that was watched) knows flows and nothing more. The draft is refused by
``policy check`` until a person has said the rest. All text in it is quoted: what was proposed may come from a hostile device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class DraftFlow:
    """A proposed flow; ``note`` is a comment beside it."""

    peer: str
    protocol: str
    port: int
    from_device: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Undecided:
    """What could not be taken over, and why."""

    what: str
    why: str


_OPEN = (
    "# Left for a person, and `wardgate policy check` says so: {bus}clinical_class, a target (how it attests), and for each",
    "# function required (1 to 3) and on_loss (cut, read_only or vital: what happens to a patient when trust is lost).",
)


def profile_draft(
    identity: str, name: str, head: Sequence[str], flows: Sequence[DraftFlow], undecided: Sequence[Undecided], bus: str = ""
) -> str:
    """The draft's text. ``head``: comment lines on where it comes from."""
    lines = [f"# {_comment(text)}" for text in head]
    left = [line.format(bus="" if bus else "bus, ") for line in _OPEN]
    lines += ["# A draft: nothing obeys it.", *left, f"id = {_text(identity)}", f"name = {_text(name)}"]
    lines += [f"bus = {_text(bus)}" if bus else "# bus = "]
    lines += ["# clinical_class = ", "# [[target]]"]
    for flow in flows:
        lines += ["", "[[function]]", f"name = {_text(_function(flow))}", "# required = ", "# on_loss = "]
        lines += ["[[function.flow]]", f"peer = {_text(flow.peer)}{f'  # {_comment(flow.note)}' if flow.note else ''}"]
        lines += [f"opened_by = {_text('device' if flow.from_device else 'peer')}", f"protocol = {_text(flow.protocol)}"]
        lines += [f"port = {flow.port}"]
    for entry in undecided:
        lines += ["", "[[undecided]]", f"what = {_text(entry.what)}", f"why = {_text(entry.why)}"]
    return "\n".join(lines) + "\n"


def _function(flow: DraftFlow) -> str:
    """A name that is the same whenever the flow is, and different when it is not."""
    peer = _NAME.sub("-", flow.peer.lower()).strip("-")[:40] or "peer"
    return f"{'to' if flow.from_device else 'from'}-{peer}-{flow.protocol}-{flow.port}"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for what lies beyond the first plane, which stays as it is."""
    clean = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in value)
    return json.dumps(clean, ensure_ascii=False)


def _comment(value: str) -> str:
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in value)[:200]
