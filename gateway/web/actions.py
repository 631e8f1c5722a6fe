"""The actions of the page: which are offered from where a device is, what each asks first, and the command it becomes.

The gateway decides whether a command is carried out; this only asks well. Refuses to know HTTP and HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import InputError
from gateway.model.event import OperatorCommand
from gateway.model.roles import MAY
from gateway.model.view import DeviceView, User
from gateway.web.render import Offer

_MINUTES_MAX = 480  # a shift; longer needs another person to open it again
_REASON_MAX = 200
_DIFFERENCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Field:
    """One thing an action asks for. ``most`` is the largest number, or the greatest length."""

    name: str
    label: str
    kind: str = "text"
    hint: str = ""
    value: str = ""
    most: int = _REASON_MAX
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """The page that an action shows first. ``compare``: it also shows what the device measures differently, line by line."""

    verb: str
    title: str
    lead: str
    button: str
    fields: tuple[Field, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    compare: bool = False


_PASSWORD = Field(
    "password",
    "Your password",
    "password",
    "It is checked by the part of the gateway that owns the policy, not by this page.",
    most=256,
)
_MINUTES = Field("minutes", "For how many minutes", "number", value="30", most=_MINUTES_MAX)
_REASON = Field("reason", "Reason", hint="It goes into the audit log under your name.")

_REMOVE, _SUSPEND = Offer("remove", "Remove", rare=True), Offer("suspend", "Suspend", rare=True)
_OFFERS: dict[str, tuple[Offer, ...]] = {
    "proposed": (Offer("accept", "Accept"), _REMOVE),
    "observing": (Offer("attest", "Attest now", direct=True), Offer("enforce", "Enforce"), _SUSPEND, _REMOVE),
    "enforced": (
        Offer("attest", "Attest now", direct=True),
        Offer("service", "Service mode"),
        Offer("observe", "Only observe"),
        Offer("break-glass", "Break glass"),
        _SUSPEND,
        _REMOVE,
    ),
    "service": (
        Offer("attest", "Attest now", direct=True),
        Offer("accept", "Accept changes"),
        Offer("undo", "End without accepting"),
        _SUSPEND,
    ),
    "suspended": (Offer("observe", "Only observe"), Offer("enforce", "Enforce"), _REMOVE),
}


def found_only(device: DeviceView) -> bool:
    """Whether the device was only seen: nobody has given it a profile, and no command reaches it yet."""
    return device.state == "proposed" and not device.profile


def offers(device: DeviceView, role: str) -> tuple[Offer, ...]:
    """What someone with ``role`` can do with a device in its state."""
    found = (Offer("add", "Add"),) if found_only(device) else _OFFERS.get(device.state, ())
    return tuple(o for o in found if role in MAY[o.verb] and (o.verb != "break-glass" or _breakable(device)))


def offered(device: DeviceView, verb: str, role: str) -> Offer:
    """The offer for ``verb``; raises InputError when the device's state has no such action."""
    for offer in offers(device, role):
        if offer.verb == verb:
            return offer
    raise InputError(f"{device.id} is {device.state}: {verb} is not possible now", "load the device's page again")


def question(device: DeviceView, verb: str, role: str) -> Question:
    """What the page asks before ``verb``. Raises InputError when that is not possible now."""
    offered(device, verb, role)
    match verb:
        case "enforce":
            return _enforce(device)
        case "observe":
            lead = f"{device.name} then gets all its flows, whatever its level. Nothing of it is cut; all is counted and logged."
            return Question(verb, f"Only observe {device.name}", lead, "Only observe", (_PASSWORD,))
        case "service":
            lead = (
                "A repair or a firmware update looks exactly like an attack. In service mode monitoring stays and readings are "
                "labelled; what changed is then accepted by a second person, or undone."
            )
            return Question(verb, f"Service mode for {device.name}", lead, "Start service mode", (_MINUTES, _REASON))
        case "accept" if device.state == "proposed":
            lead = f"It was seen at {device.address}. Once accepted it is observed: its flows pass and are counted; nothing is cut."
            return Question(verb, f"Accept {device.name}", lead, "Accept", (_PASSWORD,))
        case "accept":
            lead = "What the device measures now becomes its reference. Compare every value with the maker’s, and tick it."
            return Question(verb, f"Accept the changes of {device.name}", lead, "Accept these changes", compare=True)
        case "undo":
            lead = (
                "Service mode ends. What changed and was not accepted counts as what it looks like: the device may lose its level."
            )
            return Question(verb, f"End service of {device.name} without accepting", lead, "End without accepting")
        case "break-glass":
            return _break_glass(device)
        case "suspend":
            return _suspend(device)
        case "remove":
            return _remove(device)
        case _:
            return Question(verb, f"{verb.capitalize()} {device.name}", "", verb.capitalize())


