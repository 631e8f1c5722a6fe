"""What is done with the TPM, one function an act, each run inside the TPM's thread: take ownership, quote, count, activate.

Every object is exempt from the dictionary-attack logic (noDA): an unorderly power cut after the use of one that is not
counts as a failed guess, and a few of those would lock the gateway out of its own keys. The AK is a primary of the
*endorsement* hierarchy, because quotes of keys below the owner hide the reset counters and the firmware version.
Its template carries fresh randomness: whoever takes the TPM over cannot make the same AK again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tpm2_pytss import (  # type: ignore[import-untyped]
    ESYS_TR,
    TPM2_ALG,
    TPM2_NT,
    TPM2_SE,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_SENSITIVE_DATA,
    TPMA_NV,
    TPMA_OBJECT,
    TPMA_SESSION,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)
from tpm2_pytss.utils import NoSuchIndex, create_ek_template  # type: ignore[import-untyped]

from gateway.attester.credential import AK_ATTRIBUTES, MAX_SECRET
from gateway.attester.faults import BAD_AUTH, FAILURE, INTEGRITY, NV_UNINITIALIZED, code
from gateway.attester.state import State
from gateway.attester.tpm import Connection
from gateway.errors import InputError, UnavailableError

SRK, AK, COUNTER = 0x81000001, 0x81010020, 0x01800100
# TCG EK Credential Profile 2.5, 2.2.1.4: name of the template, certificate's NV index, where the key is persisted
EKS = (("EK-RSA2048", 0x01C00002, 0x81010001), ("EK-ECC256", 0x01C0000A, 0x81010002), ("EK-HIGH-ECC384", 0x01C00016, 0x81010016))

# Once this TPM is ours its lockout concerns other programs' objects only; these are the usual values of PC operating systems.
_MAX_TRIES, _RECOVERY_S, _LOCKOUT_RECOVERY_S = 32, 600, 86_400
_OWNER_AUTH_SET, _LOCKOUT_AUTH_SET = 0x1, 0x4  # TPMA_PERMANENT: Part 2, 8.6
_CHUNK = 512  # NV bytes a read; the least NV_BUFFER_MAX a PC Client TPM has
_MAX_CERTIFICATE = 8192
_PERSISTENT, _NV = 0x81000000, 0x01000000
_STORAGE = (
    TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.NODA
)  # fmt: skip
_SEALED = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA
_TRIES = 3  # quotes against PCRs that change meanwhile


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote with what was read beside it."""

    attest: bytes
    signature: bytes
    pcrs: tuple[tuple[int, bytes], ...]
    counter: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret that only the TPM with this SRK gives back; TPM2B_PRIVATE and TPM2B_PUBLIC as bytes."""

    srk_name: bytes
    private: bytes
    public: bytes


# ---- provisioning: every step looks first, so that a second run, or one after a power cut, completes the first


def take_ownership(connection: Connection, state: State, lockout: bytes | None) -> list[str]:
    """Set the owner's authorisation, the dictionary-attack parameters and the lockout authorisation. Returns what changed.

    ``lockout`` is None when the authorisation is in escrow. Raises UnavailableError when the TPM belongs to another.
    """
    esys, owner, changes = connection.esys, bytes.fromhex(state.owner), []
    permanent = connection.permanent()
    if permanent & _OWNER_AUTH_SET:
        esys.tr_set_auth(ESYS_TR.OWNER, owner)
    else:
        esys.tr_set_auth(ESYS_TR.OWNER, b"")
        changes.append("owner authorisation set")
    try:
        esys.hierarchy_change_auth(ESYS_TR.OWNER, owner)
    except TSS2_Exception as e:
        if code(int(e.rc)) != BAD_AUTH:
            raise
        raise _foreign("owner") from None
    esys.tr_set_auth(ESYS_TR.OWNER, owner)
    if not permanent & _LOCKOUT_AUTH_SET:
        if lockout is None:
            raise UnavailableError("the TPM was cleared", "remove the state of this gateway and run `wardgate init`")
        esys.tr_set_auth(ESYS_TR.LOCKOUT, b"")
        esys.dictionary_attack_parameters(_MAX_TRIES, _RECOVERY_S, _LOCKOUT_RECOVERY_S)
        esys.hierarchy_change_auth(ESYS_TR.LOCKOUT, lockout)
        changes.append("dictionary-attack parameters and lockout authorisation set")
    return changes


def make_objects(connection: Connection, state: State, ek_kind: str | None) -> tuple[State, list[str]]:
    """SRK, EK, AK and counter. Returns the state with what is now known, and what changed. Needs the owner's authorisation set."""
    connection.esys.tr_set_auth(ESYS_TR.OWNER, bytes.fromhex(state.owner))
    changes: list[str] = []
    persistent = connection.handles(_PERSISTENT)
    if SRK not in persistent:
        _persist(connection, TPM2B_PUBLIC.parse("ecc256:aes128cfb", _STORAGE), ESYS_TR.OWNER, SRK)
        state = replace(state, made=(*state.made, SRK))
        changes.append("storage root key made")
    state = _endorsement(connection, state, ek_kind, persistent, changes)
    state = _attestation(connection, state, persistent, changes)
    _counter(connection, state, changes)
    quote(connection, state, (0,), bytes(32))  # the proof that all of it works together
    return state, changes


