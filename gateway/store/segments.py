"""Closed segments of the audit log: lines packed together, most of them the inputs of a replay, much alike.

Hashes inside a segment are not stored: they follow from the lines, and the last one must come out. What comes out of a
segment has been verified against its own ends; ``audit`` verifies that the ends meet. Refuses to know what lines mean.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.errors import EvidenceError
from gateway.model.instant import Instant, TimeQuality
from gateway.store.chain import Line

REMEDY = "keep the file as it is, compare it with an export or a backup, and find out who could write to it"
# 2 MiB of window hold a whole segment, so each device's evidence is packed against its last; 20 MiB of memory while packing.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 4, "dict_size": 2 << 20}]
_MAX_UNPACKED = 64 * 1024 * 1024  # bytes: a segment closes at 4 MiB, one line may have 16 MiB
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Keeping:
    """When lines are packed and how much of them is kept.

    A segment closes with ``lines`` or ``segment_bytes`` of lines, or when its first is older than ``age_s``; the newest
    ``live`` lines stay as they are. ``most_bytes``: what all packed lines may take; the oldest go first. The default holds about a
    hundred days of fifty devices that prove two things each every ten seconds.
    """

    lines: int = 2048
    segment_bytes: int = 4 * 1024 * 1024
    age_s: float = 86_400.0
    live: int = 1000
    most_bytes: int = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the record reaches: its oldest line and when that was (UTC, ns; None: nothing is kept), its newest, its size.

    ``trimmed``: lines that were trimmed before the oldest.
    """

    first: int
    last: int
    first_utc_ns: int | None
    packed_bytes: int
    trimmed: int


@dataclass(frozen=True, slots=True)
class Segment:
    """As stored: lines ``first`` to ``last`` between the hashes ``prev`` and ``hash``."""

    first: int
    last: int
    prev: bytes
    hash: bytes
    utc_ns: int
    size: int
    body: bytes


def pack(lines: Sequence[Line]) -> Segment:
    """A segment of consecutive lines, at least one."""
    rows: list[object] = [_VERSION]
    boot, mono = "", 0
    for line in lines:
        at = line.at
        same = at.boot_id == boot
        mono_step = at.mono_ns - mono if same else at.mono_ns
        when = [None if same else at.boot_id, mono_step, at.utc_ns - at.mono_ns, int(at.quality)]
        boot, mono = at.boot_id, at.mono_ns
        rows.append([*when, line.kind, line.severity, line.device_id, line.text, line.body])
    raw = "\n".join(json.dumps(r, separators=(",", ":")) for r in rows).encode("ascii")
    body = lzma.compress(raw, lzma.FORMAT_RAW, filters=_FILTERS)
    first, last = lines[0], lines[-1]
    return Segment(first.sequence, last.sequence, first.prev, last.hash, first.at.utc_ns, len(raw), body)


def unpack(segment: Segment) -> list[Line]:
    """The lines with their hashes computed anew. Raises EvidenceError unless they end in the segment's own hash."""
    try:
        lines = _lines(segment)
    except (lzma.LZMAError, ValueError, TypeError, IndexError):
        raise _changed(segment) from None
    if len(lines) != segment.last - segment.first + 1 or lines[-1].hash != segment.hash:
        raise _changed(segment)
    return lines


def _lines(segment: Segment) -> list[Line]:
    if not 0 < segment.size <= _MAX_UNPACKED:
        raise ValueError("more than a segment holds")
    engine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    raw = engine.decompress(segment.body, segment.size + 1)
    if len(raw) != segment.size:
        raise ValueError("another size than it says")
    version, *rows = (json.loads(r) for r in raw.split(b"\n"))
    if version != _VERSION:
        raise ValueError("another version")
    lines: list[Line] = []
    boot, mono, prev = "", 0, segment.prev
    for number, (boot_id, step, ahead, quality, kind, severity, device_id, text, body) in enumerate(rows, segment.first):
        boot, mono = (boot, mono + step) if boot_id is None else (boot_id, step)
        at = Instant(boot, mono, mono + ahead, TimeQuality(quality))
        line = Line(number, at, kind, severity, device_id, text, body, prev, b"")
        lines.append(line := replace(line, hash=line.digest()))
        prev = line.hash
    return lines


def _changed(segment: Segment) -> EvidenceError:
    return EvidenceError(f"the packed audit lines {segment.first} to {segment.last} were changed", REMEDY)
