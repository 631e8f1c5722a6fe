"""What the gateway must find again after a restart: certificates, the chain of batches, the checkpoint against rollback.

Refuses to know what is inside a certificate. Sequences only go up: an older certificate never replaces a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from gateway import codec
from gateway.errors import EvidenceError, InputError
from gateway.store.database import Connection, Database


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A device's newest EAR in both forms, and its newest complete bundle, which may be of an earlier epoch. Expiry: UTC, ns."""

    device_id: str
    ear_sequence: int
    cwt: bytes
    jwt: str
    ear_expires_ns: int
    bundle_sequence: int | None
    bundle: bytes | None
    bundle_expires_ns: int | None


@dataclass(frozen=True, slots=True)
class BatchHead:
    """The newest quoted batch: its sequence, its Merkle root, the rollback counter it was quoted with."""

    sequence: int
    root: bytes
    nv_counter: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where everything stood when the NV counter was last incremented: written after the log, before anything relies on it."""

    audit_sequence: int
    audit_hash: bytes
    utc_floor_ns: int
    nv_counter: int
    reset_count: int = 0
    restart_count: int = 0
    tpm_clock_ms: int = 0
    safe: bool = True

    def verify(self, nv_counter: int) -> None:
        """Compare with the TPM's counter. Raises EvidenceError: the state on disk is older than the TPM remembers, or not ours.

        Order of writing: log, then counter, then checkpoint; so a crash leaves the TPM at most one ahead, never behind.
        """
        if nv_counter > self.nv_counter + 1:
            raise EvidenceError(
                f"the stored state is {nv_counter - self.nv_counter} checkpoints older than the TPM remembers",
                "someone put an old disk or copy back; find out who, then: wardgate audit accept --reason TEXT",
            )
        if nv_counter < self.nv_counter:
            raise EvidenceError(
                "the TPM's rollback counter is behind the stored state",
                "this disk belongs to another TPM: `wardgate restore` a backup here, or wardgate audit accept --reason TEXT",
            )


_SAVE_EAR = (
    "INSERT INTO certificates (device_id, ear_sequence, cwt, jwt, ear_expires_ns) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (device_id) DO UPDATE SET ear_sequence = excluded.ear_sequence, cwt = excluded.cwt,"
    " jwt = excluded.jwt, ear_expires_ns = excluded.ear_expires_ns WHERE excluded.ear_sequence >= ear_sequence"
)


class CertificateCache:
    """On one database. Raises UnavailableError when the disk does not let it."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def save_ear(self, device_id: str, sequence: int, cwt: bytes, jwt: str, expires_utc_ns: int) -> None:
        """Keep an EAR issued in epoch ``sequence``; an older one than the one kept is ignored."""
        await self.save_ears([(device_id, sequence, cwt, jwt, expires_utc_ns)])

    async def save_ears(self, rows: Sequence[tuple[str, int, bytes, str, int]]) -> None:
        """``save_ear`` for an epoch's (device id, sequence, CWT, JWT, expiry), in one transaction: one sync of the disk."""
        await self._db.run(lambda db: db.conn.executemany(_SAVE_EAR, rows))

    async def save_batch(self, head: BatchHead, bundles: Sequence[tuple[str, bytes, int]]) -> None:
        """Keep a quoted batch: the chain's new head and (device id, bundle, expiry) of all its devices, in one transaction.

        Raises InputError when ``head`` does not follow the one kept: two writers, or a restored file.
        """
        sql = (
            "UPDATE certificates SET bundle_sequence = ?, bundle = ?, bundle_expires_ns = ?"
            " WHERE device_id = ? AND coalesce(bundle_sequence, -1) <= ?"
        )
        rows = [(head.sequence, b, e, d, head.sequence) for d, b, e in bundles]

        def work(db: Connection) -> None:
            kept = db.execute("SELECT sequence FROM batch_head").fetchone()
            if kept is not None and head.sequence <= kept[0]:
                raise InputError(f"batch {head.sequence} does not follow batch {kept[0]}", "only one gateway may use this state")
            db.execute("INSERT OR REPLACE INTO batch_head VALUES (1, ?, ?, ?)", (head.sequence, head.root, head.nv_counter))
            db.conn.executemany(sql, rows)

        await self._db.run(work)

    async def certificate(self, device_id: str) -> StoredCertificate | None:
        """What is kept for a device; None when nothing was ever issued."""
        sql = "SELECT * FROM certificates WHERE device_id = ?"
        row = await self._db.run(lambda db: db.execute(sql, (device_id,)).fetchone())
        return StoredCertificate(*row) if row else None

    async def certificates(self) -> Sequence[StoredCertificate]:
        """Everything kept, by device id."""
        rows = await self._db.run(lambda db: db.execute("SELECT * FROM certificates ORDER BY device_id").fetchall())
        return [StoredCertificate(*r) for r in rows]

    async def bundle(self, device_id: str) -> bytes:
        """The newest complete bundle. Raises InputError when there is none."""
        found = await self.certificate(device_id)
        if found is None or found.bundle is None:
            raise InputError(f"there is no certificate for {device_id!r} yet", "wait for its first attestation and one epoch")
        return found.bundle

    async def batch_head(self) -> BatchHead | None:
        """Where the chain of batches ends; None before the first."""
        sql = "SELECT sequence, root, nv_counter FROM batch_head"
        row = await self._db.run(lambda db: db.execute(sql).fetchone())
        return BatchHead(*row) if row else None

    async def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        body = json.dumps(codec.to_plain(checkpoint), sort_keys=True)
        await self._db.run(lambda db: db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (body,)))

    async def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; None before the first."""
        row = await self._db.run(lambda db: db.execute("SELECT body FROM checkpoint").fetchone())
        return cast(Checkpoint, codec.from_plain(Checkpoint, json.loads(row[0]))) if row else None
