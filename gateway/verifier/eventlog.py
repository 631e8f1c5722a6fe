"""PURE. Parses a TCG event log and replays it into PCR values. Source: TCG PC Client Platform Firmware Profile 1.06, section 10.

Reads the crypto-agile format and the older SHA-1-only one. A log is a claim: it counts only where its replay gives the values
that a TPM quoted. Everything is bounded, every byte belongs to an event. Refuses to know what an event's data means, except
for the two that change how a log is replayed: the specification header and the startup locality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import new as new_hash
from struct import Struct
from types import MappingProxyType

from gateway.errors import EvidenceError, MalformedError

MAX_LOG = 1024 * 1024  # bytes; logs of real machines have 10 to 100 KiB
MAX_EVENTS = 4096  # real machines log one to two hundred
MAX_EVENT_DATA = 256 * 1024  # bytes; a dbx variable is the largest, tens of KiB
PCRS = 24

EV_NO_ACTION = 0x00000003

_ALGORITHMS: Mapping[int, tuple[str, int]] = MappingProxyType(  # TCG Algorithm Registry, 6.10; name in hashlib, bytes
    {0x0004: ("sha1", 20), 0x000B: ("sha256", 32), 0x000C: ("sha384", 48), 0x000D: ("sha512", 64), 0x0012: ("sm3", 32)}
)
_SPEC = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)  # the localities a TPM may be started from (section 10.4.5.3)
_DYNAMIC = range(17, 23)  # PCRs of a dynamic launch: all ones until one happens (section 2.3.4)
_U16, _U32 = Struct("<H"), Struct("<I")
_FIRST = Struct("<II20sI")  # TCG_PCClientPCREvent
_SPEC_HEAD = Struct("<16sIBBBBI")  # TCG_EfiSpecIDEvent up to numberOfAlgorithms
_REMEDY = "copy the firmware's log again, whole"


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement: PCR number, event type, digest by algorithm name (as in hashlib), and the event's data."""

    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log. ``algorithms``: the banks it logs for. ``startup_locality``: what the TPM was started from."""

    events: tuple[Event, ...]
    algorithms: tuple[str, ...]
    startup_locality: int = 0

    def replay(self, algorithm: str = "sha256") -> dict[int, bytes]:
        """The value of every PCR that the log extends, in one bank. Raises EvidenceError if it does not log for that bank."""
        if algorithm not in self.algorithms:
            raise EvidenceError(
                f"the event log has no {algorithm} digests, only {', '.join(self.algorithms)}", "quote a logged bank"
            )
        pcrs: dict[int, bytes] = {}
        for event in self.events:
            if event.type == EV_NO_ACTION:
                continue
            digest = event.digests[algorithm]
            before = pcrs.get(event.pcr)
            if before is None:
                before = self._initial(event.pcr, len(digest))
            try:
                pcrs[event.pcr] = new_hash(algorithm, before + digest).digest()
            except ValueError:
                raise EvidenceError(f"{algorithm} cannot be computed here", "quote the sha256 bank") from None
        return pcrs

    def _initial(self, pcr: int, size: int) -> bytes:
        if pcr in _DYNAMIC:
            return b"\xff" * size
        return bytes(size - 1) + bytes([self.startup_locality if pcr == 0 else 0])


def parse_eventlog(data: bytes) -> EventLog:
    """Parse a whole log; raises MalformedError on anything that is not one, or exceeds a bound."""
    if len(data) > MAX_LOG:
        raise MalformedError(f"an event log of {len(data)} bytes where {MAX_LOG} are the most", _REMEDY)
    reader = _Reader(data)
    first = _legacy_event(reader)
    if first.type == EV_NO_ACTION and first.data.startswith(_SPEC):
        banks = _banks(first)
        events = [first]
        while reader.left:
            events.append(_event(reader, banks))
            _check_count(events)
    else:
        banks = {0x0004: ("sha1", 20)}
        events = [first]
        while reader.left:
            events.append(_legacy_event(reader))
            _check_count(events)
    return EventLog(tuple(events), tuple(name for name, _ in banks.values()), _startup_locality(events))


class _Reader:
    """Takes from the front; never gives less than was asked for."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise MalformedError(f"an event log that ends in the middle of an event (at byte {self._at})", _REMEDY)
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def u16(self) -> int:
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])


