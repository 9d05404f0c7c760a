-- +goose Up

ALTER TABLE idempotency ADD COLUMN run text NOT NULL DEFAULT '';

COMMENT ON COLUMN idempotency.run IS
    'The run of the request that has it, or had it last. Whoever was not told what came of ending its run tries again, and must not end the next one, which may be of the same boot.';
