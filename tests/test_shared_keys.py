"""Devices that share a key, through the engine: their ceiling, their bond, and a replay that needs the key store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest

from gateway import codec
from gateway.appraise_file import appraise_file
from gateway.engine import Engine
from gateway.errors import EvidenceError, InputError
from gateway.model.device import Bond, Bus, Device, DeviceState
from gateway.model.effect import Effect, KeepBond, Record
from gateway.model.event import ChallengeIssued, Configured, Event, EvidenceArrived, LinkChanged, OperatorCommand
from gateway.model.evidence import Channel, ChannelKind, Evidence, EvidenceClass, MediaType
from gateway.model.instant import Instant, TimeQuality
from gateway.model.profile import BEACON_KEY, TOKEN_KEY
from gateway.proposal import Proposal, propose, without_secrets
from gateway.screening import screen_for
from hil.psa import MacSigner, mac_signer_of
from tests.fakes.ward import PROFILES as PROFILES_DIR
from tests.fakes.ward import profile
from tests.verifier.test_beacon import EPOCHS

GATEWAY = "gw-1"
OXIMETER, BEACON = "oximeter-1", "beacon-1"
PROFILES = {OXIMETER: "pulse-oximeter", BEACON: "temperature-beacon"}
MEDIA = {OXIMETER: MediaType.PSA, BEACON: MediaType.BEACON}
ADDRESSES = {OXIMETER: "C0:00:00:00:00:02", BEACON: "C0:00:00:00:00:03"}


def endorsement(device_id: str, gateway: str = GATEWAY) -> str:
    return json.dumps(mac_signer_of(device_id, device_id.encode().ljust(32, b"\0")).reference(gateway))


def proposal(device_id: str, text: str | None = None) -> Proposal:
    a = {
        "bus": "ble",
        "profile": PROFILES[device_id],
        "address": ADDRESSES[device_id],
        "endorsement": text if text is not None else endorsement(device_id),
    }
    return propose(device_id, a, profile(PROFILES[device_id]), GATEWAY)


class Ward:
    """An engine with an oximeter and a beacon; every event in ``log``."""

    def __init__(self, isolated: bool = True) -> None:
        self.engine, self.log = Engine(), list[tuple[Instant, Event]]()
        self.effects: list[Effect] = []
        self.now = Instant("boot", 10**12, 18 * 10**17, TimeQuality.RTC)
        self.signers = {d: mac_signer_of(d, d.encode().ljust(32, b"\0")) for d in PROFILES}
        self.proposals = {d: proposal(d) for d in PROFILES}
        profiles = tuple(profile(p) for p in PROFILES.values())
        if not isolated:
            profiles = tuple(
                dataclasses.replace(p, targets=tuple(dataclasses.replace(t, key_isolated=False) for t in p.targets))
                for p in profiles
            )
        devices = tuple(Device(d, d, Bus.BLE, PROFILES[d], ADDRESSES[d], DeviceState.ENFORCED) for d in PROFILES)
        refs = tuple((d, p.references.with_secrets(p.shared)) for d, p in self.proposals.items())
        self.feed(Configured(profiles, devices, refs))

    def feed(self, event: Event) -> list[Effect]:
        self.log.append((self.now, event))
        out = self.engine.receive(event, self.now)
        self.effects += out
        return out

    def present(self, device_id: str, payload: bytes, nonce: bytes) -> list[Effect]:
        self.feed(ChallengeIssued(device_id, MEDIA[device_id], nonce))
        channel = Channel(ChannelKind.BONDED_MITM, ADDRESSES[device_id])
        return self.feed(EvidenceArrived(Evidence(device_id, MEDIA[device_id], payload, nonce, channel, self.now, "ble")))

    def honest(self, number: int = 5) -> None:
        nonce = bytes([number]) * 32
        self.present(OXIMETER, self.signers[OXIMETER].token(nonce, GATEWAY), nonce)
        beacon = EPOCHS[number] + self.signers[BEACON].beacon(GATEWAY, EPOCHS[number], number, 1, b"")
        self.present(BEACON, beacon, EPOCHS[number])

    def level(self, device_id: str) -> int:
        return int(self.engine.standings[device_id].level)


def decisions(effects: list[Effect]) -> list[str]:
    return [e.text for e in effects if isinstance(e, Record) and e.kind == "decision"]


@pytest.mark.parametrize(("isolated", "level"), [(True, 2), (False, 1)])
def test_they_reach_level_2_and_level_1_where_the_firmware_attests_itself(isolated: bool, level: int) -> None:
    ward = Ward(isolated)
    for device_id in PROFILES:
        ward.feed(LinkChanged(device_id, up=True, bond=Bond.MITM))
    ward.honest()
    assert {d: ward.level(d) for d in PROFILES} == {OXIMETER: level, BEACON: level}
    held = {d: next(iter(ward.engine.standings[d].held.values())).evidence_class for d in PROFILES}
    assert held == {OXIMETER: EvidenceClass.SYMMETRIC, BEACON: EvidenceClass.BEACON}


def test_a_bond_is_kept_once_and_a_link_that_tells_none_changes_nothing() -> None:
    ward = Ward()
    kept = [e for e in ward.feed(LinkChanged(OXIMETER, up=True, bond=Bond.MITM)) if isinstance(e, KeepBond)]
    assert kept == [KeepBond(OXIMETER, Bond.MITM)]
    assert ward.engine.standings[OXIMETER].device.bond is Bond.MITM
    more = [LinkChanged(OXIMETER, up=False), LinkChanged(OXIMETER, up=True, bond=Bond.MITM), LinkChanged(OXIMETER, up=True)]
    assert not [e for event in more for e in ward.feed(event) if isinstance(e, KeepBond)]


def test_forgeries_change_no_level_and_tampering_is_a_veto_only_where_it_is_authenticated() -> None:
    ward = Ward()
    ward.honest()
    forged = EPOCHS[6] + ward.signers[BEACON].beacon("another", EPOCHS[6], 6, 9, b"")
    ward.present(BEACON, forged, EPOCHS[6])
    ward.present(OXIMETER, ward.signers[OXIMETER].token(bytes(32), "another"), bytes(32))
    assert {ward.level(d) for d in PROFILES} == {2}
    for device_id in PROFILES:
        s = ward.signers[device_id]
        s.components = tuple(dataclasses.replace(c, measurement=bytes(32)) if c.type == "FW" else c for c in s.components)
    ward.honest(7)
    assert (ward.level(OXIMETER), ward.level(BEACON)) == (0, 2)  # a beacon of other firmware is nobody's: its trust ages


def test_the_log_replayed_with_the_key_store_gives_the_same_decisions_and_without_it_no_trust() -> None:
    ward = Ward()
    ward.honest()
    ward.signers[OXIMETER].components = ()
    ward.honest(8)
    plain = [(at, json.dumps(codec.to_plain(event))) for at, event in ward.log]
    keys = {d: p.shared for d, p in ward.proposals.items()}
    for shared in keys.values():
        assert all(key.hex() not in text for key in shared.values() for _, text in plain)
    assert decisions(_replayed(plain, keys)) == decisions(ward.effects) != []
    assert any("→ 2" in text for text in decisions(ward.effects))
    assert not any("→ 2" in text for text in decisions(_replayed(plain, {})))


def _replayed(plain: list[tuple[Instant, str]], keys: Mapping[str, Mapping[str, bytes]]) -> list[Effect]:
    engine, out = Engine(), list[Effect]()
    for at, text in plain:
        event = codec.from_plain(Event, json.loads(text))
        if isinstance(event, Configured):
            event = dataclasses.replace(event, references=tuple((d, r.with_secrets(keys.get(d, {}))) for d, r in event.references))
        out += engine.receive(event, at)
    return out


# --- the endorsement ---


def test_an_endorsement_is_split_into_what_is_public_and_what_is_not() -> None:
    made = proposal(OXIMETER)
    signer = mac_signer_of(OXIMETER, OXIMETER.encode().ljust(32, b"\0"))
    assert made.shared == {TOKEN_KEY: signer.derived("token", GATEWAY), BEACON_KEY: signer.derived("beacon", GATEWAY)}
    assert {a.shared for a in made.references.anchors} == {TOKEN_KEY, BEACON_KEY}
    assert not any(a.secret for a in made.references.anchors)
    assert all(v.target == "firmware" for v in made.references.values)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (endorsement(OXIMETER, "gw-2"), "made for gateway 'gw-2'"),
        ("[1]", "no JSON object"),
        ("nonsense", "no JSON object"),
        (json.dumps({**json.loads(endorsement(OXIMETER)), "token-key": "00" * 31}), "32 bytes"),
        (json.dumps({**json.loads(endorsement(OXIMETER)), "token-key": "zz" * 32}), "does not parse"),
        (json.dumps({**json.loads(endorsement(OXIMETER)), "components": None}), "does not parse"),
        (json.dumps({k: v for k, v in json.loads(endorsement(OXIMETER)).items() if not k.endswith("-key")}), "holds no key"),
    ],
)
def test_an_endorsement_that_does_not_fit_is_refused_without_repeating_a_key(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        proposal(OXIMETER, text)
    assert "zzzz" not in str(caught.value)


def test_the_record_of_a_command_holds_no_key() -> None:
    text = endorsement(OXIMETER)
    command = OperatorCommand("ann", "biomed", "add", OXIMETER, (("endorsement", text), ("passkey", "123456"), ("bus", "ble")), "s")
    kept = json.dumps(codec.to_plain(without_secrets(command)))
    told = json.loads(text)
    assert told["token-key"] not in kept and told["beacon-key"] not in kept and "123456" not in kept
    assert told["ueid"] in kept and "ble" in kept


# --- what a driver is given to check beacons with ---


def test_a_screen_follows_the_references_the_engine_holds() -> None:
    ward = Ward()
    assert screen_for(OXIMETER, lambda: ward.engine.standings) is None
    screen = screen_for(BEACON, lambda: ward.engine.standings)
    assert screen is not None
    signer: MacSigner = ward.signers[BEACON]
    screen(EPOCHS[3] + signer.beacon(GATEWAY, EPOCHS[3], 3, 1, b""))
    with pytest.raises(EvidenceError):
        screen(EPOCHS[3] + signer.beacon("gw-2", EPOCHS[3], 3, 1, b""))
    s = ward.engine.standings[BEACON]
    s.references = dataclasses.replace(s.references, anchors=())
    with pytest.raises(EvidenceError):
        screen(EPOCHS[3] + signer.beacon(GATEWAY, EPOCHS[3], 3, 1, b""))
    ward.engine.standings = {}
    with pytest.raises(EvidenceError):
        screen(EPOCHS[3] + signer.beacon(GATEWAY, EPOCHS[3], 3, 1, b""))


# --- on the command line ---


def test_evidence_in_a_file_is_appraised_with_the_endorsement_as_key() -> None:
    signer, toml = mac_signer_of(OXIMETER, OXIMETER.encode().ljust(32, b"\0")), PROFILES_DIR
    key = endorsement(OXIMETER).encode()
    token = signer.token(bytes(32), GATEWAY)
    made = signer.beacon(GATEWAY, EPOCHS[3], 3, 1, b"")
    for payload, media, name, nonce in (
        (token, MediaType.PSA, "pulse-oximeter", bytes(32)),
        (EPOCHS[3] + made, MediaType.BEACON, "temperature-beacon", EPOCHS[3]),
    ):
        profile_toml = (toml / f"{name}.toml").read_bytes()
        assert appraise_file(payload, media, profile_toml, key, nonce, 10**18)[2] == 0
        assert appraise_file(payload[:-1] + b"\0", media, profile_toml, key, nonce, 10**18)[2] == 12
        assert appraise_file(payload, media, profile_toml, endorsement(OXIMETER, "gw-2").encode(), nonce, 10**18)[2] == 12
