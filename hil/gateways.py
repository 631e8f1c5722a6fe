"""What a small wearable knows of its gateways: which bond is whose, and the newest epoch of each chain.

A gateway's name is fixed by the first that is written over a bond, and no two bonds share one: else a gateway could ask for
what was made for another. Knows no keys and no radio.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from bumble import att

from drivers.ble import attestation

_EPOCH_BYTES = 12
_FARTHEST = 255  # epochs that a wearable may have slept; then it is told again over the bond


@dataclass
class Chain:
    """The newest epoch known of one gateway. ``number`` is its low byte."""

    number: int
    id: bytes

    def follow(self, value: bytes) -> bool:
        """Take an announcement if it is a later epoch of this very chain; whether it was."""
        if len(value) != 1 + _EPOCH_BYTES:
            return False
        number, later = value[0], value[1:]
        steps = (number - self.number) % 256
        at = later
        for _ in range(min(steps, _FARTHEST)):
            at = hashlib.sha256(b"wardgate-epoch-v1\0" + at).digest()[:_EPOCH_BYTES]
        if steps == 0 or at != self.id:
            return False
        self.number, self.id = number, later
        return True


class Gateways:
    """By the address a gateway is bonded with. The names are in ``path``, beside the bonds; the epochs in memory only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        self.chains: dict[str, Chain] = {}

    def of(self, address: str) -> str:
        """The gateway behind a bond; raises ATT_Error while it did not say its name."""
        if address not in self._names:
            raise att.ATT_Error(attestation.ERROR_NO_GATEWAY)
        return self._names[address]

    def introduce(self, address: str, value: bytes) -> None:
        """A gateway says its name over its bond."""
        name = value.decode("ascii", "replace")
        taken = any(a != address and n == name for a, n in self._names.items())
        if not 1 <= len(value) <= 63 or taken or self._names.get(address, name) != name:
            raise att.ATT_Error(attestation.ERROR_OTHER_GATEWAY)
        self._names[address] = name
        self._path.write_text(json.dumps(self._names))

    def anchor(self, address: str, value: bytes) -> None:
        """A gateway hands the newest id of its chain over its bond."""
        if len(value) != 1 + _EPOCH_BYTES:
            raise att.ATT_Error(attestation.ERROR_BAD_NONCE)
        self.chains[self.of(address)] = Chain(value[0], value[1:])

    def forget(self) -> None:
        """With the bonds."""
        self._names.clear()
        self.chains.clear()
        self._path.unlink(missing_ok=True)
