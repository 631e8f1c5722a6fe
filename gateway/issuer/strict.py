"""PURE. Takes values out of decoded CBOR or JSON with their exact type, and refuses keys nobody defined.

Python takes True for 1 and 1 for 1.0; signed formats must not. Knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.errors import MalformedError

T = TypeVar("T")
_REMEDY = "the file is broken or made by something else; fetch it again"
MAX_TEXT = 1024  # characters of any text in a certificate; the longest real one is a media type with parameters


def malformed(what: str) -> MalformedError:
    """The error all strict readers raise."""
    return MalformedError(what, _REMEDY)


class Reader:
    """A decoded map whose keys are taken one by one; ``what`` names it in errors."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, Mapping):
            raise malformed(f"{what} is no map")
        if not all(type(key) in (int, str) for key in value):  # True would be found under 1, and 1.0 too
            raise malformed(f"{what} has a key that is neither number nor text")
        self.what = what
        self._map: Mapping[Any, Any] = value
        self._taken: set[Any] = set()

    def take(self, key: int | str, kind: type[T], name: str) -> T:
        """The value under ``key``, exactly of type ``kind``."""
        self._taken.add(key)
        value = self._map.get(key)
        if type(value) is not kind or (isinstance(value, str) and len(value) > MAX_TEXT):
            raise malformed(f"{self.what} has no proper {name}")
        return value

    def maybe(self, key: int | str, kind: type[T], name: str) -> T | None:
        """As ``take``; None when the key is absent."""
        return self.take(key, kind, name) if key in self._map else None

    def number(self, key: int | str, name: str, low: int = 0, high: int = 2**63 - 1) -> int:
        """A whole number within bounds."""
        return whole(self.take(key, int, name), f"{self.what}: {name}", low, high)

    def octets(self, key: int | str, name: str, low: int, high: int | None = None) -> bytes:
        """A byte string of ``low`` to ``high`` bytes; exactly ``low`` without ``high``."""
        return sized(self.take(key, bytes, name), f"{self.what}: {name}", low, high)

    def items(self, key: int | str, name: str, most: int) -> list[Any]:
        """A list of at most ``most`` elements."""
        value = self.take(key, list, name)
        if len(value) > most:
            raise malformed(f"{self.what} has {len(value)} {name}, {most} are the most")
        return value

    def finish(self) -> None:
        """Refuse keys that were not taken."""
        if set(self._map) - self._taken:
            raise malformed(f"{self.what} has unknown keys")


def row(value: object, what: str, *kinds: type) -> list[Any]:
    """A list with exactly these types."""
    if not isinstance(value, list) or len(value) != len(kinds) or any(type(v) is not k for v, k in zip(value, kinds, strict=True)):
        raise malformed(f"{what} does not have its {len(kinds)} parts")
    if any(isinstance(v, str) and len(v) > MAX_TEXT for v in value):
        raise malformed(f"{what} has a text that is too long")
    return value


def sized(value: object, what: str, low: int, high: int | None = None) -> bytes:
    """A byte string of a bounded length."""
    if not isinstance(value, bytes) or not low <= len(value) <= (low if high is None else high):
        raise malformed(f"{what} is not of its length")
    return value


def whole(value: object, what: str, low: int, high: int) -> int:
    """A whole number within bounds; True is none."""
    if type(value) is not int or not low <= value <= high:
        raise malformed(f"{what} is not between {low} and {high}")
    return value
