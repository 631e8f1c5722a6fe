"""A server is started when its file is there, reads lists again, starts again when it dies, and ends with its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.network.keeper import Keeper, Service, chronyd, dnsmasq

# A server that writes down what happens to it.
SERVER = """
import pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def note(text):
    with log.open("a") as f: f.write(text + "\\n")
signal.signal(signal.SIGHUP, lambda *_: note("hup"))
note("start")
if len(sys.argv) > 2: sys.exit(3)
while True: time.sleep(0.05)
"""


@pytest.fixture
def service(tmp_path: Path) -> Service:
    log = tmp_path / "log"
    log.touch()
    argv = (sys.executable, "-c", SERVER, str(log))
    return Service("server", argv, tmp_path / "conf", (tmp_path / "list",))


def until(condition: Callable[[], bool], keeper: Keeper | None = None, wait_s: float = 5.0) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        if keeper:
            keeper.look()
        time.sleep(0.02)


def notes(service: Service) -> list[str]:
    return Path(service.argv[3]).read_text().split()


def test_it_follows_its_files(service: Service) -> None:
    keeper = Keeper(service)
    try:
        keeper.look()
        assert keeper.child is None  # switched off: no configuration
        service.conf.write_text("one")
        until(lambda: notes(service) == ["start"], keeper)
        service.lists[0].write_text("a")
        until(lambda: notes(service) == ["start", "hup"], keeper)
        service.conf.write_text("two")
        until(lambda: notes(service) == ["start", "hup", "start"], keeper)
        service.conf.unlink()
        until(lambda: keeper.child is None, keeper)
    finally:
        keeper._end()


def test_a_server_that_dies_is_started_again_and_one_that_cannot_start_waits(service: Service, tmp_path: Path) -> None:
    service.conf.write_text("one")
    keeper = Keeper(service)
    try:
        until(lambda: notes(service) == ["start"], keeper)
        assert keeper.child is not None
        keeper.child.kill()
        until(lambda: notes(service) == ["start", "start"], keeper)
    finally:
        keeper._end()
    failing = Service("failing", (*service.argv, "fail"), service.conf)
    keeper = Keeper(failing)
    began = time.monotonic()
    # The second, after one second, is a while in starting; the third would be two seconds after it.
    while (waited := time.monotonic() - began) < 1.6 or (notes(service).count("start") < 4 and waited < 10):
        keeper.look()
        time.sleep(0.02)
    keeper._end()
    assert notes(service).count("start") - 2 == 2  # at 0 and 1 s, not as fast as it can


def test_it_ends_with_its_server(service: Service, tmp_path: Path) -> None:
    service.conf.write_text("one")
    made = f"Service('s', {service.argv!r}, Path({str(service.conf)!r}))"
    code = f"from tests.network.test_keeper import *; sys.exit(Keeper({made}).run())"
    keeper = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        until(lambda: notes(service) == ["start"])
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(5) == 0
    finally:
        keeper.kill()
        keeper.communicate()


def test_the_servers_never_get_a_capability_that_counts(tmp_path: Path) -> None:
    own = dnsmasq(tmp_path, tmp_path)
    assert own.argv[:2] == ("/usr/bin/unshare", "--user")
    assert "-x" in chronyd(tmp_path, tmp_path, set_clock=False).argv
    assert "-x" not in chronyd(tmp_path, tmp_path, set_clock=True).argv
    assert all(
        os.access(word, os.X_OK) for word in (*own.argv, *chronyd(tmp_path, tmp_path, set_clock=True).argv) if word[:5] == "/usr/"
    )
