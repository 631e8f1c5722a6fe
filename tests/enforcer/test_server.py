"""The enforcer as a process: what it refuses, that it survives, when it rings, and the daemon's side of its socket."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.enforcer.client import EnforcerClient
from gateway.enforcer.document import canonical
from gateway.enforcer.wire import REQUEST_MAX
from gateway.errors import RefusedError, UnavailableError
from gateway.model.decision import Lease
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from tests.enforcer import ward as w
from tests.enforcer.ward import HOSP4, PUMP4, PUMP6, Bench, Udp, bench, document

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture(autouse=True)
def level_none(rig: Bench) -> None:
    rig.drop()


def until(holds: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def leases(rig: Bench) -> dict[str, Any]:
    dump = rig.ask({"do": "dump"})
    assert dump["ok"], dump
    found: dict[str, Any] = dump["leases"]
    return found


def test_grant_and_drop_move_both_families_and_dump_shows_them(rig: Bench) -> None:
    rig.grant(2)
    assert {a: v["level"] for a, v in leases(rig).items()} == {PUMP4: 2, PUMP6: 2}
    dump = rig.ask({"do": "dump"})
    assert dump["digest"] == dump["expected_digest"]
    assert dump["differences"] == []
    assert [PUMP4] not in dump["elements"]["seen4"]
    rig.drop()
    assert leases(rig) == {}


@pytest.mark.parametrize(
    ("lease", "says"),
    [
        ({"addresses": ["10.77.0.12"], "level": 1, "ms": 1000}, "belongs to no device"),
        ({"addresses": [PUMP4, "10.77.0.12"], "level": 1, "ms": 1000}, "belongs to no device"),
    ],
)
def test_an_address_of_no_device_is_refused_and_nothing_of_the_request_is_granted(
    rig: Bench, lease: dict[str, Any], says: str
) -> None:
    good = {"addresses": [PUMP4], "level": 1, "ms": 1000}
    with rig.connected() as s:
        answer = w.exchange(s, {"do": "grant", "leases": [good, lease]})
        assert not answer["ok"]
        assert says in answer["error"]
        assert answer["remedy"]
        assert leases(rig) == {}
        assert w.exchange(s, {"do": "drop", "addresses": [PUMP4]})["ok"]  # a refusal is no violation


def test_a_level_above_the_cap_is_refused_also_when_the_policy_changes_meanwhile(rig: Bench) -> None:
    capped = document()
    capped["devices"]["pump-1"]["cap"] = 1
    rig.grant(3)
    rig.ward.load(capped)
    try:
        assert leases(rig) == {}  # the loader ended what is above the cap
        answer = rig.ask({"do": "grant", "leases": [{"addresses": [PUMP4], "level": 2, "ms": 1000}]})
        assert not answer["ok"]
        assert "level 1 at most" in answer["error"]
        rig.grant(1)
    finally:
        rig.ward.load(document())
    rig.grant(3)


VIOLATIONS = [
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 3, "ms": 30_001}]},
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 3, "ms": 0}]},
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 4, "ms": 1}]},
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 0, "ms": 1}]},
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": True, "ms": 1}]},
    {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 1, "ms": 1, "table": "filter"}]},
    {"do": "grant", "leases": [{"addresses": ["10.77.0.011"], "level": 1, "ms": 1}]},
    {"do": "grant", "leases": [{"addresses": ["fe80::1%eth0"], "level": 1, "ms": 1}]},
    {"do": "grant", "leases": []},
    {"do": "drop", "addresses": []},
    {"do": "drop", "addresses": [1]},
    {"do": "flush"},
    {"do": "dump", "x": 1},
    {},
]


@pytest.mark.parametrize("request_", VIOLATIONS, ids=lambda r: json.dumps(r)[:60])
def test_a_violation_is_answered_and_closes_the_connection(rig: Bench, request_: dict[str, Any]) -> None:
    with rig.connected() as s:
        answer = w.exchange(s, request_)
        assert not answer["ok"]
        assert answer["error"]
        with pytest.raises((EOFError, ConnectionResetError)):
            w.read_frame(s)
    rig.drop()


def test_a_thousand_random_and_half_right_frames_do_no_harm(rig: Bench) -> None:
    draw = random.Random(77)
    good = json.dumps({"do": "grant", "leases": [{"addresses": [PUMP4], "level": 3, "ms": 1000}]}).encode()
    rig.grant(1)
    for number in range(1000):
        body = draw.randbytes(draw.randint(0, 60)) if number % 2 else bytearray(good)
        if number % 2 == 0:
            for _ in range(draw.randint(1, 3)):
                body[draw.randrange(len(body))] = draw.randrange(256)  # type: ignore[index]
            if b'"level": 3' in body and b'"ms": 1000' in body and PUMP4.encode() in body and b"grant" in body:
                continue  # still a grant
        length = len(body) if number % 5 else draw.choice([0, 1, REQUEST_MAX + 1, 0xFFFFFFFF])
        with rig.connected(2.0) as s:
            s.sendall(struct.pack(">I", length) + bytes(body))
            s.shutdown(socket.SHUT_WR)
            while s.recv(1 << 16):
                pass
    assert rig.enforcer is not None
    assert rig.enforcer.running
    assert {v["level"] for v in leases(rig).values()} <= {1, 2, 3}


def test_deeply_nested_json_is_a_violation(rig: Bench) -> None:
    with rig.connected() as s:
        body = b"[" * 60_000
        s.sendall(struct.pack(">I", len(body)) + body)
        assert not w.read_frame(s)["ok"]
    rig.drop()


def test_another_user_is_not_heard(rig: Bench) -> None:
    script = (
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(5)\ns.connect(sys.argv[1])\n"
        "try:\n s.sendall(b'\\0\\0\\0\\x0d{\"do\":\"dump\"}')\n d=s.recv(10)\nexcept OSError:\n d=b''\nsys.exit(0 if not d else 1)"
    )
    argv = ["setpriv", "--reuid=61003", "--regid=61003", "--clear-groups", "/usr/bin/python3", "-c", script, str(rig.socket)]
    assert subprocess.run(argv, timeout=20, check=False).returncode == 0


def test_a_peer_that_never_reads_is_cut_off_and_the_others_are_served(rig: Bench) -> None:
    body = json.dumps({"do": "watch"}).encode()
    many = (struct.pack(">I", len(body)) + body) * 1000
    with rig.connected(3.0) as deaf:
        with pytest.raises(OSError):
            for _ in range(200):
                deaf.sendall(many)
        rig.grant(1)


def test_it_rings_when_renewals_stop_and_falls_silent_when_they_resume(rig: Bench) -> None:
    rig.console.write_bytes(b"")
    rig.console.chmod(0o666)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog, rig.connected() as watcher:
        syslog.bind(str(rig.socket.parent / "log.sock"))
        (rig.socket.parent / "log.sock").chmod(0o666)
        syslog.settimeout(5)
        try:
            w.exchange(watcher, {"do": "watch"})
            rig.grant(3, 400)
            assert until(lambda: rig.state()["state"] == "ringing", 3.0)
            assert rig.state()["reasons"]["renewals-stopped"]["devices"] == ["pump-1"]
            assert b"renewals have stopped" in syslog.recv(1000)
        finally:
            (rig.socket.parent / "log.sock").unlink()
        assert b"\a" in rig.console.read_bytes()
        events = [w.read_frame(watcher)["event"] for _ in range(2)]
        assert events == ["lapsed", "renewals-stopped"]
        rig.grant(3)
        assert until(lambda: rig.state()["state"] == "clear")
        assert w.read_frame(watcher)["event"] == "renewals-resumed"
    with rig.connected() as later:
        lapses = w.exchange(later, {"do": "watch"})["lapses"]
    lapsed = dict(lapses["devices"])
    assert lapses["since_ns"] < lapsed["pump-1"] < lapses["granted_ns"] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert rig.enforcer is not None
    assert "<1>wardgate-enforcer: ALARM: renewals have stopped" in rig.enforcer.log.read_text()


def test_it_does_not_ring_for_a_drop_nor_for_one_device_while_others_are_renewed(rig: Bench) -> None:
    rig.grant(3, 300)
    rig.drop()
    time.sleep(0.5)
    assert rig.state()["state"] == "clear"
    assert rig.ask({"do": "grant", "leases": [{"addresses": [PUMP4], "level": 1, "ms": 500}]})["ok"]
    for _ in range(5):
        assert rig.ask({"do": "grant", "leases": [{"addresses": [PUMP6], "level": 1, "ms": 5000}]})["ok"]
        time.sleep(0.15)
    assert PUMP4 not in leases(rig)
    assert rig.state()["state"] == "clear"


def test_a_frozen_daemon_is_a_stopped_renewal_and_leases_outlive_the_enforcer(rig: Bench) -> None:
    with Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.MAINTENANCE) as flow:
        rig.grant(2, 6000)
        assert rig.enforcer is not None
        rig.enforcer.signal(signal.SIGKILL)
        rig.enforcer.popen.wait(5)
        assert flow.passes()
        rig.start()
        assert flow.passes()
        assert {v["level"] for v in leases(rig).values()} == {2}
        assert rig.state()["state"] == "clear"
        rig.drop()  # the new enforcer drops what the old one granted
        assert not flow.passes(0.3)


TAMPERING = {
    "element": ("element inet wardgate rtl1_4 {{ 10.9.9.9 . 10.77.0.11 . tcp . 22 {} }}", "rtl1_4"),
    "lease": ("element inet wardgate lvl4 {{ 10.77.0.11 {} }}", "not granted here"),
    "rule": ("rule inet wardgate forward {}", "static text"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_rings_and_its_end_clears(rig: Bench, what: str) -> None:
    statement, found = TAMPERING[what]
    added = {"element": "", "lease": "timeout 1h : 3", "rule": "accept"}[what]
    rig.nft(("insert " if what == "rule" else "add ") + statement.format(added))
    assert until(lambda: "tampered" in rig.state()["reasons"], 6.0)
    assert any(found in d for d in rig.state()["reasons"]["tampered"]["differences"])
    listing = rig.ward.nft("-a", "list", "chain", "inet", "wardgate", "forward").splitlines()
    handle = next((line.rsplit(" ", 1)[1] for line in listing if line.strip().startswith("accept")), "")
    rig.nft("delete " + statement.format(f"handle {handle}" if what == "rule" else ""))
    assert until(lambda: rig.state()["state"] == "clear", 6.0)


def test_a_deleted_table_rings_refuses_grants_and_loading_again_cures_it(rig: Bench) -> None:
    rig.nft("delete table inet wardgate")
    assert until(lambda: "tampered" in rig.state()["reasons"], 6.0)
    answer = rig.ask({"do": "grant", "leases": [{"addresses": [PUMP4], "level": 1, "ms": 1000}]})
    assert not answer["ok"]
    assert "not loaded" in answer["error"]
    rig.ward.load()
    assert until(lambda: rig.state()["state"] == "clear", 6.0)
    rig.grant(1)


def test_a_confirmation_is_not_tampering(rig: Bench) -> None:
    changed = document()
    changed["sets"]["rtl1_4"].append([HOSP4, PUMP4, "udp", 7777])
    rig.ward.load(changed)
    rig.ward.load(document())
    time.sleep(1.5)
    assert rig.state()["state"] == "clear"


@pytest.mark.parametrize("late_s", [0.3, 1.5])
def test_a_confirmation_whose_file_comes_late_leaves_no_alarm_behind(rig: Bench, late_s: float) -> None:
    """The kernel is loaded before the file is written: for a moment the enforcer knows the old policy and sees the new one."""
    changed = document()
    changed["sets"]["rtl1_4"].append([HOSP4, PUMP4, "udp", 7777])
    assert rig.enforcer is not None
    before = rig.enforcer.log.read_text().count("ALARM: the tables were changed")
    rig.nft(f"add element inet wardgate rtl1_4 {{ {HOSP4} . {PUMP4} . udp . 7777 }}")
    try:
        time.sleep(late_s)
        rig.ward.confirmed.write_bytes(canonical(changed))
        rang = rig.enforcer.log.read_text().count("ALARM: the tables were changed") - before
        assert (rang > 0) == (late_s > 1), "a difference is looked at twice"
        assert until(lambda: rig.state()["state"] == "clear", 8.0)
    finally:
        rig.ward.load(document())
    assert until(lambda: rig.state()["state"] == "clear", 8.0)


# The daemon's side


def lease(level: int = 3, seconds: float = 20.0, addresses: tuple[str, ...] = (PUMP4, PUMP6)) -> Lease:
    now = Instant("b", time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
    return Lease("pump-1", addresses, TrustLevel(level), now.plus(seconds))


async def test_client_grants_drops_and_dumps(rig: Bench) -> None:
    client = EnforcerClient(rig.socket)
    try:
        await client.grant([lease(2)])
        dump = await client.dump()
        assert dump["differences"] == []
        assert {v["level"] for v in dict(dump["leases"]).values()} == {2}  # type: ignore[call-overload]
        client.drop_now([PUMP4, PUMP6])
        assert await asyncio.to_thread(until, lambda: leases(rig) == {})
        await client.grant([lease(3)])
        await client.grant([lease(0)])
        assert (await client.dump())["leases"] == {}
    finally:
        await client.close()


async def test_a_dump_never_shows_what_was_before_it_was_asked_for(rig: Bench) -> None:
    """A look that a confirmation or somebody else's dump has begun is not taken for an answer."""
    client = EnforcerClient(rig.socket)
    try:
        for step in range(12):
            level = 1 + step % 3
            earlier = asyncio.create_task(client.dump())
            await asyncio.sleep(0.05 + step * 0.02)  # somewhere in there its child has listed, and has not answered yet
            await client.grant([lease(level)])
            later = await client.dump()
            assert {v["level"] for v in dict(later["leases"]).values()} == {level}  # type: ignore[call-overload]
            assert (await earlier)["ok"] is True
    finally:
        await client.close()


