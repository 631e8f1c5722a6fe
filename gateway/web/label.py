"""The label with the claim code: a QR code and text, for a screen, a terminal or a printer.

The code stands in the URL's fragment, which a browser never sends to a server or into a log. Refuses to know how codes are made.
"""

from __future__ import annotations

import io
from urllib.parse import quote

import segno

from gateway.errors import InputError

_URL_MAX = 200


def claim_url(url: str, code: str) -> str:
    """Where the QR code leads: the claim page with the code filled in."""
    return f"{url.rstrip('/')}/claim#{quote(code, safe='-')}"


def claim_label(url: str, code: str, form: str = "terminal") -> str:
    """The label as ``terminal`` (half-block characters) or ``svg`` text. Raises InputError when ``url`` is no https URL."""
    if not url.startswith("https://") or len(url) > _URL_MAX:
        raise InputError("the page's address is an https URL", "for example https://wardgate.local:8443")
    qr = segno.make(claim_url(url, code), error="m", micro=False)
    out = io.StringIO()
    match form:
        case "terminal":
            qr.terminal(out, border=2, compact=True)
            return f"{out.getvalue()}\n  Claim this gateway: {url.rstrip('/')}/claim\n  Claim code: {code}\n"
        case "svg":
            buffer = io.BytesIO()
            qr.save(buffer, kind="svg", scale=4, border=4, xmldecl=False, title=f"Claim this gateway with the code {code}")
            return buffer.getvalue().decode()
        case _:
            raise InputError(f"a label is terminal or svg, not {form}", "choose one of them")
