"""The hospital's receiver on the bench: takes what the gateway sends, keeps it, acknowledges it, and knows what is missing.

``python -m hil.subscriber --ctl S --host H --port P --ca F --cert F --key F`` serves ``state``, ``readings`` and ``forget`` on a
control socket. It counts by id, so it can tell a repetition from a new reading and see a gap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from hil.control import Answer, serve

_KEEP_S = 86_400  # how long the broker keeps a message for us while we are away


class Receiver:
    """What arrived. ``readings``: (stream, id) -> (device, taken boot ns, level); ``lags_ms`` of what was not historical."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.acknowledge = acknowledge
        self.readings: dict[tuple[str, int], tuple[str, int, int | None]] = {}
        self.repeated, self.messages, self.malformed = 0, 0, 0
        self.historical = 0
        self.events: list[dict[str, Any]] = []
        self._event_ids: set[tuple[str, int]] = set()
        self.states: dict[str, dict[str, Any]] = {}
        self.lags_ms: list[float] = []
        self.arrived_ns = 0
        self.topics: Counter[str] = Counter()
        self.raw: list[str] | None = None  # set to a list to keep every message

    def take(self, topic: str, payload: bytes) -> tuple[str, str] | None:
        """Account for a message; returns (topic, acknowledgement) to send, or None."""
        if topic.endswith("/acknowledged"):
            return None  # our own words
        self.messages += 1
        self.topics[topic] += 1
        self.arrived_ns = time.monotonic_ns()
        if self.raw is not None:
            self.raw.append(payload.decode())
        try:
            body = json.loads(payload)
            schema = body["schema"]
        except (ValueError, KeyError, TypeError):
            self.malformed += 1
            return None
        if schema == "wardgate/observations/1":
            self._observations(body)
        elif schema == "wardgate/event/1":
            self._event(body)
        else:
            self.states[body["gateway"]] = body
            return None
        answer = {"schema": "wardgate/acknowledgement/1", "stream": body["stream"], "messages": [body["message"]]}
        base = "/".join(topic.split("/")[: topic.split("/").index(body["gateway"]) + 1])
        return f"{base}/acknowledged", json.dumps(answer)

    def _observations(self, body: dict[str, Any]) -> None:
        now_ns = time.time_ns()
        for o in body["observations"]:
            key = (body["stream"], o["id"])
            if key in self.readings:
                self.repeated += 1
                continue
            self.readings[key] = (body["device"], o["taken_at"]["boot_ns"], o["level"])
            if o["is_historical"]:
                self.historical += 1
            elif len(self.lags_ms) < 100_000:
                self.lags_ms.append((now_ns - _utc_ns(o["taken_at"]["utc"])) / 1e6)

    def _event(self, body: dict[str, Any]) -> None:
        key = (body["stream"], body["id"])
        if key in self._event_ids:
            self.repeated += 1
            return
        self._event_ids.add(key)
        self.events.append(body)

    async def run(self, host: str, port: int, context: ssl.SSLContext, prefix: str, ready: asyncio.Event) -> None:
        """Listen with a session that survives interruptions; ends only when cancelled."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _KEEP_S
        while True:
            with suppress(aiomqtt.MqttError, OSError):
                async with aiomqtt.Client(
                    host, port, identifier="receiver", protocol=aiomqtt.ProtocolVersion.V5, clean_start=False, timeout=2,
                    properties=properties, tls_context=context, keepalive=10,
                    socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
                ) as client:  # fmt: skip
                    await client.subscribe(f"{prefix}/#", qos=1)
                    ready.set()
                    try:
                        await self._listen(client)
                    finally:
                        if client._disconnected.done():
                            client._disconnected.exception()  # seen, so that nobody logs it
            await asyncio.sleep(0.2)

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            answer = self.take(str(message.topic), payload if isinstance(payload, bytes) else b"")
            if answer and self.acknowledge:
                await client.publish(*answer, qos=1, timeout=1)


def _utc_ns(text: str) -> int:
    import datetime

    return round(datetime.datetime.fromisoformat(text).timestamp() * 1e9)


def client_context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """A TLS client with its own certificate."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(cert, key)
    return context


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else 0.0


class _Desk:
    """What the bench may ask."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def answer(self, request: Answer) -> Answer:
        r = self._receiver
        match request["do"]:
            case "state":
                return {
                    "messages": r.messages, "readings": len(r.readings), "repeated": r.repeated, "historical": r.historical,
                    "events": len(r.events), "malformed": r.malformed, "arrived_ns": r.arrived_ns, "states": r.states,
                    "lag_ms_p50": _quantile(r.lags_ms, 0.5), "lag_ms_p99": _quantile(r.lags_ms, 0.99),
                }  # fmt: skip
            case "readings":
                after, level = int(request.get("after_ns", 0)), request.get("level")
                found = [
                    (key[1], taken)
                    for key, (device, taken, had) in r.readings.items()
                    if device == request["device"] and taken > after and (level is None or (had is not None and had >= level))
                ]
                return {"ids": sorted(i for i, _ in found), "last_ns": max((t for _, t in found), default=0)}
            case "missing":
                stream, up_to = str(request["stream"]), int(request["up_to"])
                return {"missing": sum((stream, i) not in r.readings for i in range(1, up_to + 1))}
            case "events":
                return {"events": r.events[-int(request.get("limit", 100)) :]}
            case other:
                raise ValueError(f"no such request: {other}")


async def _main(o: argparse.Namespace) -> None:
    receiver, ready = Receiver(), asyncio.Event()
    context = client_context(o.ca, o.cert, o.key)
    task = asyncio.create_task(receiver.run(o.host, o.port, context, o.prefix, ready))
    server = await serve(o.ctl, _Desk(receiver).answer)
    await asyncio.wait_for(ready.wait(), 15)
    print("ready", flush=True)
    async with server:
        await task


def main() -> None:
    """Run until stopped."""
    parser = argparse.ArgumentParser(prog="hil.subscriber")
    for name in ("ctl", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefix", default="wardgate")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
