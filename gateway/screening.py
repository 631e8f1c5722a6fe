"""What unsolicited evidence is checked with before it is evidence: a beacon's MAC, under the references the engine holds now.

A driver is given this as a function, so that it holds no key and a flood of forgeries reaches no record. Refuses to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.errors import EvidenceError
from gateway.model.evidence import MediaType
from gateway.model.profile import Profile, References
from gateway.standing import Standing
from gateway.verifier.beacon import Screen


def screen_for(device_id: str, standings: Callable[[], Mapping[str, Standing]]) -> Callable[[bytes], None] | None:
    """The check of one device's beacons; None when its profile knows none. Raises EvidenceError when called with a forgery."""
    s = standings().get(device_id)
    if s is None or s.target(MediaType.BEACON) is None:
        return None
    made: tuple[References, Profile, Screen] | None = None

    def screen(payload: bytes) -> None:
        nonlocal made
        now = standings().get(device_id)
        if now is None:
            raise EvidenceError(f"a beacon of {device_id}, which is not served here", "nothing to do")
        if made is None or made[0] is not now.references or made[1] is not now.profile:
            made = (now.references, now.profile, Screen(now.all_references()))
        made[2].verify(payload)

    return screen
