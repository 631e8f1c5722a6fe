"""Brings the page to the host's loopback: ``python -m hil.forward --port 8443 --to 10.78.0.2:8443``.

Relays bytes, knows no protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

_CONNECTIONS = 64  # a bench has a handful of viewers


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def serve(port: int, host: str, to_port: int) -> None:
    """Relay every connection on loopback ``port`` to ``host``:``to_port`` until cancelled."""
    open_now = asyncio.Semaphore(_CONNECTIONS)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with open_now:
            try:
                up_reader, up_writer = await asyncio.open_connection(host, to_port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="hil.forward")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(serve(options.port, host, int(port)))


if __name__ == "__main__":
    main()
