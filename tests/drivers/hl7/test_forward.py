"""Stored messages and what their receiver says of them: again, aside, later; in original and in enhanced mode."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from drivers.hl7 import mllp
from drivers.hl7.ack import Verdict
from drivers.hl7.message import parse
from drivers.hl7.upstream import connect
from gateway.errors import UnavailableError
from gateway.model.event import Behaviour, RouteChanged
from tests.drivers.hl7.ward import LIVE, ORDERS, RESULTS, SETTINGS, Bench, Sender, nothing_relayed, order, oru
from tests.fakes.context import until

APPLICATION = b"MSH|^~\\&|CENTRAL|HOSP|BEDMON|WARD3|1||ACK^R01^ACK|R77|P|2.6|||%b\rMSA|%b|M1\r"


def states(b: Bench) -> list[str]:
    return [r["state"] for r in b.context.journal.rows]


def answers(b: Bench, **by_id: Verdict) -> None:
    """What the receiver says to which message; AA to every other."""

    def answer(raw: bytes) -> bytes | None:
        return b.receiver.accept(raw, by_id.get(raw.split(b"|")[9].decode(), Verdict.ACCEPT))

    b.receiver.answer = answer


@pytest.mark.parametrize(("verdict", "times"), [(Verdict.ERROR, 3), (Verdict.REJECT, 1)])
async def test_ae_is_tried_again_ar_is_not_and_what_is_refused_is_kept_with_a_name(verdict: Verdict, times: int) -> None:
    async with Bench(tries=3).running() as b:
        b.grant(2)
        answers(b, BAD=verdict)
        s = await b.dial(RESULTS)
        await s.ask(oru(b"BAD"))
        await s.ask(oru(b"OK"))
        await until(lambda: b.receiver.messages[-1:] == [oru(b"OK")], "the other one arrives")
        assert b.receiver.messages == [oru(b"BAD")] * times + [oru(b"OK")]
        code = verdict.value[0].decode()
        await until(lambda: states(b)[1] == "delivered", "settled")
        assert states(b)[0] == f"the receiver refused ORU^R01 BAD ({code})"
        event = await b.context.wait(Behaviour)
        assert event.code == "refused-by-receiver" and "kept aside" in event.text
        assert not [w for w in ("DOE", "JANE", "100012") if w in event.text + states(b)[0]]


async def test_a_receiver_that_says_ae_for_a_while_gets_everything_in_order() -> None:
    async with Bench(tries=50).running() as b:
        b.grant(2)
        b.receiver.answer = lambda raw: b.receiver.accept(raw, Verdict.ERROR)
        s = await b.dial(RESULTS)
        for i in range(3):
            assert b"|AA|" in await s.ask(oru(b"M%d" % i))
        await until(lambda: len(b.receiver.messages) > 2, "it says AE")
        b.receiver.answer = b.receiver.accept
        await until(lambda: states(b) == ["delivered"] * 3, "delivered")
        assert [m for m in b.receiver.messages if m != oru(b"M0")] == [oru(b"M1"), oru(b"M2")]


async def send_again(b: Bench, row: dict[str, Any]) -> None:
    """What a person does with a message that is kept aside: it waits again under a new id, behind the others."""
    b.context.journal.rows.append(row | {"id": len(b.context.journal.rows) + 1, "state": "waiting"})


async def test_what_a_person_sends_again_leaves_without_being_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.forward._LOOK_S", 0.2)
    async with Bench().running() as b:
        b.grant(2)
        answers(b, M1=Verdict.REJECT)
        s = await b.dial(RESULTS)
        await s.ask(oru())
        await until(lambda: "refused" in states(b)[0], "kept aside")
        answers(b)
        await send_again(b, b.context.journal.rows[0])
        await until(lambda: states(b)[1] == "delivered", "delivered")


async def test_a_commit_is_not_the_end_where_an_application_acknowledgement_follows() -> None:
    for code, state in ((b"AA", "delivered"), (b"AE", "the receiver refused ORU^R01 M1 (AE)"), (b"AR", "(AR)")):
        async with Bench().running() as b:
            b.grant(2)
            s = await b.dial(RESULTS)
            assert b"|CA|M1" in await s.ask(oru(msh=b"|||AL|AL"))
            await until(lambda: b.receiver.answers, "committed")
            assert b"|CA|M1" in b.receiver.answers[0]
            assert b"|CA|M2" in await s.ask(oru(b"M2", msh=b"|||AL|NE"))  # it holds up nobody
            await until(lambda: states(b)[1] == "delivered", "the next one is delivered")
            assert states(b)[0] == "waiting"
            writer = next(iter(b.receiver._writers))
            writer.write(mllp.encode(APPLICATION % (b"AL|NE", code)))
            await until(lambda b=b, state=state: states(b)[0].endswith(state), state)  # type: ignore[misc]
            await until(lambda: b"MSA|CA|R77" in b.receiver.messages[-1], "its own commit is given")
            assert b.receiver.connections == 1


async def test_a_commit_without_more_is_delivery_when_the_connection_or_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.forward.APPLICATION_S", 0.2)
    monkeypatch.setattr("drivers.hl7.forward._LOOK_S", 0.1)
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        await s.ask(oru(msh=b"|||AL|AL"))
        await until(lambda: states(b) == ["delivered"], "nothing came in time")
        await s.ask(oru(b"M2", msh=b"|||AL|AL"))
        await until(lambda: len(b.receiver.answers) == 2, "committed")
        await b.receiver.stop()
        await until(lambda: states(b) == ["delivered"] * 2, "it is in safe storage")


async def test_what_nobody_acknowledges_is_sent_again_when_the_connection_ends_right_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.forward._SENT_S", 0.5)
    monkeypatch.setattr("drivers.hl7.forward._LOOK_S", 0.1)
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        s.send(oru(b"N1", msh=b"|||NE|NE"))
        await until(lambda: b.receiver.messages, "sent")
        await b.receiver.stop()  # it may have arrived, or not
        s.send(oru(b"N2", msh=b"|||NE|NE"))
        await until(lambda: len(states(b)) == 2, "stored")
        await b.receiver.start()
        await until(lambda: states(b) == ["delivered"] * 2, "settled")
        assert [m.split(b"|")[9] for m in b.receiver.messages] in ([b"N1", b"N1", b"N2"], [b"N1", b"N2", b"N1", b"N2"])


async def test_an_error_alone_is_heard_of_where_only_errors_are_acknowledged() -> None:
    async with Bench().running() as b:
        b.grant(2)
        answers(b, M1=Verdict.REJECT)
        s = await b.dial(RESULTS)
        s.send(oru(msh=b"|||ER|NE"))
        await until(lambda: states(b)[:1] == ["the receiver refused ORU^R01 M1 (CR)"], "kept aside")


async def test_a_receiver_that_is_gone_rings_after_a_while_and_no_longer_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.route.PATIENCE_S", 0.5)
    async with Bench().running() as b:
        b.grant(2)
        await b.receiver.stop()
        s, live = await b.dial(RESULTS), await b.dial()
        await s.ask(oru())
        assert b"|AE|" in await live.ask(oru(b"L1"))
        assert b.context.of(RouteChanged) == []  # a moment is no alarm
        rung = {(await b.context.wait(RouteChanged, lambda e, n=n: e.function == n)).up for n in ("results", "live")}  # type: ignore[misc]
        assert rung == {False}
        await b.receiver.start()
        assert b"|AA|" in await live.ask(oru(b"L2"))
        for name in ("results", "live"):
            await b.context.wait(RouteChanged, lambda e, n=name: e.function == n and e.up)  # type: ignore[misc]
        assert len(b.context.of(RouteChanged)) == 4


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_is_woken_as_the_driver_ends_ends_too(turns: int) -> None:
    async with Bench().running() as b:
        await asyncio.sleep(0.02)  # its forwarders wait for something to do
        tasks = [t for t in asyncio.all_tasks() if "results" in t.get_name()]
        assert tasks
        for route in b.driver._forwarders:
            b.driver._is_stored(route)
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, timeout=1)
        assert len(done) == len(tasks)


async def test_a_receiver_that_is_gone_as_soon_as_it_was_there_costs_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is lost before anybody has looked at what ``connect`` gave: its end is told all the same."""
    gone = UnavailableError("the receiver closed the connection", "look at the receiver")

    async def connect(*where_and_how: Any) -> Any:
        where_and_how[5](gone)  # lost
        return SimpleNamespace(open=False, ended=gone, send=lambda _: None, close=lambda: None)

    monkeypatch.setattr("drivers.hl7.proxy.connect", connect)
    monkeypatch.setattr("drivers.hl7.forward.connect", connect)
    async with Bench(answer_s=30.0).running() as b:
        b.grant(2)
        s = await b.dial(LIVE)
        for number in range(3):
            assert b"|AE|M%d|not delivered" % number in await s.ask(oru(b"M%d" % number))
        stored = await b.dial(RESULTS)
        assert b"|AA|" in await stored.ask(oru())
        await b.context.wait(RouteChanged, lambda e: e.function == "results" and not e.up)


