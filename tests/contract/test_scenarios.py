"""The demo's scenarios: the names that others script against, ``daemon-killed`` last."""

from __future__ import annotations

from hil.scenarios import SCENARIOS

NAMES = {
    "observed", "trusted-ward", "tampered-wearable", "tampered-equipment", "service-mode", "reattested", "daemon-killed",
    "planned-restart", "forged-evidence", "relayed-wearable", "forbidden-write", "lateral-movement", "spoofed-address",
    "wan-outage",
}  # fmt: skip


def test_all_fourteen_are_played_and_the_daemon_dies_last() -> None:
    assert set(SCENARIOS) == NAMES
    assert list(SCENARIOS)[-1] == "daemon-killed"
