"""The protection profile: how a kind of device attests, what it may do at which level, and what a loss of trust means.

Data only. ``gateway.policy`` reads profiles from TOML and compiles them; drivers receive the L7 rules as they stand here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.model.device import Bus
from gateway.model.evidence import EvidenceClass
from gateway.model.level import TrustLevel


class OnLoss(StrEnum):
    """What happens to a function when its required level is lost. There is no default."""

    CUT = "cut"
    READ_ONLY = "read_only"  # proxied functions: reads pass from level 1 on, writes need the required level
    VITAL = "vital"  # a direct flow that needs no level, only the device's own port and address


class Provenance(StrEnum):
    """Who says that a reference value is right."""

    MAKER = "maker"
    HOSPITAL = "hospital"
    LEARNED = "learned"


class Acknowledge(StrEnum):
    """How an HL7 route acknowledges."""

    END_TO_END = "end_to_end"  # the receiver's own answer, or AE: for alarms and live vitals
    STORED = "stored"  # ours, once it is on disk; delivered later: for results


class Protocol(StrEnum):
    """Transport protocols that a flow may use."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Flow:
    """One network flow: ``peer`` (an IP address), who opens it, protocol, destination port; ``via``: through the driver's proxy."""

    peer: str
    protocol: Protocol
    port: int
    from_device: bool
    via: bool = False

    def __post_init__(self) -> None:
        if str(ipaddress.ip_address(self.peer)) != self.peer:
            raise ValueError(f"{self.peer!r} is not in canonical form")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"a port is 1 to 65535, got {self.port}")
        if self.via and self.protocol is not Protocol.TCP:
            raise ValueError("only a TCP flow can go through a proxy")


@dataclass(frozen=True, slots=True)
class ModbusRule:
    """Requests allowed from ``level`` on: a function code, an inclusive address span, for writes perhaps only some values.

    Function code 23 needs one rule for its read span (3) and one for its write span (16). ``values`` limits every
    register or coil written (a coil is 0 or 0xFF00 in function 5, 0 or 1 in 15). Addresses are PDU addresses, from 0.
    """

    function_code: int
    first: int = 0
    last: int = 0xFFFF
    level: TrustLevel = TrustLevel.LIMITED
    values: tuple[int, ...] | None = None
    unit: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.function_code <= 127:
            raise ValueError(f"a Modbus function code is 1 to 127, got {self.function_code}")
        if not 0 <= self.first <= self.last <= 0xFFFF:
            raise ValueError(f"a register span is 0 <= first <= last <= 65535, got {self.first}..{self.last}")
        if self.values is not None and not all(0 <= v <= 0xFFFF for v in self.values):
            raise ValueError("a register value is 0 to 65535")
        if self.unit is not None and not 0 <= self.unit <= 255:
            raise ValueError("a unit id is 0 to 255")


@dataclass(frozen=True, slots=True)
class Hl7Rule:
    """Messages allowed from ``level`` on: sending application and facility, message^event (for example ORU^R01)."""

    application: str
    facility: str
    message: str
    level: TrustLevel = TrustLevel.LIMITED


@dataclass(frozen=True, slots=True)
class GattRule:
    """A characteristic that may be used from ``level`` on. ``access`` is read, write or notify."""

    characteristic: str
    access: str
    level: TrustLevel = TrustLevel.LIMITED

    def __post_init__(self) -> None:
        if self.access not in ("read", "write", "notify"):
            raise ValueError("GATT access is read, write or notify")


Rule = ModbusRule | Hl7Rule | GattRule