async def left_alone(b: Bench) -> Sender:
    """A sender whose first message has arrived, and whose receiver has then gone."""
    b.grant(2)
    s = await b.dial(RESULTS)
    assert b"|AA|" in await s.ask(oru())
    await until(lambda: b.receiver.messages, "the receiver is there")
    await b.receiver.stop()
    return s


async def test_what_a_receiver_never_took_is_not_delivered_whatever_it_promises_to_acknowledge() -> None:
    """SU: it acknowledges when it has it. It takes the connection, reads nothing, and is started again."""
    async with Bench(answer_s=1.0).running() as b:
        s = await left_alone(b)
        with stalled(b.receiver.port):
            big = oru(b"@@@@@", msh=b"|||SU|NE") + b"NTE|1||" + b"x" * 50_000 + b"\r"
            for i in range(40):
                assert b"|CA|N%04d" % i in await s.ask(big.replace(b"@@@@@", b"N%04d" % i))
            await asyncio.sleep(2.5)
        b.receiver.messages.clear()
        await b.receiver.start()
        await until(lambda: len({m.split(b"|")[9] for m in b.receiver.messages}) == 40, "each arrives", timeout_s=20)


async def test_of_many_that_nobody_acknowledges_none_is_given_up_before_its_second_has_passed() -> None:
    async with Bench().running() as b:
        s = await left_alone(b)
        with stalled(b.receiver.port):
            s.send(*(oru(b"N%03d" % i, msh=b"|||NE|NE") for i in range(150)))
            await until(lambda: len(b.context.journal.rows) == 151, "all are stored")
            await asyncio.sleep(0.5)
        b.receiver.messages.clear()
        await b.receiver.start()
        await until(lambda: len({m.split(b"|")[9] for m in b.receiver.messages}) == 150, "each arrives", timeout_s=20)


