"""Beacons and MAC tokens: what a shared key vouches for, and what nothing does."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import AttestationResult, Channel, ChannelKind, Evidence, EvidenceClass, MediaType, Tier
from gateway.model.profile import BEACON_KEY, TOKEN_KEY, References, ReferenceValue, TrustAnchor
from gateway.verifier.appraise import appraise
from gateway.verifier.beacon import MAX_LATER, Screen, earlier, mac, measurement_of, verify_beacon
from hil.psa import Component, mac_signer_of
from tests.verifier.cases import MAKER, NONCE, NOW, evidence

GATEWAY = "gw-1"
KEY = bytes(range(32))
DEVICE = mac_signer_of("oximeter", KEY)
CHAIN = [bytes(12)]  # newest first
for _ in range(40):
    CHAIN.append(earlier(CHAIN[-1]))
EPOCHS = CHAIN[::-1]  # EPOCHS[n] is the id of epoch n


def references(gateway: str = GATEWAY, *, keys: bool = True) -> References:
    told = {TOKEN_KEY: DEVICE.derived("token", gateway), BEACON_KEY: DEVICE.derived("beacon", gateway)}
    values = {f"component:{c.type}": c.measurement for c in DEVICE.components}
    values["implementation-id"] = DEVICE.implementation_id
    made = References(
        tuple(TrustAnchor(DEVICE.ueid, b"", shared=use) for use in told),
        tuple(ReferenceValue("firmware", n, v, MAKER) for n, v in values.items()),
    )
    return made.with_secrets(told) if keys else made


def beacon(epoch: int, counter: int = 1, readings: bytes = b"\x01\x6e\xf1", gateway: str = GATEWAY) -> bytes:
    return EPOCHS[epoch] + DEVICE.beacon(gateway, EPOCHS[epoch], epoch, counter, readings)


def judged(payload: bytes, asked: bytes, refs: References | None = None) -> AttestationResult:
    channel = Channel(ChannelKind.BONDED_MITM, "C0:00:00:00:00:03")
    return appraise(Evidence("beacon-1", MediaType.BEACON, payload, asked, channel, NOW, "ble"), refs or references())


def measured() -> bytes:
    return measurement_of({c.type: c.measurement for c in DEVICE.components})


# --- beacons ---


def test_a_beacon_by_hand() -> None:
    """The bytes of the README, with nothing of the code under test but SHA-256."""
    key = DEVICE.derived("beacon", GATEWAY)
    firmware = hashlib.sha256(b"A\0" + b"\x11" * 32 + b"B\0" + b"\x22" * 32).digest()
    assert measurement_of({"B": b"\x22" * 32, "A": b"\x11" * 32}) == firmware
    body = bytes.fromhex("15000000070 16ef1".replace(" ", ""))
    message = b"wardgate-beacon-v1\0" + b"\x05" * 12 + firmware + body
    pads = [bytes(k ^ x for k in key.ljust(64, b"\0")) for x in (0x36, 0x5C)]
    expected = hashlib.sha256(pads[1] + hashlib.sha256(pads[0] + message).digest()).digest()[:8]
    assert mac(key, b"\x05" * 12, firmware, body) == expected
    assert verify_beacon(b"\x05" * 12 + body + expected, key, firmware) == (b"\x05" * 12, 7, b"\x01\x6e\xf1")
    assert earlier(b"\x05" * 12) == hashlib.sha256(b"wardgate-epoch-v1\0" + b"\x05" * 12).digest()[:12]


def test_a_genuine_beacon_affirms_identity_and_firmware() -> None:
    r = judged(beacon(20), EPOCHS[20])
    assert (r.tier, r.authenticated, r.fresh, r.countersigned) == (Tier.AFFIRMING, True, True, True)
    assert r.evidence_class is EvidenceClass.BEACON
    assert r.vector.claims() == {"instance-identity": 2, "executables": 3}
    assert r.findings == ()


@pytest.mark.parametrize("later", range(MAX_LATER + 1))
def test_a_beacon_of_a_somewhat_later_epoch_answers(later: int) -> None:
    assert judged(beacon(20 + later), EPOCHS[20]).fresh


@pytest.mark.parametrize("epoch", [19, 10, 20 + MAX_LATER + 1, 40])
def test_a_beacon_of_an_earlier_or_far_later_epoch_does_not(epoch: int) -> None:
    r = judged(beacon(epoch), EPOCHS[20])
    assert r.authenticated and not r.fresh and not r.veto
    assert (r.tier, r.findings[0].code) == (Tier.NONE, "replayed")


def test_every_changed_byte_is_nobodys() -> None:
    good = beacon(20)
    for at in range(len(good)):
        for bit in (0x01, 0x80):
            r = judged(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :], EPOCHS[20])
            assert not r.authenticated and not r.veto and r.tier is Tier.NONE


def test_another_gateways_beacon_is_nobodys() -> None:
    assert not judged(beacon(20, gateway="gw-2"), EPOCHS[20]).authenticated
    assert not judged(beacon(20), EPOCHS[20], references("gw-2")).authenticated


def test_changed_firmware_looks_like_a_forgery() -> None:
    other = mac_signer_of("oximeter", KEY)
    other.components = (Component.of("BL", b"boot loader of oximeter"), Component.of("FW", b"other"))
    r = judged(EPOCHS[20] + other.beacon(GATEWAY, EPOCHS[20], 20, 1, b""), EPOCHS[20])
    assert not r.authenticated and not r.veto


@pytest.mark.parametrize("missing", ["keys", "anchors", "values"])
def test_without_a_key_or_a_reference_nothing_is_believed(missing: str) -> None:
    whole = references(keys=missing != "keys")
    part = dataclasses.replace(whole, **{} if missing == "keys" else {missing: ()})
    r = judged(beacon(20), EPOCHS[20], part)
    assert not r.authenticated and r.tier is Tier.NONE
    with pytest.raises(EvidenceError):
        Screen(part)


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_key_of_another_size_is_no_key(key: bytes) -> None:
    with pytest.raises(EvidenceError):
        Screen(references(keys=False).with_secrets({BEACON_KEY: key}))


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_any_bytes_are_an_evidence_error(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_beacon(data, KEY, bytes(32))


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.binary(max_size=9))
@settings(deadline=None)
def test_what_a_device_makes_is_what_is_read(counter: int, epoch: int, readings: bytes) -> None:
    assert Screen(references()).verify(beacon(epoch, counter, readings)) == (EPOCHS[epoch], counter, readings)


@pytest.mark.parametrize("size", [-1, 10])
def test_sizes_outside_the_format_are_malformed(size: int) -> None:
    payload = bytes(12) + b"\x10" + bytes(4 + size + 8)
    with pytest.raises(MalformedError):
        verify_beacon(payload, KEY, bytes(32))


# --- tokens with a shared key ---


def test_a_mac_token_is_of_the_symmetric_class() -> None:
    r = appraise(evidence(DEVICE.token(NONCE, GATEWAY)), references())
    assert (r.tier, r.evidence_class, r.fresh, r.countersigned) == (Tier.AFFIRMING, EvidenceClass.SYMMETRIC, True, True)


def test_a_mac_token_for_another_gateway_is_nobodys() -> None:
    for r in (
        appraise(evidence(DEVICE.token(NONCE, "gw-2")), references()),
        appraise(evidence(DEVICE.token(NONCE, GATEWAY)), references(keys=False)),
    ):
        assert not r.authenticated and not r.veto and r.findings[0].code == "unauthenticated"


def test_the_keys_of_token_and_beacon_are_not_each_others() -> None:
    swapped = {TOKEN_KEY: DEVICE.derived("beacon", GATEWAY), BEACON_KEY: DEVICE.derived("token", GATEWAY)}
    refs = references(keys=False).with_secrets(swapped)
    assert not appraise(evidence(DEVICE.token(NONCE, GATEWAY)), refs).authenticated
    assert not judged(beacon(20), EPOCHS[20], refs).authenticated


# --- secrets stay where they are ---


def test_a_shared_key_has_no_plain_form() -> None:
    told = references()
    plain = str(codec.to_plain(told))
    assert all(a.secret.hex() not in plain and a.secret.hex() not in repr(a) for a in told.anchors)
    again = codec.from_plain(References, codec.to_plain(told))
    assert again == references(keys=False)
    keys = {a.shared: a.secret for a in told.anchors}
    assert again.with_secrets(keys) == told
