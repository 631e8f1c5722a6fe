"""The copy of the audit log at a syslog server: a real rsyslog, and receivers that misbehave in every way a receiver can."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config import Config, Syslog, parse_config
from gateway.errors import InputError, InputErrors, UnavailableError
from gateway.machine_clock import MachineClock
from gateway.model.effect import Record
from gateway.model.event import PartChanged
from gateway.model.view import EventView
from gateway.store.audit import AuditLog
from gateway.store.positions import AuditSpool
from gateway.uplink import syslog
from gateway.uplink.rfc5424 import MESSAGE_MAX, Sender, frame, head_message, message
from gateway.uplink.syslog import SyslogSender
from hil.broker import issue
from tests.uplink.conftest import GATEWAY, free_port, until
from tests.uplink.rsyslog import Rsyslog

CLOCK = MachineClock()
WHO = Sender("ward-7-east", "0.1.0")
LINE = EventView(41, "2026-11-24T08:00:00.123+00:00", 1, "decision", "alarm", "pump-1", 'pump-1: level 3 → 0: "bad" \\ ]')
_HEADER = re.compile(
    rb"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) ((?:\[[^ \]]+(?: [^ =\]\"]+=\"(?:[^\"\\\]]|\\.)*\")*\])+|-)(?: (.*))?", re.DOTALL
)


# --- the wire format ---


def test_a_line_is_a_message_of_the_standard() -> None:
    body = message(WHO, LINE)
    found = _HEADER.fullmatch(body)
    assert found
    assert found.groups()[:6] == (b"105", b"2026-11-24T08:00:00.123Z", b"ward-7-east", b"wardgate", b"-", b"decision")
    elements = re.findall(rb"\[([^ \]]+)", found[7])
    assert elements == [b"origin", b"timeQuality", b"meta"], "registered ones only"
    assert found[8].startswith(b"\xef\xbb\xbfpump-1: level 3 \xe2\x86\x92 0")
    assert found[8].endswith(b" | sequence=41 kind=decision severity=alarm device=pump-1")
    assert frame(body) == b"%d " % len(body) + body


def test_with_an_enterprise_number_the_facts_are_an_element_and_escaped() -> None:
    odd = EventView(1, "nonsense", 1, "ki nd\n", "odd", 'a"b\\c]d', "x")
    found = _HEADER.fullmatch(message(Sender("h ost", "1", enterprise=32473), odd))
    assert found
    assert rb'[wardgate@32473 sequence="1" kind="ki nd' in found[7]
    assert rb'device="a\"b\\c\]d"' in found[7]
    assert (found[2], found[3], found[6]) == (b"-", b"h_ost", b"ki_nd_")


def test_whatever_a_line_holds_it_is_bounded_and_utf8() -> None:
    long = EventView(2**40, "2026-11-24T08:00:00Z", 1, "k" * 64, "warning", "d" * 64, "→ü\n\x00" * 5000)
    body = message(Sender("h" * 300, "1" * 600, enterprise=1), long)
    assert len(body) <= MESSAGE_MAX
    body.decode()
    assert _HEADER.fullmatch(body)
    assert b"sequence=%d" % 2**40 in body
    assert 1 <= int(re.search(rb'sequenceId="(\d+)"', body)[1]) <= 2**31 - 1
    assert b"hash=" + b"ab" * 32 in head_message(WHO, 7, b"\xab" * 32, "2026-11-24T08:00:00.000+00:00")


# --- configuration ---


def test_the_firewall_opens_exactly_what_is_configured() -> None:
    config = parse_config('[syslog]\nhost = "siem.hospital"\naddresses = ["10.0.0.9", "fd00::9"]\n[uplink]\nhost = "10.0.0.5"\n')
    assert config.way_out == (("10.0.0.5", "tcp", 8883), ("10.0.0.9", "tcp", 6514), ("fd00::9", "tcp", 6514))
    assert Config().way_out == ()
    files = parse_config('[syslog]\nhost = "10.0.0.9"\ncert = "/a"\nkey = "/b"\n').syslog
    assert (files.cert, files.key) == (Path("/a"), Path("/b"))
    for wrong in (
        'host = "siem"',
        'host = "10.0.0.9"\ncert = "/a"',
        "facility = 24",
        'addresses = ["x"]',
        "port = 0",
        "enterprise = -1",
    ):
        with pytest.raises(InputErrors):
            parse_config(f"[syslog]\n{wrong}\n")


# --- receivers ---


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"CONFIRM_S": 0.3, "_LOOK_S": 0.05, "_FIRST_S": 0.05, "_DOWN_S": 0.3, "_WRITE_S": 1.0, "_END_S": 0.5}
    for name, value in values.items():
        monkeypatch.setattr(syslog, name, value)


@pytest.fixture(scope="module")
def keys(ca: Path) -> Path:
    issue(ca, ca, "syslog", names=("127.0.0.1", "siem.hospital"))
    issue(ca, ca, "elsewhere", names=("elsewhere.example",))
    return ca


async def say(audit: AuditLog, first: int, last: int) -> None:
    """Lines for people, each with one of the engine's inputs before it."""
    pairs = [(Record("event", "", "LinkChanged"), Record("decision", "pump-1", f"line {n}")) for n in range(first, last + 1)]
    await audit.append([(CLOCK.now(), r) for pair in pairs for r in pair])


