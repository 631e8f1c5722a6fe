"""Against a real Mosquitto: access lists, nobody listening, restarts, wrong certificates, and ourselves killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Uplink, parse_config
from gateway.errors import InputError, InputErrors, UnavailableError
from gateway.machine_clock import MachineClock
from gateway.model.effect import Send
from gateway.model.level import TrustLevel
from gateway.store.database import Database
from gateway.store.outbox import Outbox
from gateway.uplink import lanes, link, sender
from gateway.uplink.announcer import Announcer
from gateway.uplink.link import Will, connect, tls_context
from gateway.uplink.probe import probe
from hil.broker import Broker, issue
from tests.uplink.conftest import GATEWAY, Running, free_port, listening, reading, settings_for, until, until_async
from tests.uplink.test_messages import follows

CLOCK = MachineClock()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_FIRST_S", 0.05)
    monkeypatch.setattr(lanes, "_LONGEST_S", 0.5)
    monkeypatch.setattr(lanes, "_TELL_S", 0.15)
    monkeypatch.setattr(sender, "_FIRST_S", 0.05)
    monkeypatch.setattr(sender, "_UP_S", 0.1)
    monkeypatch.setattr(sender, "_DOWN_S", 0.3)
    monkeypatch.setattr(sender, "RECEIPT_S", 1.0)


async def put(outbox: Outbox, number: int, device: str = "patch-1") -> None:
    await outbox.put([reading(CLOCK, device, float(i)) for i in range(number)])


async def empty(outbox: Outbox) -> bool:
    return await outbox.pending() == 0


async def test_readings_and_alarms_arrive_as_their_schema_says(ca: Path, broker: Broker, outbox: Outbox) -> None:
    announcer = Announcer(outbox)
    task = asyncio.create_task(announcer.run())
    body = (("device", "pump-1"), ("severity", "alarm"), ("text", "bad"), ("code", "bad-evidence"), ("raised", True))
    async with listening(ca, broker.port) as hospital, Running(settings_for(ca, broker.port), outbox).running() as run:
        hospital.raw = []
        announcer.send(Send("alarm", 0, body), CLOCK.now())
        await put(outbox, 250)
        await until(lambda: len(hospital.readings) == 250 and hospital.events, "everything")
        await until_async(lambda: empty(outbox), "deleted")
        assert run.vouched
    task.cancel()
    names = {"observations": 0, "event": 0, "state": 0}
    for text in hospital.raw:
        name = json.loads(text)["schema"].split("/")[1]
        follows(name, text)
        names[name] += 1
    assert names["observations"] >= 2
    assert names["event"] == 1
    assert {level for _, _, level in hospital.readings.values()} == {int(TrustLevel.FULL)}
    assert hospital.events[0]["text"] == "bad"


async def test_the_access_lists_no_comes_through_as_its_reason(ca: Path, tmp_path: Path) -> None:
    """The library drops the reason of a PUBACK: without it every refused message would count as delivered."""
    acl = "user receiver\ntopic read #\n\npattern write wardgate/%u/readings/allowed\npattern write wardgate/%u/state\n"
    broker = Broker(tmp_path / "broker", ca, port=free_port(), acl=acl)
    broker.start()
    try:
        settings = settings_for(ca, broker.port)
        async with (
            listening(ca, broker.port),
            connect(settings, "127.0.0.1", "me", Will("x", ""), tls_context(settings)[0]) as open_link,
        ):
            refused = await open_link.publish(f"wardgate/{GATEWAY}/readings/other", "{}")
            allowed = await open_link.publish(f"wardgate/{GATEWAY}/readings/allowed", "{}")
        assert (refused.code, allowed.code) == (0x87, 0)
        assert open_link.window == 20  # Mosquitto's receive maximum
    finally:
        broker.stop()


async def test_without_anybody_listening_nothing_is_deleted(ca: Path, broker: Broker, outbox: Outbox) -> None:
    async with Running(settings_for(ca, broker.port), outbox).running() as run:
        await put(outbox, 20)
        await until(lambda: run.told and "no matching subscribers" in run.told[-1].detail.lower(), "somebody is told")
        assert await outbox.pending() == 20
        async with listening(ca, broker.port) as hospital:
            await until(lambda: len(hospital.readings) == 20, "all of it, once somebody listens")
            await until_async(lambda: empty(outbox), "deleted")
            await until(lambda: run.told[-1].up, "well again")
    assert (await outbox.counts())[0].dead == 0


@pytest.mark.parametrize("acknowledge", ["broker", "receiver"])
async def test_an_outage_loses_nothing_and_the_alarm_about_it_arrives_late(
    ca: Path, broker: Broker, outbox: Outbox, acknowledge: str
) -> None:
    settings = settings_for(ca, broker.port, acknowledge=acknowledge)
    async with (
        listening(ca, broker.port, acknowledge=acknowledge == "receiver") as hospital,
        Running(settings, outbox).running() as run,
    ):
        await put(outbox, 100)
        await until(lambda: len(hospital.readings) == 100, "the first")
        broker.stop()
        await asyncio.gather(*(put(outbox, 50, f"d-{i % 4}") for i in range(20)))
        await until(lambda: run.told and not run.told[-1].up, "somebody is told")
        assert await outbox.pending() >= 1000
        broker.start()
        await until(lambda: len(hospital.readings) == 1100, "all of it")
        await until_async(lambda: empty(outbox), "deleted")
        await until(lambda: run.told[-1].up, "well again")
    stream = await outbox.stream()
    assert set(hospital.readings) == {(stream, i) for i in range(1, 1101)}


async def test_a_broker_that_dies_again_and_again_loses_nothing(ca: Path, broker: Broker, outbox: Outbox) -> None:
    """SIGKILL in the middle of a drain, five times; the receiver acknowledges, so what the broker forgot comes again."""
    settings = settings_for(ca, broker.port, acknowledge="receiver")
    for i in range(10):
        await put(outbox, 500, f"d-{i}")
    async with listening(ca, broker.port, acknowledge=True) as hospital, Running(settings, outbox).running():
        for _ in range(5):
            before = len(hospital.readings)
            await until(lambda before=before: len(hospital.readings) > min(before + 400, 4900), "progress")  # type: ignore[misc]
            assert broker.process
            broker.process.signal(signal.SIGKILL)
            broker.stop()
            broker.start()
        await until(lambda: len(hospital.readings) == 5000, "all of it", 20)
        await until_async(lambda: empty(outbox), "deleted")
    assert {i for _, i in hospital.readings} == set(range(1, 5001))


async def test_the_broker_says_that_we_are_gone_and_a_planned_end_says_so_itself(ca: Path, broker: Broker, outbox: Outbox) -> None:
    settings = settings_for(ca, broker.port)
    async with listening(ca, broker.port) as hospital:
        context = tls_context(settings)[0]
        will = Will(f"wardgate/{GATEWAY}/state", json.dumps({"schema": "wardgate/state/1", "gateway": GATEWAY, "state": "will"}))
        async with connect(settings, "127.0.0.1", "me", will, context):
            pass  # left without a farewell
        await until(lambda: hospital.states.get(GATEWAY, {}).get("state") == "will", "the will")
        async with Running(settings, outbox).running():
            await until(lambda: hospital.states[GATEWAY]["state"] == "online", "birth")
            birth = hospital.states[GATEWAY]
        await until(lambda: hospital.states[GATEWAY]["state"] == "offline", "the farewell")
        assert hospital.states[GATEWAY]["message"] == birth["message"]


@pytest.mark.parametrize("wrong", ["another CA", "another name", "expired", "no such file", "a stranger's certificate"])
async def test_a_wrong_certificate_on_either_side_delivers_nothing_and_says_why(
    ca: Path, broker: Broker, outbox: Outbox, tmp_path: Path, wrong: str
) -> None:
    from hil.ca import Ca

    settings = settings_for(ca, broker.port)
    if wrong in ("another CA", "a stranger's certificate"):
        Ca(tmp_path / "other", [])
        issue(tmp_path / "other", tmp_path, GATEWAY)
    if wrong == "another CA":
        settings = replace(settings, ca=tmp_path / "other" / "ca.pem")
    elif wrong == "a stranger's certificate":
        settings = replace(settings, cert=tmp_path / f"{GATEWAY}.pem", key=tmp_path / f"{GATEWAY}.key")
    elif wrong == "another name":
        settings = replace(settings, host="elsewhere.example", addresses=("127.0.0.1",))
    elif wrong == "expired":
        issue(ca, tmp_path, GATEWAY, days=-1)
        settings = replace(settings, cert=tmp_path / f"{GATEWAY}.pem", key=tmp_path / f"{GATEWAY}.key")
    else:
        settings = replace(settings, key=tmp_path / "none.key")
    async with listening(ca, broker.port) as hospital:
        await put(outbox, 1)
        async with Running(settings, outbox).running() as run:
            await until(lambda: run.told and not run.told[-1].up, "somebody is told", 5)
        assert not hospital.readings
    assert await outbox.pending() == 1
    said = {"another name": "elsewhere.example", "no such file": "none.key"}
    assert said.get(wrong, "certificate") in run.told[-1].detail


async def test_a_name_is_checked_at_the_address_we_were_given(ca: Path, broker: Broker, outbox: Outbox) -> None:
    settings = settings_for(ca, broker.port, host="broker.hospital.example", addresses=("127.0.0.1",))
    async with listening(ca, broker.port) as hospital, Running(settings, outbox).running():
        await put(outbox, 3)
        await until(lambda: len(hospital.readings) == 3, "delivered")


async def test_the_check_says_what_is_wrong_with_the_way_out(ca: Path, broker: Broker, tmp_path: Path) -> None:
    settings = settings_for(ca, broker.port)
    assert "takes our certificate" in await asyncio.to_thread(probe, settings)
    issue(ca, tmp_path, GATEWAY, days=10)
    soon = replace(settings, cert=tmp_path / f"{GATEWAY}.pem", key=tmp_path / f"{GATEWAY}.key")
    with pytest.raises(InputError, match="expires in"):
        await asyncio.to_thread(probe, soon)
    named = replace(settings, host="another.hospital.example", addresses=("127.0.0.1",))
    with pytest.raises(UnavailableError, match=r"put the CA that signed its certificate at .*, and the name in it as host"):
        await asyncio.to_thread(probe, named)
    broker.stop()
    with pytest.raises(UnavailableError, match=r"cannot be reached .*; start the broker there") as told:
        await asyncio.to_thread(probe, settings)
    assert "wardgate check" not in str(told.value)  # it is what the check itself says


_VICTIM = """
import asyncio, sys
from pathlib import Path
from gateway.machine_clock import MachineClock
from gateway.store.database import Database
from gateway.store.outbox import Outbox
from tests.uplink.conftest import Running, reading, settings_for