def _endorsement(connection: Connection, state: State, kind: str | None, persistent: set[int], changes: list[str]) -> State:
    """Use the first EK that has a certificate; without any, the RSA one, which its maker may have certified elsewhere."""
    indices = connection.handles(_NV)
    choices = [e for e in EKS if kind in (None, e[0])]
    if not choices:
        raise InputError(f"there is no EK called {kind}", f"choose one of {', '.join(e[0] for e in EKS)}")
    name, index, handle = next((e for e in choices if e[1] in indices), choices[0])
    certificate, template = create_ek_template(name, lambda i: _read_nv(connection, int(i), indices))
    if handle not in persistent:
        _persist(connection, template, ESYS_TR.ENDORSEMENT, handle)
        state = replace(state, made=(*state.made, handle))
        changes.append("endorsement key persisted")
    if certificate:
        certificate = _first_certificate(certificate)
        held = (
            x509.load_der_x509_certificate(certificate).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        public = connection.esys.read_public(connection.handle(handle))[0]
        if held != public.to_der():
            raise UnavailableError(
                f"the EK certificate at {index:#x} is not for the EK at {handle:#x}", "clear the TPM in the firmware set-up"
            )
    return replace(state, ek_handle=handle, ek_certificate=(certificate or b"").hex())


def _attestation(connection: Connection, state: State, persistent: set[int], changes: list[str]) -> State:
    esys = connection.esys
    if AK in persistent:
        if state.ak_public == public_area(connection, AK).hex():
            return state
        esys.evict_control(ESYS_TR.OWNER, connection.handle(AK), AK)
        connection.forget(AK)
    template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", TPMA_OBJECT(AK_ATTRIBUTES))
    area = template.publicArea
    unique = area.unique
    point = unique.ecc
    point.x = secrets.token_bytes(32)
    _persist(connection, template, ESYS_TR.ENDORSEMENT, AK, bytes.fromhex(state.ak))
    changes.append("attestation key made: enrol it")
    return replace(state, ak_public=public_area(connection, AK).hex(), ak_chain=())


def _counter(connection: Connection, state: State, changes: list[str]) -> None:
    """Define the counter. A TPM starts a counter above every one it ever deleted, so making it anew rolls nothing back."""
    esys, auth = connection.esys, bytes.fromhex(state.counter)
    if COUNTER in connection.handles(_NV):
        try:
            counter(connection, state)
        except TSS2_Exception as e:
            if code(int(e.rc)) == NV_UNINITIALIZED:
                esys.nv_increment(connection.handle(COUNTER, auth))
                return
            if code(int(e.rc)) != BAD_AUTH:
                raise
        else:
            return
        esys.nv_undefine_space(connection.handle(COUNTER))
        connection.forget(COUNTER)
    attributes = TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.NO_DA | TPMA_NV(TPM2_NT.COUNTER << TPMA_NV.TPM2_NT_SHIFT)
    public = TPMS_NV_PUBLIC(nvIndex=COUNTER, nameAlg=TPM2_ALG.SHA256, attributes=attributes, dataSize=8)
    esys.nv_define_space(auth, TPM2B_NV_PUBLIC(nvPublic=public))
    esys.nv_increment(connection.handle(COUNTER, auth))
    changes.append("rollback counter made")


def _persist(connection: Connection, template: Any, hierarchy: Any, handle: int, auth: bytes = b"") -> None:
    """Create a primary and make it persistent. (Persistent objects below 0x81800000 are the owner's, whatever their hierarchy.)"""
    sensitive = TPM2B_SENSITIVE_CREATE(sensitive=TPMS_SENSITIVE_CREATE(userAuth=auth))
    made = connection.esys.create_primary(sensitive, template, hierarchy)
    with connection.flushing(made[0]) as transient:
        connection.esys.evict_control(ESYS_TR.OWNER, transient, handle)


def public_area(connection: Connection, handle: int) -> bytes:
    """The TPMT_PUBLIC of a persistent key."""
    public = connection.esys.read_public(connection.handle(handle))[0]
    area = public.publicArea
    return bytes(area.marshal())


def _read_nv(connection: Connection, index: int, defined: set[int]) -> bytes:
    if index not in defined:
        raise NoSuchIndex(index)
    esys, handle = connection.esys, connection.handle(index)
    public = esys.nv_read_public(handle)[0]
    inner = public.nvPublic
    size, content = min(int(inner.dataSize), _MAX_CERTIFICATE), b""
    while len(content) < size:
        content += bytes(esys.nv_read(handle, min(_CHUNK, size - len(content)), len(content)))
    return content


def _first_certificate(content: bytes) -> bytes:
    """The DER certificate at the start of an NV index, without the padding some makers leave after it."""
    if len(content) < 4 or content[:2] != b"\x30\x82":
        raise UnavailableError("the TPM's EK certificate is not a certificate", "ask the maker of the TPM")
    return content[: 4 + int.from_bytes(content[2:4])]


def _foreign(what: str) -> UnavailableError:
    return UnavailableError(
        f"the TPM has an {what} authorisation that is not ours",
        "restore this gateway's state from its backup, or clear the TPM in the firmware set-up",
    )


# ---- every day


def quote(connection: Connection, state: State, pcrs: Sequence[int], qualifying: bytes) -> Quoted:
    """TPM2_Quote by the AK, with the PCR values it covers and the counter. Reads again when PCRs changed in between."""
    ak, selection = _our_ak(connection, state), "sha256:" + ",".join(map(str, pcrs))
    count = counter(connection, state)
    for _ in range(_TRIES):
        values = _read_pcrs(connection, pcrs)
        attest, signature = connection.esys.quote(ak, selection, qualifying)
        raw = bytes(attest)
        # TPMS_QUOTE_INFO ends with the digest over the selected PCRs (Part 2, 10.12.1).
        if raw[-32:] == hashlib.sha256(b"".join(value for _, value in values)).digest():
            connection.saw_attest(raw)
            return Quoted(raw, bytes(signature.marshal()), values, count)
    raise UnavailableError("the PCRs keep changing while they are quoted", "find what extends them after boot")


def present_ak(connection: Connection) -> bytes:
    """The public area (TPMT_PUBLIC) of the attestation key in this TPM, whoever made it; empty when there is none."""
    return public_area(connection, AK) if AK in connection.handles(_PERSISTENT) else b""


def counter(connection: Connection, state: State, increment: bool = False) -> int:
    """The counter's value, incremented first if asked. Not to be repeated after a failure when ``increment``."""
    handle = connection.handle(COUNTER, bytes.fromhex(state.counter))
    if increment:
        connection.esys.nv_increment(handle)
    return int.from_bytes(bytes(connection.esys.nv_read(handle, 8)))


def activate(connection: Connection, state: State, blob: bytes, secret: bytes) -> bytes:
    """TPM2_ActivateCredential: the secret a CA made for this EK and this AK. Raises InputError when it was for others."""
    esys, ak, ek = connection.esys, _our_ak(connection, state), connection.handle(state.ek_handle)
    try:
        identity, encrypted = TPM2B_ID_OBJECT.unmarshal(blob)[0], TPM2B_ENCRYPTED_SECRET.unmarshal(secret)[0]
        public = esys.read_public(ek)[0]
        area = public.publicArea
        if int(area.objectAttributes) & int(TPMA_OBJECT.USERWITHAUTH):  # the high-range templates
            found = bytes(esys.activate_credential(ak, ek, identity, encrypted))
        else:
            none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
            session = esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, none, TPM2_ALG.SHA256)
            with connection.flushing(session):
                esys.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
                found = bytes(esys.activate_credential(ak, ek, identity, encrypted, session2=session))
    except TSS2_Exception as e:
        if not _is_about_the_answer(connection, e):
            raise
        raise InputError("this answer was made for another TPM or another key", "make a new enrolment request") from None
    if not 0 < len(found) <= MAX_SECRET:
        raise InputError("this answer carries no secret", "make a new enrolment request")
    return found


