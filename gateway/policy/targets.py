"""PURE. The targets of a profile (what is attested, with which evidence, how often) and its reference values.

Knows which class of evidence a media type can be and how high a class reaches; refuses to know how evidence is appraised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from gateway.model.device import DEVICE_ID, Bus
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.level import TrustLevel
from gateway.model.profile import Mailbox, Provenance, ReferenceValue, Target
from gateway.policy.fields import Table, shown
from gateway.policy.rules import is_span

# The highest level each class of evidence can reach (a fingerprint: once countersigned).
CEILINGS: Mapping[EvidenceClass, TrustLevel] = MappingProxyType(
    {
        EvidenceClass.TPM: TrustLevel.FULL,
        EvidenceClass.ASYMMETRIC: TrustLevel.FULL,
        EvidenceClass.SYMMETRIC: TrustLevel.STANDARD,
        EvidenceClass.BEACON: TrustLevel.STANDARD,
        EvidenceClass.FINGERPRINT: TrustLevel.STANDARD,
        EvidenceClass.INVENTORY: TrustLevel.LIMITED,
    }
)


def ceiling_of(target: Target) -> TrustLevel:
    """The highest level that a target's evidence can reach: lower when the attested firmware could make it itself."""
    ceiling = CEILINGS[target.evidence_class]
    return ceiling if target.key_isolated else min(ceiling, TrustLevel.LIMITED)


_TOKEN = (EvidenceClass.ASYMMETRIC, EvidenceClass.SYMMETRIC)
CLASSES: Mapping[MediaType, tuple[EvidenceClass, ...]] = MappingProxyType(
    {
        MediaType.PSA: _TOKEN,
        MediaType.EAT_CWT: _TOKEN,
        MediaType.EAT_JWT: _TOKEN,
        MediaType.DICE: (EvidenceClass.ASYMMETRIC,),
        MediaType.TPM: (EvidenceClass.TPM,),
        MediaType.BEACON: (EvidenceClass.BEACON,),
        MediaType.MODBUS: (EvidenceClass.FINGERPRINT,),
        MediaType.HL7: (EvidenceClass.FINGERPRINT,),
        MediaType.GATT: (EvidenceClass.FINGERPRINT,),
    }
)
_BUS_OF: Mapping[MediaType, Bus] = MappingProxyType({MediaType.MODBUS: Bus.MODBUS, MediaType.HL7: Bus.HL7, MediaType.GATT: Bus.BLE})
INTERVAL_S = (1.0, 3600.0)  # more often than each second wears a device's link out; less than hourly is no evidence of now
MAX_REGISTERS = 2000  # sixteen requests of 125 registers at each attestation
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,512}")
_MAX_OBJECT = 255


def read_targets(table: Table, bus: Bus) -> tuple[Target, ...]:
    """All ``[[target]]`` tables."""
    rows = table.tables("target")
    if not rows:
        table.wrong("target", "is missing: a profile needs at least one target, or its device can never prove anything")
    targets: list[Target] = []
    for row in rows:
        target = _target(row, bus)
        if any(t.name == target.name for t in targets):
            row.wrong("name", f"target {target.name!r} is there twice")
        if any(t.media_type == target.media_type for t in targets):
            row.wrong("media_type", "is there twice: one target for each kind of evidence")
        targets.append(target)
    return tuple(targets)


def _target(row: Table, bus: Bus) -> Target:
    name = row.take("name", str, "-")
    if not DEVICE_ID.fullmatch(name):
        row.wrong("name", f"{shown(name)} is not of the form [a-z0-9-], 1 to 63 characters")
    media = row.choice("media_type", MediaType, tuple(MediaType), MediaType.PSA)
    kind = row.choice("evidence_class", EvidenceClass, tuple(EvidenceClass), CLASSES[media][0])
    if kind not in CLASSES[media]:
        row.wrong("evidence_class", f"{media} is {' or '.join(CLASSES[media])} evidence, not {kind}")
    if _BUS_OF.get(media, bus) is not bus:
        row.wrong("media_type", f"{media} does not come over {bus}")
    interval = row.maybe("interval_s", float, 10.0)
    if not INTERVAL_S[0] <= interval <= INTERVAL_S[1]:
        row.wrong("interval_s", f"{interval:g} is not between {INTERVAL_S[0]:g} and {INTERVAL_S[1]:g} seconds")
    objects, registers = _fingerprint(row, media)
    mailbox = _mailbox(row, media, bus)
    isolated = row.maybe("key_isolated", str, "yes")
    if isolated not in ("yes", "none"):
        row.wrong("key_isolated", f'expected "yes", or "none": the firmware itself can use the key; got {shown(isolated)}')
    row.finish()
    return Target(name, str(media), kind, interval, objects, registers, mailbox, isolated != "none")


