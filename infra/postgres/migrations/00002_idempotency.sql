-- +goose Up

CREATE TABLE idempotency (
    account     text NOT NULL,
    caller      text NOT NULL,
    key_hash    bytea NOT NULL,
    fingerprint bytea NOT NULL,
    data_key    text NOT NULL,
    seed        bytea NOT NULL,
    now         timestamptz NOT NULL,
    boot        text,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    status      integer,
    response    bytea,
    expires     timestamptz NOT NULL,
    PRIMARY KEY (account, caller, key_hash),
    CHECK ((finished_at IS NULL) = (status IS NULL) AND (finished_at IS NULL) = (response IS NULL))
);
CREATE INDEX idempotency_expires ON idempotency (expires);

COMMENT ON TABLE idempotency IS
    'What a request with an Idempotency-Key needs to happen once: the inputs that its retries must use again, and the answer that they get. Written by the API before the command and after it, kept for 24 hours, then swept.';
COMMENT ON COLUMN idempotency.caller IS 'Whose key it is: an API key''s id, or the operator.';
COMMENT ON COLUMN idempotency.key_hash IS 'SHA-256 of the Idempotency-Key.';
COMMENT ON COLUMN idempotency.fingerprint IS 'HMAC, keyed by the Idempotency-Key, of the request''s fingerprint: it cannot be guessed from here what was asked.';
COMMENT ON COLUMN idempotency.data_key IS 'The account''s data key, which seals seed and response.';
COMMENT ON COLUMN idempotency.seed IS 'Sealed: what the ids, secrets and command ids of the request are derived from.';
COMMENT ON COLUMN idempotency.now IS 'The time that the first attempt gathered.';
COMMENT ON COLUMN idempotency.boot IS 'The boot that works on it; null where an attempt gave up and the next may begin at once.';
COMMENT ON COLUMN idempotency.response IS 'Sealed JSON of content type, headers and body.';
