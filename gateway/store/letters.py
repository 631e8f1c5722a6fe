"""The tables beside the readings: messages by priority, dead letters, and the counters that move with them.

Functions of a connection, called inside the outbox's own transaction. Refuses to know what is in a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gateway.model.instant import Instant, TimeQuality
from gateway.model.outbox import DeadLetter, Letter, MessageCounts
from gateway.store.database import Connection

_ROW_BYTES = 160  # one stored message without its texts, index included
_LAST = 9  # the priority of what is sent a second time
_LESS = "UPDATE outbox_counts SET waiting = waiting - ?, bytes = bytes - ?, {0} = {0} + ? WHERE device_id = ?"
_MORE = (
    "INSERT INTO outbox_message_counts (priority, waiting, bytes, accepted) VALUES (?1, 1, ?2, 1) ON CONFLICT (priority)"
    " DO UPDATE SET waiting = waiting + 1, bytes = bytes + ?2, accepted = accepted + 1"
)
_NEVER = (  # set aside, it is no longer among the accepted; sent again it is accepted anew
    "UPDATE outbox_message_counts SET waiting = waiting - 1, bytes = bytes - ?, accepted = accepted - 1 WHERE priority = ?"
)
_FEWER = "UPDATE outbox_message_counts SET waiting = waiting - 1, bytes = bytes - ?, {0} = {0} + 1 WHERE priority = ?"


def remove(db: Connection, ids: Sequence[int], why: str) -> int:
    """Delete readings and count them as ``why`` (a column of outbox_counts); returns how many were there."""
    gone: Counter[str] = Counter()
    freed: Counter[str] = Counter()
    run = db.conn.execute
    for i in ids:
        row = run("DELETE FROM outbox WHERE id = ? RETURNING device_id, bytes", (i,)).fetchone()
        if row is not None:
            gone[row[0]] += 1
            freed[row[0]] += row[1]
    for device_id, number in gone.items():
        run(_LESS.format(why), (number, freed[device_id], number, device_id))
    return gone.total()


def store(db: Connection, batch: Sequence[Letter], most: int) -> int:
    """Insert messages, then drop the oldest of the least urgent beyond ``most``."""
    for x in batch:
        _insert(db, x)
    waiting = int(db.execute("SELECT coalesce(sum(waiting), 0) FROM outbox_message_counts").fetchone()[0])
    if waiting > most:
        sql = "SELECT id FROM outbox_messages ORDER BY priority DESC, id LIMIT ?"
        _delete(db, [r[0] for r in db.execute(sql, (waiting - most,)).fetchall()], "dropped")
    return len(batch)


def _insert(db: Connection, x: Letter) -> None:
    size = _ROW_BYTES + len(x.topic) + len(x.body)
    at = (x.at.boot_id, x.at.mono_ns, x.at.utc_ns, int(x.at.quality))
    db.execute(
        "INSERT INTO outbox_messages"
        " (priority, topic, body, device_id, readings, at_boot, at_mono_ns, at_utc_ns, at_quality, bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (x.priority, x.topic, x.body, x.device_id, x.readings, *at, size),
    )
    db.execute(_MORE, (x.priority, size))


def take(db: Connection, topic: str, after: int, limit: int) -> list[Letter]:
    """The oldest messages on a topic after an id."""
    sql = (
        "SELECT id, priority, topic, body, at_boot, at_mono_ns, at_utc_ns, at_quality, device_id, readings FROM outbox_messages"
        " WHERE topic = ? AND id > ? ORDER BY id LIMIT ?"
    )
    return [Letter(r[0], r[1], r[2], r[3], _instant(r[4:8]), r[8], r[9]) for r in db.execute(sql, (topic, after, limit))]


def topics(db: Connection) -> list[tuple[str, int]]:
    """Topics with waiting messages, each with its most urgent priority."""
    return [(r[0], r[1]) for r in db.execute("SELECT topic, min(priority) FROM outbox_messages GROUP BY topic")]


def oldest(db: Connection) -> list[tuple[object, ...]]:
    """When the oldest message was made: no row or one."""
    return db.execute("SELECT at_boot, at_mono_ns, at_utc_ns, at_quality FROM outbox_messages ORDER BY id LIMIT 1").fetchall()


def acknowledge(db: Connection, ids: Sequence[int]) -> int:
    """Delete delivered messages; readings inside them are delivered too."""
    return _delete(db, ids, "acknowledged")


def _delete(db: Connection, ids: Sequence[int], why: str) -> int:
    gone = 0
    for i in ids:
        sql = "DELETE FROM outbox_messages WHERE id = ? RETURNING priority, bytes, device_id, readings"
        if (row := db.conn.execute(sql, (i,)).fetchone()) is not None:
            gone += 1
            db.execute(_FEWER.format(why), (row[1], row[0]))
            _from_dead(db, row[2], row[3], why)
    return gone


def _from_dead(db: Connection, device_id: str, readings: int, why: str) -> None:
    """Readings in a revived letter count as dead until they are delivered or lost."""
    if readings:
        sql = f"UPDATE outbox_counts SET dead = dead - ?1, {why} = {why} + ?1 WHERE device_id = ?2"  # noqa: S608 - our names
        db.execute(sql, (readings, device_id))


def bury(
    db: Connection, topic: str, body: str, reason: str, ids: Sequence[int], letter: Letter | None, now: Instant, most: int
) -> int:
    """Move readings or one letter to the dead letters, then forget the oldest beyond ``most``."""
    device_id, readings, priority = "", 0, _LAST
    if ids:
        first = db.execute("SELECT device_id FROM outbox WHERE id = ?", (ids[0],)).fetchone()
        device_id = first[0] if first else ""
        readings = remove(db, ids, "dead")
        if not readings:
            return 0
    elif letter is not None:
        sql = "DELETE FROM outbox_messages WHERE id = ? RETURNING priority, bytes"
        if (row := db.conn.execute(sql, (letter.id,)).fetchone()) is None:
            return 0
        sql = (
            "UPDATE outbox_message_counts SET waiting = waiting - 1, bytes = bytes - ?, accepted = accepted - 1 WHERE priority = ?"
        )
        db.execute(sql, (row[1], row[0]))
        device_id, readings, priority = letter.device_id, letter.readings, letter.priority
    at = (now.boot_id, now.mono_ns, now.utc_ns, int(now.quality))
    db.execute(
        "INSERT INTO dead_letters (topic, body, reason, device_id, readings, priority, at_boot, at_mono_ns, at_utc_ns, at_quality,"
        " bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (topic, body, reason[:400], device_id, readings, priority, *at, _ROW_BYTES + len(body)),
    )
    _forget(db, most)
    return 1


def _forget(db: Connection, most: int) -> None:
    over = int(db.execute("SELECT count(*) FROM dead_letters").fetchone()[0]) - most
    if over > 0:
        for i, device_id, readings in db.execute(
            "SELECT id, device_id, readings FROM dead_letters ORDER BY id LIMIT ?", (over,)
        ).fetchall():
            db.execute("DELETE FROM dead_letters WHERE id = ?", (i,))
            _from_dead(db, device_id, readings, "dropped")


def revive(db: Connection, now: Instant, only: int | None = None) -> int:
    """Make every dead letter, or the one with the id ``only``, a waiting message again."""
    rows = db.execute(
        "SELECT id, topic, body, device_id, readings FROM dead_letters WHERE ?1 IS NULL OR id = ?1 ORDER BY id", (only,)
    ).fetchall()
    for i, topic, body, device_id, readings in rows:
        _insert(db, Letter(0, _LAST, topic, body, now, device_id, readings))
        db.execute("DELETE FROM dead_letters WHERE id = ?", (i,))
    return len(rows)


def discard(db: Connection, i: int) -> int:
    """Forget one dead letter for good; its readings count as lost."""
    row = db.execute("SELECT device_id, readings FROM dead_letters WHERE id = ?", (i,)).fetchone()
    if row is None:
        return 0
    db.execute("DELETE FROM dead_letters WHERE id = ?", (i,))
    _from_dead(db, row[0], row[1], "dropped")
    return 1


def dead(db: Connection, limit: int) -> list[DeadLetter]:
    """The newest dead letters."""
    sql = (
        "SELECT id, topic, reason, at_boot, at_mono_ns, at_utc_ns, at_quality, body, device_id, readings FROM dead_letters"
        " ORDER BY id DESC LIMIT ?"
    )
    return [DeadLetter(r[0], r[1], r[2], _instant(r[3:7]), r[7], r[8], r[9]) for r in db.execute(sql, (limit,))]


def counts(db: Connection) -> list[MessageCounts]:
    """The counters, by priority."""
    sql = "SELECT priority, waiting, bytes, accepted, acknowledged, dropped FROM outbox_message_counts ORDER BY priority"
    return [MessageCounts(*r) for r in db.execute(sql)]


def _instant(r: Sequence[object]) -> Instant:
    return Instant(str(r[0]), int(str(r[1])), int(str(r[2])), TimeQuality(int(str(r[3]))))
