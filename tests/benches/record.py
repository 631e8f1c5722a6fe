"""The audit log at 50 devices: bytes a day as it is written and as it is kept, and what of it reaches the device.

Fifty pumps, each asked for a token and a fingerprint every ten seconds of virtual time, through the real engine into the
real store. Only time is not real: minutes are played and a day is computed from them.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from gateway import codec
from gateway.conductor import QUIET_S, trace
from gateway.engine import Engine
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.effect import Alarm, Challenge, Record
from gateway.model.event import ChallengeIssued, Configured, Event, EvidenceArrived, LinkChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType
from gateway.model.instant import Instant, TimeQuality
from gateway.model.profile import Provenance, References, ReferenceValue, TrustAnchor
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.segments import Keeping
from hil.psa import PsaSigner, signer_of
from tests.benches.figure import Figure, figure
from tests.fakes.ward import profile

_DEVICES = 50
_MINUTES = float(os.environ.get("WARDGATE_BENCH_RECORD_MIN", "10"))
_START = Instant("0b7e2f64-5c1e-4e0b-9d5a-3f1f0f6f4c11", 10**12, 18 * 10**17, TimeQuality.RTC)
_REGISTERS, _OBJECTS = {n: 7 for n in range(100, 120)}, {0: b"Maker", 1: b"P-1", 2: b"1.0"}


def run() -> Iterable[Figure]:
    """``record.lines``, ``record.raw`` (bodies and texts), ``record.kept`` in MiB a day, ``record.written`` to the device."""
    played = list(Fleet().play(_MINUTES))
    with tempfile.TemporaryDirectory(prefix="wardgate-bench-", dir="/var/tmp") as d:  # a disk, not a tmpfs
        yield from asyncio.run(_store(Path(d), played))


@dataclass(frozen=True, slots=True)
class Step:
    """What one event, or one wake, put into the record."""

    at: Instant
    records: tuple[Record, ...]


class Fleet:
    """Fifty honest pumps and an engine; everybody answers at once."""

    def __init__(self) -> None:
        self.engine, self.now, self.profile = Engine(), _START, profile("infusion-pump")
        self.signers = {
            f"pump-{n}": signer_of(f"pump-{n}", ec.generate_private_key(ec.SECP256R1())) for n in range(1, _DEVICES + 1)
        }
        self._steps: list[Step] = []
        self._asked: list[Challenge] = []

    def play(self, minutes: float) -> Sequence[Step]:
        """Steps of so many minutes."""
        devices = tuple(
            Device(d, d, Bus.MODBUS, "infusion-pump", f"10.77.1.{n}", DeviceState.ENFORCED,
                   Binding(f"p-{n}", f"02:57:47:00:01:{n:02x}", (f"10.77.1.{n}", f"fd77::1:{n:x}")))
            for n, d in enumerate(self.signers, 1)
        )  # fmt: skip
        self._feed(Configured((self.profile,), devices, tuple((d, references(s)) for d, s in self.signers.items())))
        links = deque((self.now.plus(10 * n / _DEVICES), d.id) for n, d in enumerate(devices))  # they do not all begin at once
        end = self.now.plus(minutes * 60)
        while self.now.mono_ns < end.mono_ns:
            self._answer()
            due = self.engine.next_wake() or end.mono_ns
            if links and links[0][0].mono_ns <= due:
                self.now, device_id = links.popleft()
                self._feed(LinkChanged(device_id, up=True))
                continue
            self.now = self.now.plus(max(0.0, (due - self.now.mono_ns) / 1e9))
            self._note(None, self.engine.wake(self.now))
        return self._steps

    def _feed(self, event: Event) -> None:
        self.now = self.now.plus(0.0007)
        self._note(event, self.engine.receive(event, self.now))

    def _note(self, event: Event | None, effects: Sequence[object]) -> None:
        self._asked += [e for e in effects if isinstance(e, Challenge)]
        told = [e for e in effects if isinstance(e, (Record, Alarm))]
        if event is not None or told:
            rows = [e if isinstance(e, Record) else Record("alarm", e.device_id, e.text) for e in told]
            self._steps.append(Step(self.now, (trace(event), *rows)))

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        for c in asked:
            nonce = os.urandom(32)
            self._feed(ChallengeIssued(c.device_id, c.media_type, nonce))
            if c.media_type == MediaType.PSA:
                payload = self.signers[c.device_id].token(nonce)
            else:
                payload = codec.encode({1: nonce, 2: _OBJECTS, 3: _REGISTERS})
            channel = Channel(ChannelKind.PORT, f"p-{c.device_id}/02:57:47:00:00:11")
            self._feed(EvidenceArrived(Evidence(c.device_id, c.media_type, payload, nonce, channel, self.now, "modbus")))


def references(signer: PsaSigner) -> References:
    """What the maker vouches for, and the fingerprint."""
    told = signer.reference()
    named = {"implementation-id": told["implementation-id"], **{f"component:{k}": v for k, v in dict(told["components"]).items()}}  # type: ignore[call-overload]
    values = [ReferenceValue("firmware", n, bytes.fromhex(str(v)), Provenance.MAKER, True) for n, v in named.items()]
    seen = {**{f"object:{n}": v for n, v in _OBJECTS.items()}, **{f"register:{n}": v.to_bytes(2) for n, v in _REGISTERS.items()}}
    values += [ReferenceValue("configuration", n, v, Provenance.HOSPITAL, True) for n, v in seen.items()]
    return References((TrustAnchor(bytes.fromhex(str(told["ueid"])), bytes.fromhex(str(told["spki"]))),), tuple(values))


async def _store(directory: Path, steps: Sequence[Step]) -> list[Figure]:
    database = Database(directory / "wardgate.sqlite")
    await database.open()
    audit = AuditLog(database)
    before = _written()
    closing = 0.0
    for n, rows in enumerate(_grouped(steps)):
        await audit.append(rows)
        if n % 100 == 99:
            at = time.process_time()
            await audit.close_segment(Keeping(), rows[-1][0])
            closing += time.process_time() - at
    while await audit.close_segment(replace(Keeping(), age_s=0.0, live=0), steps[-1].at.plus(1)):
        pass
    written = _written() - before
    head = await audit.verify()
    shape = await audit.extent()
    await audit.close()
    await database.close()
    a_day = 1440 / _MINUTES
    raw = sum(len(str(codec.to_plain(dict(r.body)))) + len(r.text) for s in steps for r in s.records)
    mib = 2**20
    return [
        figure("record.lines", _DEVICES, [head.sequence * a_day], "lines/day", note=f"{head.sequence:,} in {_MINUTES:g} min"),
        figure("record.raw", _DEVICES, [raw * a_day / mib], "MiB/day", note="texts and bodies as they come"),
        figure("record.kept", _DEVICES, [shape.packed_bytes * a_day / mib], "MiB/day", [raw * a_day / mib], "closed segments"),
        figure("record.written", _DEVICES, [written * a_day / mib], "MiB/day", note="to the device, journal included"),
        figure("record.cpu", _DEVICES, [closing * a_day / 86_400 * 100], "% of a core", note="packing, in real time"),
    ]


def _grouped(steps: Sequence[Step]) -> Iterator[list[tuple[Instant, Record]]]:
    """As the conductor hands them in: what decided something at once, with what came before it; the rest within QUIET_S."""
    rows: list[tuple[Instant, Record]] = []
    first: Instant | None = None
    for step in steps:
        if first is not None and step.at.seconds_since(first) > QUIET_S:
            yield rows
            rows, first = [], None
        rows += [(step.at, r) for r in step.records]
        first = first or step.at
        if len(step.records) > 1:
            yield rows
            rows, first = [], None
    if rows:
        yield rows


def _written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])
