"""Gives the TPM back: what this gateway put into it is taken out, and the owner's authorisation is nobody's again.

Nothing else is touched: keys and indices of others stay, and no hierarchy is cleared, for a disk may hang on it. The owner's
authorisation is given up last, so that a second run completes one that was cut short. Knows nothing of files.
"""

from __future__ import annotations

from tpm2_pytss import ESYS_TR, TSS2_Exception  # type: ignore[import-untyped]

from gateway.attester import keys
from gateway.attester.faults import BAD_AUTH, NV_UNINITIALIZED, code
from gateway.attester.state import State
from gateway.attester.tpm import Connection
from gateway.errors import UnavailableError

_PERSISTENT, _NV = 0x81000000, 0x01000000
_OWNER_AUTH_SET, _LOCKOUT_AUTH_SET = 0x1, 0x4  # TPMA_PERMANENT: Part 2, 8.6


def forget(connection: Connection, known: State, lockout: bytes | None) -> list[str]:
    """Evict this gateway's objects, remove its counter, give the authorisations up. Returns what changed, empty the second time.

    ``lockout`` is the lockout authorisation, None while it is in escrow: then it stays set. Raises UnavailableError when the
    TPM belongs to another; nothing was changed then.
    """
    esys, changes = connection.esys, []
    owned = bool(connection.permanent() & _OWNER_AUTH_SET)
    esys.tr_set_auth(ESYS_TR.OWNER, bytes.fromhex(known.owner) if owned else b"")
    _prove_owner(connection, bytes.fromhex(known.owner) if owned else b"")
    persistent = connection.handles(_PERSISTENT)
    for handle in _ours(connection, known, persistent):
        esys.evict_control(ESYS_TR.OWNER, connection.handle(handle), handle)
        connection.forget(handle)
        changes.append(f"the key at {handle:#x} is gone")
    if _counter_is_ours(connection, known):
        esys.nv_undefine_space(connection.handle(keys.COUNTER))
        connection.forget(keys.COUNTER)
        changes.append(f"the rollback counter at {keys.COUNTER:#x} is gone")
    if lockout is not None and connection.permanent() & _LOCKOUT_AUTH_SET:
        esys.tr_set_auth(ESYS_TR.LOCKOUT, lockout)
        esys.hierarchy_change_auth(ESYS_TR.LOCKOUT, b"")
        changes.append("the lockout authorisation is given up")
    if owned:
        esys.hierarchy_change_auth(ESYS_TR.OWNER, b"")
        changes.append("the owner authorisation is given up")
    return changes


def stays(connection: Connection) -> bool:
    """Whether a lockout authorisation is still set."""
    return bool(connection.permanent() & _LOCKOUT_AUTH_SET)


def _prove_owner(connection: Connection, owner: bytes) -> None:
    try:
        connection.esys.hierarchy_change_auth(ESYS_TR.OWNER, owner)
    except TSS2_Exception as e:
        if code(int(e.rc)) != BAD_AUTH:
            raise
        raise UnavailableError(
            "the TPM has an owner authorisation that is not ours", "nothing of this gateway can be taken out of it"
        ) from None
    connection.esys.tr_set_auth(ESYS_TR.OWNER, owner)


def _ours(connection: Connection, known: State, persistent: set[int]) -> list[int]:
    """The AK when it is the one we know, and what this gateway had to make because nobody had before."""
    ours = [h for h in known.made if h in persistent]
    if keys.AK in persistent and keys.public_area(connection, keys.AK).hex() == known.ak_public:
        ours.insert(0, keys.AK)
    return ours


def _counter_is_ours(connection: Connection, known: State) -> bool:
    if keys.COUNTER not in connection.handles(_NV):
        return False
    try:
        keys.counter(connection, known)
    except TSS2_Exception as e:
        if code(int(e.rc)) not in (BAD_AUTH, NV_UNINITIALIZED):
            raise
        return code(int(e.rc)) == NV_UNINITIALIZED
    return True
