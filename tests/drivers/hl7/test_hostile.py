"""Bad input through the relay: refused, nothing of it relayed, and no other connection hears of it."""

from __future__ import annotations

import asyncio

import pytest

from drivers.hl7 import mllp
from gateway.errors import InputErrors, UnavailableError
from gateway.model.event import Behaviour
from hil.hl7 import malformed
from tests.drivers.hl7.ward import LIVE, RESULTS, Bench, Sender, device, nothing_relayed, oru
from tests.fakes.context import until

WIRES = dict(malformed(oru(b"BAD1")))


async def refused(s: Sender) -> bytes:
    """AR, or a closed connection; anything else is no refusal."""
    try:
        return await s.heard()
    except ConnectionError:
        return b""


@pytest.mark.parametrize("port", [LIVE, RESULTS])
async def test_the_malformed_list_is_refused_and_others_are_unharmed(port: int) -> None:
    async with Bench().running(device(1), device(2)) as b:
        b.grant(3, 1)
        b.grant(3, 2)
        other, same = await b.dial(LIVE, 2), await b.dial(LIVE, 1)
        for s in (other, same):
            assert b"|AA|" in await s.ask(oru(b"OK0"))
        for i, (name, wire) in enumerate(WIRES.items()):
            with nothing_relayed(b):
                s = await b.dial(port, 1)
                s.writer.write(wire)
                answer = await refused(s)
                assert not answer or b"|AR|BAD1|" in answer, name
                s.writer.close()
            for n, s in enumerate((other, same)):
                assert b"|AA|" in await s.ask(oru(b"OK%d-%d" % (i, n))), name
        assert b.context.journal.rows == []
        assert not [m for m in b.receiver.messages if b"BAD1" in m]
        assert (await b.context.wait(Behaviour)).code == "malformed"


async def test_a_good_message_before_a_violation_in_the_same_bytes_is_not_relayed_either() -> None:
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        with nothing_relayed(b):
            s.writer.write(mllp.encode(oru()) + b"\r\n")
            assert await s.closed()


async def test_a_message_that_never_ends_is_closed_at_the_bound_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.proxy.PARTIAL_S", 0.3)
    async with Bench(max_message=4096).running() as b:
        b.grant(3)
        s = await b.dial()
        s.writer.write(b"\x0b" + b"A" * 5000)
        assert await s.closed()
        s = await b.dial()
        s.writer.write(b"\x0bMSH|")
        assert await s.closed(2)
        quiet = await b.dial()
        await asyncio.sleep(0.6)
        assert b"|AA|" in await quiet.ask(oru())  # silence between messages costs nothing


async def test_many_connections_of_one_device_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.device.MAX_CONNECTIONS", 3)
    async with Bench().running() as b:
        b.grant(3)
        kept = [await b.dial() for _ in range(3)]
        assert await (await b.dial()).closed()
        for s in kept:
            assert b"|AA|" in await s.ask(oru())
        kept[0].writer.close()
        await until(lambda: len(b.driver._roster.links["monitor-1"].connections) == 2, "one is gone")
        assert b"|AA|" in await (await b.dial()).ask(oru())


async def test_a_sender_that_reads_no_answers_is_not_read_any_more() -> None:
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru())
        s.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        try:
            async with asyncio.timeout(4):
                while sent < 60_000:
                    s.writer.write(mllp.encode(oru(b"F%05d" % sent, observations=1)))
                    sent += 1
                    await s.writer.drain()
        except TimeoutError:
            pass
        assert sent < 60_000, "the relay took everything in"
        assert len(b.receiver.messages) < sent


async def test_ten_thousand_refusals_are_told_in_a_few_events() -> None:
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        bad = oru(b"B1") + b"obx|1\r"
        for _ in range(100):
            s.send(*([bad] * 100))
            for _ in range(100):
                assert b"|AR|" in await s.heard()
        assert len(b.context.of(Behaviour)) <= 2


async def test_a_device_that_leaves_before_the_receiver_answers_harms_nobody() -> None:
    async with Bench().running(device(1), device(2)) as b:
        b.grant(3, 1)
        b.grant(3, 2)
        b.receiver.answer = lambda _: None
        s = await b.dial()
        s.send(oru())
        await until(lambda: b.receiver.messages, "relayed")
        s.writer.transport.abort()
        b.receiver.answer = b.receiver.accept
        assert b"|AA|" in await (await b.dial(LIVE, 2)).ask(oru(b"M2"))
        await until(lambda: not b.driver._roster.links["monitor-1"].connections, "let go")


async def test_settings_and_ports() -> None:
    from drivers.hl7.driver import Hl7Driver
    from tests.fakes.context import FakeContext

    with pytest.raises(InputErrors) as e:
        Hl7Driver(FakeContext(), {"listen_port": 70_000, "max_message": 5, "answer_s": 0, "upstream": {"a": 1}, "lisen": []})
    assert [path for path, _ in e.value.problems] == ["listen_port", "max_message", "answer_s", "upstream", "lisen"]
    async with Bench().running() as b:
        second = Hl7Driver(FakeContext(), {"listen_port": b.driver.port, "listen": ["0.0.0.0"]})
        with pytest.raises(UnavailableError, match=str(b.driver.port)):
            await second.run()


async def test_a_busy_sender_is_not_taken_for_one_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always half a message under way; each is whole in time."""
    monkeypatch.setattr("drivers.hl7.proxy.PARTIAL_S", 0.8)
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru(b"Z"))
        stream = b"".join(mllp.encode(oru(b"B%02d" % i)) for i in range(15))
        for at in range(0, len(stream), len(stream) // 29):
            s.writer.write(stream[at : at + len(stream) // 29])
            await asyncio.sleep(0.05)
        for i in range(15):
            assert b"|AA|B%02d" % i in await s.heard()


async def test_long_messages_wait_in_the_socket_and_not_in_memory() -> None:
    async with Bench(answer_s=5.0).running() as b:
        b.grant(3)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru(b"Z"))
        b.receiver.answer = lambda _: None
        long = [oru(b"L%02d" % i) + b"ZZZ|" + b"A" * 400_000 + b"\r" for i in range(12)]
        s.send(*long)
        await until(lambda: len(b.receiver.messages) == 2, "the first is with the receiver")
        await asyncio.sleep(0.3)
        link = next(iter(b.driver._roster.links["monitor-1"].connections))
        assert link._queued < 1_000_000 and link._paused  # type: ignore[attr-defined]
        b.receiver.answer = b.receiver.accept
        next(iter(b.receiver._writers)).write(mllp.encode(b.receiver.accept(long[0]) or b""))
        for i in range(12):
            assert b"|AA|L%02d" % i in await s.heard()
        assert b.receiver.messages[1:] == long
