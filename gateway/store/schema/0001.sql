-- Version 1. A file here is never edited once released: the next change is 0002.sql.

-- The audit log: each line's hash covers the line before it. Nothing here is ever updated.
CREATE TABLE audit (
    sequence  INTEGER PRIMARY KEY,
    boot_id   TEXT    NOT NULL,
    mono_ns   INTEGER NOT NULL,
    utc_ns    INTEGER NOT NULL,
    quality   INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    severity  TEXT    NOT NULL,
    device_id TEXT    NOT NULL,
    text      TEXT    NOT NULL,
    body      TEXT    NOT NULL,
    prev      BLOB    NOT NULL CHECK (length(prev) = 32),
    hash      BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE INDEX audit_for_people ON audit (sequence) WHERE text <> '';
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;

-- The inventory.
CREATE TABLE devices (
    id      TEXT PRIMARY KEY,
    body    TEXT NOT NULL,     -- gateway.model.device.Device, plain
    passkey INTEGER CHECK (passkey BETWEEN 0 AND 999999)
) STRICT;
CREATE TABLE profiles (
    id           TEXT    NOT NULL,
    digest       TEXT    NOT NULL,   -- SHA-256 (hex) of the text
    toml         TEXT    NOT NULL,
    confirmed_by TEXT    NOT NULL,
    confirmed_at TEXT    NOT NULL,   -- Instant, plain
    current      INTEGER NOT NULL CHECK (current IN (0, 1)),
    number       INTEGER PRIMARY KEY AUTOINCREMENT
) STRICT;
CREATE UNIQUE INDEX one_current_profile ON profiles (id) WHERE current = 1;
CREATE TABLE device_references (
    device_id TEXT PRIMARY KEY,
    body      TEXT NOT NULL          -- References, plain
) STRICT;
CREATE TABLE drafts (
    name   TEXT PRIMARY KEY,
    body   TEXT NOT NULL,
    author TEXT NOT NULL,
    at     TEXT NOT NULL             -- Instant, plain
) STRICT;
CREATE TABLE service_windows (
    device_id TEXT PRIMARY KEY,
    body      TEXT NOT NULL          -- ServiceWindow, plain
) STRICT;
-- A veto is cleared, never deleted: sequence is the newest audit line when it was raised, cleared the one when it fell.
CREATE TABLE vetoes (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id  TEXT    NOT NULL,
    media_type TEXT    NOT NULL,
    text       TEXT    NOT NULL,
    sequence   INTEGER NOT NULL,
    cleared    INTEGER
) STRICT;
CREATE UNIQUE INDEX one_open_veto ON vetoes (device_id, media_type) WHERE cleared IS NULL;

-- Accounts.
CREATE TABLE users (
    name     TEXT PRIMARY KEY,
    role     TEXT NOT NULL CHECK (role IN ('viewer', 'clinical', 'biomed', 'admin')),
    password TEXT NOT NULL           -- Argon2id, encoded
) STRICT;
CREATE TABLE claim (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    code     TEXT    NOT NULL,       -- Argon2id, encoded
    at       TEXT    NOT NULL,       -- Instant, plain
    wrong    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE sessions (
    token        BLOB PRIMARY KEY CHECK (length(token) = 32),   -- SHA-256 of the token
    user         TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    boot_id      TEXT    NOT NULL,
    started_ns   INTEGER NOT NULL,
    used_ns      INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_of_user ON sessions (user);
CREATE TABLE view_links (
    token      BLOB PRIMARY KEY CHECK (length(token) = 32),     -- SHA-256 of the token
    boot_id    TEXT    NOT NULL,
    started_ns INTEGER NOT NULL
) STRICT;

-- Readings that still have to leave. An id is never used twice, so an acknowledgement can never hit a newer row.
CREATE TABLE outbox (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id        TEXT    NOT NULL,
    quantity         TEXT    NOT NULL,
    unit             TEXT    NOT NULL,
    value            REAL,
    absent           TEXT,
    level            INTEGER,
    taken_boot       TEXT    NOT NULL,
    taken_mono_ns    INTEGER NOT NULL,
    taken_utc_ns     INTEGER NOT NULL,
    taken_quality    INTEGER NOT NULL,
    received_boot    TEXT    NOT NULL,
    received_mono_ns INTEGER NOT NULL,
    received_utc_ns  INTEGER NOT NULL,
    received_quality INTEGER NOT NULL,
    bytes            INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_of_device ON outbox (device_id, id);
CREATE TABLE outbox_counts (
    device_id    TEXT PRIMARY KEY,
    waiting      INTEGER NOT NULL DEFAULT 0,
    bytes        INTEGER NOT NULL DEFAULT 0,
    accepted     INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    dropped      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Certificates, and where the chain of batches and the rollback counter stand.
CREATE TABLE certificates (
    device_id        TEXT PRIMARY KEY,
    ear_sequence     INTEGER NOT NULL,
    cwt              BLOB    NOT NULL,
    jwt              TEXT    NOT NULL,
    ear_expires_ns   INTEGER NOT NULL,
    bundle_sequence  INTEGER,
    bundle           BLOB,
    bundle_expires_ns INTEGER
) STRICT;
CREATE TABLE batch_head (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    sequence   INTEGER NOT NULL,
    root       BLOB    NOT NULL CHECK (length(root) = 32),
    nv_counter INTEGER NOT NULL
) STRICT;
CREATE TABLE checkpoint (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    body     TEXT NOT NULL           -- Checkpoint, plain
) STRICT;
