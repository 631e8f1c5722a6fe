"""TLS contexts by name: ``[tls.NAME]`` of ``wardgate.toml``, for those who speak to devices and to what they dial.

Both ends always show a certificate where we have one to show; ours and theirs are checked against the named CA only, never against
what the machine trusts. Refuses to know what is spoken inside.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from gateway.config import Tls
from gateway.errors import InputError


def context(name: str, named: Mapping[str, Tls]) -> ssl.SSLContext:
    """A context, read anew from its files, so that a renewed certificate needs no restart. Raises InputError naming the file."""
    settings = named.get(name)
    if settings is None:
        raise InputError(f"there is no [tls.{name}] in wardgate.toml", "add it, with ca, cert and key")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if settings.serve else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_verify_locations(settings.ca)
        if settings.cert is not None:
            made.load_cert_chain(settings.cert, settings.key)
    except OSError as e:  # ssl.SSLError is one
        files = ", ".join(str(f) for f in (settings.ca, settings.cert, settings.key) if f)
        raise InputError(f"the certificates of [tls.{name}] cannot be used ({e.strerror or e})", f"look at {files}") from None
    return made
