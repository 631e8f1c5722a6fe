"""Writes TCG event logs for tests, in both formats, with the PCR values they lead to. Knows no gateway code."""

from __future__ import annotations

import hashlib
import struct

ALGORITHMS = {"sha1": (0x0004, 20), "sha256": (0x000B, 32), "sha384": (0x000C, 48), "sha512": (0x000D, 64)}
NO_ACTION, SEPARATOR, IPL = 3, 4, 0x0D


class Writer:
    """A log being written. ``agile`` False: the SHA-1-only format."""

    def __init__(self, banks: tuple[str, ...] = ("sha1", "sha256"), *, agile: bool = True, locality: int | None = None) -> None:
        self.banks, self.agile = (banks if agile else ("sha1",)), agile
        self.raw = bytearray()
        self.pcrs: dict[str, dict[int, bytes]] = {b: {} for b in self.banks}
        self.locality = locality or 0
        if agile:
            self.raw += struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(self.spec())) + self.spec()
        if locality is not None:
            self.add(0, NO_ACTION, b"StartupLocality\0" + bytes([locality]))

    def spec(self) -> bytes:
        """The specification header's data."""
        head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(self.banks))
        return head + b"".join(struct.pack("<HH", *ALGORITHMS[b]) for b in self.banks) + b"\x03abc"

    def add(self, pcr: int, kind: int, data: bytes) -> None:
        """Measure ``data``; an EV_NO_ACTION event is written and extends nothing."""
        digests = {b: bytes(ALGORITHMS[b][1]) if kind == NO_ACTION else hashlib.new(b, data).digest() for b in self.banks}
        if self.agile:
            self.raw += struct.pack("<III", pcr, kind, len(self.banks))
            for bank, digest in digests.items():
                self.raw += struct.pack("<H", ALGORITHMS[bank][0]) + digest
            self.raw += struct.pack("<I", len(data)) + data
        else:
            self.raw += struct.pack("<II20sI", pcr, kind, digests["sha1"], len(data)) + data
        if kind != NO_ACTION:
            for bank, digest in digests.items():
                start = self.start(pcr, len(digest))
                self.pcrs[bank][pcr] = hashlib.new(bank, self.pcrs[bank].get(pcr, start) + digest).digest()

    def start(self, pcr: int, size: int) -> bytes:
        """What a PCR holds before anything is measured."""
        if 17 <= pcr <= 22:
            return b"\xff" * size
        return bytes(size - 1) + bytes([self.locality if pcr == 0 else 0])
