"""PURE. The failure table: for each function, what passes and who alarms when a part of the gateway is gone.

This is what ``policy failures`` prints and what a hospital's risk file quotes, so each sentence is meant literally. Refuses to
know the live state; it says what would happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.model.decision import LEASE_MAX_S
from gateway.model.evidence import EvidenceClass
from gateway.model.profile import Acknowledge, Function, OnLoss, Profile


class Failure(StrEnum):
    """What can be gone."""

    DAEMON_DEAD = "daemon dead"
    DAEMON_HUNG = "daemon hung"
    ENFORCER_DEAD = "enforcer dead"
    TPM = "TPM gone"
    UPLINK = "uplink gone"
    CLOCK = "clock wrong or gone"
    POWER = "power gone"


@dataclass(frozen=True, slots=True)
class FailureRow:
    """One cell of the table, in words: what still ``passes`` and which ``alarm`` rings where."""

    function: str
    failure: Failure
    passes: str
    alarm: str


_LEASE = f"{LEASE_MAX_S:g} s"
_RINGS = "the enforcer rings when renewals stop"
_VITAL = "passes: it needs no lease"
_ALARMS = {
    Failure.DAEMON_DEAD: _RINGS,
    Failure.DAEMON_HUNG: _RINGS,
    Failure.ENFORCER_DEAD: "the daemon alarms on the page when it can no longer renew",
    Failure.TPM: "the daemon alarms on the page",
    Failure.UPLINK: "the page shows it; the hospital sees the gateway fall silent",
    Failure.CLOCK: "the page shows the quality of the time",
    Failure.POWER: "nobody here: the central station's own lost-connection alarm",
}


def failure_table(profile: Profile) -> tuple[FailureRow, ...]:
    """One row for each function and failure, in the profile's order."""
    return tuple(
        FailureRow(f.name, failure, _passes(f, failure, _keyed(profile)), _alarm(f, failure))
        for f in profile.functions
        for failure in Failure
    )


def _keyed(profile: Profile) -> bool:
    """Whether its devices share a key with this gateway: the TPM seals those keys."""
    return any(t.evidence_class in (EvidenceClass.SYMMETRIC, EvidenceClass.BEACON) for t in profile.targets)


def _alarm(function: Function, failure: Failure) -> str:
    """A wearable has no kernel lease whose end the enforcer could notice."""
    if not function.flows and failure in (Failure.DAEMON_DEAD, Failure.DAEMON_HUNG):
        return "the hospital's broker: the gateway fell silent; the enforcer rings for wired devices only"
    return _ALARMS[failure]


def _passes(function: Function, failure: Failure, keyed: bool) -> str:
    wireless = not function.flows
    if failure is Failure.POWER:
        return "nothing: the radio is off" if wireless else "nothing through the box, unless its ports have a hardware bypass"
    if failure is Failure.TPM:
        restart = "; a daemon that starts without it has no keys for these devices, and their trust ends" if keyed else ""
        return f"passes as before; no new conformity certificate is completed{restart}"
    if failure is Failure.UPLINK:
        return _uplink(function, wireless)
    if failure is Failure.CLOCK:
        return "passes as before: leases and ages run on boot time; certificates may look expired to others"
    if function.on_loss is OnLoss.VITAL:
        return _VITAL
    if wireless or any(f.via for f in function.flows):
        return _through_daemon(function, failure, wireless)
    return f"passes until its lease lapses, {_LEASE} at most, then stops"


def _uplink(function: Function, wireless: bool) -> str:
    if wireless:
        return "passes; readings wait in the outbox and are delivered later"
    if function.acknowledge is Acknowledge.STORED:
        return "passes: it is kept on disk and acknowledged, and delivered later in order"
    if function.acknowledge is Acknowledge.END_TO_END:
        return "is answered AE where its receiver cannot be reached, so that the device's own alarm for a lost receiver works"
    return "passes where its peer can still be reached; nothing here depends on the uplink"


def _through_daemon(function: Function, failure: Failure, wireless: bool) -> str:
    way = "the radio link" if wireless else "the proxy"
    stops = bool(function.always_allowed_writes)
    own = ", stop commands too: use the device's own buttons" if stops else ""
    if failure is Failure.DAEMON_DEAD:
        return f"stops at once: {way} lives in the daemon{own}"
    if failure is Failure.DAEMON_HUNG:
        return f"stalls at once: {way} lives in the daemon{own}"
    if wireless:
        return "passes as before: a radio link needs no kernel lease"
    return f"passes until its lease lapses, {_LEASE} at most, then stops{'; stop commands still pass' if stops else ''}"
