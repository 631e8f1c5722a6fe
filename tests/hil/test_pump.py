"""The bench's pump and the hospital's programs, each in its own process, without a gateway between them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hil import control, process
from tests.drivers.modbus.bench import free_port

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """``ask(who, do, …)`` of a pump, a central station, a maintenance session and a Modbus client."""
    with tempfile.TemporaryDirectory(prefix="wg-hosp-") as name:
        here, modbus, maintenance, central = Path(name), free_port(), free_port(), free_port()
        ports = ["--modbus-port", str(modbus), "--maintenance-port", str(maintenance), "--host", "127.0.0.1"]
        parts = {
            "central": ["hil.hospital", "central", "--port", str(central)],
            "pump": ["hil.pump", "--key", str(here / "key.pem"), "--central", f"127.0.0.1:{central}", *ports],
            "maintenance": ["hil.hospital", "maintenance", "--target", f"127.0.0.1:{maintenance}"],
            "control": ["hil.hospital", "control", "--target", f"127.0.0.1:{modbus}"],
        }
        started = []
        try:
            for who, (module, *argv) in parts.items():
                command = [sys.executable, "-m", module, *argv, "--ctl", str(here / who)]
                started.append(process.start(who, command, log_dir=here))
            yield lambda who, do, **arguments: control.ask(here / who, do, **arguments)
        finally:
            codes = [p.stop() for p in reversed(started)]
        assert codes == [0, 0, 0, 0]


def eventually(condition: Callable[[], object], timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_monitoring_streams_and_loses_nothing(ask: Ask) -> None:
    eventually(lambda: ask("central", "state")["received"] > 10)
    before = ask("central", "reset")["received"]
    eventually(lambda: ask("central", "state")["received"] > before + 20)
    state = ask("central", "state")
    assert state["lost"] == 0
    assert 0 < state["longest_gap_ms"] < 2000
    assert state["last_ns"] <= state["now_ns"]


def test_maintenance_obeys_and_echoes(ask: Ask) -> None:
    eventually(lambda: ask("maintenance", "state")["received"] > 100)
    ask("maintenance", "send", line="set alarm off")
    eventually(lambda: "echo set alarm off" in ask("maintenance", "state")["echoes"])
    assert "set alarm off" in ask("pump", "writes")["maintenance"]
    assert not ask("maintenance", "state")["stalled"]


def test_control_moves_the_pump_and_the_pump_has_limits(ask: Ask) -> None:
    assert ask("control", "start")["exception"] is None
    assert ask("control", "write", register=20, value=1200)["exception"] is None
    assert ask("control", "write", register=20, value=10_000)["exception"] == 3
    state = ask("pump", "state")
    assert (state["running"], state["rate"]) == (True, 1200)
    eventually(lambda: ask("central", "state")["newest"]["rate"] == 1200)
    eventually(lambda: ask("control", "state")["status"] == 1)
    assert ask("control", "stop")["exception"] is None
    assert not ask("pump", "state")["running"]


def test_every_write_is_proof(ask: Ask) -> None:
    before = len(ask("pump", "writes")["writes"])
    ask("control", "write", register=105, value=9)
    ask("control", "raw", pdu="5a00")
    ask("control", "read", register=100, count=2)
    assert [w["pdu"] for w in ask("pump", "writes")["writes"][before:]] == ["0600690009", "5a00"]
    assert ask("pump", "state")["configuration"][5] == 9
    assert ask("pump", "restore")["configuration"][5] == 10


def test_a_tampered_and_an_updated_pump_say_so(ask: Ask) -> None:
    genuine = ask("pump", "reference")
    ask("pump", "tamper", register=110, value=99)
    assert ask("control", "read", register=110)["answer"] == "03020063"
    ask("pump", "tamper-firmware")
    assert ask("pump", "reference")["reference"]["components"] != genuine["reference"]["components"]
    ask("pump", "restore")
    ask("pump", "update")
    updated = ask("pump", "reference")
    assert updated["reference"]["components"]["FW"] != genuine["reference"]["components"]["FW"]
    assert b"2.4.0".hex() in ask("control", "raw", pdu="2b0e0100")["answer"]
    changed = {k for k, v in updated["fingerprint"].items() if genuine["fingerprint"][k] != v}
    assert changed == {"object:2", "register:101"}
    ask("pump", "restore")
    assert ask("pump", "reference") == genuine


def test_an_unplugged_pump_answers_nothing_until_it_is_plugged_in(ask: Ask) -> None:
    ask("pump", "unplug")
    assert ask("control", "stop")["answer"] == ""
    eventually(lambda: ask("control", "state")["failures"] > 0)
    ask("pump", "plug")
    assert ask("control", "stop")["exception"] is None
    polled = ask("control", "state")["received"]
    eventually(lambda: ask("control", "state")["received"] > polled)
