-- Looking back past what is packed: a device's levels and what was refused, without unpacking a segment.

-- Only on lines that this is read from: decisions, refusals (`behaviour`), starts. NULL on all others, and on lines packed
-- by an older version until the daemon has filled them in. `audit verify` compares all of it with the segments.
ALTER TABLE audit_told ADD COLUMN boot_id TEXT;
ALTER TABLE audit_told ADD COLUMN quality INTEGER;
ALTER TABLE audit_told ADD COLUMN level INTEGER;        -- of a decision
ALTER TABLE audit_told ADD COLUMN count INTEGER;        -- of a refusal: how often
ALTER TABLE audit_told ADD COLUMN last_before TEXT;     -- of a start, when the line before it is in its segment: JSON, its instant
CREATE INDEX audit_told_of_device ON audit_told (device_id, kind) WHERE boot_id IS NOT NULL;

-- The instant of each packed segment's last line: a start may be the first line after it. Segments older than the oldest here
-- were packed by an older version and are not filled in yet.
CREATE TABLE audit_segment_ends (
    last    INTEGER PRIMARY KEY,
    first   INTEGER NOT NULL,
    boot_id TEXT    NOT NULL,
    mono_ns INTEGER NOT NULL,
    utc_ns  INTEGER NOT NULL,
    quality INTEGER NOT NULL
) STRICT;
