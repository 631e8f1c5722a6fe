"""Who is asking: the session cookie, the CSRF token, the Origin of a POST; an API token; or the peer's uid on the control socket.

A request with an ``Authorization`` header is a token's and nobody else's: its cookie does not count, and since no browser adds
such a header by itself it needs neither Origin nor CSRF token. A token reaches the API and the figures, no page.

Fails closed: a request without a proof of who sent it reaches only the routes named ``PUBLIC`` here. Refuses to know passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import socket
import struct
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.errors import RefusedError, TooOftenError
from gateway.model.view import User
from gateway.web.desk import DESK, VISITOR, Visitor

COOKIE = "__Host-wardgate"  # the prefix makes browsers insist on Secure, Path=/ and no Domain
_TOKEN_MAX = 128
PUBLIC = ("/login", "/claim", "/api/v1/health")
_PUBLIC_UNDER = ("/static/", "/view/")
_SAFE = ("GET", "HEAD")
_TOKENS_UNDER = ("/api/", "/metrics")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,128}=*")  # RFC 6750, 2.1


def csrf_token(session: str) -> str:
    """The CSRF token of a session: derived from its secret, so that a restart of the daemon spoils no open form."""
    return hmac.new(session.encode(), b"wardgate-csrf-v1", hashlib.sha256).hexdigest()


def set_session(response: web.StreamResponse, token: str) -> None:
    """Put the session into the browser's keeping, out of reach of scripts and other sites."""
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="Strict")


def end_session(response: web.StreamResponse) -> None:
    """Take it back."""
    response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")


def same_origin(request: web.Request) -> None:
    """A POST must come from this very page. Raises RefusedError."""
    origin = request.headers.get("Origin")
    if origin is None and request.headers.get("Sec-Fetch-Site") == "same-origin":
        return
    if origin != f"{request.scheme}://{request.host}":
        raise RefusedError("this request does not come from this page", "open the gateway's own page and try again there")


def check_csrf(request: web.Request, token: str) -> None:
    """``token``, from a form or the header X-CSRF-Token, must be the session's. Raises RefusedError."""
    found = request.get(VISITOR)
    if found is None or not hmac.compare_digest(token.encode(), found.csrf.encode()):
        raise RefusedError("the form does not belong to this session", "load the page again and repeat it")


@web.middleware
async def by_session(request: web.Request, handler: Handler) -> web.StreamResponse:
    """HTTPS: the visitor is whoever the token in the Authorization header, or else the session cookie, says."""
    if (authorization := request.headers.get("Authorization")) is not None:
        return await _by_token(request, authorization, handler)
    token = request.cookies.get(COOKIE, "")
    if token and len(token) <= _TOKEN_MAX and (user := await request.app[DESK].accounts.session(token)) is not None:
        request[VISITOR] = Visitor(user, token, csrf_token(token))
    if request.method not in _SAFE:
        same_origin(request)
    if VISITOR not in request and not _public(request.path):
        return _ask_to_log_in(request)
    return await handler(request)


async def _by_token(request: web.Request, authorization: str, handler: Handler) -> web.StreamResponse:
    scheme, _, secret = authorization.partition(" ")
    if not request.path.startswith(_TOKENS_UNDER):
        raise RefusedError("a token is for the API, not for a page", "log in on the page")
    if len(request.headers.getall("Authorization")) != 1 or scheme.lower() != "bearer" or not _TOKEN.fullmatch(secret):
        return _unknown("Authorization is not a token of this gateway", "send one header: Authorization: Bearer TOKEN")
    try:
        user = await request.app[DESK].accounts.tokens.find(secret, request.remote or "")
    except TooOftenError as e:
        return web.json_response(
            {"error": e.what, "remedy": e.remedy}, status=429, headers={"Retry-After": str(math.ceil(e.wait_s))}
        )
    except RefusedError as e:
        return _unknown(e.what, e.remedy)
    if request.match_info.http_exception is None and getattr(request.match_info.handler, "entry", None) is None:
        raise RefusedError("a token may not do this", "log in on the page")  # a route outside the tables has no say for tokens
    request[VISITOR] = Visitor(user, token=secret)
    return await handler(request)


def _unknown(what: str, remedy: str) -> web.Response:
    challenge = {"WWW-Authenticate": 'Bearer realm="wardgate", error="invalid_token"'}
    return web.json_response({"error": what, "remedy": remedy}, status=401, headers=challenge)


@web.middleware
async def by_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The control socket: the visitor is the uid at its other end."""
    uid = peer_uid(request)
    if uid not in request.app[DESK].settings.uids:
        raise RefusedError(f"uid {uid} may not command this gateway", "run it as root")
    request[VISITOR] = Visitor(User("root" if uid == 0 else f"uid-{uid}", "admin"))
    return await handler(request)


def peer_uid(request: web.Request) -> int:
    """The uid of the process at the other end of a unix socket, from the kernel; -1 when there is none."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        return -1
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def _public(path: str) -> bool:
    return path in PUBLIC or path.startswith(_PUBLIC_UNDER)


def _ask_to_log_in(request: web.Request) -> web.StreamResponse:
    if request.path.startswith(("/api/", "/live", "/metrics")):
        return web.json_response(
            {"error": "nobody is logged in", "remedy": "log in on the page first, or send a token"},
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="wardgate"'},
        )
    onward = f"?next={quote(request.path)}" if request.method == "GET" and request.path != "/" else ""
    return web.Response(status=303, headers={"Location": f"/login{onward}"})
