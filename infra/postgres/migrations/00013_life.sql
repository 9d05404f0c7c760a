-- +goose Up

-- Unlogged, because that is what it is for: Postgres empties it whenever it recovers from a crash, be it only that of one
-- backend, and no standby and no copy has its row.
CREATE UNLOGGED TABLE life (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    name     uuid NOT NULL DEFAULT gen_random_uuid(),
    begun_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE life IS
    'Names this life of the server, in at most one row. A node that finds none knows that commits may have been lost since it last asked: it writes one, and asks nothing else before the server has folded the log to its ends. Recovery from a crash deletes the row.';
COMMENT ON COLUMN life.name IS 'Part of what nodes know the server by.';
