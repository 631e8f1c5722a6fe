"""What a TPM or TSS response code means for us: gone, busy, or refused, each as an error with a remedy.

Knows numbers only: no TPM, no tpm2-pytss. Sources: TSS 2.0 Overview and Common Structures (layers in bits 16 to 23),
TPM 2.0 Part 2, 6.6 (response codes).
"""

from __future__ import annotations

from gateway.errors import UnavailableError

_LAYER_ESYS, _LAYER_TCTI = 0x07, 0x0A
_TPM_LAYERS = frozenset({0x00, 0x0B, 0x0C})  # the TPM itself, or a resource manager speaking for it

AUTH_FAIL, BAD_AUTH, INTEGRITY, HANDLE, NV_UNINITIALIZED = 0x08E, 0x0A2, 0x09F, 0x08B, 0x14A
_RETRY, _YIELDED, _NV_RATE, _TESTING = 0x922, 0x908, 0x920, 0x90A
_BUSY = frozenset({_RETRY, _YIELDED, _NV_RATE, _TESTING})
_LOCKOUT, _NOT_STARTED, FAILURE = 0x921, 0x100, 0x101

_REFUSED = (
    "the TPM does not accept our authorisation",
    "restore this gateway's state from its backup, or clear the TPM in the firmware set-up",
)
_REMEDIES = {
    _LOCKOUT: (
        "the TPM is in dictionary-attack lockout",
        "wait for its recovery time, or reset it with the escrowed lockout authorisation (tpm2_dictionarylockout -c)",
    ),
    _NOT_STARTED: ("the TPM was not started by the firmware", "restart the gateway"),
    FAILURE: ("the TPM is in failure mode", "power the gateway off and on; if it stays so, replace the TPM"),
    _RETRY: ("the TPM stayed busy", "it is tried again"),
    _YIELDED: ("the TPM stayed busy", "it is tried again"),
    _NV_RATE: ("the TPM limits how often its memory is written", "it is tried again"),
    _TESTING: ("the TPM is still testing itself", "it is tried again"),
    0x902: ("the TPM has no room for another key", "end other programs that use the TPM, or restart the gateway"),
    0x903: ("the TPM has no room for another session", "end other programs that use the TPM, or restart the gateway"),
    HANDLE: ("the TPM does not hold our key", "run `wardgate init` again, then `wardgate enrol`"),
    BAD_AUTH: _REFUSED,
    AUTH_FAIL: _REFUSED,
}


class TpmGoneError(UnavailableError):
    """Nothing answers where the TPM should be; the connection to it was given up."""


class TpmBusyError(UnavailableError):
    """More is waiting for the TPM than it could do in time. Says nothing about the TPM."""


def code(rc: int) -> int:
    """The TPM's own code with handle, session and parameter numbers taken out; -1 when the TPM did not say it."""
    if (rc >> 16) & 0xFF not in _TPM_LAYERS:
        return -1
    return rc & 0x0BF if rc & 0x080 else rc & 0xFFF


def is_gone(rc: int) -> bool:
    """Whether the connection is of no more use: the transport failed, or ESAPI lost its place after such a failure."""
    return (rc >> 16) & 0xFF in (_LAYER_ESYS, _LAYER_TCTI)


def is_busy(rc: int) -> bool:
    """Whether the TPM did nothing and asks to be asked again."""
    return code(rc) in _BUSY


def translate(rc: int, text: str, where: str) -> UnavailableError:
    """The error for a response code. ``text`` is its decoded form, ``where`` the TCTI."""
    if is_gone(rc):
        return TpmGoneError(f"the TPM does not answer at {where} ({text})", "check that it is present and enabled in the firmware")
    what, remedy = _REMEDIES.get(
        code(rc), ("the TPM refused a command", "look at `dmesg | grep -i tpm`; if it goes on, switch the machine off and on again")
    )
    return UnavailableError(f"{what} ({rc:#x} {text})", remedy)