def seal(connection: Connection, secret: bytes) -> Sealed:
    """A data object below the SRK that holds ``secret`` (at most 128 bytes); it is kept outside the TPM, in a file.

    No PCR is named: a firmware update would lose every key at once. It binds the file to this chip, not to this boot.
    """
    esys, srk = connection.esys, connection.handle(SRK)
    area = TPMT_PUBLIC(type=TPM2_ALG.KEYEDHASH, nameAlg=TPM2_ALG.SHA256, objectAttributes=_SEALED)
    parameters = area.parameters
    detail = parameters.keyedHashDetail
    scheme = detail.scheme
    scheme.scheme = TPM2_ALG.NULL
    template = TPM2B_PUBLIC(publicArea=area)
    sensitive = TPM2B_SENSITIVE_CREATE(sensitive=TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(buffer=secret)))
    with _private(connection, srk) as session:
        made = esys.create(srk, sensitive, template, session2=session)
    return Sealed(_srk_name(connection), bytes(made[0].marshal()), bytes(made[1].marshal()))


def unseal(connection: Connection, sealed: Sealed) -> bytes:
    """What was sealed. Raises InputError when this is not the TPM that sealed it."""
    esys, srk = connection.esys, connection.handle(SRK)
    if not hmac.compare_digest(_srk_name(connection), sealed.srk_name):
        raise InputError("the key store was sealed by another TPM", "add the devices that share a key with this gateway again")
    try:
        private, public = TPM2B_PRIVATE.unmarshal(sealed.private)[0], TPM2B_PUBLIC.unmarshal(sealed.public)[0]
        loaded = esys.load(srk, private, public)
    except TSS2_Exception as e:
        if code(int(e.rc)) != INTEGRITY and int(e.rc) >> 16 not in (0x08, 0x09):
            raise
        raise InputError("the key store is damaged", "restore it from a backup of this gateway, or add its devices again") from None
    with connection.flushing(loaded) as handle, _private(connection, srk) as session:
        return bytes(esys.unseal(handle, session2=session))


