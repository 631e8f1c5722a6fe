"""The relay between a monitor and its receiver: what passes, what is answered by whom, and that it is byte for byte."""

from __future__ import annotations

import asyncio
import dataclasses

import cbor2
import pytest

from drivers.hl7 import mllp
from drivers.hl7.ack import Verdict, acknowledge
from drivers.hl7.message import parse
from gateway.model.device import DeviceState
from gateway.model.event import Behaviour, EvidenceArrived, EvidenceFailed, LinkChanged
from gateway.model.evidence import ChannelKind, MediaType
from tests.drivers.hl7.ward import EUI, LIVE, NONCE, RESULTS, Bench, device, nothing_relayed, oru
from tests.fakes.context import until

ADT = oru(b"A1").replace(b"ORU^R01^ORU_R01", b"ADT^A01")


async def test_end_to_end_is_byte_for_byte_both_ways() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        for i in range(5):
            m = oru(b"M%d" % i, observations=i)
            assert await s.ask(m) == b.receiver.answers[-1]
            assert b.receiver.messages[-1] == m
        assert b.receiver.connections == 1
        assert b.context.journal.rows == []


async def test_level_none_is_answered_ae_and_nothing_is_relayed() -> None:
    async with Bench().running() as b:
        s = await b.dial()
        with nothing_relayed(b):
            answer = await s.ask(oru(b"M7"))
        assert b"\rMSA|AE|M7|" in answer
        b.grant(1)
        with nothing_relayed(b):
            assert b"|AE|M8|" in await s.ask(oru(b"M8"))
        b.grant(2)
        assert b"|AA|M9" in await s.ask(oru(b"M9"))
        assert (await b.context.wait(Behaviour)).code == "message-below-level"


async def test_a_lapse_counts_for_the_next_message() -> None:
    async with Bench().running() as b:
        b.grant(2, seconds=0.5)
        s = await b.dial()
        assert b"|AA|M1" in await s.ask(oru())
        await asyncio.sleep(0.5)
        with nothing_relayed(b):
            assert b"|AE|M2|" in await s.ask(oru(b"M2"))


async def test_what_no_rule_allows_is_rejected_at_any_level() -> None:
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        other = [
            oru(b"X1").replace(b"ORU^R01^ORU_R01", b"QBP^Q22"),
            oru(b"X2").replace(b"|WARD3|", b"|WARD4|"),
            oru(b"X3").replace(b"ORU^R01^ORU_R01", b"ORU"),
        ]
        with nothing_relayed(b):
            for i, m in enumerate(other, 1):
                assert b"|AR|X%d|" % i in await s.ask(m)
        assert await s.ask(ADT) == b.receiver.answers[-1]
        assert (await b.context.wait(Behaviour, lambda e: e.code == "forbidden-message")).device_id == "monitor-1"


async def test_no_receiver_is_answered_ae_and_the_next_message_finds_it_again() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        assert b"|AA|M1" in await s.ask(oru())
        await b.receiver.stop()
        assert b"|AE|M2|" in await s.ask(oru(b"M2"))
        assert b"|AE|M3|" in await s.ask(oru(b"M3"))
        await b.receiver.start()
        assert b"|AA|M3" in await s.ask(oru(b"M3"))
        await b.context.wait(Behaviour, lambda e: e.code == "receiver-lost")


async def test_a_silent_receiver_is_answered_ae_in_time_and_a_late_answer_reaches_nobody() -> None:
    async with Bench(answer_s=0.3).running() as b:
        b.grant(2)
        b.receiver.answer = lambda _: None
        s = await b.dial()
        assert b"|AE|M1|" in await s.ask(oru())
        b.receiver.answer = b.receiver.accept
        assert b"|AA|M2" in await s.ask(oru(b"M2"))
        assert b.receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"MSH|^~\\&|A|B|C|D|1||ACK|R1|P|2.6\rMSA|AA|OTHER\r",
        b"MSH|^~\\&|A|B|C|D|1||ACK|R1|P|2.6\rMSA|XX|M1\r",
        b"MSH|^~\\&|A|B|C|D|1||ACK|R1|P|2.6\r",
        b"MSH|^~\\&|A|B|C|D|1||ACK|R1|P|2.6\nMSA|AA|M1\r",
        b"\x0bno frame\x1c\x1c",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["another-id", "no-code", "no-msa", "line-feed", "no-frame", "not-hl7"],
)
async def test_a_wrong_answer_reaches_nobody(answer: bytes) -> None:
    async with Bench().running() as b:
        b.grant(2)
        b.receiver.answer = lambda raw: answer
        s = await b.dial()
        assert b"|AE|M1|" in await s.ask(oru())
        b.receiver.answer = b.receiver.accept
        assert b"|AA|M2" in await s.ask(oru(b"M2"))


