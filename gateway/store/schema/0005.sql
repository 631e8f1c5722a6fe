-- The audit log in segments: closed ones are packed, the oldest are trimmed to a bound, and an anchor says where the rest begins.

-- Lines `first` to `last`, packed (gateway/store/segments.py). `prev` is the hash before the first, `hash` that of the last.
CREATE TABLE audit_segments (
    first   INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL,
    prev    BLOB    NOT NULL CHECK (length(prev) = 32),
    hash    BLOB    NOT NULL CHECK (length(hash) = 32),
    utc_ns  INTEGER NOT NULL,          -- of its first line
    bytes   INTEGER NOT NULL,          -- of the body, unpacked
    body    BLOB    NOT NULL
) STRICT;
CREATE TRIGGER audit_segments_are_never_changed BEFORE UPDATE ON audit_segments
BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;

-- What people read of packed lines, so that looking back unpacks nothing. `audit verify` compares it with the segments.
CREATE TABLE audit_told (
    sequence  INTEGER PRIMARY KEY,
    utc_ns    INTEGER NOT NULL,
    mono_ns   INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    severity  TEXT    NOT NULL,
    device_id TEXT    NOT NULL,
    text      TEXT    NOT NULL
) STRICT;

-- The last line that was trimmed; a line of kind `trimmed` later in the chain names the same two.
CREATE TABLE audit_anchor (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    sequence INTEGER NOT NULL,
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
