"""The configuration: one TOML file into frozen dataclasses, every default here with its reason, every mistake reported.

Unknown keys are refused. All mistakes are reported together, each with its path. Refuses to know what the values are for.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from gateway.errors import InputError, InputErrors
from gateway.model.timing import Timing, within


@dataclass(frozen=True, slots=True)
class Gateway:
    """Who this gateway is and where it keeps things."""

    id: str = "gateway"
    name: str = "Wardgate"
    state: Path = Path("/var/lib/wardgate")
    run: Path = Path("/run/wardgate")
    root_of_measurement: str = "none"  # `uefi` where firmware measures the boot; a Raspberry Pi has none

    def __post_init__(self) -> None:
        if self.root_of_measurement not in ("uefi", "none"):
            raise ValueError("root_of_measurement is uefi or none")


@dataclass(frozen=True, slots=True)
class Services:
    """What the gateway serves on the ward side, to bound devices only.

    ``resolvers``: the hospital's name servers, asked for other names than the gateway's own; none: those do not exist here.
    ``time_servers``: where the time comes from; without one the clock says that it is unsynchronised, unless
    ``local_stratum`` (1 to 15) says that this gateway's own clock is good enough. ``lease_s``: a device keeps its address
    through a day without this service; it is the same address every time.
    """

    dhcp: bool = True
    dns: bool = True
    ntp: bool = True
    domain: str = "ward"
    resolvers: tuple[str, ...] = ()
    time_servers: tuple[str, ...] = ()
    local_stratum: int = 0
    set_clock: bool = True
    lease_s: int = 86400

    def __post_init__(self) -> None:
        within("local_stratum", self.local_stratum, 0, 15)
        within("lease_s", self.lease_s, 120, 31_536_000)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,7}", self.domain):
            raise ValueError("domain is lower-case letters, digits and -, such as ward")
        for address in (*self.resolvers, *self.time_servers):
            ip_address(address)

    @property
    def offers(self) -> tuple[tuple[str, int, int], ...]:
        """What a bound device may ask this gateway: (protocol, port, level). Names asked further leak, and need one."""
        names = tuple((p, 53, 1 if self.resolvers else 0) for p in ("udp", "tcp")) if self.dns else ()
        return (*names, *((("udp", 123, 0),) if self.ntp else ()))

    @property
    def flows(self) -> tuple[tuple[str, str, int], ...]:
        """What the gateway itself asks in the hospital: (address, protocol, port)."""
        names = [(str(ip_address(a)), p, 53) for a in self.resolvers for p in ("udp", "tcp")] if self.dns else []
        return (*names, *((str(ip_address(a)), "udp", 123) for a in self.time_servers if self.ntp))


@dataclass(frozen=True, slots=True)
class Network:
    """Interfaces, and this gateway's own addresses on the hospital's side (the ward's is the same).

    ``nics``: one of our names -> the kernel's name or the MAC of the interface that gets it (``"p-pump-1" = "enp2s0"``),
    ``TRUNK.ID`` for a VLAN of a trunk, or the uplink's name for an interface of its own on the same cable. Names that are not
    ``uplink``, ``management`` or ``trunk`` are ports of the ward. ``vlans``: VLANs of ``trunk`` that are ports ``ward.ID``.
    ``subnets``: the networks that the addresses lie in; none: /24 and /64. ``routers``: the hospital's own gateways.
    ``run``: where what is written for the services goes.
    """

    ward: str = "ward0"
    uplink: str = "hosp0"
    management: str = "mgmt0"
    addresses: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    management_addresses: tuple[str, ...] = ()
    nics: dict[str, str] = field(default_factory=dict)
    trunk: str = ""
    vlans: tuple[int, ...] = ()
    run: Path = Path("/run/wardgate-network")
    services: Services = field(default_factory=Services)

    def __post_init__(self) -> None:
        for name in (self.ward, self.uplink, self.management, *self.nics, *self.nics.values(), *filter(None, (self.trunk,))):
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", name):
                raise ValueError(f"{name!r} is no interface")
        if self.vlans and not self.trunk:
            raise ValueError("vlans need a trunk")
        for vlan in self.vlans:
            within("vlans", vlan, 1, 4094)
        for address in (*self.addresses, *self.routers):
            ip_address(address)
        for address in self.management_addresses:
            ip_interface(address)
        for subnet in self.subnets:
            ip_network(subnet)
        for address in self.addresses:
            if self.subnets and not any(ip_address(address) in ip_network(s) for s in self.subnets):
                raise ValueError(f"{address} is in none of the subnets")


@dataclass(frozen=True, slots=True)
class Web:
    """The page."""

    host: str = "0.0.0.0"  # noqa: S104 - the firewall admits the management interface only
    port: int = 8443
    names: tuple[str, ...] = ("wardgate.local", "localhost", "127.0.0.1")

    def __post_init__(self) -> None:
        within("port", self.port, 1, 65535)


@dataclass(frozen=True, slots=True)
class TpmSettings:
    """The TPM. ``tcti`` as tpm2-tss writes it; ``pcrs`` quoted in every epoch."""

    tcti: str = "device:/dev/tpmrm0"
    pcrs: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    eventlog: Path = Path("/run/wardgate/eventlog")

    def __post_init__(self) -> None:
        if not self.pcrs or not all(0 <= p <= 23 for p in self.pcrs):
            raise ValueError("pcrs are numbers from 0 to 23")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Where policy comes from. ``confirmed`` is written by root's wardgate-policy only."""

    profiles: Path = Path("/etc/wardgate/profiles")
    confirmed: Path = Path("/var/lib/wardgate-policy/confirmed.json")
    socket: Path = Path("/run/wardgate/policy.sock")


@dataclass(frozen=True, slots=True)
class EnforcerSettings:
    """How to reach the enforcer, and where it leaves its alarm."""

    socket: Path = Path("/run/wardgate/enforcer.sock")
    alarm: Path = Path("/run/wardgate-enforcer/alarm.json")


@dataclass(frozen=True, slots=True)
class Uplink:
    """The hospital's MQTT 5 broker, over TLS with a client certificate. Without ``host`` nothing leaves and all waits.

    ``host`` is the name in its certificate; ``addresses`` where it is (not needed when the name is an address): the firewall
    opens these only. ``acknowledge``: who says that a message has arrived, the ``broker`` or the ``receiver`` behind it.
    """

    host: str = ""
    port: int = 8883
    addresses: tuple[str, ...] = ()
    ca: Path = Path("/etc/wardgate/uplink-ca.pem")
    cert: Path = Path("/var/lib/wardgate/uplink.pem")
    key: Path = Path("/var/lib/wardgate/uplink.key")
    prefix: str = "wardgate"
    acknowledge: str = "broker"
    retry_s: float = 30.0  # the longest wait between two tries: a broker that restarts is not stormed by a whole hospital

    def __post_init__(self) -> None:
        within("port", self.port, 1, 65535)
        within("retry_s", self.retry_s, 0.5, 3600)
        if self.acknowledge not in ("broker", "receiver"):
            raise ValueError("acknowledge is broker or receiver")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", self.prefix) or len(self.prefix) > 128:
            raise ValueError("prefix is a topic of letters, digits, _ . - and /")
        for address in self.addresses:
            ip_address(address)
        if self.host and not self.where:
            raise ValueError(f"addresses must say where {self.host} is: the firewall opens addresses, not names")

    @property
    def where(self) -> tuple[str, ...]:
        """The broker's addresses, in the order in which they are tried."""
        return _where(self.host, self.addresses)

    @property
    def flows(self) -> tuple[tuple[str, str, int], ...]:
        """What the firewall has to open: (address, protocol, port)."""
        return tuple((str(ip_address(a)), "tcp", self.port) for a in self.where) if self.host else ()


@dataclass(frozen=True, slots=True)
class Syslog:
    """Where a copy of the audit log goes: a syslog server over TLS (RFC 5425). Without ``host`` nothing is sent.

    ``host`` is the name in its certificate; ``addresses`` where it is (not needed when the name is an address): the firewall
    opens these only. ``cert`` and ``key`` are for a server that asks who sends. ``enterprise``: the hospital's own IANA private
    enterprise number; with it each message carries an element ``wardgate@NUMBER`` (RFC 5424, 6.3.2), without it only
    registered ones.
    """

    host: str = ""
    port: int = 6514  # RFC 5425, 4.1
    addresses: tuple[str, ...] = ()
    ca: Path = Path("/etc/wardgate/syslog-ca.pem")
    cert: Path | None = None
    key: Path | None = None
    facility: int = 13  # log audit
    enterprise: int = 0
    retry_s: float = 60.0  # the longest wait between two tries

    def __post_init__(self) -> None:
        within("port", self.port, 1, 65535)
        within("retry_s", self.retry_s, 0.5, 3600)
        within("facility", self.facility, 0, 23)
        within("enterprise", self.enterprise, 0, 2**32 - 1)
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        for address in self.addresses:
            ip_address(address)
        if self.host and not self.where:
            raise ValueError(f"addresses must say where {self.host} is: the firewall opens addresses, not names")

    @property
    def where(self) -> tuple[str, ...]:
        """The server's addresses, in the order in which they are tried."""
        return _where(self.host, self.addresses)

    @property
    def flows(self) -> tuple[tuple[str, str, int], ...]:
        """What the firewall has to open: (address, protocol, port)."""
        return tuple((str(ip_address(a)), "tcp", self.port) for a in self.where) if self.host else ()


def _where(host: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return addresses or (str(ip_address(host)),)
    except ValueError:
        return ()


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for connections of drivers, by name. ``ca``: who signs the other end's; ``cert`` and ``key``: what we show.

    ``serve``: for connections that others open to us (a certificate of ours is needed then); otherwise for those that we open.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    serve: bool = False

    def __post_init__(self) -> None:
        if (self.cert is None) is not (self.key is None):
            raise ValueError("cert and key go together")
        if self.serve and self.cert is None:
            raise ValueError("who serves needs cert and key")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where the hospital's CA takes enrolment requests; empty: ``wardgate enrol`` is told, or goes by files."""

    ca: str = ""

    def __post_init__(self) -> None:
        if self.ca and not self.ca.startswith(("https://", "http://")):
            raise ValueError("ca is an https:// address")


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """The audit log. ``keep_mib``: what packed lines may take, and never more than a quarter of the disk; the oldest go first."""

    keep_mib: int = 8192  # a hundred days of fifty devices that prove two things each every ten seconds

    def __post_init__(self) -> None:
        within("keep_mib", self.keep_mib, 16, 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything in ``wardgate.toml``. ``peers`` names hospital hosts for profiles; ``drivers`` each driver's settings; ``tls``
    certificates that they use."""

    gateway: Gateway = field(default_factory=Gateway)
    network: Network = field(default_factory=Network)
    web: Web = field(default_factory=Web)
    tpm: TpmSettings = field(default_factory=TpmSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    enforcer: EnforcerSettings = field(default_factory=EnforcerSettings)
    timing: Timing = field(default_factory=Timing)
    uplink: Uplink = field(default_factory=Uplink)
    syslog: Syslog = field(default_factory=Syslog)
    enrolment: Enrolment = field(default_factory=Enrolment)
    record: RecordSettings = field(default_factory=RecordSettings)
    peers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    drivers: dict[str, dict[str, Any]] = field(default_factory=dict)
    tls: dict[str, Tls] = field(default_factory=dict)

    @property
    def way_out(self) -> tuple[tuple[str, str, int], ...]:
        """What the firewall has to open for the gateway itself: (address, protocol, port)."""
        return (*self.uplink.flows, *self.syslog.flows, *self.network.services.flows)


def parse_config(text: str, where: str = "wardgate.toml") -> Config:
    """Parse TOML text. Raises InputErrors naming every mistake with its path, or InputError when it is no TOML."""
    from cattrs import Converter, transform_error
    from cattrs.errors import ClassValidationError, IterableValidationError

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise InputError(f"{where} is not TOML: {e}", "mend that line") from None
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook(str, _exactly(str, "a string"))
    converter.register_structure_hook(int, _exactly(int, "a whole number"))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    try:
        return converter.structure(data, Config)
    except (ClassValidationError, IterableValidationError) as e:
        raise InputErrors(where, tuple(_split(m) for m in transform_error(e, format_exception=_say))) from None


def read_config(path: Path) -> Config:
    """Read and parse a file. Raises InputError with the path and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no {path}", "run `wardgate init` or give --config FILE") from None
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read ({e})", "check its permissions and encoding") from None
    return parse_config(text, str(path))


def _path(value: Any, _: type) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a path")
    return Path(value)


def _exactly(kind: type, words: str) -> Any:
    def hook(value: Any, _: type) -> Any:
        if type(value) is not kind:
            raise ValueError(f"expected {words}, got {value!r}")
        return value

    return hook


def _number(value: Any, _: type) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _say(error: BaseException, kind: type | None) -> str:
    from cattrs.errors import ForbiddenExtraKeysError

    if isinstance(error, ForbiddenExtraKeysError):
        return "unknown key " + ", ".join(sorted(error.extra_fields))
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) or f"does not fit {kind}"


def _split(message: str) -> tuple[str, str]:
    text, _, path = message.rpartition(" @ ")
    return (path.removeprefix("$").lstrip(".") or "(top)", text)
