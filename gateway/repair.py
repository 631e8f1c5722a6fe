"""PURE. People and a device's references: confirming what was learned, a repair in service mode, accepting or undoing it.

A legitimate repair looks exactly like an attack, so a person opens a window beforehand; monitoring stays, and what changed
is accepted field by field by a second person, or undone. Refuses to know evidence formats and enforcement.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.errors import InputError, RefusedError
from gateway.judgement import Out, clear_alarm, condemn, raise_alarm
from gateway.model.device import Device, DeviceState
from gateway.model.effect import Adopt, KeepState, Record, Severity
from gateway.model.event import OperatorCommand, ServiceWindow
from gateway.model.instant import Instant
from gateway.model.profile import Provenance, ReferenceValue
from gateway.standing import Standing, Veto


def countersign(s: Standing, actor: str, out: Out) -> None:
    """A person confirms what was learned while observing; Enforce does this, with the person's credential."""
    learned = [v for v in s.references.values if v.provenance is Provenance.LEARNED and not v.countersigned]
    if learned:
        s.adopt(tuple(ReferenceValue(v.target, v.name, v.value, v.provenance, countersigned=True) for v in learned))
        out.append(Adopt(s.id, s.references))
        out.append(Record("countersigned", s.id, f"{s.id}: {actor} confirmed {len(learned)} learned values", (("actor", actor),)))
        confirmed = {v.target for v in learned}
        for media_type, result in list(s.held.items()):
            target = s.target(media_type)
            if target is not None and target.name in confirmed:
                s.held[media_type] = replace(result, countersigned=True)


def open_service(s: Standing, event: OperatorCommand, now: Instant, out: Out) -> None:
    """Begin a repair: the level held now stays for its time, and what changes is kept for a person to look at."""
    minutes = float(event.argument("minutes", "30"))
    window = ServiceWindow(s.id, event.actor, event.argument("reason"), now.plus(minutes * 60), s.level)
    s.service = window
    s.device = with_state(s, DeviceState.SERVICE)
    out.append(KeepState(s.id, DeviceState.SERVICE, window))
    raise_alarm(s, "service", Severity.WARNING, f"{s.id}: in service for {minutes:g} min: {window.reason}", out)


def accept(s: Standing, event: OperatorCommand, now: Instant, out: Out) -> None:
    """A second person accepts every difference shown: what was measured becomes the reference, countersigned.

    A command that names a difference (``Standing.difference_id``) accepts that one and no other: the repair then stays open.
    """
    actor, seen, rows = event.actor, event.argument("difference"), s.difference()
    if seen and seen != s.difference_id():
        out.append(Record("refused", s.id, f"{s.id}: {actor} accepted a difference that is not the present one; nothing was", ()))
        return
    s.adopt(tuple(ReferenceValue(t, n, v, Provenance.HOSPITAL, countersigned=True) for t, n, _, v in rows))
    out.append(Adopt(s.id, s.references))
    shown = ", ".join(f"{n}: {a.hex() or 'none'} → {b.hex()}" for _, n, a, b in rows)
    out.append(Record("accepted", s.id, f"{s.id}: {actor} accepted {len(rows)} changes: {shown}", (("actor", actor),)))
    s.bad.clear()
    close_service(s, f"accepted by {actor}", now, out)


def close_service(s: Standing, how: str, now: Instant, out: Out) -> None:
    """End a repair: what was not accepted counts as what it looks like."""
    s.service = None
    s.device = with_state(s, DeviceState.ENFORCED)
    s.asked.clear()
    out.append(KeepState(s.id, DeviceState.ENFORCED))
    out.append(Record("service-ended", s.id, f"{s.id}: service mode ended: {how}", ()))
    clear_alarm(s, "service", out)
    for media_type, result in list(s.bad.items()):
        s.held.pop(media_type, None)
        condemn(s, Veto(media_type, result.findings[0].text if result.findings else "changed", now), now, out)


def check_service(command: OperatorCommand) -> None:
    """A repair has a length and a reason. Raises InputError."""
    try:
        minutes = float(command.argument("minutes"))
    except ValueError:
        minutes = 0.0
    if not 0.05 <= minutes <= 480:
        raise InputError("service mode lasts 0.05 to 480 minutes", "give --minutes")
    if not 3 <= len(command.argument("reason")) <= 200:
        raise InputError("service mode needs a reason of 3 to 200 characters", "give --reason")


def check_second_person(s: Standing, command: OperatorCommand) -> None:
    """A difference is accepted by somebody else, and is the one that was shown, when one is named. Raises RefusedError."""
    if s.service and s.service.actor == command.actor:
        raise RefusedError(f"{command.actor} opened this repair", "a second person accepts the difference, or undo it")
    seen = command.argument("difference")
    if seen and seen != s.difference_id():
        raise RefusedError(f"{s.id} measures something else by now", "look at the difference again, then accept it")


def with_state(s: Standing, state: DeviceState) -> Device:
    """The device in another state."""
    return replace(s.device, state=state)


def break_glass(s: Standing, event: OperatorCommand, now: Instant, out: Out) -> None:
    """The kernel lets a function pass, whatever the level, for as many minutes: told for as long as that is so."""
    minutes = int(float(event.argument("minutes", "0")))  # whole ones, as the kernel was told
    text = f"{event.argument('function')} is open by break-glass for {minutes} min: {event.actor}: {event.argument('reason')}"
    s.glass[event.argument("function")] = now.plus(60 * minutes), text
    out.append(Record("break-glass", s.id, f"{s.id}: {text}", (("actor", event.actor), ("severity", Severity.ALARM.value))))
    look_at_glass(s, now, out)


def look_at_glass(s: Standing, now: Instant, out: Out) -> None:
    """An opening ends by itself; the alarm says which are left."""
    s.glass = {f: (until, text) for f, (until, text) in s.glass.items() if until.mono_ns > now.mono_ns}
    if s.glass:
        raise_alarm(s, "break-glass", Severity.ALARM, f"{s.id}: " + "; ".join(text for _, text in s.glass.values()), out)
    else:
        clear_alarm(s, "break-glass", out)
