"""Labels: a QR code and text, for a screen, a terminal or a printer; of a gateway to be claimed, and of a device.

A claim code stands in the URL's fragment, which a browser never sends to a server or into a log. A device's label has nothing
secret on it: where its page is, and by which fingerprint its gateway is known. Refuses to know how codes are made.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from urllib.parse import quote

import segno

from gateway.errors import InputError
from gateway.model.view import DeviceView, GatewayView

_URL_MAX = 200
_FINGERPRINT = 32  # hex digits: 128 bits, as many as fit beside the code
_PAGE = re.compile(r"https://([A-Za-z0-9.\-]+(?::[0-9]{1,5})?|\[[0-9a-f:.]+\](?::[0-9]{1,5})?)")


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


@dataclass(frozen=True, slots=True)
class DeviceLabel:
    """What is printed for a device. ``qr`` is SVG; ``fingerprint`` the start of the gateway key's SHA-256, in groups of four."""

    device_id: str
    name: str
    gateway: str
    address: str
    fingerprint: str
    url: str
    qr: str


def device_label(page: str, device: DeviceView, gateway: GatewayView) -> DeviceLabel:
    """The label of a device whose page is served under ``page`` (https://host[:port]). Raises InputError."""
    match = _PAGE.fullmatch(page.rstrip("/"))
    if match is None or len(page) > _URL_MAX:
        raise InputError("the page's address is an https URL", "for example https://wardgate.local:8443")
    known = gateway.ak_sha256[:_FINGERPRINT]
    url = f"{page.rstrip('/')}/devices/{device.id}" + (f"#gateway={known}" if known else "")
    qr = segno.make(url, error="m", micro=False)
    svg = qr.svg_inline(border=4, omitsize=True, svgclass="qr", lineclass=None, title=f"Address of the page of {device.id}")
    groups = " ".join(known[i : i + 4] for i in range(0, len(known), 4))
    return DeviceLabel(device.id, device.name, gateway.name, match[1], groups, url, svg)


def device_label_text(label: DeviceLabel) -> str:
    """The same for a terminal."""
    out = io.StringIO()
    segno.make(label.url, error="m", micro=False).terminal(out, border=2, compact=True)
    return f"{out.getvalue()}\n  {label.name}\n  {label.device_id}\n  {label.url}\n  gateway {label.gateway}: {label.fingerprint}\n"
