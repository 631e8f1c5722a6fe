"""One device's sheet in the words of its page: what each piece of evidence says, who may talk to whom, what is different.

Every model is frozen and has moments of boot time in it, never rests, so that clocks run on by themselves. Refuses to know HTML,
who looks and who may do what.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.sheet import DifferenceRow, EvidenceView, FlowView, FunctionSheet, Refusal, Sheet, Traffic
from gateway.web import wording
from gateway.web.chart import level_words

ON_LOSS = {
    "cut": "It is cut.",
    "read_only": "Reading stays from level 1 on; writing stops.",
    "vital": "Nothing: it is vital and always on.",
}
_CLASS = {
    "tpm": "a quote by its own TPM",
    "asymmetric": "a token signed with its own key",
    "symmetric": "a token made with a key that it shares with this gateway",
    "beacon": "an advertisement signed with a key that it shares with this gateway",
    "fingerprint": "what it shows of itself, compared with what is known",
    "inventory": "its address, and nothing else",
}
_CHANNEL = {
    "tls": "over TLS with a known key",
    "bonded-mitm": "over its Bluetooth bond, made with a passkey",
    "bonded-justworks": "over its Bluetooth bond, made without a passkey",
    "port": "over its own wired port",
    "open": "over an open channel",
}
_STANDING = {
    "good": ("allowed", "As expected"),
    "warning": ("allowed", "As expected, with a reservation"),
    "bad": ("cut", "Not what it should be"),
    "none": ("would", "None yet"),
}
_LATE = 3  # intervals without an answer: said so
_ROWS_MAX = 200  # of a difference that is accepted on a page


@dataclass(frozen=True, slots=True)
class Proof:
    """One line of evidence. ``at_ms`` None: there is none."""

    target: str
    mark: str
    result: str
    at_ms: int | None
    late: bool
    how: str
    notes: tuple[str, ...]
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Use:
    """One function in full."""

    name: str
    mark: str
    word: str
    needs: str
    on_loss: str
    reason: str
    always: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Talk:
    """One flow: who opens it to whom."""

    opener: str
    peer: str
    flow: str
    function: str
    mark: str
    word: str
    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is not its reference."""

    target: str
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Told:
    """The sheet, ready for the page."""

    proofs: tuple[Proof, ...]
    uses: tuple[Use, ...]
    talks: tuple[Talk, ...]
    changes: tuple[Change, ...]
    too_many: bool
    refusals: tuple[Refusal, ...]
    counts: tuple[tuple[str, str], ...]
    unattributed: int
    learned: int


def tell(sheet: Sheet, marks: dict[str, tuple[str, str]]) -> Told:
    """Everything the page says of a sheet. ``marks``: function → (mark, word), as the ward shows it."""
    return Told(
        proofs=tuple(_proof(e, sheet.now_ms) for e in sheet.evidence),
        uses=tuple(_use(f, marks) for f in sheet.functions),
        talks=tuple(_talk(f, sheet) for f in sheet.flows),
        changes=tuple(change_of(d) for d in sheet.difference[:_ROWS_MAX]),
        too_many=len(sheet.difference) > _ROWS_MAX,
        refusals=sheet.refused,
        counts=_counts(sheet.traffic),
        unattributed=sheet.unattributed,
        learned=sheet.learned,
    )


def _proof(e: EvidenceView, now_ms: int) -> Proof:
    mark, result = _STANDING[e.standing]
    if e.age_ms is None:
        return Proof(e.target, mark, result, None, False, "", (), ())
    kind, _, binding = e.channel.partition(":")
    how = f"{_CLASS.get(e.evidence_class, e.evidence_class)}, {_CHANNEL.get(kind, kind)}"
    notes = tuple(wording.sentence(f.text) for f in e.findings)
    if e.standing == "warning" and e.evidence_class == "fingerprint":
        notes = (*notes, "It shows itself and cannot sign what it shows, so it is compared and not proved.")
    details = (
        ("Format", e.media_type), ("Channel", e.channel if binding else kind), ("SHA-256 of the evidence", e.sha256),
        *((f"Finding: {f.subject}", f"{f.text}{f'; {f.remedy}' if f.remedy else ''}") for f in e.findings),
    )  # fmt: skip
    late = bool(e.interval_ms) and e.age_ms > _LATE * e.interval_ms
    return Proof(e.target, mark, result, now_ms - e.age_ms, late, how, notes if e.standing != "good" else (), details)


def _use(f: FunctionSheet, marks: dict[str, tuple[str, str]]) -> Use:
    mark, word = marks.get(f.name, ("cut", "cut"))
    needs = "no level" if f.on_loss == "vital" else f"level {level_words(f.required)}"
    return Use(f.name, mark, word, needs, ON_LOSS.get(f.on_loss, f.on_loss), wording.sentence(f.reason), f.always, f.rules)


def _talk(f: FlowView, sheet: Sheet) -> Talk:
    device, peer = sheet.device.name, f.peer
    opener, other = (device, peer) if f.from_device else (peer, device)
    through = ", checked by the gateway’s proxy" if f.proxied else ""
    mark, word = ("allowed", "open") if f.open_now else ("cut", "closed")
    return Talk(opener, other, f"{f.protocol.upper()} port {f.port}{through}", f.function, mark, word, wording.sentence(f.why))


def change_of(d: DifferenceRow) -> Change:
    """A difference in words: for the page, the API's readers and the command line alike."""
    old = value_words(d.reference) if d.reference else "nothing was known"
    return Change(d.target, d.name.replace(":", " "), old, value_words(d.observed))


def value_words(text: str) -> str:
    """A measured value in hex, with what it may mean to a person: a number of 16 bits, or readable text."""
    raw = bytes.fromhex(text)
    if len(raw) == 2:
        return f"{int.from_bytes(raw)} (0x{text})"
    shown = raw.decode("ascii", "replace") if 3 <= len(raw) <= 64 else ""
    if shown and all(" " <= c <= "~" for c in shown):
        return f"“{shown}” (0x{text})"
    return f"0x{text}" if text else "empty"


def _counts(t: Traffic | None) -> tuple[tuple[str, str], ...]:
    if t is None or not t.accepted:
        return ()
    rows = (
        ("readings taken in", t.accepted), ("delivered", t.delivered), ("waiting to leave", t.waiting),
        ("lost to a full store", t.dropped), ("refused by the receiver", t.dead),
    )  # fmt: skip
    return tuple((word, f"{n:,}".replace(",", " ")) for word, n in rows if n or word != "refused by the receiver")