def _fingerprint(row: Table, media: MediaType) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    objects = row.maybe("objects", list, [])
    registers = row.maybe("registers", list, [])
    if not all(type(o) is int and 0 <= o <= _MAX_OBJECT for o in objects):
        row.wrong("objects", f"expected identification objects 0 to 255, got {shown(objects)}")
        objects = []
    if not all(is_span(s) for s in registers):
        row.wrong("registers", f"expected a list of spans [first, last], got {shown(registers)}")
        registers = []
    if sum(last - first + 1 for first, last in registers) > MAX_REGISTERS:
        row.wrong("registers", f"more than {MAX_REGISTERS} registers at each attestation")
    if media is MediaType.MODBUS and not objects and not registers:
        row.wrong("objects", "a Modbus fingerprint needs objects or registers to look at")
    if media is not MediaType.MODBUS and (objects or registers):
        row.wrong("objects", f"{media} looks at no Modbus objects or registers")
    return tuple(objects), tuple((s[0], s[1]) for s in registers)


def _mailbox(row: Table, media: MediaType, bus: Bus) -> Mailbox | None:
    needed = bus is Bus.MODBUS and media in (MediaType.PSA, MediaType.EAT_CWT, MediaType.EAT_JWT, MediaType.DICE)
    if not row.has("mailbox"):
        if needed:
            row.wrong("mailbox", "is missing: the registers where the device takes a nonce and shows its token")
        return None
    inner = Table(row.raw("mailbox"), row.at("mailbox"), row.problems)
    nonce, token = inner.take("nonce", int, 0), inner.take("token", int, 0)
    inner.finish()
    if not needed:
        row.wrong("mailbox", "is for tokens read over Modbus only")
    for key, value in (("nonce", nonce), ("token", token)):
        if not 0 <= value <= 0xFFF0:
            inner.wrong(key, f"a mailbox register is 0 to 65520, got {value}")
    return Mailbox(nonce, token)


def read_references(table: Table, targets: tuple[Target, ...]) -> tuple[ReferenceValue, ...]:
    """All ``[[reference]]`` tables: a target's value as ``hex``, ``text`` or ``number`` (a register), with its provenance."""
    values: list[ReferenceValue] = []
    names = {t.name for t in targets}
    for row in table.tables("reference"):
        target = row.take("target", str, "")
        if target and target not in names:
            row.wrong("target", f"{shown(target)} is no target of this profile")
        name = row.take("name", str, "-")
        value = _value(row)
        provenance = row.choice("provenance", Provenance, tuple(Provenance), Provenance.LEARNED)
        countersigned = row.maybe("countersigned", bool, False)
        row.finish()
        values.append(ReferenceValue(target, name, value, provenance, countersigned))
    return tuple(values)


def _value(row: Table) -> bytes:
    given = [k for k in ("hex", "text", "number") if row.has(k)]
    if len(given) != 1:
        row.wrong("hex", "give the value once: as hex, as text, or as number (one register)")
        return b""
    if given == ["hex"]:
        text = row.take("hex", str, "")
        if not _HEX.fullmatch(text):
            row.wrong("hex", f"expected 1 to 512 bytes in hex, got {shown(text)}")
            return b""
        return bytes.fromhex(text)
    if given == ["text"]:
        return row.take("text", str, "").encode()
    number = row.take("number", int, 0)
    if not 0 <= number <= 0xFFFF:
        row.wrong("number", f"a register holds 0 to 65535, got {number}")
        return b""
    return number.to_bytes(2, "big")
