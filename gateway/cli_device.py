"""``wardgate device …`` beyond the inventory's states: what was found, a device's levels, its certificate examined, its label.

The same that the page and the API show and do. Refuses to know how anything is done.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from gateway.errors import InputError

Command = Callable[[argparse.Namespace], int]
_NEVER = "not known"


class Tools(Protocol):
    """What the command line lends its topics."""

    def control(self, o: argparse.Namespace) -> Any: ...
    def say(self, o: argparse.Namespace, document: Any, lines: list[str]) -> int: ...
    def read(self, path: str | Path) -> bytes: ...
    def person(self, p: argparse.ArgumentParser) -> None: ...
    def command(self, verb: str) -> Command: ...


def register(add: Callable[..., argparse.ArgumentParser], devices: Any, tools: Tools) -> None:
    """Add the subcommands to ``wardgate device``."""
    make = _Commands(tools)
    add("found", make.found, "devices that were seen and not added, and the profiles that may fit", devices)
    add("profiles", make.profiles, "the profiles that a device can be added with", devices)
    add("evidence", make.evidence, "its latest evidence, its flows, what differs, what was refused", devices).add_argument("id")
    p = add("levels", make.levels, "its level over time", devices)
    p.add_argument("id")
    p.add_argument("--hours", type=int, default=24, help="1 to 168; default 24")
    p = add("bundle", make.bundle, "fetch its conformity certificate bundle", devices)
    p.add_argument("id")
    p.add_argument("file", type=Path)
    p = add(
        "verify", make.verify, "examine its newest conformity certificate, step by step. Exit 0 only if everything holds", devices
    )
    p.add_argument("id")
    p.add_argument("--anchor", metavar="FILE", help="the CA certificate (PEM) that you trust; default: the one kept here")
    p = add("label", make.label, "a label with its id, the address of its page and the gateway's fingerprint", devices)
    p.add_argument("id")
    p.add_argument("--page", required=True, metavar="URL", help="the address of the gateway's page")
    p.add_argument("--svg", type=Path, metavar="FILE", help="write the code as SVG instead")
    p = add("accept", make.accept, "accept a new device, or what a repair changed (never by who opened it)", devices)
    p.add_argument("id")
    p.add_argument("--anyway", action="store_true", help="although another device looks the same")
    p.add_argument("--difference", metavar="ID", help="accept only if this is still the difference (as `device evidence` names it)")
    tools.person(p)


class _Commands:
    def __init__(self, tools: Tools) -> None:
        self._t = tools

    def found(self, o: argparse.Namespace) -> int:
        rows = self._t.control(o).ask("GET", "/api/v1/found")["found"]
        lines: list[str] = []
        for f in rows:
            signal = "" if f["signal_dbm"] is None else f", {f['signal_dbm']} dBm"
            speaks = f", speaks as {', '.join(f['addresses'])}" if f["addresses"] else ""
            lines.append(f"{f['bus']} {f['address']} {f['name']}{signal}{speaks}, seen {f['seen_ms'] // 1000} s ago")
            lines += [f"  {'may be' if s['fits'] else 'or'} {s['profile']}: {'; '.join(s['why'])}" for s in f["suggestions"]]
        self._t.say(o, rows, lines or ["nothing new was seen"])
        return 0

    def profiles(self, o: argparse.Namespace) -> int:
        rows = self._t.control(o).ask("GET", "/api/v1/profiles")["profiles"]
        lines = [f"{p['id']:24s} {p['bus']:7s} class {p['clinical_class']:4s} {p['name']}" for p in rows]
        self._t.say(o, rows, lines or ["no profile is loaded"])
        return 0

    def evidence(self, o: argparse.Namespace) -> int:
        sheet = self._sheet(o)
        lines = [f"{e['target']}: {_evidence(e)}" for e in sheet["evidence"]]
        lines += [f"{'open  ' if f['open_now'] else 'closed'} {_flow(f, sheet)}: {f['why']}" for f in sheet["flows"]]
        lines += [f"differs: {_difference(d)}" for d in sheet["difference"]]
        lines += [f"this difference is {sheet['difference_id']}"] if sheet["difference"] else []
        lines += [f"refused {r['time_utc']}: {r['text']}" for r in sheet["refused"]]
        self._t.say(o, sheet, lines or ["its profile asks for nothing"])
        return 0

    def levels(self, o: argparse.Namespace) -> int:
        self._t.control(o).device(o.id)
        history = self._t.control(o).ask("GET", f"/api/v1/devices/{o.id}/levels?hours={o.hours}")
        ends = [*(s["age_ms"] for s in history["steps"][1:]), 0]
        lines = [
            f"{s['age_ms'] / 3_600_000:7.2f} h ago, for {(s['age_ms'] - end) / 1000:.0f} s: "
            + (_NEVER if s["level"] is None else f"level {s['level']}")
            for s, end in zip(history["steps"], ends, strict=True)
        ]
        short = "not all is listed: the record does not reach as far back, or there were more changes"
        self._t.say(o, history, lines if history["complete"] else [*lines, short])
        return 0

    def bundle(self, o: argparse.Namespace) -> int:
        self._t.control(o).device(o.id)
        data = self._t.control(o).bundle(o.id)
        o.file.write_bytes(data)
        text = f"{o.file}: {len(data)} bytes; check it with `wardgate verify {o.file} --anchor anchor.pem`"
        self._t.say(o, {"file": str(o.file), "bytes": len(data)}, [text])
        return 0

    def verify(self, o: argparse.Namespace) -> int:
        control = self._t.control(o)
        control.device(o.id)
        path = f"/api/v1/devices/{o.id}/verify"
        if o.anchor:
            found = control.ask("POST", path, {"anchor": self._t.read(o.anchor).decode("ascii", "replace")})
        else:
            found = control.ask("GET", path)
        words = {True: "holds      ", False: "FAILS      ", None: "not reached"}
        lines = [f"{words[r['ok']]} {r['name']}{'. ' + r['text'] if r['text'] else ''}" for r in found["rows"]]
        self._t.say(o, found, [*lines, *found["lines"]])
        return 0 if found["ok"] else 1

    def label(self, o: argparse.Namespace) -> int:
        from gateway.web.label import DeviceLabel, device_label_text

        control = self._t.control(o)
        control.device(o.id)
        found = control.ask("GET", f"/api/v1/devices/{o.id}/label?page={quote(o.page, safe='')}")
        label = DeviceLabel(**{f.name: str(found[f.name]) for f in fields(DeviceLabel)})
        if o.svg:
            o.svg.write_text(label.qr, encoding="utf-8")
        self._t.say(o, found, [str(o.svg) if o.svg else device_label_text(label)])
        return 0

    def accept(self, o: argparse.Namespace) -> int:
        """In service: what is accepted is what is shown here, and nothing that comes in between."""
        device = self._t.control(o).device(o.id)
        if device["state"] == "service" and o.difference is None:
            sheet = self._sheet(o)
            if not sheet["difference"]:
                raise InputError(f"nothing of {o.id} measures differently", f"end the repair: wardgate device undo {o.id}")
            o.difference = sheet["difference_id"]
            if not o.json:
                self._t.say(o, None, [f"accepting: {_difference(d)}" for d in sheet["difference"]])
        return self._t.command("accept")(o)

    def _sheet(self, o: argparse.Namespace) -> dict[str, Any]:
        control = self._t.control(o)
        control.device(o.id)
        return dict(control.ask("GET", f"/api/v1/devices/{o.id}"))


def _evidence(e: dict[str, Any]) -> str:
    if e["age_ms"] is None:
        return "none yet"
    found = "; ".join(f["text"] for f in e["findings"])
    return (
        f"{e['standing']}, {e['age_ms'] / 1000:.1f} s ago, {e['evidence_class']} over {e['channel']}{': ' + found if found else ''}"
    )


def _flow(f: dict[str, Any], sheet: dict[str, Any]) -> str:
    ends = (sheet["device"]["id"], f["peer"])
    opener, peer = ends if f["from_device"] else reversed(ends)
    return f"{opener} → {peer} {f['protocol']} {f['port']} for {f['function']}"


def _difference(d: dict[str, Any]) -> str:
    """As the page says it: what it may mean to a person, and the bytes."""
    from gateway.model.sheet import DifferenceRow
    from gateway.web.telling import change_of

    c = change_of(DifferenceRow(*(str(d[f.name]) for f in fields(DifferenceRow))))
    return f"{c.target}, {c.name}: {c.old} → {c.new}"