async def test_client_translates_refusal_and_absence(rig: Bench, tmp_path: Path) -> None:
    client = EnforcerClient(rig.socket)
    try:
        with pytest.raises(RefusedError, match="belongs to no device"):
            await client.grant([lease(1, addresses=("10.77.0.99",))])
        with pytest.raises(RefusedError, match="30000"):
            await client.grant([lease(1, 31.0)])
        await client.grant([lease(1)])  # the connection that was closed for the violation is made anew
    finally:
        await client.close()
    nobody = EnforcerClient(tmp_path / "no.sock")
    with pytest.raises(UnavailableError):
        await nobody.drop([PUMP4])
    with pytest.raises(UnavailableError):
        nobody.drop_now([PUMP4])


async def test_a_drop_during_a_long_grant_is_not_undone_by_it(rig: Bench) -> None:
    """The pump is last in a batch that is still being sent when it is dropped."""
    client = EnforcerClient(rig.socket)
    try:
        await client.open()
        many = [lease(1, addresses=(PUMP6,)) for _ in range(2000)] + [lease(3, addresses=(PUMP4,))]
        granting = asyncio.create_task(client.grant(many))
        await asyncio.sleep(0.002)
        assert not granting.done()
        client.drop_now([PUMP4])
        await granting
        assert PUMP4 not in leases(rig)
        await client.grant([lease(3, addresses=(PUMP4,))])
        assert PUMP4 in leases(rig)
    finally:
        await client.close()


