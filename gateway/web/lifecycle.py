"""Files to take away: a backup for an admin, the support file for operators; and how full the gateway is, for all who may look.

The same on HTTPS and on the control socket; the page's forms are here too. A token carries nothing away. Refuses to know what is in
the files.
"""

from __future__ import annotations

from aiohttp import web

from gateway.errors import InputError, WardgateError
from gateway.ports import LifecyclePort
from gateway.web import schema
from gateway.web.access import check_csrf
from gateway.web.contract import ADMIN, ANYONE, OPERATORS, Answer, Route, answers
from gateway.web.desk import DESK, Visitor, visitor
from gateway.web.forms import OWN_PASSWORD, Blank, Sheet, allowed, asked, form_page
from gateway.web.forms import answers as filled
from gateway.web.wire import form_of, json_of

LIFE: web.AppKey[LifecyclePort] = web.AppKey("life", LifecyclePort)
_SECRET_MAX = 1024
_GZIP, _BYTES = "application/gzip", "application/octet-stream"


def install(app: web.Application, life: LifecyclePort) -> None:
    """Add the routes of ``TABLE``, and on the page's door its forms, to an application not yet started."""
    app[LIFE] = life
    app.add_routes([r.definition() for r in TABLE])
    if not app[DESK].renderer.plain:
        app.add_routes([
            web.get("/gateway/backup", form_page(_backup_sheet, ADMIN)),
            web.post("/gateway/backup", backup_form),
            web.post("/gateway/support-file", support_form),
        ])  # fmt: skip


async def status(request: web.Request) -> web.Response:
    """The record, the disk, time: as ``LifecyclePort.status``."""
    return web.json_response(await request.app[LIFE].status())


async def support_file(request: web.Request) -> web.Response:
    """The support file; for operators."""
    return _file(await request.app[LIFE].support_file(), "wardgate-support.tar.gz", _GZIP)


async def backup(request: web.Request) -> web.Response:
    """A backup: ``{"passphrase", "password"}``; the password is the admin's own, once more; root on the console needs none."""
    who, body = visitor(request), await json_of(request)
    unknown = body.keys() - {"passphrase", "password"}
    if unknown or not all(isinstance(v, str) and len(v) <= _SECRET_MAX for v in body.values()):
        raise InputError("a backup is asked for with a passphrase and a password, both texts", "send these two only")
    await _once_more(request, who, body.get("password", ""))
    return _file(await request.app[LIFE].backup(body.get("passphrase", "")), "wardgate.backup", _BYTES)


async def _once_more(request: web.Request, who: Visitor, password: str) -> None:
    """A session that somebody left open, or took over, is not enough to carry all keys away."""
    if who.session:
        await request.app[DESK].accounts.login(
            who.user.name, password, request.remote or "", "confirmed a backup with the password"
        )


def _file(body: bytes, name: str, kind: str) -> web.Response:
    return web.Response(body=body, content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


# --- the page's forms ---


async def _backup_sheet(request: web.Request) -> Sheet:
    passphrase = Blank(
        "passphrase", "Passphrase of the file", "password", "Whoever has both has this gateway’s data. It is kept nowhere.",
        most=256, fill="new-password",
    )  # fmt: skip
    again = Blank("again", "Passphrase, once more", "password", most=256, fill="new-password")
    lead = "Configuration, devices, people and policy in one encrypted file; what lives in the TPM cannot be moved."
    if lacks := await request.app[LIFE].left_out():
        lead += f" Not in it: {', '.join(lacks)}. The file of `sudo wardgate backup FILE` on the console has that too."
    return Sheet("Take a backup away", lead, "Make the file", (passphrase, again, OWN_PASSWORD), "/gateway#files")


async def backup_form(request: web.Request) -> web.Response:
    """The form, filled in: the file."""
    who, form, sheet = allowed(request, ADMIN), await form_of(request), await _backup_sheet(request)
    check_csrf(request, form.get("csrf", ""))
    try:
        a = filled(sheet, form)
        if a["passphrase"] != a["again"]:
            raise InputError("the two passphrases are not the same", "type the same one twice")
        await _once_more(request, who, a["secret"])
        return _file(await request.app[LIFE].backup(a["passphrase"]), "wardgate.backup", _BYTES)
    except WardgateError as e:
        return asked(request, sheet, e, form)


async def support_form(request: web.Request) -> web.Response:
    """The support file, by a button."""
    allowed(request, OPERATORS)
    check_csrf(request, (await form_of(request)).get("csrf", ""))
    return await support_file(request)


_SECRET = schema.text(_SECRET_MAX, 0)
TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/status", status, "The record, the disk and time", ANYONE, answers(schema.OBJECT)),
    Route("POST", "/api/v1/support-file", support_file, "The support file", OPERATORS,
          {200: Answer("A gzipped tar", {_GZIP: None})}, changes=True, people=True),
    Route("POST", "/api/v1/backup", backup, "A backup, encrypted; less what only root may read", ADMIN,
          {200: Answer("One file for `wardgate restore`", {_BYTES: None})},
          takes=schema.record({"passphrase": _SECRET}, {"password": _SECRET}), changes=True, people=True),
)  # fmt: skip
