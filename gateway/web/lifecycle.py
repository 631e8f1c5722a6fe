"""Files to take away, for an admin: a backup and the support file; and how full the gateway is, for everyone who may look.

The same on HTTPS and on the control socket. Refuses to know what is in the files.
"""

from __future__ import annotations

from aiohttp import web

from gateway.errors import InputError, RefusedError
from gateway.ports import LifecyclePort
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Visitor, operator, visitor
from gateway.web.wire import json_of

_LIFE: web.AppKey[LifecyclePort] = web.AppKey("life", LifecyclePort)
_SECRET_MAX = 1024


def install(app: web.Application, life: LifecyclePort) -> None:
    """Add ``GET /api/v1/status``, ``POST /api/v1/support-file`` and ``POST /api/v1/backup`` to an application not yet started."""
    app[_LIFE] = life
    app.add_routes([
        web.get("/api/v1/status", status),
        web.post("/api/v1/support-file", support_file),
        web.post("/api/v1/backup", backup),
    ])  # fmt: skip


async def status(request: web.Request) -> web.Response:
    """The record, the disk, time: as ``LifecyclePort.status``."""
    visitor(request)
    return web.json_response(await request.app[_LIFE].status())


async def support_file(request: web.Request) -> web.Response:
    """The support file; for operators."""
    who = operator(request)
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    return _file(await request.app[_LIFE].support_file(), "wardgate-support.tar.gz", "application/gzip")


async def backup(request: web.Request) -> web.Response:
    """A backup: ``{"passphrase", "password"}``; the password is the admin's own, once more; root on the console needs none."""
    who = operator(request)
    if who.user.role != "admin":
        raise RefusedError("only an admin takes a backup away", "ask an admin")
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    body = await json_of(request)
    unknown = body.keys() - {"passphrase", "password"}
    if unknown or not all(isinstance(v, str) and len(v) <= _SECRET_MAX for v in body.values()):
        raise InputError("a backup is asked for with a passphrase and a password, both texts", "send these two only")
    await _once_more(request, who, body.get("password", ""))
    return _file(await request.app[_LIFE].backup(body.get("passphrase", "")), "wardgate.backup", "application/octet-stream")


async def _once_more(request: web.Request, who: Visitor, password: str) -> None:
    """A session that somebody left open, or took over, is not enough to carry all keys away."""
    if who.session:
        await request.app[DESK].accounts.login(who.user.name, password, request.remote or "")


def _file(body: bytes, name: str, kind: str) -> web.Response:
    return web.Response(body=body, content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
