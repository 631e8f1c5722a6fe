"""Deterministic CBOR, strict COSE_Sign1, and plain forms that come back as they were."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import EvidenceError, MalformedError
from gateway.model.device import Binding, Bus, Device
from gateway.model.event import Configured, Event, EvidenceArrived, LinkChanged, OperatorCommand
from gateway.model.evidence import Channel, ChannelKind, Evidence
from gateway.model.instant import Instant, TimeQuality

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 1000) | st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(plain_values)
def test_decode_of_encode_is_identity(value: object) -> None:
    assert codec.decode(codec.encode(value)) == value


@given(st.binary(max_size=64))
def test_random_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except MalformedError:
        return
    assert codec.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [b"\x18\x01", b"\x9f\x01\xff", b"\xa2\x02\x01\x01\x01", b"\x01\x01", b"", b"\x81" * 40 + b"\x01", b"\xfb" + bytes(8)],
    ids=["long form", "indefinite", "unsorted", "trailing", "empty", "too deep", "long float"],
)
def test_what_is_not_deterministic_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        codec.decode(data)


def _signed(payload: bytes) -> tuple[bytes, ec.EllipticCurvePublicKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    protected = codec.sign1_protected(b"kid")
    raw = codec.raw_signature(key.sign(codec.sign1_to_sign(protected, payload), ec.ECDSA(hashes.SHA256())))
    return codec.sign1(protected, payload, raw), key.public_key()


def test_sign1_round_trip_and_every_flipped_byte_fails() -> None:
    data, key = _signed(b"what is signed")
    assert codec.parse_sign1(data).verify(key) == b"what is signed"
    for i in range(len(data)):
        flipped = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        with pytest.raises(EvidenceError):
            codec.parse_sign1(flipped).verify(key)


def test_unprotected_headers_and_other_algorithms_are_refused() -> None:
    data, _ = _signed(b"x")
    tag = cbor2.loads(data)
    protected, _, payload, signature = tag.value
    with pytest.raises(MalformedError, match="unprotected"):
        codec.parse_sign1(codec.encode(cbor2.CBORTag(18, [protected, {4: b"x"}, payload, signature])))
    with pytest.raises(MalformedError, match="ES256"):
        codec.parse_sign1(codec.encode(cbor2.CBORTag(18, [codec.encode({1: -35}), {}, payload, signature])))


NOW = Instant("boot", 5, 7, TimeQuality.RTC)
EVENTS: list[Event] = [
    LinkChanged("pump-1", True, "ok"),
    EvidenceArrived(Evidence("pump-1", "application/x", b"\x00\xff", b"n" * 32, Channel(ChannelKind.PORT, "p"), NOW, "modbus")),
    Configured((), (Device("d", "D", Bus.MODBUS, "p", "10.0.0.1", binding=Binding("p1", "02:00:00:00:00:01", ("10.0.0.1",))),), ()),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_events_come_back_from_their_plain_form(event: Event) -> None:
    assert codec.from_plain(Event, codec.to_plain(event)) == event


def test_a_secret_has_no_plain_form() -> None:
    assert "hunter2" not in str(codec.to_plain(OperatorCommand("a", "admin", "enforce", "d", (), "hunter2")))


@pytest.mark.parametrize(
    "plain", [{"type": "Nothing"}, {"type": "LinkChanged"}, {"type": "LinkChanged", "device_id": 3, "up": True}, 5, None, []]
)
def test_a_plain_form_that_does_not_fit_is_malformed(plain: object) -> None:
    with pytest.raises(MalformedError):
        codec.from_plain(Event, plain)