def command(user: User, device: DeviceView, verb: str, form: Mapping[str, str]) -> OperatorCommand:
    """The command that a filled-in question becomes. Raises InputError with what is missing."""
    asked = question(device, verb, user.role)
    arguments = {f.name: _checked(f, form) for f in asked.fields}
    secret = arguments.pop("password", "")
    if arguments.pop("confirm", device.id) != device.id:
        raise InputError("that is not the id of this device", f"type {device.id}")
    if verb == "accept" and form.get("anyway") == "yes":
        arguments["anyway"] = "yes"
    if asked.compare:
        arguments["difference"] = _compared(form)
    return OperatorCommand(user.name, user.role, verb, device.id, tuple(sorted(arguments.items())), secret)


def _compared(form: Mapping[str, str]) -> str:
    """The name of the difference that was shown, when every line of it is ticked."""
    shown, lines = form.get("difference", ""), form.get("lines", "")
    if not _DIFFERENCE.fullmatch(shown) or not (lines.isascii() and lines.isdigit() and len(lines) <= 3):
        raise InputError("there is nothing to accept", "look at the device’s page: if nothing differs, end the service instead")
    if missing := sum(f"line-{i}" not in form for i in range(int(lines))):
        raise InputError(f"{missing} of {lines} values are not ticked", "compare each with the maker’s, or end without accepting")
    return shown


def _checked(field: Field, form: Mapping[str, str]) -> str:
    value = form.get(field.name, "") if field.kind == "password" else form.get(field.name, "").strip()
    if not value:
        raise InputError(f"{field.label.lower()} is missing", "fill it in")
    if field.choices and value not in field.choices:
        raise InputError(f"{field.name} is none of {', '.join(field.choices)}", "choose one of them")
    if field.kind == "number":
        if not (value.isascii() and value.isdigit() and len(value) <= 4) or not 1 <= int(value) <= field.most:
            raise InputError(f"{field.name} is a whole number from 1 to {field.most}", "change it")
        return str(int(value))
    if len(value) > field.most or not value.isprintable():
        raise InputError(f"{field.name} is at most {field.most} printable characters", "make it shorter")
    return value


def _enforce(device: DeviceView) -> Question:
    stays = [f for f in device.functions if f.on_loss == "vital"]
    lists = [("cut", f"{name}: cut as soon as you press Enforce") for name in device.would_cut]
    lists += [("always", f"{f.name}: always on, it needs no level") for f in stays]
    if device.would_cut:
        lead = f"{device.name} has level {device.level} now. With that, this would happen at once:"
    else:
        lead = f"{device.name} has level {device.level} now. Nothing would be cut; from then on it gets what its evidence earns."
    return Question("enforce", f"Enforce {device.name}", lead, "Enforce", (_PASSWORD,), tuple(lists))


def _stays(device: DeviceView, verb: str) -> str:
    vital = ", ".join(f.name for f in device.functions if f.on_loss == "vital")
    return f" That includes {vital}, which a patient may depend on." if vital else f" {verb} cuts nothing that is marked vital."


def _suspend(device: DeviceView) -> Question:
    lead = f"{device.name} then gets nothing at all until someone observes or enforces it again.{_stays(device, 'It')}"
    return Question("suspend", f"Suspend {device.name}", lead, "Suspend", (_PASSWORD,))


def _remove(device: DeviceView) -> Question:
    lead = (
        f"{device.name} then gets nothing, its keys are destroyed, and it is shown no more; the record stays. "
        f"It can be proposed again; what stood against it stands.{_stays(device, 'It')}"
    )
    typed = Field("confirm", f"Type {device.id} to confirm", most=63)
    return Question("remove", f"Remove {device.name}", lead, "Remove for good", (typed, _PASSWORD))


def _break_glass(device: DeviceView) -> Question:
    lead = "One function passes for a limited time, whatever the device's level: only flows of its profile. It rings an alarm."
    choice = Field("function", "Function", choices=_breakable(device), value=_breakable(device)[0])
    return Question("break-glass", f"Break glass for {device.name}", lead, "Break glass", (choice, _MINUTES, _REASON, _PASSWORD))


def _breakable(device: DeviceView) -> tuple[str, ...]:
    return tuple(f.name for f in device.functions if not f.allowed)
