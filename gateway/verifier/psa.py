"""PURE. PSA attestation tokens (RFC 9783, profile tfm): parsed strictly, verified, compared with references.

In COSE_Sign1 a device's own key signs what its boot loader measured; in COSE_Mac0 a key that this gateway shares does, so
that the verifier could forge what it verifies: a weaker class. Refuses to know how a token got here and where keys are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, NamedTuple

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import Evidence, EvidenceClass, Tier
from gateway.model.profile import TOKEN_KEY, Provenance, References, ReferenceValue, TrustAnchor
from gateway.verifier.findings import (
    AFFIRMED,
    BOOTED_GENUINE,
    CONTRAINDICATED,
    NOT_RECOGNISED,
    RUNTIME_DEBUGGABLE,
    UNKNOWN_EVIDENCE,
    UNRECOGNISED_EXECUTABLE,
    Sheet,
    references_named,
    short,
)
from gateway.verifier.foreign import UnverifiedMac, decode, parse_token

PROFILE = "tag:psacertified.org,2023:psa#tfm"
MAX_COMPONENTS = 32  # boot stages, secure partitions and an application; real devices have two to six
MAX_TEXT = 64  # characters of a component's type, version or description
MAX_CLAIMS = 64  # of which ten are ours: the others are ignored, as RFC 9711 asks
_HASH_SIZES = (32, 48, 64)
_NONCE, _UEID, _PROFILE, _BOOT_SEED = 10, 256, 265, 268
_CLIENT, _LIFECYCLE, _IMPLEMENTATION, _CERTIFICATION, _COMPONENTS, _SERVICE = 2394, 2395, 2396, 2398, 2399, 2400
_OPTIONAL = frozenset((_BOOT_SEED, _CERTIFICATION, _SERVICE))
_C_TYPE, _C_VALUE, _C_VERSION, _C_SIGNER, _C_DESCRIPTION = 1, 2, 4, 5, 6
_COMPONENT_KEYS = frozenset((_C_TYPE, _C_VALUE, _C_VERSION, _C_SIGNER, _C_DESCRIPTION))
_CERTIFICATION_FORM = re.compile(r"[0-9]{13}-[0-9]{5}")
_SECURED, _DEBUG_OUTSIDE_ROT = 0x30, 0x40
_LIFECYCLES = {
    0x00: "unknown",
    0x10: "assembly and test",
    0x20: "provisioning",
    _SECURED: "secured",
    _DEBUG_OUTSIDE_ROT: "debugging outside the root of trust",
    0x50: "recoverable debugging of the root of trust",
    0x60: "decommissioned",
}
_FIX = "update the device's attestation service"
_COMPONENT, _SIGNER = "component:", "signer:"
_NAMES = (_COMPONENT, _SIGNER, "implementation-id")
_IMPORT = "import the maker's values: wardgate reference import FILE"


class Component(NamedTuple):  # not dataclasses, as every attestation of every device builds some
    """One measured piece of software (section 4.4.1). ``kind`` is its measurement type, ``FW`` for example."""

    kind: str
    measurement: bytes
    signer: bytes
    version: str = ""


class Claims(NamedTuple):
    """The claims of a token whose signature verified. ``lifecycle`` is the raw number; its high byte is the state."""

    nonce: bytes
    ueid: bytes
    client_id: int
    lifecycle: int
    implementation_id: bytes
    components: tuple[Component, ...]


# --- bytes to values ---


def verify_psa(token: bytes, anchors: tuple[TrustAnchor, ...]) -> tuple[Claims, TrustAnchor]:
    """The claims of a token, once the anchor of the instance it names has verified it. Raises EvidenceError."""
    unverified = parse_token(token)
    claims = _parse_claims(unverified.unverified_payload)
    use = TOKEN_KEY if isinstance(unverified, UnverifiedMac) else ""  # a public key never checks a MAC
    for anchor in anchors:
        if anchor.shared == use and compare_digest(anchor.instance, claims.ueid):
            unverified.verify(anchor.secret if anchor.shared else anchor.spki)
            return claims, anchor
    raise EvidenceError(f"a token of instance {short(claims.ueid)}, which is not this device's", "import the device's key")


def _parse_claims(payload: bytes) -> Claims:
    claims = decode(payload, "a claims set")
    if type(claims) is not dict or len(claims) > MAX_CLAIMS:
        raise MalformedError("claims that are no map of bounded size", _FIX)
    profile = claims.get(_PROFILE)
    if profile != PROFILE:
        raise MalformedError(f"a token of profile {profile!r:.80}", f"use a token of profile {PROFILE}")
    client, lifecycle = claims.get(_CLIENT), claims.get(_LIFECYCLE)
    if type(client) is not int or not -(2**31) <= client < 2**31 or client == 0:
        raise MalformedError("a client id that is no 32-bit number other than 0", _FIX)
    if type(lifecycle) is not int or not 0 <= lifecycle <= 0xFFFF or lifecycle >> 8 not in _LIFECYCLES:
        raise MalformedError("a security lifecycle that RFC 9783 does not define", _FIX)
    if not _OPTIONAL.isdisjoint(claims):
        _check_optional(claims)
    ueid = _octets(claims, _UEID, (33,), "instance id")
    if ueid[0] != 0x01:
        raise MalformedError("an instance id that is no random UEID (type 0x01)", _FIX)
    return Claims(
        _octets(claims, _NONCE, _HASH_SIZES, "nonce"),
        ueid,
        client,
        lifecycle,
        _octets(claims, _IMPLEMENTATION, (32,), "implementation id"),
        _parse_components(claims.get(_COMPONENTS)),
    )


def _check_optional(claims: Mapping[Any, Any]) -> None:
    if _BOOT_SEED in claims:
        _octets(claims, _BOOT_SEED, range(8, 33), "boot seed")
    certification = claims.get(_CERTIFICATION)
    if _CERTIFICATION in claims and not (type(certification) is str and _CERTIFICATION_FORM.fullmatch(certification)):
        raise MalformedError("a certification reference that is not 13 digits, a hyphen and 5 digits", _FIX)
    if _SERVICE in claims and type(claims[_SERVICE]) is not str:
        raise MalformedError("a verification service indicator that is no text", _FIX)


def _octets(claims: Mapping[Any, Any], key: int, sizes: tuple[int, ...] | range, what: str) -> bytes:
    value = claims.get(key)
    if type(value) is not bytes or len(value) not in sizes:
        raise MalformedError(f"a token without a well-formed {what}", _FIX)
    return value


def _parse_components(value: object) -> tuple[Component, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_COMPONENTS:
        raise MalformedError(f"a token that does not name 1 to {MAX_COMPONENTS} software components", _FIX)
    components = tuple(_parse_component(c) for c in value)
    if len({c.kind for c in components}) != len(components):
        raise MalformedError("a token with two software components of one type", _FIX)
    return components


def _parse_component(value: object) -> Component:
    if type(value) is not dict or not value.keys() <= _COMPONENT_KEYS:
        raise MalformedError("a software component with unknown entries", _FIX)
    kind, version = _text(value.get(_C_TYPE, "")), _text(value.get(_C_VERSION, ""))
    _text(value.get(_C_DESCRIPTION, ""))
    measurement = _octets(value, _C_VALUE, _HASH_SIZES, "measurement value")
    return Component(kind, measurement, _octets(value, _C_SIGNER, _HASH_SIZES, "signer id"), version)


def _text(value: object) -> str:
    if type(value) is not str or len(value) > MAX_TEXT or not value.isprintable():
        raise MalformedError("a software component whose texts are not short and printable", _FIX)
    return value


# --- values to a verdict ---


def appraise_psa(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """Fill ``sheet`` from a token; raises EvidenceError when it does not authenticate."""
    claims, anchor = verify_psa(evidence.payload, references.anchors)
    sheet.authenticated = True
    sheet.evidence_class = EvidenceClass.SYMMETRIC if anchor.shared else EvidenceClass.ASYMMETRIC
    if not sheet.answers(claims.nonce, evidence.nonce):
        return
    sheet.claim("instance_identity", AFFIRMED)
    if anchor.provenance is Provenance.LEARNED:
        sheet.rest_on_unconfirmed()
    _appraise_lifecycle(claims, sheet)
    known = references_named(references, _NAMES)
    _appraise_implementation(claims, known, sheet)
    _appraise_components(claims, known, sheet)


def _appraise_lifecycle(claims: Claims, sheet: Sheet) -> None:
    """Only *secured* and *debugging outside the root of trust* have a root of trust to believe (section 4.3.1)."""
    state = claims.lifecycle >> 8
    if state == _SECURED:
        sheet.claim("storage_opaque", AFFIRMED)
        return
    name = _LIFECYCLES[state]
    if state == _DEBUG_OUTSIDE_ROT:
        sheet.claim("storage_opaque", AFFIRMED)
        sheet.claim("runtime_opaque", RUNTIME_DEBUGGABLE)
        sheet.find(Tier.WARNING, "lifecycle-debug", "lifecycle", f"the device allows {name}", "close its debug port")
        return
    sheet.claim("runtime_opaque", CONTRAINDICATED)
    sheet.claim("storage_opaque", CONTRAINDICATED)
    text = f"the device is in lifecycle state {name}, not secured"
    sheet.find(Tier.CONTRAINDICATED, "lifecycle-unsafe", "lifecycle", text, "take it out of use and ask its maker")


def _appraise_implementation(claims: Claims, known: Mapping[str, ReferenceValue], sheet: Sheet) -> None:
    sheet.observed["implementation-id"] = claims.implementation_id
    reference = known.get("implementation-id")
    if reference is None:
        return
    if compare_digest(sheet.use(reference), claims.implementation_id):
        sheet.claim("hardware", AFFIRMED)
    else:
        sheet.claim("hardware", NOT_RECOGNISED)
        text = f"implementation changed: {short(claims.implementation_id)}, expected {short(reference.value)}"
        sheet.find(Tier.CONTRAINDICATED, "implementation-changed", "implementation-id", text, "this is another kind of device")


def _appraise_components(claims: Claims, known: Mapping[str, ReferenceValue], sheet: Sheet) -> None:
    expected = {n[len(_COMPONENT) :]: r for n, r in known.items() if n.startswith(_COMPONENT) and r.value}
    for c in claims.components:
        sheet.observed[_COMPONENT + c.kind] = c.measurement
    if not expected:
        sheet.claim("executables", UNKNOWN_EVIDENCE)
        sheet.rest_on_unconfirmed()
        text = "no reference value for any software component: what runs cannot be judged"
        sheet.find(Tier.NONE, "no-reference", "components", text, _IMPORT)
        return
    for c in claims.components:
        _appraise_component(c, expected.pop(c.kind, None), known.get(_SIGNER + c.kind), sheet)
    for kind in sorted(expected):
        sheet.observed[_COMPONENT + kind] = b""
        sheet.claim("executables", CONTRAINDICATED)
        text = f"software component {kind} is missing from the measurements"
        sheet.find(Tier.CONTRAINDICATED, "component-missing", kind, text, "restore the device's firmware, or accept its update")


def _appraise_component(c: Component, reference: ReferenceValue | None, signer: ReferenceValue | None, sheet: Sheet) -> None:
    if reference is None:
        sheet.claim("executables", UNRECOGNISED_EXECUTABLE)
        sheet.rest_on_unconfirmed()
        text = f"software component {c.kind or '(unnamed)'} has no reference value"
        sheet.find(Tier.WARNING, "component-unknown", c.kind, text, _IMPORT)
    elif compare_digest(sheet.use(reference), c.measurement):
        sheet.claim("executables", BOOTED_GENUINE)
    else:
        sheet.claim("executables", CONTRAINDICATED)
        text = f"software component {c.kind} changed: {short(c.measurement)}, expected {short(reference.value)}"
        remedy = "restore the device's firmware, or accept its update in service mode"
        sheet.find(Tier.CONTRAINDICATED, "component-changed", c.kind, text, remedy)
    if signer is not None:
        sheet.observed[_SIGNER + c.kind] = c.signer
        if not compare_digest(sheet.use(signer), c.signer):
            sheet.claim("executables", CONTRAINDICATED)
            text = f"software component {c.kind} is signed by {short(c.signer)}, expected {short(signer.value)}"
            sheet.find(Tier.CONTRAINDICATED, "signer-changed", c.kind, text, "restore the maker's firmware")
