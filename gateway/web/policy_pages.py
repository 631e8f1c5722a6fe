"""What is being tried as policy, on the page: keep it, undo it, or go back to the policy before.

root's wardgate-policy checks the person's own password itself. Refuses to know what a profile says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.errors import InputError
from gateway.model.view import User
from gateway.web.contract import OPERATORS
from gateway.web.desk import DESK, Desk
from gateway.web.forms import OWN_PASSWORD, Blank, Sheet, carried, form_page

_BACK = "/gateway#policy"


def routes() -> list[web.RouteDef]:
    """Both forms, and what carries them out."""
    return [
        web.get("/gateway/policy/confirm", form_page(_keep_sheet, OPERATORS)),
        web.post("/gateway/policy/confirm", carried(_keep_sheet, _keep, OPERATORS)),
        web.get("/gateway/policy/rollback", form_page(_undo_sheet, OPERATORS)),
        web.post("/gateway/policy/rollback", carried(_undo_sheet, _undo, OPERATORS)),
    ]


async def _keep_sheet(request: web.Request) -> Sheet:
    waits = (await request.app[DESK].console.policy.state())["pending"]
    if not waits:
        raise InputError("no policy waits for a confirmation", "go back to the Gateway page")
    lead = f"{waits['actor']} applied it for {waits['minutes']:g} minutes. Kept, it stays; otherwise it goes back by itself."
    return Sheet("Keep the policy that is being tried", lead, "Keep it", (OWN_PASSWORD,), _BACK)


async def _keep(desk: Desk, actor: User, _: str, a: dict[str, str]) -> str:
    await desk.console.policy.confirm(actor, a["secret"])
    return "The policy that was tried is the confirmed one now."


async def _undo_sheet(request: web.Request) -> Sheet:
    state = await request.app[DESK].console.policy.state()
    if not state["pending"] and not state["previous"]:
        raise InputError("there is no policy to go back to", "go back to the Gateway page")
    lead = "The policy before comes back at once: what may pass changes for every device that it names."
    cut = Blank(
        "cut_vital", "Vital flows that may be cut by this",
        hint="Only when you were asked to name them: device.function, with spaces between.",
        most=1000, required=False,
    )  # fmt: skip
    return Sheet("Go back to the policy before", lead, "Go back", (cut, OWN_PASSWORD), _BACK)


async def _undo(desk: Desk, actor: User, _: str, a: dict[str, str]) -> str:
    await desk.console.policy.rollback(actor, a["secret"], a["cut_vital"].split())
    return "The policy before is in force again."


def shown(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells of the policy; ``left_ms`` None: nothing is being tried."""
    waits = state["pending"]
    return {**state, "left_ms": None if waits is None else int(waits["left_s"] * 1000)}
