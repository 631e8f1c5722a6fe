"""Adding a device, step by step: found, profile, attest, observe, enforce.

A stranger in radio range can call itself anything, so what identifies a device is shown before anybody accepts it. Refuses to
know how devices are found and which profile is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from gateway.errors import InputError, WardgateError
from gateway.model.device import Bus
from gateway.model.event import OperatorCommand
from gateway.model.profile import Profile
from gateway.model.sheet import WIRED, Found, Sheet, Suggestion
from gateway.model.view import User
from gateway.web import wording
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Desk, Notice, permitted, visitor
from gateway.web.wire import NotFoundError, html, see_other, status_of, upload_of

STEPS = ("Found", "Profile", "Attest", "Observe", "Enforce")
_MOST = {
    "id": 63,
    "name": 80,
    "profile": 64,
    "address": 45,
    "port": 15,
    "mac": 17,
    "addresses": 400,
    "passkey": 6,
    "endorsement": 4096,
}
_PASSKEY = re.compile(r"[0-9]{6}")
_SHOWN = 100  # found devices on one page


@dataclass(frozen=True, slots=True)
class Step:
    """One of ``STEPS``: ``state`` is done, current or todo."""

    name: str
    state: str
    text: str


def routes() -> list[web.RouteDef]:
    """Everything under /add."""
    return [web.get("/add", found), web.get("/add/{key}", form), web.post("/add/{key}", add)]


def progress(sheet: Sheet) -> tuple[Step, ...]:
    """Where a device is on its way in; empty once it is enforced."""
    state = sheet.device.state
    if state not in ("proposed", "observing"):
        return ()
    missing = [e.target for e in sheet.evidence if e.standing == "none"]
    bad = [e.target for e in sheet.evidence if e.standing == "bad"]
    reached = 3 if state == "observing" and not missing and not bad else 2
    texts = (
        f"It is at {sheet.device.address}.",
        f"Its profile is {sheet.device.profile}." + (" It still gets nothing." if state == "proposed" else ""),
        _attest_text(state, missing, bad),
        _observe_text(sheet, reached),
        "From then on it gets what its evidence earns, and no more.",
    )
    return _steps(reached, texts)


def _attest_text(state: str, missing: Sequence[str], bad: Sequence[str]) -> str:
    if state == "proposed":
        return "Accept it, and it is asked to prove itself. It is only observed then: nothing of it is cut."
    if bad:
        return f"Its {wording.listing(list(bad))} is not what it should be. Is it the right device, and the right profile?"
    if missing:
        return f"It is asked; there is no evidence of {wording.listing(list(missing))} yet."
    return "It has proved all that its profile asks for."


def _observe_text(sheet: Sheet, reached: int) -> str:
    if reached < 3:
        return "Its flows pass and are counted; nothing is cut."
    counted = sum(r.count for r in sheet.refused)
    times = f"{counted} time{'' if counted == 1 else 's'}"
    seen = (
        f"something passed {times} that its profile or level would not allow"
        if counted
        else "nothing passed that its profile would not allow"
    )
    cut = (
        f"Enforce would cut {wording.listing(list(sheet.device.would_cut))} now"
        if sheet.device.would_cut
        else "Enforce would cut nothing now"
    )
    return f"So far {seen}. {cut}."


def _steps(reached: int, texts: Sequence[str]) -> tuple[Step, ...]:
    states = ["done" if i < reached else "current" if i == reached else "todo" for i in range(len(STEPS))]
    return tuple(Step(n, s, t) for n, s, t in zip(STEPS, states, texts, strict=True))


# --- pages ---


async def found(request: web.Request) -> web.Response:
    """What was found, and the way to add what did not show itself."""
    desk, who = request.app[DESK], visitor(request)
    rows = desk.console.dossiers.found()
    now_ms = desk.console.view().now_ms
    page = desk.renderer.page(
        "found.html", who, here="/add", notice=desk.notices.take(who.session), rows=rows[:_SHOWN], more=max(0, len(rows) - _SHOWN),
        now_ms=now_ms, buses=wording.BUS_WORDS, may_add=who.operator, steps=_steps(0, ("",) * len(STEPS)),
    )  # fmt: skip
    return html(page)


async def form(request: web.Request) -> web.Response:
    """What identifies a found device, which profile may fit and why, and what is asked to propose it."""
    permitted(request, "add")
    return _form(request, *_looked_up(request))


async def add(request: web.Request) -> web.StreamResponse:
    """Propose it; it gets nothing until it is accepted."""
    who, desk = permitted(request, "add"), request.app[DESK]
    given = await upload_of(request)
    check_csrf(request, given.get("csrf", ""))
    seen, choices = _looked_up(request)
    try:
        command = _command(who.user, given, seen, choices, _buses(desk))
        outcome = await desk.console.command(command)
    except WardgateError as e:
        return _form(request, seen, choices, e, given)
    desk.notices.leave(who.session, Notice(outcome.ok, outcome.text))
    return see_other(f"/devices/{command.device_id}")


def _looked_up(request: web.Request) -> tuple[Found | None, Sequence[Suggestion]]:
    """(what was found, the profiles to choose from); ``other`` is a device that did not show itself."""
    dossiers, key = request.app[DESK].console.dossiers, request.match_info["key"]
    if key == "other":
        return None, tuple(_any(p) for p in dossiers.profiles())
    seen = next((f for f in dossiers.found() if f.key == key), None)
    if seen is None:
        raise NotFoundError("that device is not among those found", "look at the list again; perhaps it has been added")
    return seen, seen.suggestions


def _any(p: Profile) -> Suggestion:
    word = wording.BUS_WORDS.get(p.bus, p.bus)
    return Suggestion(p.id, p.name, p.clinical_class, False, (f"for {word} devices",), p.bus is Bus.BLE, True)


def _form(
    request: web.Request,
    seen: Found | None,
    choices: Sequence[Suggestion],
    error: WardgateError | None = None,
    given: Mapping[str, str] | None = None,
) -> web.Response:
    desk, said = request.app[DESK], given or {}
    chosen = said.get("profile") or next((c.profile for c in choices if c.fits), "")
    values = {n: said.get(n, "")[:most] for n, most in _MOST.items() if n not in ("passkey", "endorsement")}
    if not given and seen is not None:
        values |= {
            "id": _free_id(desk, chosen),
            "name": seen.name if seen.name != "unnamed" and seen.bus != WIRED else "",
            "address": next(iter(seen.addresses), ""),
            "port": seen.port,
            "mac": seen.mac,
        }
    page = desk.renderer.page(
        "add.html", visitor(request), here="/add", seen=seen, choices=choices, chosen=chosen, values=values, error=error,
        now_ms=desk.console.view().now_ms, bus=wording.BUS_WORDS.get(seen.bus, seen.bus) if seen else "",
        wired=seen is None or seen.bus != "ble", wireless=seen is None or seen.bus == "ble",
        on_a_port=seen is not None and seen.bus == WIRED,
        steps=_steps(1, ("",) * len(STEPS)), most=_MOST,
    )  # fmt: skip
    return html(page, status_of(error) if error else 200)


def _free_id(desk: Desk, profile: str) -> str:
    """An id that nobody in the ward has."""
    taken = {d.id for d in desk.console.view().devices}
    stem = re.sub(r"[^a-z0-9-]+", "-", profile.lower()).strip("-")[:55] or "device"
    return next(i for i in (f"{stem}-{n}" for n in range(1, len(taken) + 2)) if i not in taken)


def _buses(desk: Desk) -> Mapping[str, str]:
    return {p.id: p.bus.value for p in desk.console.dossiers.profiles()}


def _command(
    user: User, given: Mapping[str, str], seen: Found | None, choices: Sequence[Suggestion], buses: Mapping[str, str]
) -> OperatorCommand:
    """The command that a filled-in form becomes. Raises InputError with what does not fit."""
    fields = {n: given.get(n, "").strip() for n in _MOST}
    for name, value in fields.items():
        readable = (
            value.isprintable()
            if name != "endorsement"
            else value.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
        )
        if len(value) > _MOST[name] or not readable:
            raise InputError(f"the {name} is at most {_MOST[name]} printable characters", "make it shorter")
    if fields["profile"] not in {c.profile for c in choices}:
        raise InputError("no profile is chosen", "choose the one that fits the device")
    if fields["passkey"] and not _PASSKEY.fullmatch(fields["passkey"]):
        raise InputError("a passkey is six digits", "read it from the device’s label or display")
    if seen is not None and seen.bus == WIRED:  # a MAC and a port; what it is and which address it keeps, a person says
        fields["bus"] = buses[fields["profile"]]
    elif seen is not None:
        fields |= {"bus": seen.bus, "address": seen.address}
    else:
        fields["bus"] = given.get("bus", "")
    if fields["bus"] == "ble":
        fields |= {"port": "", "mac": "", "addresses": ""}
    elif not fields["addresses"]:
        fields["addresses"] = fields["address"]
    fields["addresses"] = ",".join(a for a in re.split(r"[\s,]+", fields["addresses"]) if a)
    device_id = fields.pop("id")
    if not re.fullmatch(r"[a-z0-9-]{1,63}", device_id):
        raise InputError("an id is 1 to 63 small letters, digits and hyphens", "for example infusion-pump-1")
    return OperatorCommand(user.name, user.role, "add", device_id, tuple(sorted(fields.items())))
