from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus import fingerprint as f
from gateway.errors import DeviceError
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.profile import Mailbox, Target

MAILBOX = Mailbox(0x9000, 0x9100)


def target(objects: tuple[int, ...] = (0, 1, 2), registers: tuple[tuple[int, int], ...] = ((100, 119),)) -> Target:
    return Target("configuration", MediaType.MODBUS, EvidenceClass.FINGERPRINT, 10.0, objects, registers)


@given(st.integers(0, 0xFFFF), st.integers(0, 600))
def test_reads_cover_a_span_exactly_once_and_none_is_too_long(first: int, more: int) -> None:
    last = min(first + more, 0xFFFF)
    covered = [a for r in f.register_requests([(first, last)]) for a in range(r.address, r.address + r.count)]
    assert covered == list(range(first, last + 1))


def test_the_payload_is_deterministic_cbor_of_nonce_objects_and_registers() -> None:
    payload = f.encode_fingerprint(b"n" * 32, target((1, 0)), {0: b"a", 1: b"b", 5: b"unasked"}, {101: 2, 100: 1})
    assert payload.hex() == "a3" + "01" + "5820" + "6e" * 32 + "02a2" + "004161" + "014162" + "03a2" + "186401" + "186502"
    assert cbor2.loads(payload) == {1: b"n" * 32, 2: {0: b"a", 1: b"b"}, 3: {100: 1, 101: 2}}


def test_an_object_that_is_not_shown_is_missing_in_the_evidence() -> None:
    assert cbor2.loads(f.encode_fingerprint(b"", target(), {0: b"a"}, {}))[2] == {0: b"a"}


@pytest.mark.parametrize(("objects", "code"), [((0, 2), 1), ((0, 3), 2), ((0x80,), 3)])
def test_the_stream_that_shows_all_objects(objects: tuple[int, ...], code: int) -> None:
    assert f.identification_request(target(objects)).read_code == code


@given(st.binary(min_size=1, max_size=2000))
def test_a_token_comes_out_as_it_went_in(token: bytes) -> None:
    padded = token + b"\0" * (len(token) % 2)
    words = [int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)]
    reads = f.token_requests(MAILBOX, len(token))
    assert sum(r.count for r in reads) == len(words)
    assert reads[0].address == MAILBOX.token + 1
    assert f.join_token(words, len(token)) == token


def test_lengths_that_no_token_has() -> None:
    for length in (0, f.MAX_TOKEN + 1, 0xFFFF):
        with pytest.raises(DeviceError):
            f.token_requests(MAILBOX, length)
    with pytest.raises(DeviceError):
        f.token_requests(Mailbox(0, 0xFFF0), 100)


def test_a_nonce_has_32_bytes() -> None:
    assert f.nonce_request(MAILBOX, bytes(range(32))).encode() == bytes.fromhex("109000001020") + bytes(range(32))
    with pytest.raises(ValueError, match="32"):
        f.nonce_request(MAILBOX, b"short")
