"""MLLP over TLS: our side of a device's connection, and of one toward a receiver. Refuses to know what is spoken inside.

A certificate that is not the right one ends the connection before a byte of a message has passed; what is said of it names the
end and the remedy.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from drivers.hl7.route import Route
from gateway.errors import EvidenceError, UnavailableError, WardgateError

P = TypeVar("P", bound=asyncio.Protocol)
Contexts = Callable[[str], ssl.SSLContext]
MAX_HANDSHAKES = 16  # of one device at a time
HANDSHAKE_S = 5.0


class WrongPeerError(EvidenceError):
    """The other end is not whom it should be, or does not take us for whom we are: it does not mend by itself."""


async def dial(route: Route, contexts: Contexts, timeout_s: float, factory: Callable[[], P]) -> P:
    """A connection to the other end of a route. Raises UnavailableError, or WrongPeerError when TLS does not come about."""
    host, port = route.endpoint
    tls: dict[str, Any] = {}
    if route.tls.dial:
        tls = {"ssl": contexts(route.tls.dial), "server_hostname": route.tls.name or host}
    try:
        async with asyncio.timeout(timeout_s):
            _, protocol = await asyncio.get_running_loop().create_connection(factory, host, port, **tls)
    except ssl.SSLError as e:
        what = f"TLS with the receiver {host}:{port} did not come about ({reason(e)})"
        raise WrongPeerError(what, f"look at its certificate and at [tls.{route.tls.dial}]") from e
    except (OSError, TimeoutError) as e:
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else "no answer"
        remedy = f"check that it is there and speaks TLS ([tls.{route.tls.dial}])" if tls else "check the receiver and the network"
        raise UnavailableError(f"the receiver {host}:{port} cannot be reached ({why})", remedy) from e
    return protocol


async def serve(route: Route, contexts: Contexts, transport: asyncio.Transport, waiting: asyncio.Protocol) -> asyncio.Transport:
    """Our side of TLS with who opened a route; raises WrongPeerError, or a WardgateError when our own side is not in order."""
    try:
        context = contexts(route.tls.serve)
        async with asyncio.timeout(HANDSHAKE_S):
            secured = await asyncio.get_running_loop().start_tls(transport, waiting, context, server_side=True)
    except ssl.SSLError as e:
        what = f"TLS with {route.client} did not come about ({reason(e)})"
        raise WrongPeerError(what, f"look at its certificate and at [tls.{route.tls.serve}]") from e
    except (OSError, TimeoutError) as e:
        raise UnavailableError(f"TLS with {route.client} was not begun in {HANDSHAKE_S:g} s", "does it speak TLS?") from e
    if secured is None:
        raise UnavailableError(f"{route.client} went away during TLS", "look at it")
    certificate = secured.get_extra_info("peercert") or {}
    names = {_name(kind, value) for kind, value in certificate.get("subjectAltName", ())}
    right = {route.tls.client} if route.tls.client else {route.client, *([route.link.device_id] if route.from_device else [])}
    if not names & right:
        secured.abort()
        shown = ", ".join(sorted(names))[:80] or "nobody"
        raise WrongPeerError(f"{route.client} showed the certificate of {shown}", f"it must name {' or '.join(sorted(right))}")
    return secured


def _name(kind: str, value: str) -> str:
    """An alternative name; addresses as we write them."""
    if kind == "IP Address":
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(value))
    return value if kind == "DNS" else ""


def reason(error: BaseException) -> str:
    """Why TLS failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)[:80] or type(error).__name__


def ended(route: Route, error: Exception | None, *, answered: bool) -> WardgateError:
    """Why a receiver's connection ended. That it refused our certificate, TLS 1.3 says only after the handshake, some never say."""
    doubt = f"does it trust the certificate of [tls.{route.tls.dial}]?"
    if isinstance(error, ssl.SSLError):
        return WrongPeerError(f"the receiver ended TLS ({reason(error)})", doubt)
    if route.tls.dial and not answered:
        return UnavailableError("the receiver closed the connection and had answered nothing", doubt)
    return UnavailableError("the receiver closed the connection", "look at the receiver")


def lasting(error: WardgateError) -> bool:
    """Whether waiting does not help."""
    return not isinstance(error, UnavailableError)
