-- +goose Up

ALTER TABLE idempotency ADD COLUMN run text NOT NULL DEFAULT '';

COMMENT ON COLUMN idempotency.run IS
    'The run of the request that has it. A run that was not told whether it got the request gives back what it has, and nothing that another run of the same boot has since.';