@dataclass(frozen=True, slots=True)
class Function:
    """One service of a device: its flows and rules, the level it needs, and what a loss of that level does.

    ``acknowledge`` (HL7 only, and mandatory there), ``too_old_s``: a stored message older than this is never delivered.
    """

    name: str
    required: TrustLevel
    on_loss: OnLoss
    flows: tuple[Flow, ...] = ()
    rules: tuple[Rule, ...] = ()
    always_allowed_writes: tuple[ModbusRule, ...] = ()
    acknowledge: Acknowledge | None = None
    too_old_s: float = 86_400.0

    def __post_init__(self) -> None:
        if (self.acknowledge is not None) is not any(isinstance(r, Hl7Rule) for r in self.rules):
            raise ValueError(f"function {self.name!r}: an HL7 function, and no other, says how it acknowledges")
        if not self.too_old_s > 0:
            raise ValueError(f"function {self.name!r}: an age is more than 0 s")
        proxied = any(f.via for f in self.flows)
        if self.on_loss is OnLoss.VITAL and (proxied or self.rules or not self.flows):
            raise ValueError(f"function {self.name!r}: on_loss = vital needs direct flows and no proxy")
        if self.on_loss is OnLoss.READ_ONLY and not self.rules:
            raise ValueError(f"function {self.name!r}: on_loss = read_only needs a proxied function with rules")
        if self.on_loss is not OnLoss.VITAL and self.required is TrustLevel.NONE:
            raise ValueError(f"function {self.name!r}: a required level is 1 to 3")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where a Modbus device takes a 32-byte nonce (16 holding registers, function 16) and shows its token.

    ``token`` holds the token's length in bytes; the token follows, two bytes a register, big-endian.
    """

    nonce: int
    token: int


@dataclass(frozen=True, slots=True)
class Target:
    """A named property attested at run time: its kind of evidence, how often, and where a fingerprint looks.

    ``objects``: Modbus device identification objects (43/14); ``registers``: inclusive spans of holding registers.
    ``key_isolated`` False: the firmware that is attested can use the attesting key itself.
    """

    name: str
    media_type: str
    evidence_class: EvidenceClass
    interval_s: float = 10.0
    objects: tuple[int, ...] = ()
    registers: tuple[tuple[int, int], ...] = ()
    mailbox: Mailbox | None = None
    key_isolated: bool = True


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """What a target should measure, and who says so. ``value`` is compared byte for byte.

    ``name`` by scheme: PSA software component ``type`` or ``implementation-id``; fingerprint ``object:2``, ``register:100``.
    """

    target: str
    name: str
    value: bytes
    provenance: Provenance
    countersigned: bool = False


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A key that a device's evidence must verify with: ``instance`` is its UEID (or kid), ``spki`` a DER SubjectPublicKeyInfo.

    A shared key has no ``spki``: ``shared`` names its use (``TOKEN_KEY``, ``BEACON_KEY``), and ``secret`` is the key while it is
    in memory. It has no plain form, so that no record, database or view ever holds it; ``References.with_secrets`` puts it back.
    """

    instance: bytes
    spki: bytes
    provenance: Provenance = Provenance.MAKER
    shared: str = ""
    secret: bytes = field(default=b"", repr=False)


TOKEN_KEY, BEACON_KEY = "token", "beacon"  # uses of a key shared with a device


@dataclass(frozen=True, slots=True)
class References:
    """Everything an appraisal compares with: keys of one device, reference values of its profile and of itself."""

    anchors: tuple[TrustAnchor, ...] = ()
    values: tuple[ReferenceValue, ...] = ()

    def with_secrets(self, secrets: Mapping[str, bytes]) -> References:
        """The same, with the shared keys by use; an anchor whose key is not there keeps none and verifies nothing."""
        anchors = tuple(replace(a, secret=secrets.get(a.shared, b"")) if a.shared else a for a in self.anchors)
        return References(anchors, self.values)


@dataclass(frozen=True, slots=True)
class Profile:
    """A protection profile, checked. Built by ``gateway.policy.profile.parse_profile``."""

    id: str
    name: str
    bus: Bus
    clinical_class: str
    functions: tuple[Function, ...]
    targets: tuple[Target, ...]
    values: tuple[ReferenceValue, ...] = ()
    offline_cap_s: float = 86_400.0
    half_life_s: Mapping[EvidenceClass, float] = field(default_factory=dict)

    def function(self, name: str) -> Function:
        """The function called ``name``; raises KeyError."""
        for f in self.functions:
            if f.name == name:
                return f
        raise KeyError(name)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All L7 rules of the profile, always-allowed writes included, as its driver enforces them."""
        return tuple(r for f in self.functions for r in (*f.rules, *f.always_allowed_writes))
