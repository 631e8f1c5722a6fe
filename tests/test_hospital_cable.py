"""The hospital's cable: told within a second when it is out, once, and well again when it is in."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from gateway.hospital_cable import PART, HospitalCable
from gateway.model.event import PartChanged


class Rig:
    """A tree as the kernel shows it."""

    def __init__(self, root: Path) -> None:
        self.folder, self.told, self.uplink = root / "sys/class/net/hosp0", list[PartChanged](), list[str]()
        self.folder.mkdir(parents=True)
        self.carrier("1")
        self.cable = HospitalCable("hosp0", self.told.append, self.uplink.append, root)

    def carrier(self, text: str) -> None:
        (self.folder / "carrier").write_text(f"{text}\n")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_cable_that_goes_is_told_within_two_seconds_and_again_when_it_is_back(rig: Rig) -> None:
    task = asyncio.create_task(rig.cable.run())
    try:
        await asyncio.sleep(0.7)
        assert not rig.told  # well from the start: nothing to say
        for carrier, up in (("0", False), ("1", True)):
            rig.carrier(carrier)
            async with asyncio.timeout(2):
                while not rig.told or rig.told[-1].up is not up:  # noqa: ASYNC110 - a test polls, bounded above
                    await asyncio.sleep(0.02)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [(e.part, e.up) for e in rig.told] == [(PART, False), (PART, True)]
    assert "no cable or no link on hosp0" in rig.told[0].detail and "look at the cable" in rig.told[0].detail
    assert rig.uplink == [rig.told[0].detail, ""]


def test_a_link_that_is_away_for_a_moment_is_nobodys_alarm(rig: Rig) -> None:
    for trouble in ("", "", "out", "", "out", "", ""):
        rig.cable.judge(trouble)
    assert not rig.told
    for trouble in ("out", "out", "out"):
        rig.cable.judge(trouble)
    assert [e.up for e in rig.told] == [False]


def test_an_interface_that_is_not_there_or_switched_off_has_no_link(rig: Rig, tmp_path: Path) -> None:
    (rig.folder / "carrier").unlink()
    assert "there is no interface hosp0" in rig.cable._look()
    (rig.folder / "carrier").mkdir()  # read() fails, as it does on an interface that is down
    assert "no cable or no link on hosp0" in rig.cable._look()
