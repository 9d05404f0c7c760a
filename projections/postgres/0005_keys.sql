-- keys is filled by key.issued, key.described, key.rotated and key.revoked.
CREATE TABLE keys (
    public_id   text COLLATE "C" PRIMARY KEY,
    account     text COLLATE "C" NOT NULL,
    name        text NOT NULL,
    environment text NOT NULL,
    hash        bytea NOT NULL,         -- SHA-256 of the whole key, with its newest secret
    hint        text NOT NULL,
    earlier     bytea[] NOT NULL,       -- the same with the secrets before it, the oldest first …
    graces      timestamptz[] NOT NULL, -- … and when each of them stops working
    rotated_at  timestamptz,
    scopes      text[] NOT NULL,
    agent_ids   text[] NOT NULL,        -- empty means every agent
    ip_allow    text[] NOT NULL,        -- empty means from anywhere
    metadata    json NOT NULL,
    issued_by   text NOT NULL,
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    reason      text NOT NULL           -- of the revocation
);
CREATE INDEX keys_of_account ON keys (account, issued_at, public_id);
