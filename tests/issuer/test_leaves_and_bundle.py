from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import MalformedError
from gateway.issuer.bundle import BatchHeader, Freshness, LeafProof, UnverifiedBundle, encode_bundle, parse_bundle
from gateway.issuer.leaves import (
    GatewayLeaf,
    Platform,
    VerdictLeaf,
    chain_hash,
    encode_gateway,
    encode_verdict,
    parse_gateway,
    parse_verdict,
)
from gateway.model.certificate import SoftwareKey, Verdict
from tests.issuer.verdicts import verdict, verdicts

H = bytes(range(32))
GATEWAY = GatewayLeaf(
    (SoftwareKey("issuing", H), SoftwareKey("tls", H[::-1])), Platform("gw-1", "0.1.0", "uefi"), chain_hash([b"a", b"b"])
)


@given(verdicts, st.binary(min_size=32, max_size=32))
def test_verdicts_come_back(v: Verdict, digest: bytes) -> None:
    data = encode_verdict(v, digest)
    assert parse_verdict(data) == VerdictLeaf(v, digest)
    assert codec.encode(cbor2.loads(data)) == data


def test_a_verdict_is_the_map_of_the_readme() -> None:
    v = verdict()
    e = v.evidence[0]
    assert cbor2.loads(encode_verdict(v, H)) == {
        0: 1,
        1: "pump-1",
        2: "infusion-pump",
        3: 3,
        4: 2,
        5: {0: 2, 2: 3, 4: 2},
        6: "asymmetric",
        7: [["application/psa-attestation-token", e.evidence_hash, e.nonce, "port:p-pump-1"]],
        8: v.policy_id,
        9: v.issued_at.utc_ns,
        10: 3,
        11: v.expires_utc_ns,
        12: [["control", True], ["maintenance", True], ["monitoring", True]],
        13: H,
    }


@given(st.integers(0, 2**63 - 1), st.integers(0, 300))
def test_numbers_and_lengths_have_their_shortest_form(number: int, length: int) -> None:
    v = verdict(expires_utc_ns=number, policy_id="x" * length, profile="é" * length)
    data = encode_verdict(v, H)
    assert codec.encode(cbor2.loads(data)) == data


def test_boot_time_is_not_in_a_leaf() -> None:
    back = parse_verdict(encode_verdict(verdict(), H)).verdict
    assert back.issued_at.boot_id == "" and back.issued_at.mono_ns == 0
    assert replace(back, issued_at=verdict().issued_at) == verdict()


def test_leaf_0_comes_back() -> None:
    assert parse_gateway(encode_gateway(GATEWAY)) == GATEWAY
    assert GATEWAY.key_hash("issuing") == H
    for keys in ((), (SoftwareKey("issuing", H),) * 2):
        with pytest.raises(MalformedError):
            replace(GATEWAY, keys=keys).key_hash("issuing")
    with pytest.raises(ValueError, match="root_of_measurement"):
        Platform("gw", "b", "bios")


def test_chain_hash_knows_where_certificates_end() -> None:
    assert chain_hash([b"ab", b"c"]) != chain_hash([b"a", b"bc"])


def test_neither_leaf_poses_as_the_other() -> None:
    with pytest.raises(MalformedError):
        parse_gateway(encode_verdict(verdict(), H))
    with pytest.raises(MalformedError):
        parse_verdict(encode_gateway(GATEWAY))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0, False),
        (1, b"pump-1"),
        (3, 4),
        (3, True),
        (4, 33),
        (5, {0: 0}),
        (5, {True: 2}),
        (6, "magic"),
        (7, [["a", H, b"", "open", 1]]),
        (7, [["a", H[1:], b"", "open"]]),
        (7, [["a", H, b"x" * 65, "open"]]),
        (7, [["a", H, b"", "open"]] * 65),
        (8, "x" * 1025),
        (9, -1),
        (10, 5),
        (11, 2**63),
        (12, [["control", 1]]),
        (13, H + b"\0"),
        (14, 1),
    ],
)
def test_verdicts_are_strict(key: int, value: Any) -> None:
    plain = cbor2.loads(encode_verdict(verdict(), H))
    with pytest.raises(MalformedError):
        parse_verdict(codec.encode({**plain, key: value}))
    plain.pop(min(key, 13))
    with pytest.raises(MalformedError):
        parse_verdict(codec.encode(plain))


# --- the batch header ---


