"""PURE. What is read from a device as evidence, and the evidence made of it. Refuses to judge any of it.

A fingerprint is the deterministic CBOR map {1: nonce, 2: {object id: bytes}, 3: {register: value}} of identification objects
(43/14) and holding registers. A token is read through a mailbox of holding registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import cbor2

from drivers.modbus.pdu import IDENTIFICATION, WRITE_REGISTERS, Request
from gateway.errors import DeviceError
from gateway.model.profile import Mailbox, Target

NONCE_BYTES = 32
MAX_TOKEN = 8192  # bytes; a PSA token with a dozen components has about 1,500
_MOST_REGISTERS = 125  # function 3, section 6.3
_STREAM_TO = ((1, 0x02), (2, 0x7F), (3, 0xFF))  # read device id code: the last object its stream shows


def register_requests(spans: Iterable[tuple[int, int]]) -> tuple[Request, ...]:
    """Reads (function 3) that cover inclusive spans of holding registers."""
    return tuple(
        Request(3, first, min(_MOST_REGISTERS, last + 1 - first))
        for start, last in spans
        for first in range(start, last + 1, _MOST_REGISTERS)
    )


def identification_request(target: Target, following: int = 0) -> Request:
    """The stream read that shows all of a target's objects, from object ``following`` on."""
    highest = max(target.objects)
    code = next(code for code, last in _STREAM_TO if highest <= last)
    return Request(IDENTIFICATION, address=following, read_code=code)


def encode_fingerprint(nonce: bytes, target: Target, objects: Mapping[int, bytes], registers: Mapping[int, int]) -> bytes:
    """The evidence. An object the device did not show is left out: the appraisal misses it."""
    shown = {i: objects[i] for i in target.objects if i in objects}
    return cbor2.dumps({1: nonce, 2: shown, 3: dict(registers)}, canonical=True)


def nonce_request(mailbox: Mailbox, nonce: bytes) -> Request:
    """The write that hands a device its nonce; it begins to sign."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a mailbox takes {NONCE_BYTES} bytes, got {len(nonce)}")
    words = struct.unpack(f">{NONCE_BYTES // 2}H", nonce)
    return Request(WRITE_REGISTERS, mailbox.nonce, len(words), words)


def length_request(mailbox: Mailbox) -> Request:
    """The read of the token's length; 0 while there is none."""
    return Request(3, mailbox.token, 1)


def token_requests(mailbox: Mailbox, length: int) -> tuple[Request, ...]:
    """The reads of a token of ``length`` bytes. Raises DeviceError when no token is that long."""
    words = (length + 1) // 2
    if not 1 <= length <= MAX_TOKEN or mailbox.token + words > 0xFFFF:
        raise DeviceError(f"the mailbox announces a token of {length} bytes", "check the device's mailbox in its profile")
    return register_requests([(mailbox.token + 1, mailbox.token + words)])


def join_token(words: Iterable[int], length: int) -> bytes:
    """The token: two bytes a register, big-endian; an odd length leaves the last byte unused."""
    whole = b"".join(w.to_bytes(2, "big") for w in words)
    return whole[:length]