async def main():
    database = Database(Path(sys.argv[1])); await database.open()
    outbox = Outbox(database, MachineClock())
    async with Running(settings_for(Path(sys.argv[2]), int(sys.argv[3])), outbox).running():
        while True:
            await outbox.put([reading(MachineClock(), f"d-{i % 3}", float(i)) for i in range(300)])
            print("put", flush=True)
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_ourselves_killed_in_the_middle_everything_taken_in_arrives(ca: Path, broker: Broker, tmp_path: Path) -> None:
    """SIGKILL between PUBACK and deletion at the worst moments: repeated perhaps, never lost."""
    top = Path(__file__).parents[2]
    store, log = tmp_path / "victim.sqlite", tmp_path / "log"
    argv = [sys.executable, "-c", _VICTIM, str(store), str(ca), str(broker.port)]
    async with listening(ca, broker.port) as hospital:
        for _ in range(3):
            with log.open("wb") as out:
                victim = subprocess.Popen(argv, cwd=top, stdout=out, stderr=subprocess.STDOUT)  # noqa: ASYNC220 - returns at once
            before = len(hospital.readings)
            await until(lambda before=before: len(hospital.readings) > before + 900, log.read_text(), 15)  # type: ignore[misc]
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
        database = Database(store)
        await database.open()
        outbox = Outbox(database, CLOCK)
        async with Running(settings_for(ca, broker.port), outbox).running():
            await until_async(lambda: empty(outbox), "the rest")
        (taken,) = await database.run(lambda d: d.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone())
        await outbox.close()
        await database.close()
        await until(lambda: len(hospital.readings) == taken, "every reading that was durable")
    assert {i for _, i in hospital.readings} == set(range(1, taken + 1))


