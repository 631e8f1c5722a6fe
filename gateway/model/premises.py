"""The gateway about itself: who it is and what that is worth, and what ends when nothing from outside arrives any more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """The certificate of the attestation key, as X.509 has it. Times are ISO 8601, UTC."""

    subject: str
    issuer: str
    serial: str
    not_before: str
    not_after: str
    left_s: float


@dataclass(frozen=True, slots=True)
class Versions:
    """What is installed. ``way`` is where it came from: ``installed`` by image/install, or a ``checkout``.

    ``previous`` is what a rollback goes back to; empty: there is none. ``python`` and ``kernel`` as they name themselves.
    """

    current: str
    previous: str
    way: str
    python: str
    kernel: str
    libraries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this gateway is. ``certificate`` None: it is not enrolled. ``statements`` are what a quote proves and what not."""

    id: str
    name: str
    ak_sha256: str
    certificate: KeyCertificate | None
    root_of_measurement: str
    statements: tuple[str, ...]
    versions: Versions


@dataclass(frozen=True, slots=True)
class Deadline:
    """One line of the offline budget: ``what`` ends, ``left_s`` from now (None: it does not end), ``then`` is what is lost."""

    what: str
    left_s: float | None
    then: str
    ends_utc: str = ""
    gone: bool = False