def _check_count(events: list[Event]) -> None:
    if len(events) > MAX_EVENTS:
        raise MalformedError(f"an event log of more than {MAX_EVENTS} events", _REMEDY)


def _check(pcr: int, kind: int, size: int) -> None:
    if kind != EV_NO_ACTION and pcr >= PCRS:  # an event that extends nothing may name anything
        raise MalformedError(f"an event for PCR {pcr}, which a TPM does not have", _REMEDY)
    if size > MAX_EVENT_DATA:
        raise MalformedError(f"an event of {size} bytes where {MAX_EVENT_DATA} are the most", _REMEDY)


def _legacy_event(reader: _Reader) -> Event:
    """TCG_PCClientPCREvent: one SHA-1 digest. The first event of every log has this form."""
    pcr, kind, digest, size = _FIRST.unpack(reader.take(_FIRST.size))
    _check(pcr, kind, size)
    return Event(pcr, kind, MappingProxyType({"sha1": digest}), reader.take(size))


def _event(reader: _Reader, banks: Mapping[int, tuple[str, int]]) -> Event:
    """TCG_PCR_EVENT2: exactly one digest a bank of the header."""
    pcr, kind, count = reader.u32(), reader.u32(), reader.u32()
    if count != len(banks):
        raise MalformedError(f"an event with {count} digests in a log of {len(banks)} banks", _REMEDY)
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16()
        if algorithm not in banks:
            raise MalformedError(f"a digest of algorithm {algorithm:#06x}, which the log's header does not name", _REMEDY)
        name, size = banks[algorithm]
        if name in digests:
            raise MalformedError(f"an event with two {name} digests", _REMEDY)
        digests[name] = reader.take(size)
    size = reader.u32()
    _check(pcr, kind, size)
    return Event(pcr, kind, MappingProxyType(digests), reader.take(size))


def _banks(first: Event) -> dict[int, tuple[str, int]]:
    """The algorithms of a TCG_EfiSpecIDEvent, in its order. Unknown ones are refused: their digests could not be checked."""
    if first.pcr != 0 or any(first.digests["sha1"]):
        raise MalformedError("an event log whose header measures something", _REMEDY)
    reader = _Reader(first.data)
    *_, count = _SPEC_HEAD.unpack(reader.take(_SPEC_HEAD.size))
    if not 1 <= count <= len(_ALGORITHMS):
        raise MalformedError(f"an event log for {count} hash algorithms", _REMEDY)
    banks: dict[int, tuple[str, int]] = {}
    for _ in range(count):
        algorithm, size = reader.u16(), reader.u16()
        known = _ALGORITHMS.get(algorithm)
        if known is None or known[1] != size or algorithm in banks:
            raise MalformedError(f"an event log for hash algorithm {algorithm:#06x} with {size} bytes", "log in sha256")
        banks[algorithm] = known
    if reader.take(1)[0] != reader.left:
        raise MalformedError("an event log whose header has the wrong length", _REMEDY)
    return banks


def _startup_locality(events: list[Event]) -> int:
    """From the EV_NO_ACTION event that says it, once, before anything is measured into PCR 0."""
    found: int | None = None
    measured = False
    for event in events:
        if event.pcr == 0 and event.type != EV_NO_ACTION:
            measured = True
        elif event.pcr == 0 and event.data.startswith(_LOCALITY):
            locality = event.data[len(_LOCALITY) :]
            if len(locality) != 1 or locality[0] not in _LOCALITIES or found is not None or measured:
                raise MalformedError("an event log with a startup locality that cannot be", _REMEDY)
            found = locality[0]
    return found or 0