async def test_a_receivers_ae_and_ar_are_the_receivers() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        for verdict in (Verdict.ERROR, Verdict.REJECT):
            b.receiver.answer = lambda raw, v=verdict: b.receiver.accept(raw, v)  # type: ignore[misc]
            assert await s.ask(oru()) == b.receiver.answers[-1]


async def test_enhanced_mode_commit_first_then_application_and_its_acknowledgement() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        m = oru(msh=b"|||AL|AL")
        commit = await s.ask(m)
        assert b"|CA|M1" in commit and commit == b.receiver.answers[-1]
        application = b"MSH|^~\\&|CENTRAL|HOSP|BEDMON|WARD3|1||ACK^R01^ACK|R77|P|2.6|||AL|NE\rMSA|AA|M1\r"
        writer = next(iter(b.receiver._writers))
        writer.write(mllp.encode(application))
        assert await s.heard() == application
        own = b"MSH|^~\\&|BEDMON|WARD3|CENTRAL|HOSP|1||ACK|M1a|P|2.6\rMSA|CA|R77\r"
        s.send(own)
        await until(lambda: own in b.receiver.messages, "the device's commit acknowledgement arrives")
        assert b"|CA|M2" in await s.ask(oru(b"M2", msh=b"|||AL|NE"))


async def test_who_wants_no_answer_gets_none_and_is_relayed() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        s.send(oru(b"N1", msh=b"|||NE|NE"), oru(b"N2", msh=b"|||NE|NE"))
        assert b"|AA|M3" in await s.ask(oru(b"M3"))
        assert len(b.receiver.messages) == 3


async def test_many_messages_in_one_go_keep_their_order() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        ids = [b"P%03d" % i for i in range(100)]
        s.send(*(oru(i) for i in ids))
        for i in ids:
            assert b"|AA|" + i in await s.heard()
        assert [m.split(b"|")[9] for m in b.receiver.messages] == ids


async def test_our_own_answer_does_not_overtake_the_receivers() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        assert b"|AA|M1" in await s.ask(oru())
        s.send(oru(b"P1"), oru(b"X1").replace(b"|WARD3|", b"|WARD4|"), oru(b"P2"), b"MSH|^~\\&|broken\r")
        assert b"|AA|P1" in await s.heard()
        assert b"|AR|X1|" in await s.heard()
        assert b"|AA|P2" in await s.heard(), "the connection is closed for what came next, not for what was answered"
        assert await s.closed()


async def test_a_commit_and_its_application_acknowledgement_in_one_go_keep_their_order() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()

        def both(raw: bytes) -> bytes:
            commit = b.receiver.accept(raw)
            assert commit is not None
            number = parse(raw).control_id
            later = b"MSH|^~\\&|CENTRAL|HOSP|BEDMON|WARD3|1||ACK^R01^ACK|R%b|P|2.6|||NE|NE\rMSA|AA|%b\r" % (number, number)
            return mllp.encode(commit) + mllp.encode(later)

        b.receiver.answer = both
        for i in range(20):
            s.send(oru(b"E%02d" % i, msh=b"|||AL|AL"))
            assert b"|CA|E%02d" % i in await s.heard()
            assert b"|AA|E%02d" % i in await s.heard()


async def test_a_stranger_gets_nothing() -> None:
    async with Bench().running() as b:
        s = await b.dial(number=9)
        s.send(oru())
        assert await s.closed()
        s = await b.dial(port=7777)
        assert await s.closed()
        assert b.receiver.messages == []


# --- evidence ---


async def test_evidence_is_what_the_messages_say_on_the_devices_own_port() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        await s.ask(oru())
        payload = await b.attest()
        expected = {
            "application": b"BEDMON^0257470000000012^EUI-64",
            "facility": b"WARD3",
            "equipment": EUI,
            "software": b"4.1",
            "binary": b"b1027",
        }
        assert cbor2.loads(payload) == {1: NONCE, 2: expected}
        e = b.context.of(EvidenceArrived)[-1].evidence
        assert e.channel.kind is ChannelKind.PORT and e.channel.binding == "p-mon-1/02:57:47:00:01:01"
        assert e.collected_at.mono_ns <= b.context.clock.now().mono_ns


