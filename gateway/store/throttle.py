"""How often someone may try: a growing delay a key, which ends by itself. PURE: time is an argument, in seconds.

A try is charged before it is checked and refunded when it succeeds, so that parallel tries gain nothing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from gateway.logs import clean

FREE_TRIES = 3  # typing mistakes cost nothing
LONGEST_S = 900.0  # a lockout that a person on a ward can sit out; 100 guesses a day are left to an attacker
FORGET_S = 3600.0  # quiet for this long, and a key starts anew
MOST_KEYS = 4096  # hostile names and addresses must not fill the memory; the least recently used key goes first


@dataclass(slots=True)
class _Key:
    failures: int = 0
    last_s: float = float("-inf")
    until_s: float = float("-inf")
    told: bool = False


class Throttle:
    """Delays a key after ``FREE_TRIES``: 1 s, 2 s, 4 s … ``LONGEST_S``."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, _Key] = OrderedDict()

    def wait_s(self, key: str, now_s: float) -> float:
        """Seconds until the next try may be made; 0: now."""
        entry = self._keys.get(key)
        return max(0.0, entry.until_s - now_s) if entry else 0.0

    def charge(self, key: str, now_s: float) -> None:
        """Count a try as failed."""
        entry = self._keys.pop(key, None) or _Key()
        if now_s - entry.last_s > FORGET_S:
            entry = _Key()
        entry.failures += 1
        entry.last_s, entry.told = now_s, False
        beyond = entry.failures - FREE_TRIES
        if beyond >= 0:
            entry.until_s = now_s + min(2.0 ** min(beyond, 30), LONGEST_S)
        self._keys[key] = entry
        while len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)

    def undo(self, key: str) -> None:
        """The try was not checked at all: take it back."""
        entry = self._keys.get(key)
        if entry is not None and entry.failures > 0:
            entry.failures -= 1
            entry.until_s = float("-inf")

    def refund(self, key: str) -> None:
        """The try succeeded: forget the key."""
        self._keys.pop(key, None)

    def first_refusal(self, key: str) -> bool:
        """True once for every delay: a refusal is recorded once, or the audit log would be the attacker's to fill."""
        entry = self._keys.get(key)
        if entry is None or entry.told:
            return False
        entry.told = True
        return True


def network_of(source: str) -> str:
    """One key for what one attacker has: an IPv4 address, an IPv6 /64."""
    try:
        address = ipaddress.ip_address(source.split("%")[0])
    except ValueError:
        return clean(source, 64)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
