"""The driver's settings, checked: ``[drivers.hl7]`` of ``wardgate.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drivers.equipment import EVERYWHERE, Reading
from drivers.hl7.mllp import MAX_MESSAGE

_SECONDS = {
    "answer_s": 10.0, "hold_s": 3.0, "connect_s": 3.0, "linger_s": 5.0, "attest_s": 8.0, "recent_s": 30.0, "again_s": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tls:
    """MLLP over TLS on a route: ``serve`` is the ``[tls.NAME]`` by which we answer who opens it, ``dial`` the one by which we dial
    its other end.

    Empty: that side is not encrypted. ``client``: the name in the certificate of who opens it (default: its address or, for the
    device itself, its id), ``name``: the one in the certificate of the other end (default: its address).
    """

    serve: str = ""
    dial: str = ""
    client: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """``listen_port``: where redirected connections arrive, on every address of ``listen``. ``max_message``: bytes of one message.

    ``answer_s``: a receiver's acknowledgement; ``connect_s``: a connection to it; ``hold_s``: how long a message waits for the
    evidence that it is itself part of; ``linger_s``: how long a device without a connection still counts as connected;
    ``attest_s``: for one piece of evidence; ``recent_s``: how old a message may be that evidence is taken from; ``again_s``: the
    first wait before a stored message that a receiver did not take (AE) is tried again, ``tries`` in all. ``tls``: by function, or
    by ``device/function``. ``upstream``: address -> (host, port) to dial instead, for a bench without namespaces.
    """

    listen_port: int = 15575
    listen: tuple[str, ...] = EVERYWHERE
    max_message: int = MAX_MESSAGE
    tries: int = 8
    answer_s: float = 10.0
    hold_s: float = 3.0
    connect_s: float = 3.0
    linger_s: float = 5.0
    attest_s: float = 8.0
    recent_s: float = 30.0
    again_s: float = 1.0
    upstream: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tls: Mapping[str, Tls] = field(default_factory=dict)

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> Settings:
        """Check everything; raises InputErrors with every mistake."""
        r = Reading("drivers.hl7", settings)
        port, listen = r.port(15575), r.hosts()
        longest = r.take("max_message", MAX_MESSAGE, _is_length, "1 KiB to 64 MiB, in bytes")
        tries = r.take("tries", 8, lambda v: type(v) is int and 1 <= v <= 1000, "1 to 1000")
        seconds, upstream = r.seconds(_SECONDS), r.upstream()
        tls = r.take("tls", {}, _is_tls, "functions with { serve, dial, client, name }, each a text; one of the first two at least")
        r.done("HL7")
        by_route = {k: Tls(**v) for k, v in tls.items()}
        return cls(port, listen, longest, tries, upstream=upstream, tls=by_route, **seconds)

    def tls_of(self, device_id: str, function: str) -> Tls:
        """What holds for a route."""
        return self.tls.get(f"{device_id}/{function}") or self.tls.get(function) or Tls()


def _is_length(value: object) -> bool:
    return type(value) is int and 1024 <= value <= 64 << 20


def _is_tls(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(t, dict)
        and set(t) <= {"serve", "dial", "client", "name"}
        and bool(t.get("serve") or t.get("dial"))
        and all(isinstance(v, str) for v in t.values())
        for t in value.values()
    )
