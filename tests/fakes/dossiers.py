"""Sheets, histories and found devices with behaviour, beside the fake console. Knows no engine and no disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.errors import InputError
from gateway.model.device import Bus
from gateway.model.event import DeviceSeen
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Function, GattRule, OnLoss, Profile, Target
from gateway.model.sheet import (
    CheckRow,
    DifferenceRow,
    EvidenceView,
    Examination,
    FindingView,
    FlowView,
    Found,
    FunctionSheet,
    LevelHistory,
    LevelStep,
    Refusal,
    ServiceView,
    Sheet,
    Traffic,
)  # fmt: skip
from gateway.model.view import Outcome
from gateway.picture import bus_of, key_of, name_of
from gateway.proposal import suggest
from gateway.relying import STEPS

if TYPE_CHECKING:
    from tests.fakes.console import FakeConsole

HOUR_MS = 3_600_000
DIFFERENCE_ID = "d1" * 32
ANCHOR = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"


def profiles() -> dict[str, Profile]:
    """Two for Bluetooth, one for Modbus."""
    token = Target("token", MediaType.PSA, EvidenceClass.ASYMMETRIC)
    heart = Function("readings", TrustLevel.STANDARD, OnLoss.CUT, rules=(GattRule("2A37", "notify"),))
    oxygen = Function("readings", TrustLevel.STANDARD, OnLoss.CUT, rules=(GattRule("2A5F", "notify"),))
    every = (
        Profile("heart-rate-patch", "Heart-rate patch", Bus.BLE, "IIa", (heart,), (token,)),
        Profile("pulse-oximeter", "Pulse oximeter", Bus.BLE, "IIb", (oxygen,), (token,)),
        Profile("infusion-pump", "Infusion pump", Bus.MODBUS, "IIb", (), (token,)),
    )
    return {p.id: p for p in every}


class FakeDossiers:
    """``DossierPort`` over the fake ward. All that has a name without an underscore is a test's to change."""

    def __init__(self, console: FakeConsole) -> None:
        self._console = console
        day = 24 * HOUR_MS
        self.steps = [
            LevelStep(7 * day, 2), LevelStep(3 * day, None), LevelStep(3 * day - HOUR_MS, 3), LevelStep(9 * HOUR_MS, 1),
            LevelStep(8 * HOUR_MS, 3), LevelStep(5 * HOUR_MS, None), LevelStep(4 * HOUR_MS, 0), LevelStep(3 * HOUR_MS, 3),
        ]  # fmt: skip
        self.complete = True
        self.bad: dict[str, str] = {}
        self.no_evidence: set[str] = set()
        self.age_ms = 4_000
        self.difference: tuple[DifferenceRow, ...] = ()
        self.opener = ""
        self.refusals: tuple[Refusal, ...] = ()
        self.seen: dict[str, DeviceSeen] = {}
        self.kept_anchor = True
        self.certificate_ok = True

    async def sheet(self, device_id: str) -> Sheet:
        """Everything, from what the ward shows."""
        d = next((d for d in self._console.view().devices if d.id == device_id), None)
        if d is None:
            raise InputError(f"there is no device {device_id!r}", "see the ward")
        functions = tuple(
            FunctionSheet(
                f.name, f.required, f.allowed, f.on_loss, f.reason,
                ("read holding registers 0 to 119", "write registers 10, only 0 or 1") if f.name == "control" else (),
                ("write register 10, only 0",) if f.name == "control" else (),
            )
            for f in d.functions
        )  # fmt: skip
        flows = tuple(
            FlowView(
                f.name, "10.66.0.20", "tcp", 6000 + i, f.on_loss == "vital", f.name == "control", f.allowed, "as its level allows"
            )
            for i, f in enumerate(d.functions)
            if d.bus != "ble"
        )
        service = ServiceView(self.opener or "bea", "new firmware", d.service_left_ms or 60_000) if d.state == "service" else None
        return Sheet(
            self._console.view().now_ms, d, "IIb", self._evidence(device_id), functions, flows, self.difference,
            DIFFERENCE_ID if self.difference else "", service, (), 0, 0, self.refusals, Traffic(12_345, 12, 12_330, 3, 0),
        )  # fmt: skip

    def _evidence(self, device_id: str) -> tuple[EvidenceView, ...]:
        rows = []
        for target, media, kind in (("configuration", MediaType.MODBUS, "fingerprint"), ("token", MediaType.PSA, "asymmetric")):
            if device_id in self.no_evidence:
                rows.append(EvidenceView(target, media, interval_ms=10_000))
                continue
            bad = self.bad.get(target, "")
            standing, tier = ("bad", "contraindicated") if bad else ("good", "affirming")
            said = bad or "all values are those of the maker"
            finding = FindingView(target, said, "compare it with the maker’s" if bad else "")
            rows.append(EvidenceView(target, media, standing, self.age_ms, 10_000, kind, "port:p1", tier, "ab" * 32, (finding,)))
        return tuple(rows)

    async def levels(self, device_id: str, hours: int) -> LevelHistory:
        """What falls into the window."""
        whole, steps = hours * HOUR_MS, [LevelStep(hours * HOUR_MS, None)]
        for s in self.steps:
            if s.age_ms >= whole:
                steps = [LevelStep(whole, s.level)]
            else:
                steps.append(s)
        return LevelHistory(device_id, hours, tuple(steps), self.complete)

    async def verify(self, device_id: str, anchor: bytes = b"") -> Examination:
        """Holds or fails as a test says."""
        await self._console.bundle(device_id)
        if not anchor and not self.kept_anchor:
            raise InputError("this gateway keeps no certificate of the CA that enrolled it", "choose one")
        if anchor and b"CERTIFICATE" not in anchor:
            rows = (
                CheckRow(STEPS[0], False, "the anchor is no PEM certificate; give one"),
                *(CheckRow(s, None) for s in STEPS[1:]),
            )
            return Examination(False, rows)
        if not self.certificate_ok:
            held = (CheckRow(s, True) for s in STEPS[:3])
            return Examination(
                False,
                (*held, CheckRow(STEPS[3], False, "the quote does not hold; fetch it"), *(CheckRow(s, None) for s in STEPS[4:])),
            )
        lines = (f"device      {device_id} (Infusion pump)", "level       3 full", "expires     in 12 min 40 s")
        return Examination(True, tuple(CheckRow(s, True) for s in STEPS), lines, "cd" * 32)

    async def attested(self, device_id: str, since: Instant) -> Outcome:
        """At once."""
        return Outcome(True, f"{device_id} was asked: token is as expected")

    def found(self) -> Sequence[Found]:
        """What was seen."""
        return [
            Found(
                key_of(e.address),
                bus_of(e),
                e.address,
                name_of(e),
                e.hint,
                e.signal_dbm,
                e.port,
                e.mac,
                8_000,
                suggest(e, profiles()),
                e.addresses,
            )
            for e in self.seen.values()
        ]

    def profiles(self) -> Sequence[Profile]:
        """Every profile."""
        return list(profiles().values())

    def see(self, event: DeviceSeen) -> str:
        """A device appears; returns its key."""
        self.seen[event.address] = event
        self._console.tell()
        return key_of(event.address)
