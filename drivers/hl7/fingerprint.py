"""PURE. What a device says of itself in its messages, and the evidence made of it. Refuses to judge any of it.

The fingerprint is the deterministic CBOR map {1: nonce, 2: {name: bytes}}. Names: ``application`` (MSH-3), ``facility`` (MSH-4),
``equipment`` (every OBX-18 and PRT-10, the equipment instance identifiers: distinct, sorted, joined by ``~``), ``software`` (SFT-2)
and ``binary`` (SFT-4). HL7 has no challenge: the nonce is put in by the gateway, which read the messages itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import cbor2

from drivers.hl7.message import Message

MAX_VALUE = 512  # bytes; a longer value is told by its SHA-256
_JOINED_BY = b"~"
_EQUIPMENT = {b"OBX": 18, b"PRT": 10}


def identity(message: Message) -> dict[str, bytes]:
    """What one message says of its sender; a name it says nothing about is left out."""
    f = message.field_separator
    found = {"application": _bounded(message.msh[2]), "facility": _bounded(message.msh[3])}
    equipment: set[bytes] = set()
    for segment in message.lines:
        name = segment[:3]
        if name in _EQUIPMENT:
            number = _EQUIPMENT[name]
            parts = segment.split(f, number + 1)
            if len(parts) > number and parts[number]:
                equipment.add(parts[number])
        elif name == b"SFT":
            parts = segment.split(f, 5)
            found |= {k: _bounded(parts[i]) for k, i in (("software", 2), ("binary", 4)) if len(parts) > i and parts[i]}
    if equipment:
        found["equipment"] = _bounded(_JOINED_BY.join(sorted(equipment)))
    return found


def encode_fingerprint(nonce: bytes, values: Mapping[str, bytes]) -> bytes:
    """The evidence."""
    return cbor2.dumps({1: nonce, 2: dict(values)}, canonical=True)


def _bounded(value: bytes) -> bytes:
    return value if len(value) <= MAX_VALUE else b"sha256:" + sha256(value).hexdigest().encode()
