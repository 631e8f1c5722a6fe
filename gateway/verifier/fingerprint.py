"""PURE. Modbus fingerprints: what a device says it is (function 43/14) and how it is configured (holding registers).

Nobody signs a fingerprint. It counts because this gateway read it itself, on the device's own channel, and put its nonce
inside; so over an open channel it is nobody's, it is never *affirming* as a whole (sourced-data 32), and it says nothing of
executables. Refuses to know registers' meanings: a value is the reference or it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest

from gateway import codec
from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import ChannelKind, Evidence, Tier
from gateway.model.profile import References, ReferenceValue
from gateway.verifier.findings import (
    AFFIRMED,
    CONFIGURATION_INCOMPLETE,
    CONTRAINDICATED,
    NOT_RECOGNISED,
    SOURCE_UNATTESTED,
    UNKNOWN_EVIDENCE,
    Sheet,
    references_named,
    short,
)

MAX_OBJECTS = 256
MAX_OBJECT = 245  # bytes; one identification object fits one Modbus response
MAX_REGISTERS = 2048  # sixteen reads of 125
_NONCE, _OBJECTS, _REGISTERS = 1, 2, 3
_CHANGED = "restore the device, or accept the change in service mode"


def parse_modbus(payload: bytes) -> tuple[bytes, dict[str, bytes]]:
    """(nonce, values by reference name ``object:2``, ``register:100``); raises MalformedError."""
    value = codec.decode(payload)
    if not isinstance(value, dict) or set(value) != {_NONCE, _OBJECTS, _REGISTERS}:
        raise MalformedError("a Modbus fingerprint that is no map of nonce, objects and registers", "update the driver")
    nonce, objects, registers = value[_NONCE], value[_OBJECTS], value[_REGISTERS]
    if type(nonce) is not bytes or len(nonce) > 64 or not (isinstance(objects, dict) and isinstance(registers, dict)):
        raise MalformedError("a Modbus fingerprint with parts of the wrong kind", "update the driver")
    if len(objects) > MAX_OBJECTS or len(registers) > MAX_REGISTERS:
        raise MalformedError("a Modbus fingerprint that is too large", "look at fewer registers")
    measured: dict[str, bytes] = {}
    for number, octets in objects.items():
        if type(number) is not int or not 0 <= number <= 255 or type(octets) is not bytes or len(octets) > MAX_OBJECT:
            raise MalformedError("a Modbus fingerprint with an impossible identification object", "update the driver")
        measured[f"object:{number}"] = octets
    for number, word in registers.items():
        if type(number) is not int or not 0 <= number <= 0xFFFF or type(word) is not int or not 0 <= word <= 0xFFFF:
            raise MalformedError("a Modbus fingerprint with an impossible register", "update the driver")
        measured[f"register:{number}"] = word.to_bytes(2, "big")
    return nonce, measured


def appraise_modbus(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """Fill ``sheet`` from a fingerprint; raises EvidenceError when it cannot be attributed to the device."""
    nonce, measured = parse_modbus(evidence.payload)
    if evidence.channel.kind is ChannelKind.OPEN:
        raise EvidenceError("a fingerprint read over an open channel could be anyone's", "connect the device to a port of its own")
    sheet.authenticated = True
    if not sheet.answers(nonce, evidence.nonce):
        return
    sheet.claim("sourced_data", SOURCE_UNATTESTED)
    sheet.observed.update(measured)
    known = references_named(references, ("object:", "register:"))
    if not known or not measured:
        sheet.claim("configuration", UNKNOWN_EVIDENCE)
        text = "no reference value to compare with" if measured else "nothing was measured"
        sheet.find(Tier.NONE, "no-reference", "fingerprint", text, "observe the device, then press Enforce")
        return
    _compare(measured, known, sheet)
    if sheet.countersigned and not sheet.vector.configuration:
        sheet.claim("configuration", AFFIRMED)
    elif not sheet.countersigned:
        text = "compared with values that nobody has confirmed yet"
        sheet.find(Tier.WARNING, "not-countersigned", "fingerprint", text, "press Enforce, or let a second person accept them")


def _compare(measured: Mapping[str, bytes], known: Mapping[str, ReferenceValue], sheet: Sheet) -> None:
    for name, value in measured.items():
        reference = known.get(name)
        if reference is None:
            sheet.rest_on_unconfirmed()
            sheet.claim("configuration", CONFIGURATION_INCOMPLETE)
            sheet.find(Tier.WARNING, "no-reference", name, f"{_spoken(name)} has no reference value", "accept it in service mode")
        elif not compare_digest(sheet.use(reference), value):
            _changed(name, value, reference.value, sheet)
    for name in known.keys() - measured.keys():
        sheet.claim("configuration", UNKNOWN_EVIDENCE)
        text = f"{_spoken(name)} has a reference value but was not measured"
        sheet.find(Tier.NONE, "not-measured", name, text, "measure it, or take its reference value out of the profile")


def _changed(name: str, value: bytes, expected: bytes, sheet: Sheet) -> None:
    if name.startswith("object:"):
        sheet.claim("instance_identity", NOT_RECOGNISED)
        text = f"identification changed at {_spoken(name)}: {_text(value)}, expected {_text(expected)}"
        sheet.find(Tier.CONTRAINDICATED, "identification-changed", name, text, _CHANGED)
        return
    sheet.claim("configuration", CONTRAINDICATED)
    was, now = int.from_bytes(expected, "big"), int.from_bytes(value, "big")
    text = f"configuration changed at {_spoken(name)}: {now}, expected {was}"
    sheet.find(Tier.CONTRAINDICATED, "configuration-changed", name, text, _CHANGED)


def _spoken(name: str) -> str:
    return name.replace(":", " ", 1)


def _text(value: bytes) -> str:
    shown = value[:32].decode("ascii", "replace")
    return repr(shown) if shown.isascii() and shown.isprintable() else short(value)
