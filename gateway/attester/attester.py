"""The gateway's own evidence: quotes by its AK, a rollback counter, and this boot's software keys. Implements AttesterPort.

Composed of ``tpm`` (the thread), ``keys`` (the acts), ``state`` (what is remembered) and ``enrol`` (the AK's certificate).
Does not know what a quote is for: whoever asks brings the 32 bytes that it signs.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gateway.attester import enrol, keys, state
from gateway.attester.credential import read_ak
from gateway.attester.tpm import Health, Tpm
from gateway.errors import InputError, UnavailableError
from gateway.model.certificate import QuotedState, SoftwareKey

DEFAULT_PCRS = tuple(range(8))  # what UEFI firmware measures: itself, its settings, the boot loader, Secure Boot
ISSUING = "issuing"
_MAX_EVENTLOG = 1024 * 1024  # bytes; logs of real machines are 10 to 100 KiB
_PROVISION_S = 180.0  # some discrete TPMs need a minute and more for an RSA key
_SIGN = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What ``provision`` did: ``changes`` is empty on a second run. ``lockout_file`` is to be moved into escrow, when it exists."""

    changes: tuple[str, ...]
    ak_name: bytes
    ek_certified: bool
    lockout_file: Path | None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The AK's certificate, for people."""

    subject: str
    issuer: str
    not_after: datetime
    client: tuple[x509.Certificate, ...] = ()  # the TLS client's, for ``client_key.accept``


async def provision(
    tpm: Tpm,
    state_dir: Path,
    gateway_id: str,
    *,
    owner: tuple[int, int] | None = None,
    lockout_file: Path | None = None,
    ek_kind: str | None = None,
) -> Provisioned:
    """Take the TPM into possession and make its keys; run again it completes or changes nothing.

    ``owner``: (uid, gid) of the daemon, who must be able to read the state. ``lockout_file``: where the lockout
    authorisation is written, once (default ``state_dir/tpm-lockout-authorisation``, root's): it is needed only to end a lockout
    and belongs in escrow. Raises InputError (another gateway id, a damaged state) or UnavailableError (no TPM, or another's).
    """
    lockout_file = lockout_file or state_dir / state.LOCKOUT_FILE
    known = await asyncio.to_thread(_load_or_make, state_dir, gateway_id, owner)
    lockout = None
    if not known.lockout_set or lockout_file.exists():
        lockout = await asyncio.to_thread(state.lockout_authorisation, lockout_file)
    changes = await tpm.call(lambda c: keys.take_ownership(c, known, lockout), limit_s=_PROVISION_S)
    known = replace(known, lockout_set=True)
    made, more = await tpm.call(lambda c: keys.make_objects(c, known, ek_kind), limit_s=_PROVISION_S)
    await asyncio.to_thread(state.save, state_dir, made, owner)
    name = read_ak(bytes.fromhex(made.ak_public)).name
    return Provisioned((*changes, *more), name, bool(made.ek_certificate), lockout_file if lockout_file.exists() else None)


def _load_or_make(state_dir: Path, gateway_id: str, owner: tuple[int, int] | None) -> state.State:
    if not (state_dir / state.STATE_FILE).exists():
        known = state.State(gateway_id)
        state.save(state_dir, known, owner)
        return known
    known = state.load(state_dir)
    if known.gateway_id != gateway_id:
        raise InputError(
            f"this gateway is called {known.gateway_id}, not {gateway_id}", "use its name, or clear the TPM and its state"
        )
    return known


