-- The outbox learns which certificate a reading was taken under, carries messages beside readings, and sets aside what a broker refuses.

ALTER TABLE outbox ADD COLUMN cert_sequence INTEGER;
ALTER TABLE outbox ADD COLUMN cert_hash BLOB CHECK (cert_hash IS NULL OR length(cert_hash) = 32);
ALTER TABLE outbox_counts ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;

-- Which numbering the ids of this file belong to: a new file numbers anew, and a receiver must not take its ids for old ones.
CREATE TABLE outbox_stream (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    name     TEXT NOT NULL CHECK (length(name) = 16)
) STRICT;
INSERT INTO outbox_stream VALUES (1, lower(hex(randomblob(8))));

-- Alarms, decisions and dead letters sent again. Priority 0 leaves first. `readings`: how many of device_id are in the body.
CREATE TABLE outbox_messages (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    priority      INTEGER NOT NULL,
    topic         TEXT    NOT NULL,
    body          TEXT    NOT NULL,
    device_id     TEXT    NOT NULL DEFAULT '',
    readings      INTEGER NOT NULL DEFAULT 0,
    at_boot       TEXT    NOT NULL,
    at_mono_ns    INTEGER NOT NULL,
    at_utc_ns     INTEGER NOT NULL,
    at_quality    INTEGER NOT NULL,
    bytes         INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_messages_of_topic ON outbox_messages (topic, id);
CREATE TABLE outbox_message_counts (
    priority     INTEGER PRIMARY KEY,
    waiting      INTEGER NOT NULL DEFAULT 0,
    bytes        INTEGER NOT NULL DEFAULT 0,
    accepted     INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    dropped      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What the broker refused again and again, with its reason: kept for a person, never in anybody's way.
CREATE TABLE dead_letters (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    topic      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    device_id  TEXT    NOT NULL,
    readings   INTEGER NOT NULL,
    priority   INTEGER NOT NULL,
    at_boot    TEXT    NOT NULL,
    at_mono_ns INTEGER NOT NULL,
    at_utc_ns  INTEGER NOT NULL,
    at_quality INTEGER NOT NULL,
    bytes      INTEGER NOT NULL
) STRICT;
