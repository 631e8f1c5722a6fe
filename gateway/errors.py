"""Every error this product raises on purpose.

An error says whose fault it is, what is wrong and what to do about it. It is shown to an engineer as
``what; remedy`` and never as a traceback. Foreign exceptions are translated into these once, at the adapter that
owns the foreign library. This module knows nothing of logging, HTTP or exit codes.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Whose fault an error is."""

    OURS = "ours"
    INPUT = "input"
    DEVICE = "device"
    EVIDENCE = "evidence"
    ENVIRONMENT = "environment"


class WardgateError(Exception):
    """A fault with a remedy. ``what`` names the fault, ``remedy`` the next step; both are one line, no full stop."""

    fault: Fault = Fault.OURS

    def __init__(self, what: str, remedy: str = "see the audit log") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class InputError(WardgateError):
    """The operator, a file or a configuration is wrong. Raised before anything changes. CLI exit 2."""

    fault = Fault.INPUT


class InputErrors(InputError):
    """Several input errors found in one go, each ``(path, what)``; all are reported together."""

    def __init__(self, where: str, problems: tuple[tuple[str, str], ...]) -> None:
        listed = "; ".join(f"{path}: {what}" for path, what in problems)
        super().__init__(
            f"{where}: {len(problems)} mistake{'s' if len(problems) != 1 else ''}: {listed}", "mend them and try again"
        )
        self.problems = problems


class DeviceError(WardgateError):
    """A device did not do what its protocol says. Nobody's trust changes because of this alone."""

    fault = Fault.DEVICE


class EvidenceError(WardgateError):
    """Evidence or a signature does not hold. Verification functions raise this; they never return a boolean."""

    fault = Fault.EVIDENCE


class MalformedError(EvidenceError):
    """Hostile or broken bytes: they do not parse, are not canonical, or exceed a bound."""


class UnavailableError(WardgateError):
    """Something around us is not there now (TPM, D-Bus, disk, broker). Trying again later is right."""

    fault = Fault.ENVIRONMENT


class RefusedError(WardgateError):
    """The caller may not do this: a role, a floor, a table of transitions or a rate limit forbids it."""

    fault = Fault.INPUT


class TooOftenError(RefusedError):
    """Too many tries: ``wait_s`` seconds until the next may be made."""

    def __init__(self, what: str, remedy: str, wait_s: float) -> None:
        super().__init__(what, remedy)
        self.wait_s = wait_s
