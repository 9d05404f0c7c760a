-- +goose Up

CREATE TABLE boots (
    id         text PRIMARY KEY CHECK (id <> ''),
    host       text NOT NULL,
    beat       bigint NOT NULL DEFAULT 1,
    started_at timestamptz NOT NULL DEFAULT now(),
    beaten_at  timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE boots IS
    'The processes that are alive. Each writes its own row every few seconds and removes it when it stops in order; the sweeper removes those that stopped beating, when it has ended their turns.';
COMMENT ON COLUMN boots.beat IS 'Counts up; the sweeper judges by whether it changed while its own clock ran, not by anybody''s time of day.';
COMMENT ON COLUMN boots.beaten_at IS 'By this database''s clock; tells whether an idempotency row''s boot may still be working.';
