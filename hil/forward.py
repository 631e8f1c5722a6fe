"""Brings the page to the host's loopback: ``python -m hil.forward --port 8443 --to 127.0.0.1:8443 --netns wg-gw``.

It listens where it is started and calls from within ``--netns``, so that benches beside each other never answer for one another.

Relays bytes, knows no protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import socket
from pathlib import Path

_CONNECTIONS = 64  # a bench has a handful of viewers


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def enter(netns: str) -> None:
    """This process's network is that namespace's from now on; sockets that are open stay where they are. Raises OSError."""
    with Path(f"/run/netns/{netns}").open("rb") as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def serve(listener: socket.socket, host: str, to_port: int) -> None:
    """Relay every connection on ``listener`` to ``host``:``to_port`` until cancelled."""
    open_now = asyncio.Semaphore(_CONNECTIONS)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with open_now:
            try:
                up_reader, up_writer = await asyncio.open_connection(host, to_port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))

    server = await asyncio.start_server(relay, sock=listener)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="hil.forward")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--netns", default="", help="call from within this network namespace")
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    listener = socket.create_server(("127.0.0.1", options.port))
    if options.netns:
        enter(options.netns)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(serve(listener, host, int(port)))


if __name__ == "__main__":
    main()
