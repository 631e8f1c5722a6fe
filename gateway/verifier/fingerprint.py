"""PURE. Fingerprints: what a device says it is, and how it is configured.

Modbus: identification (function 43/14) and holding registers. HL7: sending application and facility, equipment identifiers and
software versions, out of its messages.

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
MAX_HL7 = 1024  # bytes of one value; a longer one is told by its hash
HL7_IDENTITY = ("application", "facility", "equipment")  # another device, or a device of another place
HL7_SOFTWARE = ("software", "binary")
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


def parse_hl7(payload: bytes) -> tuple[bytes, dict[str, bytes]]:
    """(nonce, values by reference name ``hl7:application``, ``hl7:equipment``); raises MalformedError."""
    value = codec.decode(payload)
    if not isinstance(value, dict) or set(value) != {_NONCE, _OBJECTS}:
        raise MalformedError("an HL7 fingerprint that is no map of nonce and values", "update the driver")
    nonce, said = value[_NONCE], value[_OBJECTS]
    if type(nonce) is not bytes or len(nonce) > 64 or not isinstance(said, dict):
        raise MalformedError("an HL7 fingerprint with parts of the wrong kind", "update the driver")
    for name, octets in said.items():
        if name not in (*HL7_IDENTITY, *HL7_SOFTWARE) or type(octets) is not bytes or len(octets) > MAX_HL7:
            raise MalformedError("an HL7 fingerprint with an impossible value", "update the driver")
    return nonce, {f"hl7:{name}": octets for name, octets in said.items()}


def appraise_hl7(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """As ``appraise_modbus``, for what a device says of itself in its messages."""
    _appraise(evidence, *parse_hl7(evidence.payload), references_named(references, ("hl7:",)), sheet)


def appraise_modbus(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """Fill ``sheet`` from a fingerprint; raises EvidenceError when it cannot be attributed to the device."""
    _appraise(evidence, *parse_modbus(evidence.payload), references_named(references, ("object:", "register:")), sheet)


def _appraise(
    evidence: Evidence, nonce: bytes, measured: dict[str, bytes], known: Mapping[str, ReferenceValue], sheet: Sheet
) -> None:
    if evidence.channel.kind is ChannelKind.OPEN:
        raise EvidenceError("a fingerprint read over an open channel could be anyone's", "connect the device to a port of its own")
    sheet.authenticated = True
    if not sheet.answers(nonce, evidence.nonce):
        return
    sheet.claim("sourced_data", SOURCE_UNATTESTED)
    sheet.observed.update(measured)
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
    if name.startswith("object:") or name.removeprefix("hl7:") in HL7_IDENTITY:
        sheet.claim("instance_identity", NOT_RECOGNISED)
        text = f"identification changed at {_spoken(name)}: {_text(value)}, expected {_text(expected)}"
        sheet.find(Tier.CONTRAINDICATED, "identification-changed", name, text, _CHANGED)
        return
    sheet.claim("configuration", CONTRAINDICATED)
    if name.startswith("hl7:"):
        text = f"{_spoken(name)} changed: {_text(value)}, expected {_text(expected)}"
        sheet.find(Tier.CONTRAINDICATED, "software-changed", name, text, _CHANGED)
        return
    was, now = int.from_bytes(expected, "big"), int.from_bytes(value, "big")
    text = f"configuration changed at {_spoken(name)}: {now}, expected {was}"
    sheet.find(Tier.CONTRAINDICATED, "configuration-changed", name, text, _CHANGED)


def _spoken(name: str) -> str:
    return name.removeprefix("hl7:").replace(":", " ", 1)


def _text(value: bytes) -> str:
    shown = value[:32].decode("ascii", "replace")
    return repr(shown) if shown.isascii() and shown.isprintable() else short(value)
