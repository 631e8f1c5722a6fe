"""What comes in is bounded and strict; what goes out has its headers; every error has a remedy and the right status.

Refuses to know what a command means.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.errors import DeviceError, EvidenceError, InputError, RefusedError, UnavailableError, WardgateError
from gateway.logs import clean
from gateway.model.device import DEVICE_ID
from gateway.model.view import DeviceView
from gateway.web.desk import DESK, VISITOR

log = logging.getLogger("wardgate.web")

_FIELDS = 256  # of a form; the largest ticks the values of a difference one by one
_FILE_MAX = 12 * 1024  # an endorsement is a few hundred bytes, a certificate in PEM 1 to 4 KiB
_ALWAYS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: under that browsers send `Origin: null` with a form, and the Origin check is worth more.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_STATUS: tuple[tuple[type[WardgateError], int], ...] = (
    (RefusedError, 403),
    (InputError, 400),
    (UnavailableError, 503),
    (DeviceError, 502),
    (EvidenceError, 422),
)
_HTTP_WORDS = {
    404: ("there is no such page here", "go back to the ward"),
    405: ("that cannot be done with this address", "use the page's own buttons, or the documented method"),
    413: ("that is more than this gateway takes in one request", "send less"),
}


class NotFoundError(InputError):
    """There is no such thing here: HTTP 404."""


async def put_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every response: the headers that keep a browser strict; nothing is stored but what says otherwise."""
    for name, value in _ALWAYS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = "wardgate"


def status_of(error: WardgateError) -> int:
    """The HTTP status for one of our errors."""
    if isinstance(error, NotFoundError):
        return 404
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into an answer with a remedy; a traceback goes to the journal, never to a client."""
    try:
        return await handler(request)
    except WardgateError as e:
        return _answer(request, status_of(e), e.what, e.remedy)
    except web.HTTPException as e:
        if e.status < 400:
            raise
        what, remedy = _HTTP_WORDS.get(e.status, ("the request is not right", "check its form"))
        return _answer(request, e.status, what, remedy)
    except TimeoutError:
        return _answer(request, 408, "the request took too long to arrive", "send it again")
    except ConnectionError:
        raise
    except Exception:  # boundary: whatever is wrong with us, a client gets a sentence
        log.exception("a request failed: %s %s", request.method, clean(request.path, 120))
        return _answer(request, 500, "the gateway made a mistake", "look into the gateway's journal and report it")


def _answer(request: web.Request, status: int, what: str, remedy: str) -> web.Response:
    if request.path.startswith(("/api/", "/live", "/metrics")) or request.app[DESK].renderer.plain:
        return web.json_response({"error": what, "remedy": remedy}, status=status)
    found = request.get(VISITOR)
    page = request.app[DESK].renderer.note(found, what=what, remedy=remedy)
    return web.Response(text=page, status=status, content_type="text/html")


async def body_of(request: web.Request) -> bytes:
    """The whole body, bounded in bytes (by the application) and time."""
    async with asyncio.timeout(request.app[DESK].settings.body_s):
        return await request.read()


async def form_of(request: web.Request) -> dict[str, str]:
    """The fields of an urlencoded form; each once. Raises InputError."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise InputError("a form comes as application/x-www-form-urlencoded", "use the page's own form")
    try:
        pairs = parse_qsl((await body_of(request)).decode("utf-8"), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError:
        raise InputError("the form cannot be read", "use the page's own form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InputError("a field is there twice", "use the page's own form")
    return fields


async def upload_of(request: web.Request) -> dict[str, str]:
    """The fields of a form that may hold files, each once; a file as its text in UTF-8, an empty one as "". Raises InputError."""
    if request.content_type != "multipart/form-data":
        return await form_of(request)
    try:
        async with asyncio.timeout(request.app[DESK].settings.body_s):
            posted = await request.post()
        pairs = [(name, _text_of(value)) for name, value in posted.items()]
    except ValueError:
        raise InputError("the form cannot be read", "use the page's own form, and a file of text") from None
    if len(dict(pairs)) != len(pairs) or len(pairs) > _FIELDS:
        raise InputError("a field is there twice, or there are too many", "use the page's own form")
    return dict(pairs)


def _text_of(value: str | bytes | bytearray | web.FileField) -> str:
    raw = value.file.read(_FILE_MAX + 1) if isinstance(value, web.FileField) else value
    if len(raw) > _FILE_MAX:
        raise InputError(f"a file is at most {_FILE_MAX} bytes", "choose the right file")
    text = raw if isinstance(raw, str) else bytes(raw).decode("utf-8")
    if "\x00" in text:
        raise ValueError("NUL")
    return text


async def json_of(request: web.Request) -> dict[str, Any]:
    """The JSON object of the body: no duplicate keys, no NaN. Raises InputError."""
    if request.content_type != "application/json":
        raise InputError("a command comes as application/json", "set Content-Type: application/json")
    try:
        value = json.loads(await body_of(request), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InputError("the body is not JSON", "send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object", "send one JSON object in UTF-8")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(name)


def number_of(request: web.Request, name: str, low: int, high: int) -> int | None:
    """A whole number from the query; None when it is not there. Raises InputError."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or not low <= int(text) <= high:
        raise InputError(f"{name} is a whole number from {low} to {high}", "change the query")
    return int(text)


def device_of(request: web.Request) -> DeviceView:
    """The device that the path names. Raises NotFoundError."""
    device_id = request.match_info["id"]
    if DEVICE_ID.fullmatch(device_id):
        for device in request.app[DESK].console.view().devices:
            if device.id == device_id:
                return device
    raise NotFoundError(f"there is no device {clean(device_id, 64)}", "see the ward for the devices there are")


def see_other(path: str) -> web.Response:
    """Go on to another page of ours."""
    return web.Response(status=303, headers={"Location": path})


def html(page: str, status: int = 200) -> web.Response:
    """A whole page as a response."""
    return web.Response(text=page, status=status, content_type="text/html")
