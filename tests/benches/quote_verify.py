"""How fast a quote, a token and an appraisal are verified, against the bare ECDSA P-256 verification inside each of them.

CPU time, readings and floors in turns; a reading is the best of a dozen short runs, as others may use the machine's caches.
The budget: a quote at 85 % of the bare verification's rate, a COSE_Sign1 token and a whole appraisal at 70 %. The last figure
is against Debian's ``tpm2_checkquote`` as a process, on the same files, in wall time.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.verifier.appraise import appraise
from gateway.verifier.foreign import parse_token
from gateway.verifier.psa import verify_psa
from gateway.verifier.quote import verify_quote
from tests.benches.figure import Figure, figure
from tests.verifier import tpmwire as wire
from tests.verifier.cases import DEVICE, NONCE, evidence, psa_references

_ROUNDS, _RUNS, _EACH = 15, 12, 20
_KEY = ec.generate_private_key(ec.SECP256R1())
_PCRS = {n: hashlib.sha256(bytes([n])).digest() for n in (0, 1, 2, 3, 4, 5, 6, 7, 10, 14)}
_QUALIFYING = hashlib.sha256(b"qualifying data").digest()


def rate(do: Callable[[], object], clock: Callable[[], float] = time.process_time, each: int = _EACH) -> float:
    """Calls a second."""
    start = clock()
    for _ in range(each):
        do()
    return each / (clock() - start)


def against_bare(name: str, do: Callable[[], object], message: bytes) -> Figure:
    """``do`` and a bare verification of ``message`` in turns."""
    algorithm = ec.ECDSA(hashes.SHA256())
    signature, public = _KEY.sign(message, algorithm), _KEY.public_key()
    readings, floors = [], []
    for _ in range(_ROUNDS):
        pairs = [(rate(do), rate(lambda: public.verify(signature, message, algorithm))) for _ in range(_RUNS)]
        readings.append(max(ours for ours, _ in pairs))
        floors.append(max(bare for _, bare in pairs))
    return figure(name, 1, readings, "1/s", floors, "rate against bare ECDSA P-256 verification")


def run() -> Iterable[Figure]:
    """All five figures."""
    attest = wire.attest(_PCRS, _QUALIFYING)
    signature, public = wire.ecdsa_signature(_KEY, attest), _KEY.public_key()

    def quote() -> object:
        return verify_quote(public, attest, signature, _QUALIFYING, _PCRS)

    yield against_bare("quote-verify", quote, attest)
    token, references = DEVICE.token(NONCE), psa_references()
    held, spki = evidence(token), DEVICE.spki
    yield against_bare("quote-verify.cose-sign1", lambda: parse_token(token).verify(spki), token)
    yield against_bare("quote-verify.psa-claims", lambda: verify_psa(token, references.anchors), token)
    yield against_bare("quote-verify.appraisal", lambda: appraise(held, references), token)
    yield against_tool(quote, attest, signature)


def against_tool(do: Callable[[], object], attest: bytes, signature: bytes) -> Figure:
    """``tpm2_checkquote`` as a process; it must accept what is measured here."""
    with tempfile.TemporaryDirectory() as folder:
        pem = _KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for name, content in (("ak.pem", pem), ("attest.bin", attest), ("signature.bin", signature)):
            (Path(folder) / name).write_bytes(content)
        command = ["tpm2_checkquote", "-u", "ak.pem", "-m", "attest.bin", "-s", "signature.bin", "-g", "sha256", "-q"]

        def tool() -> None:
            subprocess.run([*command, _QUALIFYING.hex()], cwd=folder, capture_output=True, check=True, timeout=20)

        readings, floors = [], []
        for _ in range(5):
            floors.append(rate(tool, time.perf_counter, 8))
            readings.append(rate(do, time.perf_counter, 400))
    return figure("quote-verify.tpm2_checkquote", 1, readings, "1/s", floors, "rate against a process of tpm2_checkquote")
