-- +goose Up

CREATE TABLE deprecated_uses (
    account   text COLLATE "C" NOT NULL CHECK (account <> ''),
    item      text COLLATE "C" NOT NULL CHECK (item <> ''),
    public_id text COLLATE "C" NOT NULL,
    uses      bigint NOT NULL,
    used_at   timestamptz NOT NULL,
    PRIMARY KEY (account, item, public_id)
) WITH (fillfactor = 70);

COMMENT ON TABLE deprecated_uses IS
    'How often and when last each key used what openapi.yaml marks as deprecated. Telemetry, not a fold: nodes add what they have counted a few times a minute, and a node that dies takes along the last of it. The sweeper drops rows that nothing was added to for a year.';
COMMENT ON COLUMN deprecated_uses.item IS 'Method, route and, where it is not the whole route, the field: "POST /api/agents slug".';
COMMENT ON COLUMN deprecated_uses.public_id IS 'The public id of the key.';
