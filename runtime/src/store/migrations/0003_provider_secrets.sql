-- Provider keys, sealed under a master key that is never in the store. A deleted one leaves its row without its bytes,
-- so that no version of a name comes twice: what was sealed once never opens in a later place.
CREATE TABLE provider_secrets (
    name TEXT COLLATE "C" PRIMARY KEY,
    -- Raised by every change; the seal is bound to it.
    version BIGINT NOT NULL,
    -- Of the master key; empty when deleted, as are nonce and sealed.
    master_key_id TEXT NOT NULL,
    nonce BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    -- When the value was last set; sealing it anew does not count.
    updated_at BIGINT NOT NULL,
    -- When it was deleted.
    disabled_at BIGINT
);
INSERT INTO versions (name, version) VALUES ('provider_secrets', 1);
