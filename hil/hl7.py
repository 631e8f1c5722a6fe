"""HL7 as the bench's monitor and receiver speak it: made and read here, by nothing of the product, so that two ends are two ends.

Messages, their frames, and the list of what a hostile or broken sender sends instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

VT, END = b"\x0b", b"\x1c\r"
SERIAL, VERSION = b"0257470000000012", b"4.1.2"
LIMIT = 4 << 20

# MDC codes (ISO/IEEE 11073-10101) of what a bedside monitor measures, with units.
MEASURED = (
    (b"147842^MDC_ECG_HEART_RATE^MDC", b"264864^MDC_DIM_BEAT_PER_MIN^MDC", 72),
    (b"150456^MDC_PULS_OXIM_SAT_O2^MDC", b"262688^MDC_DIM_PERCENT^MDC", 97),
    (b"149530^MDC_PULS_OXIM_PULS_RATE^MDC", b"264864^MDC_DIM_BEAT_PER_MIN^MDC", 72),
    (b"151562^MDC_RESP_RATE^MDC", b"264928^MDC_DIM_RESP_PER_MIN^MDC", 14),
    (b"150037^MDC_PRESS_BLD_ART_ABP_SYS^MDC", b"266016^MDC_DIM_MMHG^MDC", 121),
    (b"150038^MDC_PRESS_BLD_ART_ABP_DIA^MDC", b"266016^MDC_DIM_MMHG^MDC", 78),
    (b"150039^MDC_PRESS_BLD_ART_ABP_MEAN^MDC", b"266016^MDC_DIM_MMHG^MDC", 92),
    (b"150344^MDC_TEMP^MDC", b"268192^MDC_DIM_DEGC^MDC", 37),
    (b"151708^MDC_CONC_AWAY_CO2_ET^MDC", b"266016^MDC_DIM_MMHG^MDC", 38),
    (b"150301^MDC_PRESS_CUFF_SYS^MDC", b"266016^MDC_DIM_MMHG^MDC", 119),
)


def stamp() -> bytes:
    """Now, as HL7 writes it."""
    return time.strftime("%Y%m%d%H%M%S+0000", time.gmtime()).encode()


def oru(control_id: bytes, serial: bytes = SERIAL, version: bytes = VERSION, event: bytes = b"ORU^R01^ORU_R01") -> bytes:
    """A PCD-01 observation report: ten OBX, each with the equipment identifier in OBX-18."""
    now = stamp()
    head = b"|".join(
        (b"MSH|^~\\&", b"BEDMON^%b^EUI-64" % serial, b"WARD3", b"CENTRAL", b"HOSP", now, b"", event, control_id, b"P|2.6")
    )
    lines = [head + b"||||||UNICODE UTF-8", b"SFT|Corvita|%b|BM-7|b1027" % version]
    lines += [b"PID|1||100012^^^HOSP^MR||DOE^JANE", b"OBR|1|||182777000^monitoring of patient^SCT|||" + now]
    for i, (code, unit, value) in enumerate(MEASURED, 1):
        lines.append(b"OBX|%d|NM|%b|1.7.4.%d|%d|%b|||||R|||%b||||%b^^%b^EUI-64" % (i, code, i, value, unit, now, serial, serial))
    return b"\r".join(lines) + b"\r"


def frame(message: bytes) -> bytes:
    """In MLLP."""
    return VT + message + END


async def read(reader: asyncio.StreamReader) -> bytes:
    """The next message, its frame taken off. Raises ConnectionError at the end."""
    try:
        block = await reader.readuntil(END)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
        raise ConnectionError("closed") from e
    return block[block.index(VT) + 1 : -len(END)]


def msa(answer: bytes) -> tuple[bytes, bytes]:
    """(code, control id) of an acknowledgement; empty when it has no MSA."""
    for line in answer.split(b"\r"):
        parts = line.split(b"|")
        if parts[0] == b"MSA" and len(parts) > 2:
            return parts[1], parts[2]
    return b"", b""


def malformed(good: bytes) -> Iterator[tuple[str, bytes]]:
    """(what it is, bytes on the wire): what no receiver may ever get to see. ``good`` is a message that would pass."""
    first, rest = good.split(b"\r", 1)
    f = frame
    yield "line feeds", f(good.replace(b"\r", b"\n"))
    yield "CR LF", f(good.replace(b"\r", b"\r\n"))
    yield "one hidden line feed", f(good.replace(b"DOE^JANE", b"DOE\nMSH|^~\\&|X^JANE"))
    yield "no MSH", f(rest)
    yield "empty", f(b"")
    yield "MSH only", f(b"MSH|")
    yield "MSH cut short", f(b"MSH|^~\\&|BEDMON\r")
    yield "two MSH", f(good + good)
    yield "equal separators", f(good.replace(b"|^~\\&|", b"|^^\\&|", 1))
    yield "separators that are the field separator", f(good.replace(b"|^~\\&|", b"|||||", 1))
    yield "letters as separators", f(good.replace(b"^", b"A"))
    yield "NUL", f(good.replace(b"DOE", b"D\0E"))
    yield "a segment without a name", f(good + b"|||\r")
    yield "a short segment name", f(good + b"XX|1\r")
    yield "a lower-case segment name", f(good + b"obx|1\r")
    yield "no CR at the end", f(good[:-1])
    yield "no control id", f(first.replace(first.split(b"|")[9], b"", 1) + b"\r" + rest)
    yield "UTF-16", f(good.decode().encode("utf-16"))
    yield "a wrong character set", f(good.replace(b"UNICODE UTF-8", b"ISO IR87"))
    yield "bytes that are not UTF-8", f(good.replace(b"DOE", b"D\xd6E"))
    yield "a batch", f(b"BHS|^~\\&|BEDMON|WARD3\r" + good + b"BTS|1\r")
    yield "two megabytes", f(good + b"ZZZ|" + b"A" * (2 << 20) + b"\r")
    yield "no VT", good + END
    yield "a nested frame", f(good + f(good))
    yield "VT inside", f(good.replace(b"DOE", b"D\x0bE"))
    yield "FS without CR", VT + good + b"\x1c" + VT + good + END
    yield "bytes between frames", b"\r\n" + f(good)
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: central\r\n\r\n"
