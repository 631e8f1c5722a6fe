"""The attestation GATT service, as a gateway sees it: UUIDs, and a pure collector that puts a token together.

A GATT attribute holds at most 512 bytes (Core, Vol 3, Part F, 3.2.9), so evidence is read in windows. Bytes in, values
out: knows no connection and judges no token. The service is described byte by byte in README.md.
"""

from __future__ import annotations

from gateway.errors import MalformedError
from gateway.model.evidence import MAX_EVIDENCE

SERVICE_UUID = "77617264-6761-4e65-8001-617474657374"
CHALLENGE_UUID = "77617264-6761-4e65-8002-617474657374"  # write: 32-byte nonce
WINDOW_UUID = "77617264-6761-4e65-8003-617474657374"  # write: offset, uint16 big-endian
EVIDENCE_UUID = "77617264-6761-4e65-8004-617474657374"  # read: total, offset (uint16 big-endian each), bytes
GATEWAY_UUID = "77617264-6761-4e65-8005-617474657374"  # write: the gateway's id, UTF-8
EPOCH_UUID = "77617264-6761-4e65-8006-617474657374"  # write: number's low byte, epoch id (12)
ANNOUNCEMENT_UUID = "77617264-6761-4e65-8007-617474657374"  # service data of the gateway's advertisement: as EPOCH_UUID

NONCE_BYTES = 32
HEADER_BYTES = 4
WINDOW_BYTES = 512 - HEADER_BYTES
ERROR_BAD_NONCE = 0x80  # application error: a challenge of another length
ERROR_BAD_WINDOW = 0x81  # application error: an offset outside the evidence
ERROR_NOTHING_YET = 0x82  # application error: read before any challenge
ERROR_OTHER_GATEWAY = 0x83  # application error: this bond is another gateway's, or that gateway has another bond
ERROR_NO_GATEWAY = 0x84  # application error: the device does not know yet which gateway this is


class Collector:
    """Puts evidence together from windows. ``feed`` what was read until ``next_offset`` is None, then take ``evidence``."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._total: int | None = None

    @property
    def next_offset(self) -> int | None:
        """Where the next window begins; None when everything is there."""
        return None if self._total is not None and len(self._parts) == self._total else len(self._parts)

    @property
    def evidence(self) -> bytes:
        """The whole evidence."""
        if self.next_offset is not None:
            raise MalformedError("evidence that is not complete", "read the remaining windows")
        return bytes(self._parts)

    def feed(self, value: bytes) -> None:
        """Take one read of the evidence characteristic; raises MalformedError when it does not continue what came before."""
        if self.next_offset is None or not HEADER_BYTES < len(value) <= HEADER_BYTES + WINDOW_BYTES:
            raise MalformedError(f"an evidence window of {len(value)} bytes", "check the wearable's firmware")
        total, offset = int.from_bytes(value[:2], "big"), int.from_bytes(value[2:4], "big")
        body = value[HEADER_BYTES:]
        if total == 0 or total > MAX_EVIDENCE or (self._total is not None and total != self._total):
            raise MalformedError(f"evidence whose length changes or is {total} bytes", "check the wearable's firmware")
        if offset != len(self._parts) or offset + len(body) > total:
            raise MalformedError(f"an evidence window at {offset}, not at {len(self._parts)}", "check the wearable's firmware")
        self._total = total
        self._parts += body


def window(evidence: bytes, offset: int) -> bytes:
    """What the evidence characteristic shows at ``offset``; the inverse of ``Collector.feed``. Raises ValueError outside."""
    if not 0 <= offset < len(evidence) <= 0xFFFF:
        raise ValueError(f"no window at {offset} of {len(evidence)} bytes")
    return len(evidence).to_bytes(2, "big") + offset.to_bytes(2, "big") + evidence[offset : offset + WINDOW_BYTES]