async def test_nothing_passes_before_its_evidence_was_handed_in() -> None:
    async with Bench(hold_s=0.4).running() as b:
        b.attests = False
        b.grant(2)
        s = await b.dial()
        with nothing_relayed(b):
            assert b"|AE|M1|" in await s.ask(oru())
        s.send(oru(b"M2"))
        await asyncio.sleep(0.1)
        assert b.receiver.messages == []
        await b.attest()
        assert b"|AA|M2" in await s.heard()


async def test_another_serial_number_is_held_until_it_was_judged() -> None:
    """The engine takes the level while the message is held: not one message of the changed device passes."""
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        await s.ask(oru())
        b.attests = False
        await asyncio.sleep(1.0)  # a link is told anew once a second at most
        since = len(b.context.events)
        s.send(oru(b"T1", serial=b"^^DEADBEEF00000000^EUI-64"))
        await b.context.wait(LinkChanged, lambda e: e.up, since)
        judged = asyncio.create_task(b.attest())
        evidence = await b.context.wait(EvidenceArrived, since=since)
        assert b"DEADBEEF" in evidence.evidence.payload
        b.context.grant("monitor-1").revoke()
        with nothing_relayed(b):
            assert b"|AE|T1|" in await s.heard()
        await judged


async def test_a_device_that_says_nothing_gives_no_evidence() -> None:
    async with Bench(attest_s=0.2).running() as b:
        b.attests = False
        await b.dial()
        await b.driver.attest("monitor-1", MediaType.HL7, NONCE)
        assert "no message" in (await b.context.wait(EvidenceFailed)).reason
        await b.driver.attest("monitor-9", MediaType.HL7, NONCE)
        await b.context.wait(EvidenceFailed, lambda e: e.device_id == "monitor-9")


async def test_a_device_that_connects_for_each_message_keeps_its_link() -> None:
    async with Bench(linger_s=0.4).running() as b:
        b.grant(2)
        for i in range(5):
            s = await b.dial()
            assert b"|AA|" in await s.ask(oru(b"M%d" % i))
            s.writer.close()
            await asyncio.sleep(0.05)
        assert len(b.context.of(LinkChanged)) == 1
        await b.context.wait(LinkChanged, lambda e: not e.up)


async def test_observed_everything_passes_untouched_and_is_looked_at() -> None:
    async with Bench().running(device(state=DeviceState.OBSERVING)) as b:
        s = await b.dial()
        assert await s.ask(oru()) == b.receiver.answers[-1]
        assert b"\x02" in await b.attest()
        stray = b"MSH|^~\\&|X|Y|C|D|1||ZZZ|S1|P|2.6\nPID|1\r"
        b.receiver.answer = lambda raw: b"whatever it says\r"
        s.send(stray)
        assert await s.heard() == b"whatever it says\r"
        assert b.receiver.messages[-1] == stray
        assert (await b.context.wait(Behaviour)).code == "malformed"
        b.assign(device(state=DeviceState.ENFORCED))
        assert await s.closed()
        s = await b.dial()
        assert b"|AE|M2|" in await s.ask(oru(b"M2"))


# --- stored ---


async def test_stored_is_acknowledged_only_when_it_is_durable() -> None:
    async with Bench().running() as b:
        b.grant(2)
        await b.receiver.stop()
        b.context.journal.held = True
        s = await b.dial(RESULTS)
        s.send(oru())
        with pytest.raises(TimeoutError):
            await s.heard(0.3)
        b.context.journal.release()
        answer = await s.heard()
        assert b"|AA|M1" in answer
        assert b.context.journal.rows[0]["body"] == oru()
        assert b.context.journal.rows[0]["answer"] == answer


async def test_a_duplicate_gets_the_stored_answer_and_is_delivered_once() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        first = await s.ask(oru())
        again = oru().replace(b"20261124053000+0000", b"20261124053005+0000")  # a resend may carry a new time
        assert await s.ask(oru()) == first
        assert await s.ask(again) == first
        s2 = await b.dial(RESULTS)
        assert await s2.ask(oru()) == first
        await until(lambda: b.receiver.messages == [oru()], "delivered once")
        with nothing_relayed(b):
            refused = await s.ask(oru(observations=3))
        assert b"\rMSA|AE|M1|" in refused and b"\rERR|||205|E" in refused
        assert (await b.context.wait(Behaviour)).code == "reused-control-id"
        assert b"|AA|M2" in await s.ask(oru(b"M2", observations=3))


