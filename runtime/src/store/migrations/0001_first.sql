-- Types: BIGINT for all numbers, times (microseconds since the epoch, UTC) and truths (0, 1); TEXT for JSON;
-- BYTEA (BLOB on SQLite) for bytes. COLLATE "C" (left out on SQLite, whose default it is) makes ids sort as their bytes.

-- Raised in the transaction that changes what it counts, so that a poll of one row tells whether to read again.
CREATE TABLE versions (
    name TEXT PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO versions (name, version) VALUES ('keys', 1);

CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    secret BYTEA NOT NULL
);

CREATE TABLE keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    secret_sha256 BYTEA NOT NULL,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    disabled_at BIGINT,
    on_disconnect TEXT NOT NULL,
    on_takeover TEXT
);
CREATE UNIQUE INDEX keys_by_name ON keys (tenant, name) WHERE disabled_at IS NULL;

CREATE TABLE results (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    lane TEXT NOT NULL,
    accepted_at BIGINT NOT NULL,
    -- From the request record.
    stream BIGINT,
    deadline BIGINT,
    request_body BYTEA,
    request_claim TEXT,
    -- From events.
    status TEXT NOT NULL DEFAULT 'accepted',
    started_at BIGINT,
    finished_at BIGINT,
    run_number BIGINT NOT NULL DEFAULT 0,
    run_nonce BIGINT NOT NULL DEFAULT 0,
    attempt BIGINT NOT NULL DEFAULT 0,
    next_sequence BIGINT NOT NULL DEFAULT 0,
    given_up BIGINT NOT NULL DEFAULT 0,
    http_status BIGINT,
    error TEXT,
    usage TEXT,
    cost_nanos BIGINT,
    deployment TEXT,
    config_version TEXT,
    attempts TEXT NOT NULL DEFAULT '[]',
    partial BIGINT NOT NULL DEFAULT 0,
    answer BYTEA,
    answer_claim TEXT
);
CREATE INDEX results_by_tenant ON results (tenant, id);
CREATE INDEX results_by_age ON results (accepted_at);

-- Where each sink stands: the offset of the next record to read.
CREATE TABLE positions (
    sink TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition_number BIGINT NOT NULL,
    next BIGINT NOT NULL,
    PRIMARY KEY (sink, topic, partition_number)
);
