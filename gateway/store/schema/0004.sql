-- What can be gone back to, what was seen, what was brought in as a file.

-- Earlier anchors and reference values of a device, the newest last: `reference rollback` takes that one away again. Vetoes are not in it.
CREATE TABLE reference_versions (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL,
    body      TEXT NOT NULL,         -- References, plain
    actor     TEXT NOT NULL,         -- who replaced it
    at        TEXT NOT NULL          -- Instant, plain
) STRICT;
CREATE INDEX reference_versions_of_device ON reference_versions (device_id, number);
-- Flows of observed devices that no profile names, counted: bounded by whoever counts.
CREATE TABLE seen_flows (
    device_id TEXT PRIMARY KEY,
    body      TEXT NOT NULL
) STRICT;
-- Files that prove themselves: revocation lists and CA certificates. A file never replaces a newer one.
CREATE TABLE cached_files (
    kind          TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    body          BLOB    NOT NULL,
    issued_ns     INTEGER NOT NULL,
    good_until_ns INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
-- Whose readings a device takes, from when on (boot time); an empty token ends it.
CREATE TABLE assignments (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT    NOT NULL,
    token     TEXT    NOT NULL,
    boot_id   TEXT    NOT NULL,
    from_ns   INTEGER NOT NULL
) STRICT;
CREATE INDEX assignments_of_device ON assignments (device_id, number);
