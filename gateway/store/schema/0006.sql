-- API tokens: who may ask without being a person, for how long. And how far each reader of the record has come.
CREATE TABLE tokens (
    name       TEXT PRIMARY KEY,
    role       TEXT    NOT NULL,
    digest     BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),   -- SHA-256 of the token
    made_by    TEXT    NOT NULL,
    made_boot  TEXT    NOT NULL,
    made_mono_ns INTEGER NOT NULL,
    made_utc_ns  INTEGER NOT NULL,
    lasts_ns   INTEGER NOT NULL,
    seen_boot  TEXT    NOT NULL,          -- when `lived_ns` was last counted up
    seen_mono_ns INTEGER NOT NULL,
    lived_ns   INTEGER NOT NULL DEFAULT 0 -- boot time that has passed since it was made, at least
) STRICT;

CREATE TABLE positions (
    reader   TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL CHECK (sequence >= 0)
) STRICT;
