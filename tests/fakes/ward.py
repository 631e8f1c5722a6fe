"""A small ward for the engine's tests: real profiles, real tokens and fingerprints, a clock that the test moves."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from gateway import codec
from gateway.engine import Engine
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.effect import Alarm, Challenge, Effect, Grant, Issue, Record
from gateway.model.event import ChallengeIssued, Configured, Event, EvidenceArrived, LinkChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType
from gateway.model.instant import Instant, TimeQuality
from gateway.model.profile import Profile, Provenance, References, ReferenceValue, TrustAnchor
from gateway.model.timing import Timing
from gateway.policy.profile import parse_profile
from hil.psa import PsaSigner, signer_of

PROFILES = Path(__file__).parents[2] / "hil" / "profiles"
PEERS = {"clients": ("10.77.0.100",), "central": ("10.77.0.100",)}
PORT = Channel(ChannelKind.PORT, "p-pump-1/02:57:47:00:00:11")
BOND = Channel(ChannelKind.BONDED_MITM, "C0:00:00:00:00:01")


def profile(name: str) -> Profile:
    """A profile of the bench."""
    return parse_profile(tomllib.loads((PROFILES / f"{name}.toml").read_text()), PEERS)


@dataclass
class Ward:
    """One engine, a pump and a patch; ``feed`` collects all effects."""

    state: DeviceState = DeviceState.ENFORCED
    timing: Timing = field(default_factory=Timing)
    with_reference: bool = True

    def __post_init__(self) -> None:
        self.engine = Engine()
        self.now = Instant("boot", 1_000_000_000_000, 1_800_000_000_000_000_000, TimeQuality.RTC)
        self.effects: list[Effect] = []
        self.log: list[tuple[Instant, Event | None]] = []
        self.registers = {n: 7 for n in range(100, 120)}
        self.objects = {0: b"Maker", 1: b"P-1", 2: b"1.0"}
        self.signers: dict[str, PsaSigner] = {
            "pump-1": signer_of("pump", ec.generate_private_key(ec.SECP256R1())),
            "patch-1": signer_of("patch", ec.generate_private_key(ec.SECP256R1())),
        }
        self._nonces = 0
        self.configure()

    @property
    def devices(self) -> tuple[Device, ...]:
        """The pump and the patch."""
        binding = Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11"))
        pump = Device("pump-1", "Pump", Bus.MODBUS, "infusion-pump", "10.77.0.11", self.state, binding)
        return pump, Device("patch-1", "Patch", Bus.BLE, "heart-rate-patch", "C0:00:00:00:00:01", self.state)

    def references(self, device_id: str) -> References:
        """What the maker and the hospital vouch for."""
        told = self.signers[device_id].reference()
        named = {
            "implementation-id": told["implementation-id"],
            **{f"component:{k}": v for k, v in dict(told["components"]).items()},
        }  # type: ignore[call-overload]
        values = [ReferenceValue("firmware", n, bytes.fromhex(str(v)), Provenance.MAKER, True) for n, v in named.items()]
        if device_id == "pump-1" and self.with_reference:
            values += [
                ReferenceValue("configuration", f"object:{n}", v, Provenance.HOSPITAL, True) for n, v in self.objects.items()
            ]
            values += [
                ReferenceValue("configuration", f"register:{n}", v.to_bytes(2), Provenance.HOSPITAL, True)
                for n, v in self.registers.items()
            ]
        anchor = TrustAnchor(bytes.fromhex(str(told["ueid"])), bytes.fromhex(str(told["spki"])))
        return References((anchor,), tuple(values))

    def configure(self, vetoes: Sequence[tuple[str, str, str]] = ()) -> list[Effect]:
        """Feed the configuration."""
        return self.feed(self.configured(vetoes))

    def configured(self, vetoes: Sequence[tuple[str, str, str]] = ()) -> Configured:
        """The configuration."""
        refs = tuple((d.id, self.references(d.id)) for d in self.devices)
        names = ("infusion-pump", "heart-rate-patch")
        return Configured(tuple(profile(n) for n in names), self.devices, refs, self.timing, tuple(vetoes))

    def feed(self, event: Event) -> list[Effect]:
        """One event now."""
        self.log.append((self.now, event))
        out = self.engine.receive(event, self.now)
        self.effects += out
        return out

    def pass_time(self, seconds: float) -> list[Effect]:
        """Let time pass, waking the engine whenever it asked to be woken."""
        end, got = self.now.plus(seconds), []
        while True:
            due = self.engine.next_wake()
            if due is None or due > end.mono_ns:
                break
            self.now = self.now.plus(max(0.0, (due - self.now.mono_ns) / 1e9))
            out = self.engine.wake(self.now)
            if any(isinstance(e, (Record, Alarm)) for e in out):
                self.log.append((self.now, None))
            got += out
        self.now = end
        self.effects += got
        return got

    def link(self, up: bool = True) -> list[Effect]:
        """Both links."""
        return [e for d in self.devices for e in self.feed(LinkChanged(d.id, up))]

    def challenge(self, device_id: str, media_type: str) -> bytes:
        """A nonce, issued."""
        self._nonces += 1
        nonce = self._nonces.to_bytes(32)
        self.feed(ChallengeIssued(device_id, media_type, nonce))
        return nonce

    def present(self, device_id: str, media_type: str, payload: bytes, nonce: bytes) -> list[Effect]:
        """Evidence arrives."""
        channel = PORT if device_id == "pump-1" else BOND
        return self.feed(EvidenceArrived(Evidence(device_id, media_type, payload, nonce, channel, self.now, "test")))

    def token(self, device_id: str, **overrides: object) -> list[Effect]:
        """A PSA token for a fresh challenge."""
        nonce = self.challenge(device_id, MediaType.PSA)
        return self.present(device_id, MediaType.PSA, self.signers[device_id].token(nonce, **overrides), nonce)

    def fingerprint(self) -> list[Effect]:
        """The pump's fingerprint for a fresh challenge."""
        nonce = self.challenge("pump-1", MediaType.MODBUS)
        return self.present("pump-1", MediaType.MODBUS, codec.encode({1: nonce, 2: self.objects, 3: self.registers}), nonce)

    def attest_all(self) -> list[Effect]:
        """Everybody proves itself."""
        return [*self.token("pump-1"), *self.fingerprint(), *self.token("patch-1")]

    def level(self, device_id: str) -> int:
        """A device's level now."""
        return int(self.engine.standings[device_id].level)

    def grants(self, effects: Sequence[Effect], device_id: str) -> list[Grant]:
        """The grants for a device among effects."""
        return [e for e in effects if isinstance(e, Grant) and e.lease.device_id == device_id]

    @staticmethod
    def of(effects: Sequence[Effect], kind: type[Effect]) -> list[Effect]:
        """Effects of one kind."""
        return [e for e in effects if isinstance(e, kind)]


__all__ = ["Alarm", "Challenge", "Issue", "Ward", "profile"]
