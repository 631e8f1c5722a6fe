-- Messages that were acknowledged in a receiver's place: kept before the acknowledgement, delivered in order, remembered after.
-- No index has keys at random: each commit touches the end of the table and of one small index, whoever sends.
CREATE TABLE journal (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    route    TEXT    NOT NULL,
    key      BLOB    NOT NULL CHECK (length(key) = 16),   -- what makes two messages of a route the same
    body     BLOB,                                        -- gone once it is delivered
    answer   BLOB    NOT NULL,                            -- given again to the same message
    state    INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2)),   -- waiting, delivered, kept aside
    reason   TEXT    NOT NULL DEFAULT '',
    boot     TEXT    NOT NULL,
    mono_ns  INTEGER NOT NULL,
    utc_ns   INTEGER NOT NULL,
    quality  INTEGER NOT NULL
) STRICT;
CREATE INDEX journal_waiting ON journal (id) WHERE state = 0;
CREATE INDEX journal_aside ON journal (id) WHERE state = 2;
