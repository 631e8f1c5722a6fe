"""The driver's settings, checked: ``[drivers.hl7]`` of ``wardgate.toml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drivers.hl7.mllp import MAX_MESSAGE
from gateway.errors import InputErrors

_SECONDS = (("answer_s", 10.0), ("hold_s", 3.0), ("connect_s", 3.0), ("linger_s", 5.0), ("attest_s", 8.0), ("recent_s", 30.0))


@dataclass(frozen=True, slots=True)
class Settings:
    """``listen_port``: where redirected connections arrive, on every address of ``listen``. ``max_message``: bytes of one message.

    ``answer_s``: a receiver's acknowledgement; ``connect_s``: a connection to it; ``hold_s``: how long a message waits for the
    evidence that it is itself part of; ``linger_s``: how long a device without a connection still counts as connected;
    ``attest_s``: for one piece of evidence; ``recent_s``: how old a message may be that evidence is taken from.
    ``upstream``: address -> (host, port) to dial instead, for a bench without namespaces.
    """

    listen_port: int = 15575
    listen: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104 - the static rules let only redirected connections in
    max_message: int = MAX_MESSAGE
    answer_s: float = 10.0
    hold_s: float = 3.0
    connect_s: float = 3.0
    linger_s: float = 5.0
    attest_s: float = 8.0
    recent_s: float = 30.0
    upstream: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> Settings:
        """Check everything; raises InputErrors with every mistake."""
        taken, problems = dict(settings), []

        def take(key: str, default: Any, right: Callable[[Any], bool], expected: str) -> Any:
            value = taken.pop(key, default)
            if not right(value):
                problems.append((key, f"expected {expected}, got {str(value)[:40]!r}"))
                return default
            return value

        port = take("listen_port", 15575, lambda v: type(v) is int and 0 <= v <= 65535, "a port")
        listen = take("listen", ["0.0.0.0", "::"], _is_hosts, "a list of addresses")  # noqa: S104 - see above
        longest = take("max_message", MAX_MESSAGE, lambda v: type(v) is int and 1024 <= v <= 64 << 20, "1 KiB to 64 MiB, in bytes")
        seconds = {k: float(take(k, d, _is_seconds, "seconds, more than 0")) for k, d in _SECONDS}
        upstream = take("upstream", {}, _is_upstream, "addresses with [host, port]")
        problems += [(key, "is no setting of the HL7 driver") for key in taken]
        if problems:
            raise InputErrors("drivers.hl7", tuple(problems))
        where = {a: (str(h), int(p)) for a, (h, p) in upstream.items()}
        return cls(port, tuple(listen), longest, upstream=where, **seconds)


def _is_hosts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 3600  # type: ignore[operator]


def _is_upstream(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, list | tuple) and len(v) == 2 and type(v[1]) is int for v in value.values()
    )
