"""PURE. The readings in a message: OBX segments of numbers in common form. Never anything of a patient: PID and free text stay out.

When a value was taken is told by the device's clock (OBX-14, else OBR-7), whose own idea of now is MSH-7. What counts is how long
before the sending it was, and, where MSH-7 has a zone and our clock is good, how long before its receipt: a message that waited
in a device, or a device's clock that is behind, makes old data, never fresh. Nothing said, or a time to come: nobody knows.
Sources: HL7 v2.6 chapter 7, sections 7.4.1 and 7.4.2; chapter 2A, data type TS; IHE PCD-01 for OBX-8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from drivers.hl7 import vocabulary
from drivers.hl7.message import Message
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation

MAX_READINGS = 1000  # of one message; a 12-lead ECG is no list of single numbers
OLDEST_S = 90 * 86_400.0  # a time before this is a device's clock that was never set
_LATE_S = 10.0  # what a network, a busy device and a clock may differ by before a message counts as one that waited
_AHEAD_S = 5.0  # further ahead than this a time is wrong
_NUMBER = re.compile(rb"[+-]?\d{1,12}(?:\.\d{1,12})?")
_TIME = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:\.(\d{1,4}))?)?([+-]\d{4})?")
_DELETED = b'""'
_USUAL_NAME = 512  # bytes; what is longer is not remembered: a sender chooses it
_LONGEST_TIME = 24
_WITH_READINGS = (b"OBX", b"OBR")
_FIELDS = 15  # of an OBX or OBR, as far as it is looked at
_NOTHING = [b""] * _FIELDS


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was read, how many numbers had a code, a unit or a form that is not known, and whether there were too many of both."""

    observations: Sequence[Observation]
    unknown: int
    too_many: bool = False

    @property
    def number(self) -> int:
        """How many were looked at: that is what takes time."""
        return len(self.observations) + self.unknown


@dataclass(frozen=True, slots=True)
class _Time:
    """Seconds since 1970 on the sender's wall, and how far that wall is ahead of UTC; None: it does not say."""

    wall_s: float
    zone_s: float | None


def decode(message: Message, device_id: str, level: TrustLevel | None, received: Instant, trusted_since: Instant | None) -> Decoded:
    """The readings of one message. ``level``: the device's at receipt; what was taken before ``trusted_since`` has none."""
    sent, ordered, unknown = _time(message.header(7)), b"", 0
    found: list[Observation] = []
    moments: dict[bytes, tuple[Instant, TrustLevel | None]] = {}
    for line in message.lines:
        if not line.startswith(_WITH_READINGS):
            continue
        parts = line.split(message.field_separator, _FIELDS)
        parts += _NOTHING[len(parts) :]
        if parts[0] == b"OBR":
            ordered = parts[7]
        elif parts[2] in (b"NM", b"SN") and parts[11] not in vocabulary.NO_READING:
            if len(found) + unknown >= MAX_READINGS:
                return Decoded(found, unknown, too_many=True)
            when = parts[14] or ordered
            if when not in moments:
                at = _moment(_time(when), sent, received)
                moments[when] = at, _level(level, at, trusted_since)
            o = _reading(message, parts, device_id, moments[when], received)
            if o is None:
                unknown += 1
            else:
                found.append(o)
    return Decoded(found, unknown)


def _reading(
    message: Message, parts: list[bytes], device_id: str, moment: tuple[Instant, TrustLevel | None], received: Instant
) -> Observation | None:
    c = message.component
    look = _named if len(parts[3]) + len(parts[6]) <= _USUAL_NAME else _named.__wrapped__
    code, unit = look(parts[3], parts[6], c)
    value, absent = _value(parts[5], parts[2], c)
    if parts[8]:
        absent = vocabulary.absence([f.split(c, 1)[0] for f in parts[8].split(message.separators[2:3])]) or absent
    if parts[11] in vocabulary.UNOBTAINABLE:
        absent = absent or "cannot be measured"
    if code is None or unit is None or (value is None and absent is None):
        return None
    return Observation(device_id, code, unit, moment[0], received, moment[1], None if absent else value, absent)


@lru_cache(1024)
def _named(code: bytes, unit: bytes, component: bytes) -> tuple[str | None, str | None]:
    """What OBX-3 and OBX-6 say, each by its own or its alternate identifier."""
    return _coded(code, component, vocabulary.quantity), _coded(unit, component, vocabulary.unit)


def _coded(field: bytes, component: bytes, known: vocabulary.Lookup) -> str | None:
    p = [*field.split(component), b"", b"", b"", b"", b""]
    return known(p[0], p[1], p[2]) or known(p[3], p[4], p[5])


def _value(field: bytes, kind: bytes, component: bytes) -> tuple[float | None, str | None]:
    """A single number, or why there is none; (None, None): something else."""
    if field in (b"", _DELETED):
        return None, vocabulary.MISSING
    if kind == b"SN":  # a comparator, a number, and for ranges and ratios more
        comparator, _, rest = field.partition(component)
        field = rest.rstrip(component) if comparator in (b"", b"=") else b"?"
    if _NUMBER.fullmatch(field) is None or not math.isfinite(value := float(field)):
        return None, None
    return value, None


def _time(field: bytes) -> _Time | None:
    """A time to the minute or better."""
    return _read_time(field) if len(field) <= _LONGEST_TIME else None


@lru_cache(256)
def _read_time(field: bytes) -> _Time | None:
    m = _TIME.fullmatch(field)
    if m is None:
        return None
    try:
        at = datetime(int(m[1]), int(m[2]), int(m[3]), int(m[4]), int(m[5]), int(m[6] or 0), tzinfo=UTC)
    except ValueError:
        return None
    zone = m[8]
    zone_s = None if zone is None else (int(zone[1:3]) * 3600 + int(zone[3:]) * 60) * (-1 if zone[:1] == b"-" else 1)
    return _Time(at.timestamp() + int((m[7] or b"0").ljust(4, b"0")) / 10_000, zone_s)


def _moment(taken: _Time | None, sent: _Time | None, received: Instant) -> Instant:
    """When it was taken, on our clocks. See the module; a time without a zone is in the zone of MSH-7."""
    nobody_knows = replace(received, quality=TimeQuality.UNKNOWN)
    if taken is None or sent is None or (taken.zone_s is not None and sent.zone_s is None):
        return nobody_knows
    zone_s = sent.zone_s or 0.0
    sent_s = sent.wall_s - zone_s
    age_s = sent_s - (taken.wall_s - (zone_s if taken.zone_s is None else taken.zone_s))
    if not -_AHEAD_S <= age_s <= OLDEST_S:
        return nobody_knows
    age_s, quality = max(0.0, age_s), received.quality
    if sent.zone_s is not None and received.quality >= TimeQuality.RTC:
        under_way_s = received.utc_ns / NS_PER_S - sent_s
        if under_way_s > OLDEST_S or under_way_s < -_AHEAD_S:
            quality = TimeQuality.UNKNOWN  # its clock is wrong: only the distance counts
        elif under_way_s > _LATE_S:
            age_s += under_way_s
    at = received.plus(-age_s)
    return replace(at, mono_ns=max(0, at.mono_ns), quality=quality)


def _level(level: TrustLevel | None, at: Instant, since: Instant | None) -> TrustLevel | None:
    """Unknown for what was taken before there was evidence; nobody knows what the device was then."""
    known = since is not None and since.boot_id == at.boot_id and at.mono_ns >= since.mono_ns
    return level if known else None
