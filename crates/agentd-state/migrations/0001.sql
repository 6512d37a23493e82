-- Version 1. A version that was released never changes: add a file instead.
-- Times are microseconds since 1970. `row_sum` is a function of agentd (src/row_sum.rs).

CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    commits INTEGER NOT NULL,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(id, commits)) STORED
) STRICT;

INSERT INTO store (id, commits) VALUES (1, 0);

CREATE TABLE owners (
    id TEXT PRIMARY KEY NOT NULL,
    pid INTEGER NOT NULL,
    start_time INTEGER NOT NULL,
    boot TEXT NOT NULL,
    opened INTEGER NOT NULL,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(id, pid, start_time, boot, opened)) STORED
) STRICT;

CREATE TABLE principals (
    name TEXT PRIMARY KEY NOT NULL,
    full_at INTEGER NOT NULL DEFAULT 0,
    cpu_day INTEGER NOT NULL DEFAULT 0,
    cpu_us INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(name, full_at, cpu_day, cpu_us, records, bytes)) STORED
) STRICT;

CREATE TABLE intents (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    key TEXT,
    digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in-flight', 'finished', 'interrupted')),
    owner TEXT,
    begun INTEGER NOT NULL,
    ended INTEGER,
    cpu_reserved INTEGER NOT NULL,
    outcome BLOB,
    sum BLOB NOT NULL GENERATED ALWAYS AS
        (row_sum(number, id, principal, key, digest, state, owner, begun, ended, cpu_reserved, outcome)) STORED,
    CHECK ((state = 'in-flight') = (owner IS NOT NULL)),
    CHECK ((state = 'in-flight') = (ended IS NULL)),
    CHECK ((state = 'in-flight') = (outcome IS NULL))
) STRICT;

CREATE UNIQUE INDEX intents_by_key ON intents (principal, key) WHERE key IS NOT NULL;
CREATE INDEX intents_by_owner ON intents (principal, owner, cpu_reserved) WHERE owner IS NOT NULL;
CREATE INDEX intents_by_end ON intents (ended) WHERE ended IS NOT NULL;
CREATE INDEX intents_by_principal ON intents (principal, ended) WHERE ended IS NOT NULL;

CREATE TRIGGER intent_ended AFTER UPDATE OF ended ON intents WHEN old.ended IS NULL AND new.ended IS NOT NULL BEGIN
    UPDATE principals SET records = records + 1, bytes = bytes + length(new.outcome) WHERE name = new.principal;
END;

CREATE TRIGGER intent_removed AFTER DELETE ON intents WHEN old.ended IS NOT NULL BEGIN
    UPDATE principals SET records = records - 1, bytes = bytes - length(old.outcome) WHERE name = old.principal;
END;

CREATE TABLE approvals (
    intent TEXT PRIMARY KEY NOT NULL REFERENCES intents (id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    requested INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    decision TEXT CHECK (decision IN ('approved', 'denied')),
    decided_by TEXT,
    decided INTEGER,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(intent, text, requested, expires, decision, decided_by, decided)) STORED,
    CHECK ((decision IS NULL) = (decided_by IS NULL) AND (decision IS NULL) = (decided IS NULL))
) STRICT;
