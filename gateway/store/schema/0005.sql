-- One device's lines for people by kind: its page draws its levels and names what was refused without walking the whole log.
CREATE INDEX audit_of_device ON audit (device_id, kind, sequence) WHERE text <> '' AND kind NOT IN ('event', 'wake');
