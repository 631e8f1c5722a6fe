"""What a beacon costs: authenticated, forged, and forged as the driver meets it, against one bare HMAC-SHA-256 of the same bytes.

CPU time, readings and floors in turns; a reading is the best of a dozen short runs. ``beacon.heard`` is all that an attacker can
make the driver do: parse, window, check, count; what BlueZ and D-Bus add before is theirs and is not in it.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from drivers.ble.listener import Listener
from gateway.driver import Assignment
from gateway.errors import EvidenceError
from gateway.model.device import Bond, Bus, Device
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.profile import Profile, Target
from gateway.verifier.beacon import Screen, mac
from tests.benches.figure import Figure, figure
from tests.fakes.context import FakeContext
from tests.verifier.test_beacon import DEVICE, GATEWAY, beacon, measured, references

_ROUNDS, _RUNS, _EACH = 15, 12, 500
_FORGERIES = 4096  # different ones: the driver looks at the same advertisement once


def rate(do: Callable[[], object]) -> float:
    """Calls a second."""
    start = time.process_time()
    for _ in range(_EACH):
        do()
    return _EACH / (time.process_time() - start)


def against_hmac(name: str, devices: int, do: Callable[[], object], note: str) -> Figure:
    """``do`` and a bare HMAC in turns."""
    key, message = DEVICE.derived("beacon", GATEWAY), b"wardgate-beacon-v1\0" + bytes(12 + 32 + 8)
    readings, floors = [], []
    for _ in range(_ROUNDS):
        pairs = [(rate(do), rate(lambda: hmac.digest(key, message, "sha256"))) for _ in range(_RUNS)]
        readings.append(max(ours for ours, _ in pairs))
        floors.append(max(bare for _, bare in pairs))
    return figure(name, devices, readings, "1/s", floors, note)


def run() -> Iterable[Figure]:
    """All three figures."""
    screen, good = Screen(references()), beacon(20)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    assert screen.verify(good).counter == 1
    yield against_hmac("beacon", 1, lambda: screen.verify(good), "verifications, rate against a bare HMAC-SHA-256")
    yield against_hmac("beacon.forged", 1, lambda: _refused(screen, forged), "forgeries refused, the error and its text included")
    yield against_hmac("beacon.heard", 1, _listener(screen), "forgeries in the driver: parsed, placed, refused, counted")


def _refused(screen: Screen, payload: bytes) -> None:
    with suppress(EvidenceError):
        screen.verify(payload)
        raise AssertionError("a forgery was believed")


def _listener(screen: Screen) -> Callable[[], None]:
    """The driver's own ear for one device; each call hears another forgery of the present epoch."""
    context = FakeContext("bench")
    device = Device("beacon-1", "Beacon", Bus.BLE, "beacon", "C0:00:00:00:00:03", bond=Bond.MITM)
    target = Target("firmware", MediaType.BEACON, EvidenceClass.BEACON)

    def check(payload: bytes) -> None:
        screen.verify(payload)

    profile = Profile("beacon", "Beacon", Bus.BLE, "IIa", (), (target,))
    listener, now = Listener(context, Assignment(device, profile, screen=check)), context.clock.now()
    epoch = context.epochs.current(now)
    listener._chain = epoch.chain
    genuine = mac(screen.anchor.secret, epoch.id, measured(), bytes(5))
    forgeries = [bytes([0x10 | epoch.number & 0xF]) + n.to_bytes(4, "big") + genuine for n in range(1, _FORGERIES)]
    turn = 0

    def hear() -> None:
        nonlocal turn
        turn = (turn + 1) % len(forgeries)
        listener.heard([forgeries[turn]], now)

    hear()
    assert listener._counts["beacon-forged"] == 1
    return hear
