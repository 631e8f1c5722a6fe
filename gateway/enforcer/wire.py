"""The enforcer's language: four verbs, length-prefixed JSON, everything bounded. Bytes in, requests out.

A frame is four bytes of length (big-endian) and that many bytes of JSON. The vocabulary is closed: an unknown key, a
wrong type, a number out of range is a violation, and a violation closes the connection. No sockets here, no policy.
"""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

REQUEST_MAX = 64 << 10  # a few hundred leases; the client splits more
ANSWER_MAX = 64 << 20  # a dump of 10,000 devices is some megabytes
LEASE_MAX_MS = 30_000  # trust that nobody renews ends by itself
ADDRESSES_MAX = 8  # of one device
LEVELS = (1, 2, 3)


class ViolationError(Exception):
    """The peer broke the protocol; the connection is closed after this text is sent."""


class Grant(NamedTuple):
    """One device's lease."""

    addresses: tuple[str, ...]
    level: int
    ms: int


class GrantRequest(NamedTuple):
    """Put these leases into the kernel, one transaction."""

    leases: tuple[Grant, ...]


class DropRequest(NamedTuple):
    """Take these addresses' levels away now."""

    addresses: tuple[str, ...]


class DumpRequest(NamedTuple):
    """Say what the kernel holds."""


class WatchRequest(NamedTuple):
    """Send events on this connection from now on."""


Request = GrantRequest | DropRequest | DumpRequest | WatchRequest


class Framer:
    """Cuts a byte stream into frames; ``feed`` raises ViolationError as soon as a length is out of bounds."""

    def __init__(self, limit: int = REQUEST_MAX) -> None:
        self._limit = limit
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames completed by ``data``, lazily; bytes of an incomplete frame are kept (at most one frame)."""
        self._bytes += data
        while len(self._bytes) >= 4:
            (length,) = struct.unpack_from(">I", self._bytes)
            if not 2 <= length <= self._limit:
                raise ViolationError(f"a frame of {length} bytes; 2 to {self._limit} are allowed")
            if len(self._bytes) < 4 + length:
                return
            frame = bytes(self._bytes[4 : 4 + length])
            del self._bytes[: 4 + length]
            yield frame


def frame(value: object) -> bytes:
    """A value as one frame."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return struct.pack(">I", len(body)) + body


def parse_request(body: bytes) -> Request:
    """One frame's JSON as a request. Raises ViolationError."""
    value = parse_json(body)
    verb = value.get("do")
    match verb:
        case "grant":
            return GrantRequest(tuple(_grant(lease) for lease in _items(_only(value, "do", "leases")["leases"], "leases")))
        case "drop":
            return DropRequest(_addresses(_only(value, "do", "addresses")["addresses"], REQUEST_MAX))
        case "dump":
            _only(value, "do")
            return DumpRequest()
        case "watch":
            _only(value, "do")
            return WatchRequest()
        case _:
            raise ViolationError("the verbs are grant, drop, dump and watch")


def parse_json(body: bytes) -> dict[str, Any]:
    """Strict JSON object: UTF-8, no doubled key, no NaN, bounded depth. Raises ViolationError."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as e:
        raise ViolationError("not a JSON text") from e
    if not isinstance(value, dict):
        raise ViolationError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ViolationError("a key occurs twice")
    return value


def _refuse_constant(_name: str) -> Any:
    raise ViolationError("not a number")


def _only(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    if set(value) != set(keys):
        raise ViolationError(f"the keys of this request are {', '.join(keys)}")
    return value


def _items(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ViolationError(f"{name} is a list with at least one item")
    return value


def _grant(value: Any) -> Grant:
    if not isinstance(value, dict):
        raise ViolationError("a lease is an object")
    _only(value, "addresses", "level", "ms")
    level, ms = value["level"], value["ms"]
    if type(level) is not int or level not in LEVELS:
        raise ViolationError("a level is 1, 2 or 3; drop takes it away")
    if type(ms) is not int or not 1 <= ms <= LEASE_MAX_MS:
        raise ViolationError(f"a lease lasts 1 to {LEASE_MAX_MS} ms")
    return Grant(_addresses(value["addresses"], ADDRESSES_MAX), level, ms)


def _addresses(value: Any, most: int) -> tuple[str, ...]:
    items = _items(value, "addresses")
    if len(items) > most:
        raise ViolationError(f"at most {most} addresses")
    return tuple(_address(item) for item in items)


def _address(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 45:
        raise ViolationError("an address is an IPv4 or IPv6 address as a text")
    try:
        address = ipaddress.ip_address(value)
    except ValueError as e:
        raise ViolationError("an address is an IPv4 or IPv6 address as a text") from e
    if str(address) != value or "%" in value:
        raise ViolationError("an address is written in its canonical form, without a zone")
    return value