class Attester:
    """The adapter. Needs a provisioned state; the TPM itself may be away and come back at any time.

    Software keys are new with every process: ``issuing`` is made here, others (``tls``) are registered by their owners.
    ``tpm.watch()`` should run as a task of the application: it is how the TPM's return is noticed unasked.
    """

    def __init__(self, tpm: Tpm, state_dir: Path, *, pcrs: Sequence[int] = DEFAULT_PCRS) -> None:
        """Raises InputError when the gateway was never provisioned, UnavailableError when its state cannot be read."""
        if not pcrs or not all(0 <= n < 24 for n in pcrs):
            raise InputError("the PCRs to quote are numbers from 0 to 23", "mend `pcrs` in the configuration")
        self.tpm = tpm
        self._state_dir, self._pcrs = state_dir, tuple(sorted(set(pcrs)))
        self._state = state.load(state_dir)
        if not self._state.ak_public:
            raise InputError("the TPM's keys were never made", "run `wardgate init` again")
        self._ak = read_ak(bytes.fromhex(self._state.ak_public))
        self._issuing = ec.generate_private_key(ec.SECP256R1())
        self._issuing_spki = _spki(self._issuing.public_key())
        self._software: dict[str, bytes] = {ISSUING: hashlib.sha256(self._issuing_spki).digest()}

    # ---- AttesterPort

    async def quote(self, qualifying: bytes) -> QuotedState:
        """One TPM2_Quote by the AK over the configured PCRs; ``qualifying`` is exactly 32 bytes."""
        if len(qualifying) != 32:
            raise ValueError("qualifying data is exactly 32 bytes")
        known = self._state
        made = await self.tpm.call(lambda c: keys.quote(c, known, self._pcrs, qualifying))
        return QuotedState(made.attest, made.signature, made.pcrs, qualifying, made.counter)

    async def nv_counter(self, increment: bool = False) -> int:
        """The rollback counter's value, incremented first if asked.

        An increment is never repeated: when it fails the counter may have moved by one, and whoever compares must allow that.
        """
        known = self._state
        value = await self.tpm.call(lambda c: keys.counter(c, known))  # also finds a connection that had died
        if not increment:
            return value
        return await self.tpm.call(lambda c: keys.counter(c, known, increment=True), retry=False)

    @staticmethod
    async def counter_of(tpm: Tpm, known: state.State) -> int:
        """The rollback counter of a gateway whose state is known, but not (yet) on this disk."""
        return await tpm.call(lambda c: keys.counter(c, known))

    def sign(self, message: bytes) -> bytes:
        """ECDSA P-256/SHA-256 by the per-boot issuing key; raw r || s, 64 bytes."""
        r, s = decode_dss_signature(self._issuing.sign(message, _SIGN))
        return r.to_bytes(32) + s.to_bytes(32)

    def software_keys(self) -> Sequence[SoftwareKey]:
        """What leaf 0 names, by purpose in alphabetical order."""
        return tuple(SoftwareKey(purpose, spki_hash) for purpose, spki_hash in sorted(self._software.items()))

    def issuing_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the issuing key."""
        return self._issuing_spki

    def ak_chain(self) -> Sequence[bytes]:
        """DER certificates, AK first, anchor not included; empty before enrolment."""
        return tuple(bytes.fromhex(c) for c in self._state.ak_chain)

    def ak_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the AK."""
        return _spki(self._ak.public_key)

    # ---- beyond the port

    def register_software_key(self, purpose: str, spki: bytes) -> None:
        """Have leaf 0 name this key from the next epoch on; replaces the key of the same purpose."""
        if purpose == ISSUING or not purpose:
            raise ValueError("the issuing key is the attester's own")
        self._software[purpose] = hashlib.sha256(spki).digest()

    @property
    def gateway_id(self) -> str:
        """The name this gateway was provisioned with."""
        return self._state.gateway_id

    def health(self) -> Health:
        """What was last seen of the TPM."""
        return self.tpm.health

    def on_change(self, listener: Callable[[Health], None]) -> Callable[[], None]:
        """Be told when the TPM goes, returns, was reset or locks out; returns the function that ends it."""
        return self.tpm.on_change(listener)

    def make_request(self, client_request: bytes = b"") -> enrol.Request:
        """The enrolment request, with a TLS client's (PKCS #10) if given. Raises UnavailableError without an EK certificate."""
        if not self._state.ek_certificate:
            raise UnavailableError("this TPM carries no EK certificate", "ask its maker for one; no CA can recognise it otherwise")
        certificate, public = bytes.fromhex(self._state.ek_certificate), bytes.fromhex(self._state.ak_public)
        return enrol.Request(self._state.gateway_id, certificate, public, client_request)

    async def activate_credential(self, credential: bytes, secret: bytes) -> bytes:
        """The secret that a CA made for this EK and this AK. Raises InputError when it was made for others."""
        known = self._state
        return await self.tpm.call(lambda c: keys.activate(c, known, credential, secret))

    async def accept_answer(self, answer: enrol.Answer) -> Enrolled:
        """Open a CA's answer and keep the AK's certificate. Raises InputError or UnavailableError; nothing changes then.

        Who the CA is remains for relying parties to judge: each brings its own anchor.
        """
        secret = await self.activate_credential(answer.credential, answer.secret)
        certified = enrol.open_sealed(answer, secret, self._ak.name)
        chain = certified.ak
        _check_chain(chain, self._ak.public_key, self._state.gateway_id)
        _check_issued(certified.client)
        kept = replace(self._state, ak_chain=tuple(c.public_bytes(Encoding.DER).hex() for c in chain))
        await asyncio.to_thread(state.save, self._state_dir, kept)
        self._state = kept
        first = chain[0]
        return Enrolled(first.subject.rfc4514_string(), first.issuer.rfc4514_string(), first.not_valid_after_utc, certified.client)


async def present_ak(tpm: Tpm) -> str:
    """The public area of the attestation key that this TPM holds, in hex; empty when it holds none. Raises UnavailableError."""
    return (await tpm.call(keys.present_ak)).hex()


def read_eventlog(path: Path) -> bytes:
    """The firmware's event log, as it is. Raises UnavailableError when there is none (a machine without UEFI has none)."""
    try:
        with path.open("rb") as f:
            raw = f.read(_MAX_EVENTLOG + 1)
    except OSError as e:
        raise UnavailableError(f"cannot read the event log {path}: {e.strerror}", "check wardgate-eventlog.service") from None
    if len(raw) > _MAX_EVENTLOG:
        raise UnavailableError(f"the event log {path} is larger than {_MAX_EVENTLOG} bytes", "look for what fills it")
    return raw


def _check_chain(chain: Sequence[x509.Certificate], ak: ec.EllipticCurvePublicKey, gateway_id: str) -> None:
    """That the first certificate is for our AK and name, and each next one issued the one before."""
    first = chain[0]
    names = [n.value for n in first.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if first.public_key() != ak or names != [gateway_id]:
        raise InputError("the CA certified another key or another gateway", "make a new request with `wardgate enrol`")
    _check_issued(chain)


def _check_issued(chain: Sequence[x509.Certificate]) -> None:
    for lower, upper in itertools.pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise InputError("the CA's certificates do not form a chain", "ask whoever runs the CA") from None


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
