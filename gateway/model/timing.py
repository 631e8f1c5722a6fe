"""The engine's time constants, each with its reason. They travel in ``Configured``, so that a replay has them too."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.decision import LEASE_MAX_S


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. They may be tightened, never loosened beyond the bounds checked here."""

    epoch_s: float = 10.0  # one quote an epoch: a discrete TPM takes 0.2 to 0.6 s for one
    lease_s: float = LEASE_MAX_S  # what a dead daemon leaves behind; long enough for a restart, short enough for an attack
    renew_s: float = 10.0  # three chances to renew before a lease lapses
    nonce_s: float = 30.0  # how long a challenge may take; single use
    dwell_s: float = 10.0  # how long a vetoed device must behave before newer evidence clears the veto
    certificate_s: float = 900.0  # the longest a certificate lasts online, whatever the decay of trust allows
    attest_s: float = 0.0  # asks for evidence at least this often, whatever the profile says; 0: the profile's interval

    def __post_init__(self) -> None:
        within("epoch_s", self.epoch_s, 0.5, 60)
        within("lease_s", self.lease_s, 2, LEASE_MAX_S)
        within("renew_s", self.renew_s, 0.5, self.lease_s / 2)
        within("nonce_s", self.nonce_s, 1, 30)
        within("dwell_s", self.dwell_s, 1, 3600)
        within("certificate_s", self.certificate_s, 10, 900)
        within("attest_s", self.attest_s, 0, 600)


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {low:g} to {high:g}, got {value:g}")