async def test_client_watches_and_hears_the_enforcer_go(rig: Bench) -> None:
    client = EnforcerClient(rig.socket)
    events: asyncio.Queue[object] = asyncio.Queue()

    async def listen() -> None:
        async for event in client.watch():
            events.put_nowait(event["event"])

    task = asyncio.create_task(listen())
    try:
        assert await asyncio.wait_for(events.get(), 5) == "watching"
        await client.grant([lease(1, 0.3)])
        assert await asyncio.wait_for(events.get(), 5) == "lapsed"
        assert await asyncio.wait_for(events.get(), 5) == "renewals-stopped"
        assert rig.enforcer is not None
        rig.enforcer.stop()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(task, 5)
    finally:
        task.cancel()
        await client.close()
        rig.start()


async def test_a_silent_enforcer_costs_five_seconds_and_a_connection(rig: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: bounded waits, then a clean recovery."""
    import gateway.enforcer.client as module

    monkeypatch.setattr(module, "_ANSWER_S", 0.5)
    client = EnforcerClient(rig.socket)
    assert rig.enforcer is not None
    try:
        await client.grant([lease(1)])
        rig.enforcer.signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="in time"):
            await client.grant([lease(2)])
        rig.enforcer.signal(signal.SIGCONT)
        await client.grant([lease(2)])
    finally:
        rig.enforcer.signal(signal.SIGCONT)
        await client.close()


RENEWER = """
import asyncio, sys, time
from pathlib import Path
from gateway.enforcer.client import EnforcerClient
from gateway.enforcer.document import canonical
from gateway.model.decision import Lease
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel

async def main():
    client = EnforcerClient(Path(sys.argv[1]))
    while True:
        now = Instant("b", time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
        await client.grant([Lease("pump-1", ("10.77.0.11", "fd77::11"), TrustLevel(2), now.plus(2.0))])
        print("ready", flush=True)
        await asyncio.sleep(0.05)
asyncio.run(main())
"""


def test_a_planned_restart_within_the_lease_loses_no_packet(rig: Bench) -> None:
    """2,000 datagrams a second, numbered, while renewals run, stop for a second and go on in another process."""

    def renewer() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", RENEWER, str(rig.socket)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        return process

    received: set[int] = set()
    first = renewer()
    with Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.MAINTENANCE) as flow:
        assert flow.passes()
        stop = threading.Event()

        def receive() -> None:
            flow.receiver.settimeout(0.2)
            while not stop.is_set():
                try:
                    received.add(int.from_bytes(flow.receiver.recv(64), "big"))
                except TimeoutError:
                    continue

        reader = threading.Thread(target=receive)
        reader.start()
        second = None
        sent = 0
        try:
            began = time.monotonic()
            while time.monotonic() - began < 2.4:
                sent += 1
                flow.sender.sendto((1 << 40 | sent).to_bytes(8, "big"), (PUMP4, w.MAINTENANCE))
                if second is None and time.monotonic() - began > 0.6:
                    first.terminate()
                    first.wait(5)
                    second = subprocess.Popen(
                        [sys.executable, "-c", f"import time; time.sleep(0.6)\n{RENEWER}", str(rig.socket)],
                        stdout=subprocess.DEVNULL,
                    )
                time.sleep(0.0005)
            time.sleep(0.3)
        finally:
            stop.set()
            reader.join(5)
            for process in (first, second):
                if process is not None:
                    process.kill()
                    process.wait(5)
            assert first.stdout is not None
            first.stdout.close()
    lost = sent - len({n for n in received if n >> 40 == 1})
    assert sent > 1000
    assert lost == 0
