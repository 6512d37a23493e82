-- Version 3: API keys of callers. `digest` is that of the whole key, whose secret part is random, and `public_key`
-- verifies the tokens that are made from it. Lists have one name a line; `capabilities` is null if all are permitted.

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY NOT NULL,
    digest TEXT NOT NULL,
    public_key TEXT NOT NULL,
    name TEXT NOT NULL,
    member_of TEXT NOT NULL,
    capabilities TEXT,
    transports TEXT NOT NULL,
    created INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires INTEGER,
    revoked INTEGER,
    last_used INTEGER,
    sum BLOB NOT NULL GENERATED ALWAYS AS
        (row_sum(id, digest, public_key, name, member_of, capabilities, transports, created, created_by, expires, revoked,
            last_used)) STORED
) STRICT;