async def test_stopping_is_quick_even_when_the_broker_is_a_black_hole(
    ca: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planned restart is under ten seconds; an address that swallows everything must not stand in its way."""
    monkeypatch.setattr(link, "CONNECT_S", 1.0)
    settings = settings_for(ca, 8883, host="192.0.2.1")  # TEST-NET-1, RFC 5737
    run = Running(settings, outbox)
    async with run.running():
        await asyncio.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('host = "broker.example"', "addresses must say where"), ('acknowledge = "never"', "broker or receiver"),
        ('prefix = "a/#"', "prefix"), ('prefix = "$SYS"', "prefix"), ("port = 0", "port"), ("retry_s = 0.0", "retry_s"),
        ('host = "10.0.0.1"\naddresses = ["elsewhere"]', "elsewhere"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(text: str, path: str) -> None:
    with pytest.raises(InputErrors, match=path):
        parse_config(f"[uplink]\n{text}\n")


def test_what_the_firewall_opens_is_the_broker_and_nothing_else() -> None:
    assert Uplink().flows == ()
    assert Uplink(host="10.0.0.5").flows == (("10.0.0.5", "tcp", 8883),)
    both = Uplink(host="b.example", addresses=("10.0.0.5", "FD00::5"), port=1234)
    assert both.flows == (("10.0.0.5", "tcp", 1234), ("fd00::5", "tcp", 1234))
