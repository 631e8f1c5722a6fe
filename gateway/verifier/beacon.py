"""PURE. Beacons: a truncated MAC over epoch, measurement, counter and readings, in a wearable's advertisement.

Evidence is the epoch's id (12 bytes) and the advertised bytes: version and epoch bits 1, counter 4, readings 0 to 9, MAC 8. The
measurement is not sent: changed firmware makes a MAC that fails, which looks like a forgery and lets trust age. Refuses to know
what the readings mean, which counters were seen, and the time.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import Evidence, EvidenceClass
from gateway.model.profile import BEACON_KEY, Provenance, References, ReferenceValue, TrustAnchor
from gateway.verifier.findings import AFFIRMED, BOOTED_GENUINE, Sheet, references_named

EPOCH_BYTES = 12
MAC_BYTES = 8  # 2^-64 a try, and a try needs a radio: a thousand a second for a century hit once in six million times
KEY_BYTES = 32
VERSION = 1
MAX_READINGS = 9  # bytes: what an advertisement of 31 leaves beside flags, a name's first letters and this
MAX_LATER = 8  # epochs: how much newer than the challenge a beacon may be when it is appraised
_FIXED = 1 + 4 + MAC_BYTES
_LABEL = b"wardgate-beacon-v1\0"
_EPOCH_LABEL = b"wardgate-epoch-v1\0"
_COMPONENT = "component:"
_FIX = "update the wearable's firmware"


class Beacon(NamedTuple):
    """A beacon whose MAC verified."""

    epoch_id: bytes
    counter: int
    readings: bytes


def earlier(epoch_id: bytes) -> bytes:
    """The id of the epoch before: anyone can go back along the chain, and nobody forward."""
    return hashlib.sha256(_EPOCH_LABEL + epoch_id).digest()[:EPOCH_BYTES]


def measurement_of(components: dict[str, bytes]) -> bytes:
    """What a beacon's MAC says was measured: SHA-256 over each component's type, a zero byte and its SHA-256, types in order."""
    return hashlib.sha256(b"".join(kind.encode() + b"\0" + components[kind] for kind in sorted(components))).digest()


def mac(key: bytes, epoch_id: bytes, measurement: bytes, body: bytes) -> bytes:
    """The MAC over epoch id, measurement and ``body`` (version and epoch bits, counter, readings)."""
    return hmac.digest(key, _LABEL + epoch_id + measurement + body, "sha256")[:MAC_BYTES]


def verify_beacon(payload: bytes, key: bytes, measurement: bytes) -> Beacon:
    """The beacon in ``payload`` (epoch id and advertised bytes), if ``key`` made it over ``measurement``; raises EvidenceError."""
    size = len(payload) - EPOCH_BYTES - _FIXED
    if not 0 <= size <= MAX_READINGS or payload[EPOCH_BYTES] >> 4 != VERSION:
        raise MalformedError(f"{len(payload)} bytes that are no beacon of version {VERSION}", _FIX)
    epoch_id, body = payload[:EPOCH_BYTES], payload[EPOCH_BYTES:-MAC_BYTES]
    if not hmac.compare_digest(mac(key, epoch_id, measurement, body), payload[-MAC_BYTES:]):
        raise EvidenceError("a beacon whose MAC does not verify", "nothing to do: it is forged, or the wearable's firmware changed")
    return Beacon(epoch_id, int.from_bytes(body[1:5], "big"), body[5:])


class Screen:
    """One device's key and expected measurement, looked up once: what every advertisement in its name is checked with."""

    def __init__(self, references: References) -> None:
        """Raises EvidenceError when there is no key or nothing to compare with."""
        self.anchor, self.known = _anchor(references), _measured(references)
        self._measurement = measurement_of({r.name[len(_COMPONENT) :]: r.value for r in self.known})

    def verify(self, payload: bytes) -> Beacon:
        """The beacon; raises EvidenceError."""
        return verify_beacon(payload, self.anchor.secret, self._measurement)


def _anchor(references: References) -> TrustAnchor:
    for anchor in references.anchors:
        if anchor.shared == BEACON_KEY and len(anchor.secret) == KEY_BYTES:
            return anchor
    raise EvidenceError("no key is shared with this device for its beacons", "import its endorsement for this gateway")


def _measured(references: References) -> tuple[ReferenceValue, ...]:
    known = tuple(r for r in references_named(references, (_COMPONENT,)).values() if r.value)
    if not known:
        raise EvidenceError("no reference value for any software component: its beacons cannot be checked", "import them")
    return known


def appraise_beacon(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """Fill ``sheet`` from a beacon; raises EvidenceError when it is nobody's."""
    screen = Screen(references)
    beacon = screen.verify(evidence.payload)
    sheet.authenticated, sheet.evidence_class = True, EvidenceClass.BEACON
    if not sheet.answers(_reached(beacon.epoch_id, evidence.nonce), evidence.nonce):
        return
    if screen.anchor.provenance is Provenance.LEARNED:
        sheet.rest_on_unconfirmed()
    for reference in screen.known:
        sheet.observed[reference.name] = sheet.use(reference)
    sheet.claim("instance_identity", AFFIRMED)
    sheet.claim("executables", BOOTED_GENUINE)


def _reached(epoch_id: bytes, asked: bytes) -> bytes:
    """``asked`` when the beacon's epoch is that one or at most ``MAX_LATER`` after it; the beacon's own otherwise."""
    at = epoch_id
    for _ in range(MAX_LATER + 1):
        if hmac.compare_digest(at, asked):
            return asked
        at = earlier(at)
    return epoch_id
