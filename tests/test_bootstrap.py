"""What ``wardgate init`` is told ends up in a configuration that reads back, or is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.bootstrap import Answers, _toml
from gateway.config import Config, parse_config
from gateway.errors import InputError, WardgateError


def _answers(**told: object) -> Answers:
    base: dict[str, object] = {
        "config": Path("/c"), "state": Path("/s"), "run": Path("/r"), "name": "N", "id": "gw", "tcti": "device:/dev/tpmrm0",
        "ward": "ward0", "uplink": "hosp0", "management": "mgmt0", "addresses": ("10.0.0.1",), "peers": (),
        "policy_state": Path("/p"), "owner": None, "port": 8443, "profiles": Path("/pr"), "extra": None, "new_claim": False,
        "interactive": False,
    }  # fmt: skip
    return Answers(**{**base, **told})  # type: ignore[arg-type]


def _read(**told: object) -> Config:
    return parse_config(_toml(_answers(**told)))


@pytest.mark.parametrize(
    ("broker", "host", "port"),
    [
        ("10.0.0.9", "10.0.0.9", 8883), ("10.0.0.9:8884", "10.0.0.9", 8884), ("fd00::9", "fd00::9", 8883),
        ("[fd00::9]:8885", "fd00::9", 8885),
    ],
)  # fmt: skip
def test_a_broker_is_told_in_any_usual_form(broker: str, host: str, port: int) -> None:
    config = _read(broker=broker)
    assert (config.uplink.host, config.uplink.port) == (host, port)
    assert config.uplink.where == (host,)
    assert config.uplink.key == Path("/s/uplink.key")


def test_a_broker_by_name_needs_its_addresses() -> None:
    config = _read(broker="broker.hospital.example", broker_addresses=("10.0.0.9", "fd00::9"), broker_ca=Path("/ca.pem"))
    assert config.uplink.where == ("10.0.0.9", "fd00::9")
    assert config.uplink.ca == Path("/ca.pem")
    with pytest.raises(WardgateError, match="addresses must say where"):
        _read(broker="broker.hospital.example")


@pytest.mark.parametrize("broker", ["a b", "host:", "host:port", "[fd00::9", "host:123456"])
def test_what_is_no_host_is_refused(broker: str) -> None:
    with pytest.raises(InputError, match="is not HOST or HOST:PORT; write it as"):
        _read(broker=broker)


def test_nothing_told_leaves_the_uplink_alone_and_a_ca_is_kept() -> None:
    assert _read() == _read(broker="", ca="")
    assert _read(ca="https://ca.hospital.example/enrol").enrolment.ca == "https://ca.hospital.example/enrol"
    with pytest.raises(WardgateError, match="ca is an https"):
        _read(ca="ca.hospital.example")