async def test_the_receiver_goes_and_comes_back_and_the_order_is_kept() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        await s.ask(oru(b"S00"))
        await until(lambda: len(b.receiver.messages) == 1, "delivered")
        await b.receiver.stop()
        sent = [oru(b"S%02d" % i) for i in range(1, 20)]
        for m in sent:
            assert b"|AA|" in await s.ask(m)
        await b.receiver.start()
        await until(lambda: len(b.receiver.messages) == 20, "delivered after")
        assert b.receiver.messages[1:] == sent
        await until(lambda: all(r["state"] == "delivered" for r in b.context.journal.rows), "settled")


async def test_a_full_disk_is_answered_ae() -> None:
    async with Bench().running() as b:
        b.grant(2)
        b.context.journal.full = True
        s = await b.dial(RESULTS)
        with nothing_relayed(b):
            assert b"|AE|M1|" in await s.ask(oru())
        b.context.journal.full = False
        assert b"|AA|M1" in await s.ask(oru())


async def test_too_old_is_kept_aside_and_never_delivered() -> None:
    async with Bench().running() as b:
        b.grant(2, seconds=600)
        await b.receiver.stop()
        s = await b.dial(RESULTS)
        await s.ask(oru(b"OLD"))
        b.context.clock.advance(61)
        b.grant(2)
        await s.ask(oru(b"NEW"))
        await b.receiver.start()
        await until(lambda: b.receiver.messages == [oru(b"NEW")], "the new one only", 15)
        assert "too old" in b.context.journal.rows[0]["state"]
        await b.context.wait(Behaviour, lambda e: e.code == "too-old")


async def test_refused_messages_are_set_aside_and_do_not_hold_up_the_others() -> None:
    async with Bench().running() as b:
        b.grant(2)

        def answer(raw: bytes) -> bytes | None:
            verdict = {b"BAD": Verdict.REJECT, b"ERR": Verdict.ERROR}.get(raw.split(b"|")[9], Verdict.ACCEPT)
            return b.receiver.accept(raw, verdict)

        b.receiver.answer = answer
        s = await b.dial(RESULTS)
        for i in (b"BAD", b"ERR", b"OK1"):
            await s.ask(oru(i))
        await until(lambda: b.receiver.messages[-1] == oru(b"OK1"), "the good one arrives", 15)
        assert [m.split(b"|")[9] for m in b.receiver.messages] == [b"BAD"] + [b"ERR"] * 5 + [b"OK1"]
        assert ["refused" in r["state"] for r in b.context.journal.rows] == [True, True, False]


async def test_a_stored_enhanced_message_gets_a_commit() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(RESULTS)
        assert b"|CA|M1" in await s.ask(oru(msh=b"|||AL|NE"))
        s.send(oru(b"M2", msh=b"|||ER|NE"))  # an answer on errors only
        assert b"|CA|M3" in await s.ask(oru(b"M3", msh=b"|||AL|NE"))
        await until(lambda: len(b.receiver.messages) == 3, "all delivered")


async def test_two_routes_of_one_device_do_not_mix() -> None:
    async with Bench().running() as b:
        b.grant(2)
        live, results = await b.dial(LIVE), await b.dial(RESULTS)
        assert await live.ask(oru(b"L1")) == b.receiver.answers[-1]
        await results.ask(oru(b"R1"))
        assert len(b.context.journal.rows) == 1
        assert b.context.journal.rows[0]["route"] == "monitor-1/results/127.0.9.1:2576"


async def test_a_device_that_does_not_come_back_after_enforce_is_gone() -> None:
    async with Bench(linger_s=0.2).running(device(state=DeviceState.OBSERVING)) as b:
        s = await b.dial()
        s.send(oru())
        assert (await b.context.wait(LinkChanged)).up
        b.assign(device())
        assert not (await b.context.wait(LinkChanged, lambda e: not e.up)).up


async def test_observed_what_is_sent_before_hanging_up_arrives_and_half_a_connection_is_answered() -> None:
    async with Bench().running(device(state=DeviceState.OBSERVING)) as b:
        s = await b.dial()
        s.send(oru(b"LAST"))
        s.writer.close()  # before the receiver was reached
        await until(lambda: b.receiver.messages == [oru(b"LAST")], "it arrives")
        half = await b.dial()
        half.send(oru(b"HALF"))
        half.writer.write_eof()
        assert b"|AA|HALF" in await half.heard()
        assert await half.closed()


async def test_a_sender_that_sends_no_more_is_still_answered() -> None:
    async with Bench().running() as b:
        b.grant(2)
        for port in (LIVE, RESULTS):
            s = await b.dial(port)
            s.send(oru(b"A%d" % port), oru(b"B%d" % port))
            s.writer.write_eof()
            assert b"|AA|A%d" % port in await s.heard()
            assert b"|AA|B%d" % port in await s.heard()
            assert await s.closed()


