"""One look at the broker for ``wardgate check``: certificates, dates, address, TLS and CONNECT. Sends nothing, changes nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cryptography import x509

from gateway.config import Uplink
from gateway.errors import InputError
from gateway.uplink.link import CONNECT_S, connect, tls_context

_SOON = timedelta(days=30)  # time enough for a hospital's CA to answer


def probe(settings: Uplink) -> str:
    """A sentence about a broker that takes us. Raises InputError or UnavailableError, with what to do."""
    context, _ = tls_context(settings)
    left = _left(settings)

    async def look() -> None:
        async with asyncio.timeout(6 * CONNECT_S), connect(settings, settings.where[0], "wardgate-check", None, context) as link:
            link.farewell = True

    asyncio.run(look())
    return f"{settings.host} port {settings.port} takes our certificate, good for {left.days} more days"


def _left(settings: Uplink) -> timedelta:
    certificate = x509.load_pem_x509_certificates(settings.cert.read_bytes())[0]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left < _SOON:
        word = "has expired" if left < timedelta() else f"expires in {left.days} days"
        raise InputError(f"the uplink's certificate {settings.cert} {word}", "have the hospital's CA renew it")
    return left
