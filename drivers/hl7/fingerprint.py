"""PURE. What a device says of itself in its messages, and the evidence made of it. Refuses to judge any of it.

The fingerprint is the deterministic CBOR map {1: nonce, 2: {name: bytes}}. Names: ``application`` (MSH-3), ``facility`` (MSH-4),
``equipment`` (every OBX-18 and PRT-10, the equipment instance identifiers, and what PRT-16, 19, 20 and 22 (v2.8 and later) say of
a device, each with what it is: UDI, lot, serial number, type; distinct, sorted, joined by ``~``), ``software`` (SFT-2) and
``binary`` (SFT-4). HL7 has no challenge: the nonce is put in by the gateway, which read the messages itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import cbor2

from drivers.hl7.message import Message

MAX_VALUE = 512  # bytes; a longer value is told by its SHA-256
_JOINED_BY = b"~"
_OBX_EQUIPMENT = 18
_MOST = 23  # splits of a segment: what follows the last field that is read stays together
_PRT = ((10, b""), (16, b"udi="), (19, b"lot="), (20, b"serial="), (22, b"type="))
_SOFTWARE = (("software", 2), ("binary", 4))


def identity(message: Message) -> dict[str, bytes]:
    """What one message says of its sender; a name it says nothing about is left out."""
    f = message.field_separator
    found = {"application": message.msh[2], "facility": message.msh[3]}
    equipment: set[bytes] = set()
    for line in message.lines:
        parts = line.split(f, _MOST)
        name = parts[0]
        if name == b"OBX":
            if len(parts) > _OBX_EQUIPMENT:
                equipment.add(parts[_OBX_EQUIPMENT])
        elif name == b"PRT":
            equipment.update(what + parts[n] for n, what in _PRT if len(parts) > n and parts[n])
        elif name == b"SFT":
            found |= {k: parts[i] for k, i in _SOFTWARE if len(parts) > i and parts[i]}
    equipment.discard(b"")
    if equipment:
        found["equipment"] = _JOINED_BY.join(sorted(equipment))
    if max(map(len, found.values())) > MAX_VALUE:
        return {k: v if len(v) <= MAX_VALUE else b"sha256:" + sha256(v).hexdigest().encode() for k, v in found.items()}
    return found


def encode_fingerprint(nonce: bytes, values: Mapping[str, bytes]) -> bytes:
    """The evidence."""
    return cbor2.dumps({1: nonce, 2: dict(values)}, canonical=True)
