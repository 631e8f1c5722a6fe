"""Modbus fingerprints: what a change is called, what is never affirmed, and whose they are."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import ChannelKind, EvidenceClass, Tier
from gateway.model.profile import References
from gateway.verifier.appraise import appraise
from gateway.verifier.fingerprint import parse_modbus
from tests.verifier.cases import LEARNED, NONCE, OBJECTS, REGISTERS, modbus, modbus_payload, modbus_references

GOOD = modbus_payload()


def test_a_matching_fingerprint_is_honestly_a_warning() -> None:
    r = appraise(modbus(GOOD), modbus_references())
    assert (r.tier, r.authenticated, r.fresh, r.veto, r.countersigned) == (Tier.WARNING, True, True, False, True)
    assert r.vector.claims() == {"configuration": 2, "sourced-data": 32}  # nothing of executables or instance identity
    assert r.evidence_class is EvidenceClass.FINGERPRINT
    assert len(r.observed) == len(OBJECTS) + len(REGISTERS)
    assert dict(r.observed)["register:105"] == (1005).to_bytes(2, "big")


def test_a_changed_register_is_named() -> None:
    r = appraise(modbus(modbus_payload(registers={**REGISTERS, 105: 7})), modbus_references())
    assert r.veto
    assert (r.vector.configuration, r.vector.sourced_data) == (96, 32)
    assert r.findings[0].text == "configuration changed at register 105: 7, expected 1005"
    assert (r.findings[0].code, r.findings[0].subject) == ("configuration-changed", "register:105")
    assert dict(r.observed)["register:105"] == b"\0\7"


def test_changed_identification_is_not_recognised() -> None:
    r = appraise(modbus(modbus_payload({**OBJECTS, 1: b"IP-200"})), modbus_references())
    assert (r.veto, r.vector.instance_identity, r.findings[0].code) == (True, 97, "identification-changed")
    assert r.findings[0].text == "identification changed at object 1: 'IP-200', expected 'IP-100'"


def test_hostile_identification_text_stays_out_of_sentences() -> None:
    r = appraise(modbus(modbus_payload({**OBJECTS, 1: b"\x1b[2J\n"})), modbus_references())
    assert all(f.text.isprintable() for f in r.findings)


def test_everything_changed_is_twenty_findings_and_a_count() -> None:
    r = appraise(modbus(modbus_payload(registers=dict.fromkeys(REGISTERS, 0))), modbus_references())
    r2 = appraise(modbus(modbus_payload(dict.fromkeys(OBJECTS, b"x"), dict.fromkeys(REGISTERS, 0))), modbus_references())
    assert len(r.findings) == 20
    assert (len(r2.findings), r2.findings[-1].code, r2.findings[-1].text[:2]) == (21, "more", "3 ")


def test_without_references_nothing_is_known_but_it_can_be_learned() -> None:
    r = appraise(modbus(GOOD), References())
    assert (r.tier, r.authenticated, r.fresh, r.veto) == (Tier.NONE, True, True, False)
    assert r.findings[0].code == "no-reference"
    assert len(r.observed) == 23


def test_learned_values_wait_for_a_person() -> None:
    r = appraise(modbus(GOOD), modbus_references(LEARNED))
    assert (r.tier, r.countersigned, r.vector.configuration) == (Tier.WARNING, False, 0)
    assert r.findings[0].code == "not-countersigned"
    assert appraise(modbus(GOOD), modbus_references(LEARNED, countersigned=True)).countersigned


def test_a_value_without_reference_is_incomplete() -> None:
    r = appraise(modbus(GOOD), modbus_references(without="register:119"))
    assert (r.tier, r.countersigned, r.vector.configuration) == (Tier.WARNING, False, 36)
    assert "register 119 has no reference value" in r.findings[0].text


def test_a_reference_that_was_not_measured_is_none() -> None:
    r = appraise(modbus(modbus_payload(registers={k: v for k, v in REGISTERS.items() if k != 110})), modbus_references())
    assert (r.tier, r.veto, r.findings[0].code) == (Tier.NONE, False, "not-measured")
    empty = appraise(modbus(modbus_payload({}, {})), modbus_references())
    assert (empty.tier, empty.veto) == (Tier.NONE, False)


def test_over_an_open_channel_it_is_nobodys() -> None:
    bad = modbus_payload(registers={**REGISTERS, 105: 7})
    r = appraise(modbus(bad, channel=ChannelKind.OPEN), modbus_references())
    assert (r.authenticated, r.veto, r.tier, r.observed) == (False, False, Tier.NONE, ())
    assert r.findings[0].code == "unauthenticated"


def test_an_old_fingerprint_earns_and_costs_nothing() -> None:
    r = appraise(modbus(modbus_payload(registers={**REGISTERS, 105: 7}, nonce=bytes(32))), modbus_references())
    assert (r.authenticated, r.fresh, r.veto, r.tier, r.findings[0].code) == (True, False, False, Tier.NONE, "replayed")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {1: NONCE, 2: {}},
        {1: NONCE, 2: {}, 3: {}, 4: 0},
        {1: "x", 2: {}, 3: {}},
        {1: bytes(65), 2: {}, 3: {}},
        {1: NONCE, 2: [], 3: {}},
        {1: NONCE, 2: {256: b""}, 3: {}},
        {1: NONCE, 2: {True: b""}, 3: {}},
        {1: NONCE, 2: {0: "text"}, 3: {}},
        {1: NONCE, 2: {0: bytes(246)}, 3: {}},
        {1: NONCE, 2: {}, 3: {0x10000: 1}},
        {1: NONCE, 2: {}, 3: {1: 0x10000}},
        {1: NONCE, 2: {}, 3: {1: -1}},
        {1: NONCE, 2: {}, 3: {n: 0 for n in range(2049)}},
    ],
    ids=range(14),
)
def test_malformed(value: object) -> None:
    with pytest.raises(MalformedError):
        parse_modbus(cbor2.dumps(value, canonical=True))


def test_only_the_one_encoding_is_read() -> None:
    with pytest.raises(MalformedError):
        parse_modbus(cbor2.dumps({3: {}, 2: {}, 1: NONCE}))


@given(st.binary(max_size=120), st.integers(0, len(GOOD)), st.integers(0, 20))
def test_garbage_raises_evidence_errors_only(garbage: bytes, at: int, cut: int) -> None:
    for payload in (garbage, GOOD[:at] + garbage + GOOD[at + cut :]):
        try:
            parse_modbus(payload)
        except EvidenceError:
            continue