async def test_two_senders_with_one_number_are_two_messages() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        first = oru(b"1", msh=b"|||NE|NE")
        s.send(first, first.replace(b"|WARD3|", b"|WARD3^2|"))
        await until(lambda: len(b.receiver.messages) == 2, "both arrive", timeout_s=10)
        await until(lambda: all(r["state"] == "delivered" for r in b.context.journal.rows), "both are settled", timeout_s=10)
        assert len(b.context.journal.rows) == 2


async def test_a_receiver_that_commits_and_says_no_more_holds_nothing_up() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        s.send(*(oru(b"C%03d" % i, msh=b"|||AL|AL") for i in range(200)))
        await until(
            lambda: len(b.receiver.messages) == 200, "all arrive, though no application acknowledgement comes", timeout_s=15
        )
        await until(lambda: states(b).count("delivered") >= 200 - 64, "the oldest are settled", timeout_s=10)


@contextmanager
def stalled(port: int) -> Iterator[None]:
    """A receiver that takes connections and reads nothing, and ends them with a reset."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.bind(("127.0.0.1", port))
        listening.listen(5)
        listening.setblocking(False)
        yield
        with contextlib.suppress(BlockingIOError):
            while True:
                taken, _ = listening.accept()
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                taken.close()


async def test_silence_where_a_commit_was_promised_is_no_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.forward._LOOK_S", 0.05)
    async with Bench(answer_s=0.3, tries=3).running() as b:
        b.grant(2)
        b.receiver.answer = lambda _: None
        s = await b.dial(RESULTS)
        s.send(oru(msh=b"|||SU|NE"))
        await until(lambda: len(b.receiver.messages) == 2, "it goes again")
        assert states(b) == ["waiting"]
        await until(lambda: "was sent 3 times: no acknowledgement" in states(b)[0], "it is kept aside in the end")
        b.receiver.answer = b.receiver.accept
        s.send(oru(b"M2", msh=b"|||SU|NE"))
        await until(lambda: states(b)[1:] == ["delivered"], "a commit in time")


async def test_a_receiver_that_closes_after_each_message_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its closing in order says that it had read all; it does so each time, so that in the end nothing is kept aside."""
    monkeypatch.setattr("drivers.hl7.forward._LOOK_S", 0.05)
    async with Bench(tries=3).running() as b:
        b.grant(2)

        def answer(_: bytes) -> None:
            for writer in b.receiver._writers:
                writer.close()

        b.receiver.answer = answer
        s = await b.dial(RESULTS)
        s.send(oru(msh=b"|||NE|NE"))
        await until(lambda: states(b) == ["delivered"], "it has arrived")
        assert b.receiver.messages == [oru(msh=b"|||NE|NE")] * 3


async def test_a_device_that_loses_its_level_while_it_is_dialled_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Bench().running() as b:
        b.grant(2)
        assert b"|AA|" in await (await b.dial(LIVE)).ask(oru())

        async def slow(*where_and_how: Any) -> Any:
            b.grant(1)
            return await connect(*where_and_how)

        monkeypatch.setattr("drivers.hl7.proxy.connect", slow)
        monkeypatch.setattr("drivers.hl7.forward.connect", slow)
        with nothing_relayed(b):
            assert b"|AE|O1" in await (await b.dial(SETTINGS)).ask(order())
            b.grant(2)
            assert b"|AA|O2" in await (await b.dial(ORDERS)).ask(order(b"O2"))
            await b.context.wait(Behaviour, lambda e: e.text.startswith("a stored message waits"))
            await asyncio.sleep(0.1)
        b.grant(2)
        await until(lambda: [parse(m).control_id for m in b.toward.messages] == [b"O2"], "with its level it gets it", 5.0)