def header(**changes: Any) -> BatchHeader:
    values: dict[str, Any] = {
        "freshness": Freshness.epoch(7, "boot"),
        "sequence": 9,
        "size": 3,
        "root": H,
        "previous_root": bytes(32),
        "nv_counter": 4,
    }
    return BatchHeader(**{**values, **changes})


def test_qualifying_data_is_the_formula() -> None:
    freshness = (7).to_bytes(8, "big") + hashlib.sha256(b"boot").digest()
    inner = hashlib.sha256(b"\x01" + b"\x00\x28" + freshness).digest()
    rest = bytes(7) + b"\x09" + bytes(3) + b"\x03" + H + bytes(32) + bytes(7) + b"\x04"
    assert header().qualifying() == hashlib.sha256(b"wardgate-batch-v1\x00" + inner + rest).digest()


def test_every_field_changes_what_is_signed() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"freshness": Freshness.epoch(8, "boot")},
        {"freshness": Freshness.epoch(7, "boot2")},
        {"freshness": Freshness.nonce(Freshness.epoch(7, "boot").value)},
        {"sequence": 10},
        {"size": 4},
        {"root": H[::-1]},
        {"previous_root": H},
        {"nv_counter": 5},
    ]
    assert len({header(**c).qualifying() for c in changes}) == len(changes)


def test_freshness_is_bounded() -> None:
    for kind, value in ((0, bytes(40)), (1, bytes(39)), (2, bytes(7)), (2, bytes(65)), (3, bytes(40))):
        with pytest.raises(ValueError, match="freshness"):
            Freshness(kind, value)


# --- the bundle ---

BUNDLE = UnverifiedBundle(
    b"ear",
    b"spki",
    LeafProof(b"verdict", bytes(16), 2, (H, H)),
    LeafProof(b"gateway", bytes(16), 0, (H, H)),
    b"attest",
    b"signature",
    ((0, H), (7, H)),
    header(),
    (b"ak", b"ca"),
)


def test_bundles_come_back() -> None:
    data = encode_bundle(BUNDLE)
    assert parse_bundle(data) == BUNDLE
    assert encode_bundle(parse_bundle(data)) == data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0, 2),
        (0, True),
        (1, b""),
        (1, "ear"),
        (2, b"x" * 513),
        (3, [b"verdict", bytes(16), 0, []]),
        (3, [b"verdict", bytes(16), 3, []]),
        (3, [b"verdict", bytes(15), 1, []]),
        (3, [b"verdict", bytes(16), 1, [H[1:]]]),
        (3, [b"verdict", bytes(16), 1, [H] * 21]),
        (3, [b"verdict", bytes(16), 1]),
        (4, [b"gateway", bytes(16), 0, []]),
        (6, b""),
        (7, {}),
        (7, {0: H[1:]}),
        (7, {-1: H}),
        (8, [1, bytes(41)]),
        (8, [True, bytes(40)]),
        (9, -1),
        (9, 1.0),
        (10, 1),
        (10, 1_000_001),
        (11, H + b"\0"),
        (13, 2**63),
        (14, []),
        (14, [b"c"] * 5),
        (14, ["ak"]),
        (15, 0),
        ("note", "hello"),
    ],
)
def test_bundles_are_strict(key: Any, value: Any) -> None:
    plain = cbor2.loads(encode_bundle(BUNDLE))
    with pytest.raises(MalformedError):
        parse_bundle(codec.encode({**plain, key: value}))


@pytest.mark.parametrize("key", range(15))
def test_no_key_is_optional(key: int) -> None:
    plain = cbor2.loads(encode_bundle(BUNDLE))
    del plain[key]
    with pytest.raises(MalformedError):
        parse_bundle(codec.encode(plain))


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\x80", b"\xf6", b"\xa1\x00\x01", b"\xff" * 10, bytes(200_000)])
def test_what_is_no_bundle(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_bundle(data)


@given(st.binary(max_size=400))
def test_garbage_is_malformed(data: bytes) -> None:
    for parse in (parse_bundle, parse_verdict, parse_gateway):
        with pytest.raises(MalformedError):
            parse(data)


def test_longer_forms_of_the_same_values_are_refused() -> None:
    data = encode_bundle(BUNDLE)
    assert data[:3] == b"\xaf\x00\x01"  # fifteen pairs, key 0, version 1
    for longer in (b"\xb8\x0f\x00\x01", b"\xaf\x18\x00\x01", b"\xaf\x00\x18\x01", b"\xbf\x00\x01"):
        with pytest.raises(MalformedError):
            parse_bundle(longer + data[3:] + (b"\xff" if longer[0] == 0xBF else b""))
