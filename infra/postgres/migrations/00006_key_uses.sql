-- +goose Up

CREATE TABLE key_uses (
    public_id text COLLATE "C" PRIMARY KEY CHECK (public_id <> ''),
    used_at   timestamptz NOT NULL
) WITH (fillfactor = 70);

COMMENT ON TABLE key_uses IS
    'When each API key was last accepted. Telemetry, not a fold: nodes write what they have seen a few times a minute, and a node that dies takes along the last of it. Rows stay; there are as many as keys.';