def settings_for(keys: Path, port: int, **more: object) -> Syslog:
    values: dict[str, object] = {"host": "127.0.0.1", "port": port, "ca": keys / "ca.pem", "retry_s": 0.5}
    return Syslog(**{**values, "cert": keys / f"{GATEWAY}.pem", "key": keys / f"{GATEWAY}.key", **more})  # type: ignore[arg-type]


@dataclass
class Running:
    sender: SyslogSender
    told: list[PartChanged] = field(default_factory=list)


@contextlib.asynccontextmanager
async def running(settings: Syslog, audit: AuditLog) -> AsyncIterator[Running]:
    told: list[PartChanged] = []
    spool = AuditSpool(audit.database, audit, "syslog")  # type: ignore[attr-defined]
    sender = SyslogSender(settings, WHO, spool, CLOCK, told=told.append)
    task = asyncio.create_task(sender.run())
    try:
        yield Running(sender, told)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Receiver:
    """A strict receiver over TLS: a byte out of frame is an error. ``manner`` is what it does with each new connection."""

    def __init__(self, keys: Path, name: str = "syslog") -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
        self.context.load_verify_locations(keys / "ca.pem")
        self.texts: list[str] = []
        self.heads = 0
        self.connections = 0
        self.wrong: list[bytes] = []
        self.manner: Callable[[int], str] = lambda n: "take"
        self.port = free_port()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context, limit=2**16)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()

    @property
    def numbers(self) -> list[int]:
        return [int(t.split()[1]) for t in self.texts if t.startswith("line ")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        manner = self.manner(self.connections)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            if manner == "close":
                return writer.close()
            if manner == "deaf":
                return await asyncio.sleep(5)
            if manner == "shout":
                for _ in range(200):
                    writer.write(b"x" * 65536)
                    await writer.drain()
            few = int(manner) if manner.isdigit() else 10**9
            while few > 0:
                await self._one(reader)
                few -= 1
            writer.transport.abort()
        writer.close()
        return None

    async def _one(self, reader: asyncio.StreamReader) -> None:
        digits = await reader.readuntil(b" ")
        if not re.fullmatch(rb"[1-9]\d{0,4} ", digits):
            self.wrong.append(digits)
            return
        found = _HEADER.fullmatch(await reader.readexactly(int(digits)))
        if found is None:
            self.wrong.append(digits)
        elif found[6] == b"audit-head":
            self.heads += 1
        else:
            self.texts.append(found[8].decode("utf-8-sig").partition(" | ")[0])


async def test_every_line_arrives_once_in_order_and_then_where_the_chain_ends(keys: Path, audit: AuditLog) -> None:
    await say(audit, 1, 1500)
    async with Receiver(keys) as there, running(settings_for(keys, there.port), audit) as run:
        await until(lambda: len(there.texts) == 1500 and there.heads, "everything", 10)
        await say(audit, 1501, 1503)
        await until(lambda: run.sender.delivered == 3006, "settled", 10)
        assert there.numbers == list(range(1, 1504))
        assert not there.wrong
        await until(lambda: run.told, "told", 5)
        assert run.told == [PartChanged("syslog", up=True, detail="copies the audit log to 127.0.0.1")]
    async with Receiver(keys) as again, running(settings_for(keys, again.port), audit):
        await say(audit, 1504, 1504)
        await until(lambda: again.texts, "what is new")
        assert again.texts == ["line 1504"], "after an orderly end nothing is sent twice"


async def test_a_receiver_that_accepts_and_closes_loses_nothing(keys: Path, audit: AuditLog) -> None:
    await say(audit, 1, 50)
    async with Receiver(keys) as there, running(settings_for(keys, there.port), audit) as run:
        there.manner = lambda n: "close" if n < 4 else "20" if n < 6 else "take"
        await until(lambda: there.numbers and there.numbers[-1] == 50, "all", 15)
        await until(lambda: run.sender.delivered == 100, "settled", 10)
        assert set(there.numbers) == set(range(1, 51))
        assert there.connections >= 6
        assert len(there.texts) == 20 + 20 + 50, "only what was in doubt came again"


async def test_a_receiver_that_takes_nothing_neither_fills_memory_nor_stops_us(keys: Path, audit: AuditLog) -> None:
    text = "x" * 480
    for _ in range(12):
        await audit.append([(CLOCK.now(), Record("decision", "pump-1", text)) for _ in range(1000)])
    async with Receiver(keys) as there, running(settings_for(keys, there.port), audit) as run:
        there.manner = lambda n: "deaf" if n == 1 else "take"
        slow = 0.0
        deadline = time.monotonic() + 15
        while run.sender.delivered < 12_000:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            slow = max(slow, time.monotonic() - began)
            assert time.monotonic() < deadline
        assert there.connections >= 4, "the deaf one, then one for each 5,000 lines"
        assert len(there.texts) == 12_000
        assert slow < 0.5, "nobody else is kept waiting"


async def test_what_a_server_says_is_thrown_away(keys: Path, audit: AuditLog) -> None:
    await say(audit, 1, 5)
    async with Receiver(keys) as there, running(settings_for(keys, there.port), audit) as run:
        there.manner = lambda n: "shout"
        await until(lambda: run.sender.delivered == 10, "all", 15)
        assert there.numbers == [1, 2, 3, 4, 5]


async def test_a_server_under_another_name_or_from_another_ca_gets_nothing(keys: Path, audit: AuditLog, tmp_path: Path) -> None:
    from hil.ca import Ca

    await say(audit, 1, 1)
    Ca(tmp_path / "other", [])
    for name, more in (("elsewhere", {}), ("syslog", {"ca": tmp_path / "other" / "ca.pem"})):
        async with Receiver(keys, name) as there, running(settings_for(keys, there.port, **more), audit) as run:
            await until(lambda r=run: r.told, "told", 10)
            assert not run.told[0].up
            assert "certificate" in run.told[0].detail
            assert there.texts == []


async def test_a_client_that_a_server_does_not_know_learns_why(keys: Path, audit: AuditLog) -> None:
    async with Receiver(keys) as there, running(settings_for(keys, there.port, cert=None, key=None), audit) as run:
        there.context.verify_mode = ssl.CERT_REQUIRED
        await say(audit, 1, 1)
        await until(lambda: run.told, "told", 10)
        assert not run.told[0].up
        assert run.sender.delivered == 0
        assert there.texts == []


async def test_files_that_are_missing_are_named(keys: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pem"):
        syslog.tls_context(settings_for(keys, 6514, ca=keys / "nowhere.pem"))


class Stuck:
    """A server that does less than asyncio's TLS does by itself: it reads nothing, or reads and never answers a close."""

    def __init__(self, there: Receiver, *, reads: bool) -> None:
        self.reads, self.taken, self._context = reads, b"", there.context
        self._listener = socket.create_server(("127.0.0.1", there.port))
        self._held: list[socket.socket] = []
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._ended:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            held = self._context.wrap_socket(connection, server_side=True)
            self._held.append(held)
            while self.reads and (part := held.recv(65536)):
                self.taken += part

    def stop(self) -> None:
        """Killed: what it has not read is gone."""
        self._ended = True
        self._listener.shutdown(socket.SHUT_RDWR)
        for s in (self._listener, *self._held):
            s.close()


async def test_a_server_that_hangs_with_everything_in_its_buffers_gets_it_again(keys: Path, audit: AuditLog, monkeypatch) -> None:
    """Its kernel has acknowledged every byte and nobody has read one; then it is killed, minutes later for all we know."""
    monkeypatch.setattr(syslog, "_END_S", 3.0)
    there = Receiver(keys)
    stuck = Stuck(there, reads=False)
    await say(audit, 1, 20)
    async with running(settings_for(keys, there.port), audit) as run:
        await until(lambda: run.sender.sent == 40, "sent", 10)
        await asyncio.sleep(1.0)
        assert run.sender.delivered == 0
        stuck.stop()
        async with there:
            await until(lambda: run.sender.delivered == 40, "confirmed", 10)
            assert there.numbers == list(range(1, 21))


async def test_a_server_that_never_ends_orderly_is_believed_after_a_while_and_named(keys: Path, audit: AuditLog) -> None:
    there = Receiver(keys)
    stuck = Stuck(there, reads=True)
    await say(audit, 1, 5)
    async with running(settings_for(keys, there.port), audit) as run:
        await until(lambda: run.sender.delivered == 10, "believed", 15)
        await until(lambda: run.told and "confirms nothing" in run.told[-1].detail, "told", 10)
        assert stuck.taken.count(b"line 5 ") == 3
        await say(audit, 6, 8)
        await until(lambda: run.sender.delivered == 16, "believed at once", 10)
        assert [stuck.taken.count(b"line %d " % n) for n in (5, 6, 8)] == [3, 1, 1], "and nothing comes twice any more"
    stuck.stop()


async def test_a_full_disk_stops_nothing(keys: Path, audit: AuditLog, monkeypatch) -> None:
    async def full(self: AuditSpool, sequence: int) -> None:
        raise UnavailableError("the disk is full", "free space")

    keep = AuditSpool.keep
    monkeypatch.setattr(AuditSpool, "keep", full)
    async with Receiver(keys) as there, running(settings_for(keys, there.port), audit) as run:
        for n in (1, 2, 3):
            await say(audit, n, n)
            await until(lambda n=n: run.sender.delivered == 2 * n, "confirmed", 10)
        assert there.numbers == [1, 2, 3]
        spool = AuditSpool(audit.database, audit, "syslog")  # type: ignore[attr-defined]
        assert await spool.position() == 0
        monkeypatch.setattr(AuditSpool, "keep", keep)
        await say(audit, 4, 4)
        await until(lambda: run.sender.delivered == 8, "confirmed", 10)
        assert await spool.position() == 8


# --- a real server ---


@pytest.fixture
def rsyslog(tmp_path: Path, keys: Path) -> Iterator[Rsyslog]:
    server = Rsyslog(tmp_path / "rsyslog", keys, free_port())
    server.start()
    yield server
    server.stop()


async def test_rsyslog_understands_every_field(rsyslog: Rsyslog, keys: Path, audit: AuditLog) -> None:
    await audit.append([(CLOCK.now(), Record("alarm", "pump-1", 'pump-1: → "bad"', (("severity", "alarm"),)))])
    async with running(settings_for(keys, rsyslog.port, host="siem.hospital", addresses=("127.0.0.1",), enterprise=0), audit):
        await until(lambda: len(rsyslog.lines) >= 2, "arrived", 10)
    line, head = rsyslog.lines[:2]
    assert (line["hostname"], line["app-name"], line["msgid"], line["pri"]) == ("ward-7-east", "wardgate", "alarm", "105")
    assert line["protocol-version"] == "1"
    assert line["structured-data"].startswith('[origin software="wardgate" swVersion="0.1.0"][timeQuality tzKnown="1"][meta ')
    assert line["msg"].removeprefix("\ufeff").startswith('pump-1: → "bad" | sequence=1 kind=alarm severity=alarm device=pump-1')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*", line["timereported"])
    assert head["msgid"] == "audit-head"


async def test_an_outage_of_rsyslog_loses_nothing(rsyslog: Rsyslog, keys: Path, audit: AuditLog) -> None:
    def numbers() -> list[int]:
        texts = [x["msg"].removeprefix("\ufeff") for x in rsyslog.lines if x["msgid"] == "decision"]
        return [int(t.split()[1]) for t in texts]

    await say(audit, 1, 200)
    async with running(settings_for(keys, rsyslog.port), audit) as run:
        await until(lambda: run.sender.delivered == 400, "the first", 10)
        rsyslog.stop(kill=True)
        await say(audit, 201, 400)
        await until(lambda: run.told and not run.told[-1].up, "told", 10)
        rsyslog.start()
        await until(lambda: run.sender.delivered == 800, "the rest", 15)
        await until(lambda: len(numbers()) >= 400, "written", 10)
    assert numbers() == list(range(1, 401))
    assert run.told[-1].up
