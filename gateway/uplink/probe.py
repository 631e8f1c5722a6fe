"""One look at the broker and at the syslog server for ``wardgate check``: certificates, dates, address, TLS, CONNECT.

Sends nothing that either would keep, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509

from gateway.config import Syslog, Uplink
from gateway.errors import InputError, UnavailableError
from gateway.uplink import syslog
from gateway.uplink.link import CONNECT_S, connect, tls_context

_SOON = timedelta(days=30)  # time enough for a hospital's CA to answer
_GREET_S, _HEAR_S = 5.0, 0.5
_CLIENT = "it asks who sends: have its CA sign a certificate for this gateway, and name it as cert and key in [syslog]"


def probe(settings: Uplink) -> str:
    """A sentence about a broker that takes us. Raises InputError or UnavailableError, with what to do."""
    context, _ = tls_context(settings)
    left = _left(settings)

    async def look() -> None:
        async with asyncio.timeout(6 * CONNECT_S), connect(settings, settings.where[0], "wardgate-check", None, context) as link:
            link.farewell = True

    asyncio.run(look())
    return f"{settings.host} port {settings.port} takes our certificate, good for {left.days} more days"


def probe_syslog(settings: Syslog) -> str:
    """A sentence about a syslog server that lets us in. Raises InputError or UnavailableError, with what to do."""
    context = syslog.tls_context(settings)
    own = ""
    if settings.cert is not None:
        left = _soon(x509.load_pem_x509_certificates(settings.cert.read_bytes())[0], f"our certificate for syslog {settings.cert}")
        own = f"; it takes ours, good for {left.days} more"
    server = asyncio.run(_greet(settings, context))
    left = _soon(server, f"the certificate of the syslog server {settings.host}")
    return f"{settings.host} port {settings.port} over TLS, its certificate good for {left.days} more days{own}"


async def _greet(settings: Syslog, context: ssl.SSLContext) -> x509.Certificate:
    """Connect, wait for a refusal (TLS 1.3 tells of it after the handshake), end orderly; the certificate of the server."""
    where, why = f"{settings.host} port {settings.port}", OSError("nowhere to go")
    for address in settings.where:
        try:
            async with asyncio.timeout(_GREET_S):
                reader, writer = await asyncio.open_connection(
                    address, settings.port, ssl=context, server_hostname=settings.host, ssl_shutdown_timeout=_HEAR_S
                )
        except (OSError, TimeoutError) as e:
            why = e
            continue
        try:
            async with asyncio.timeout(_HEAR_S):
                heard = await reader.read(1)
        except TimeoutError:
            return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        except OSError as e:
            raise UnavailableError(f"the syslog server {where} refuses us ({syslog.why(e)})", _CLIENT) from None
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2 * _HEAR_S):
                    await writer.wait_closed()
        raise UnavailableError(f"the syslog server {where} {'speaks, which none does' if heard else 'closes at once'}", _CLIENT)
    remedy = "see [syslog] in wardgate.toml; does it listen there, and does the confirmed policy let this gateway out to it?"
    if isinstance(why, ssl.SSLCertVerificationError):
        remedy = f"put the CA that signed it at {settings.ca}, and the name in it as host of [syslog]"
    raise UnavailableError(f"the syslog server {where} cannot be reached ({syslog.why(why)})", remedy) from None


def _left(settings: Uplink) -> timedelta:
    return _soon(x509.load_pem_x509_certificates(settings.cert.read_bytes())[0], f"the uplink's certificate {settings.cert}")


def _soon(certificate: x509.Certificate, whose: str) -> timedelta:
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left < _SOON:
        word = "has expired" if left < timedelta() else f"expires in {left.days} days"
        raise InputError(f"{whose} {word}", "have the hospital's CA renew it")
    return left
