"""What a device's lease lets pass at this moment, and what to tell of a request that it does not. Sends nothing."""

from __future__ import annotations

from dataclasses import replace

from drivers.modbus.pdu import ILLEGAL_FUNCTION, Request, Rules
from gateway.driver import Assignment, Context
from gateway.model.device import DeviceState
from gateway.model.level import TrustLevel
from gateway.model.profile import Rule


class Permit:
    """Rules by the present lease, compiled once a lease. ``stops``: the writes that are always allowed, whatever the lease says.

    ``free`` is what level 0 allows; it and ``stops`` are as of the last ``now``.
    """

    def __init__(self, context: Context, assignment: Assignment) -> None:
        self._clock, self._grant = context.clock, context.grant(assignment.device.id)
        self._of: tuple[Rule, ...] | None = None
        self._level = TrustLevel.NONE
        self.reassign(assignment)

    def reassign(self, assignment: Assignment) -> None:
        """The device's state or profile is another."""
        self._assignment, self._of = assignment, None
        always = [r for f in assignment.profile.functions for r in f.always_allowed_writes]
        self.stops = Rules(always, TrustLevel.NONE)
        self.now()

    def now(self) -> Rules:
        """The rules at this instant: a lapsed lease is level 0."""
        lease = self._grant.current(self._clock.now())
        if lease.rules is not self._of or lease.level != self._level:
            self._of, self._level = lease.rules, lease.level
            rules = lease.rules or _before_any_lease(self._assignment)
            self._rules, self.free = Rules(rules, lease.level), Rules(rules, TrustLevel.NONE)
            self._widest = Rules(rules, TrustLevel.FULL)
        return self._rules

    def refusal(self, request: Request, unit: int, code: int) -> tuple[str, str] | None:
        """(event code, sentence) for a request refused with exception ``code``; None: a read that waits for trust is no event."""
        where = f"function {request.function_code} at {request.address}"
        if code == ILLEGAL_FUNCTION:
            return "unknown-function", f"a client asked for {where}, which is in no rule of its profile"
        if self._widest.check(request, unit) is None:
            return ("write-below-level", f"a write ({where}) was refused at level {int(self._level)}") if request.changes else None
        if request.changes:
            return "forbidden-write", f"a write that its profile forbids was refused: {where}"
        return "forbidden-read", f"a read that its profile does not allow was refused: {where}"


def _before_any_lease(assignment: Assignment) -> tuple[Rule, ...]:
    """What passes at level 0 while the engine has said nothing: stopping; all that a profile names while it is only observed."""
    profile, state = assignment.profile, assignment.device.state
    if state is DeviceState.OBSERVING:
        return tuple(replace(r, level=TrustLevel.NONE) for r in profile.rules)
    if state in (DeviceState.ENFORCED, DeviceState.SERVICE):
        return tuple(r for f in profile.functions for r in f.always_allowed_writes)
    return ()