@contextmanager
def _private(connection: Connection, srk: Any) -> Iterator[Any]:
    """A session salted with the SRK that encrypts the first parameter both ways: what passes on the bus is no secret."""
    cipher = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(sym=128), mode=TPMU_SYM_MODE(sym=TPM2_ALG.CFB))
    session = connection.esys.start_auth_session(srk, ESYS_TR.NONE, TPM2_SE.HMAC, cipher, TPM2_ALG.SHA256)
    with connection.flushing(session):
        flags = TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT | TPMA_SESSION.CONTINUESESSION
        connection.esys.trsess_set_attributes(session, flags)
        yield session


def _srk_name(connection: Connection) -> bytes:
    """The SRK's name, computed from its public area: whoever answers as the SRK must hold its private part to unseal."""
    return b"\x00\x0b" + hashlib.sha256(public_area(connection, SRK)).digest()  # TPM2_ALG_SHA256: Part 1, 16


def _is_about_the_answer(connection: Connection, fault: Any) -> bool:
    """Whether the answer is to blame: a parameter the TPM names, no TPM2B at all (the marshalling layers), or no plaintext.

    libtpms reports an RSA ciphertext that does not decrypt as TPM_RC_FAILURE without entering failure mode; a TPM
    that really is in failure mode does not tell the time either (Part 1, 12.3).
    """
    if fault.parameter or int(fault.rc) >> 16 in (0x08, 0x09):
        return True
    if code(int(fault.rc)) == FAILURE:
        connection.take_pulse()
        return True
    return False


def _our_ak(connection: Connection, state: State) -> Any:
    """The AK's handle; once a connection it is compared with the AK we know, for another TPM may sit there now."""
    handle = connection.handle(AK, bytes.fromhex(state.ak))
    if "ak" not in connection.verified:
        if public_area(connection, AK).hex() != state.ak_public:
            raise UnavailableError("this TPM holds another attestation key than ours", "run `wardgate init`, then `wardgate enrol`")
        connection.verified.add("ak")
    return handle


def _read_pcrs(connection: Connection, pcrs: Sequence[int]) -> tuple[tuple[int, bytes], ...]:
    """TPM2_PCR_Read as often as it takes: it returns at most eight values at a time."""
    values: dict[int, bytes] = {}
    while wanted := [n for n in pcrs if n not in values]:
        _, selections, digests = connection.esys.pcr_read("sha256:" + ",".join(map(str, wanted)))
        first = selections[0]
        bits = int.from_bytes(bytes(first.pcrSelect[0 : first.sizeofSelect]), "little")
        got = dict(zip((n for n in range(32) if bits >> n & 1), (bytes(d) for d in digests), strict=False))
        if not got:
            raise UnavailableError("the TPM has no SHA-256 PCRs", "enable its SHA-256 bank in the firmware set-up")
        values |= got
    return tuple(sorted(values.items()))
