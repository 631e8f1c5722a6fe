"""Many small Modbus devices in one process, each listening in its own namespace with its own key: load for ``footprint``.

They answer what the gateway's evidence needs: identification, configuration registers, the token's mailbox.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from hil.network import inside
from hil.psa import PsaSigner, signer_of

IDENTITY = {0: b"Corvita", 1: b"IP-4", 2: b"2.3.1"}
NONCE, TOKEN = 0x9000, 0x9100


class Device:
    """One device's registers and key."""

    def __init__(self) -> None:
        self.signer: PsaSigner = signer_of("infusion pump", ec.generate_private_key(ec.SECP256R1()))
        self.registers = dict.fromkeys(range(100, 120), 7)

    def endorsement(self) -> dict[str, object]:
        """What its maker and the hospital know of it."""
        seen = {f"object:{n}": v.hex() for n, v in IDENTITY.items()} | {
            f"register:{n}": f"{v:04x}" for n, v in self.registers.items()
        }
        return {"reference": self.signer.reference(), "fingerprint": seen}

    def answer(self, pdu: bytes) -> bytes:
        """The response PDU."""
        if pdu[0] == 3:
            first, count = struct.unpack(">HH", pdu[1:5])
            return bytes((3, 2 * count)) + b"".join(self.registers.get(n, 0).to_bytes(2) for n in range(first, first + count))
        if pdu[0] == 16:
            first, count = struct.unpack(">HH", pdu[1:5])
            if first == NONCE and count == 16:
                self._sign(pdu[6:38])
            return pdu[:5]
        if pdu[:2] == b"\x2b\x0e":
            objects = b"".join(bytes((n, len(v))) + v for n, v in IDENTITY.items())
            return bytes((0x2B, 0x0E, pdu[2], 0x81, 0, 0, len(IDENTITY))) + objects
        return bytes((pdu[0] | 0x80, 1))

    def _sign(self, nonce: bytes) -> None:
        token = self.signer.token(nonce)
        padded = token + b"\0" * (len(token) % 2)
        self.registers[TOKEN] = len(token)
        for i in range(0, len(padded), 2):
            self.registers[TOKEN + 1 + i // 2] = int.from_bytes(padded[i : i + 2])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                header = await reader.readexactly(7)
                pdu = await reader.readexactly(int.from_bytes(header[4:6]) - 1)
                reply = self.answer(pdu)
                writer.write(header[:4] + (len(reply) + 1).to_bytes(2) + header[6:7] + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    """Listen in every namespace until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespaces", required=True)
    parser.add_argument("--endorsements", type=Path, required=True)
    options = parser.parse_args()
    devices = []
    for namespace in options.namespaces.split(","):
        with inside(namespace):
            listener = socket.create_server(("0.0.0.0", 502))
        device = Device()
        await asyncio.start_server(device.serve, sock=listener)
        devices.append(device)
    options.endorsements.write_text(json.dumps([d.endorsement() for d in devices]))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
