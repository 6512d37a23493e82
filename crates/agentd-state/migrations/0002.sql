-- Version 2: accounts that principals share, intents that wait for a place, and the configuration that the audit log knows.

-- An intent in flight is charged to these accounts in addition to that of its principal.
CREATE TABLE charges (
    intent TEXT NOT NULL REFERENCES intents (id) ON DELETE CASCADE,
    account TEXT NOT NULL,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(intent, account)) STORED,
    PRIMARY KEY (intent, account)
) STRICT;

CREATE INDEX charges_by_account ON charges (account);

-- The last begin of a principal decides about its turn.
CREATE INDEX intents_by_begin ON intents (principal, begun);

-- `accounts` has the names of all accounts of the intent, one a line.
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    owner TEXT NOT NULL,
    priority INTEGER NOT NULL,
    accounts TEXT NOT NULL,
    blocked_by TEXT,
    since INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    sum BLOB NOT NULL GENERATED ALWAYS AS
        (row_sum(number, id, principal, owner, priority, accounts, blocked_by, since, seen)) STORED
) STRICT;

CREATE INDEX waiting_by_principal ON waiting (principal);

-- `after` is in force. It is recorded in the audit log once the state is 'recorded'. A digest that is null stands for the default.
CREATE TABLE configuration (
    name TEXT PRIMARY KEY NOT NULL,
    before TEXT,
    after TEXT,
    state TEXT NOT NULL CHECK (state IN ('pending', 'recorded')),
    since INTEGER NOT NULL,
    sum BLOB NOT NULL GENERATED ALWAYS AS (row_sum(name, before, after, state, since)) STORED
) STRICT;