async def test_a_profile_that_changes_asks_for_evidence_at_once_and_a_device_that_stays_away_is_gone() -> None:
    async with Bench(linger_s=0.5).running() as b:
        b.grant(2)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru())
        since = len(b.context.events)
        b.profile = dataclasses.replace(b.profile, name="Monitor, revised")
        b.assign(device())
        assert await s.closed()
        event = await b.context.wait(LinkChanged, since=since)
        assert (event.up, event.anew) == (True, True)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru(b"M2"))
        since = len(b.context.events)
        b.profile = dataclasses.replace(b.profile, name="Monitor, revised again")
        b.assign(device())
        await b.context.wait(LinkChanged, lambda e: not e.up, since=since)


async def test_a_device_that_is_served_no_more_is_told_as_gone() -> None:
    async with Bench().running() as b:
        b.grant(2)
        assert b"|AA|" in await (await b.dial()).ask(oru())
        since = len(b.context.events)
        b.assign()
        assert not (await b.context.wait(LinkChanged, since=since)).up
        b.assign(device())
        since = len(b.context.events)
        await b.dial()
        assert not (await b.context.wait(LinkChanged, since=since)).anew


@pytest.mark.parametrize("what", ["another segment", "level", "evidence", "nobody asked"])
async def test_an_acknowledgement_of_the_device_says_nothing_else_and_needs_a_level(what: str) -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        assert b"|CA|M1" in await s.ask(oru(msh=b"|||AL|AL"))
        application = b"MSH|^~\\&|CENTRAL|HOSP|BEDMON|WARD3|1||ACK^R01^ACK|R77|P|2.6|||AL|NE\rMSA|AA|M1\r"
        next(iter(b.receiver._writers)).write(mllp.encode(application))
        assert await s.heard() == application
        own = b"MSH|^~\\&|BEDMON|WARD3|CENTRAL|HOSP|1||ACK|M1a|P|2.6\rMSA|CA|R77\r"
        if what == "another segment":
            own += b"OBX|1|ST|x||DOE^JANE\r"
        elif what == "level":
            b.grant(0)
        elif what == "evidence":
            b.driver._roster.links["monitor-1"].trusted_since = None
        else:
            own = own.replace(b"R77", b"R78")
        with nothing_relayed(b):
            s.send(own)
            event = await b.context.wait(Behaviour)
            assert event.code in ("acknowledgement-refused", "unasked-acknowledgement")
            await asyncio.sleep(0.1)
        b.grant(2)
        if what != "evidence":
            assert b"|AA|M2" in await s.ask(oru(b"M2"))  # nothing answered the acknowledgement


async def test_a_receiver_that_does_not_read_stops_its_sender_and_not_the_gateway() -> None:
    async with Bench(answer_s=1.5).running() as b:
        b.grant(2)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru())
        transport = next(iter(b.receiver._writers)).transport
        transport.pause_reading()
        long = oru(b"N", msh=b"|||NE|NE") + b"NTE|1||" + b"x" * 60_000 + b"\r"
        for _ in range(400):  # 24 MB
            s.send(long)
        up = next(iter(b.driver._roster.links["monitor-1"].connections))._up
        await until(lambda: up.full_since_s is not None, "the receiver's side is full")
        await asyncio.sleep(0.3)
        assert up._transport.get_write_buffer_size() < 2_000_000
        assert s.writer.transport.get_write_buffer_size() > 4_000_000, "the rest waits in the sender"
        event = await b.context.wait(Behaviour, lambda e: e.code == "receiver-lost")
        assert "may not have arrived" in event.text and "took nothing" in event.text
        transport.resume_reading()


async def test_many_that_only_a_yes_or_a_no_answers_are_all_heard_of() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        kept: list[bytes] = []
        b.receiver.answer = lambda raw: kept.append(raw)
        for i in range(200):
            s.send(oru(b"E%d" % i, msh=b"|||ER|NE"))
        await until(lambda: len(kept) == 200, "all of them are under way")
        writer = next(iter(b.receiver._writers))
        for raw in kept[:100:10]:
            writer.write(mllp.encode(acknowledge(parse(raw), Verdict.REJECT, b"no", b"20261124", b"R1") or b""))
        for raw in kept[:100:10]:
            assert b"|CR|" + parse(raw).control_id + b"|" in await s.heard()
        assert b.receiver.connections == 1
