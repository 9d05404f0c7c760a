-- +goose Up

-- Unlogged: who waits does not outlive its connection.
CREATE UNLOGGED TABLE turn_waiters (
    waiter       text COLLATE "C" PRIMARY KEY CHECK (waiter <> ''),
    conversation text COLLATE "C" NOT NULL,
    until        timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX turn_waiters_of_conversation ON turn_waiters (conversation);

COMMENT ON TABLE turn_waiters IS
    'The messages that wait because their conversation is busy, so that there are never more than sixteen for one, on whichever nodes. Written and dropped by the node that has the client; the sweeper drops what dead nodes left.';
COMMENT ON COLUMN turn_waiters.until IS 'When the place is free again, if nobody gives it back.';
