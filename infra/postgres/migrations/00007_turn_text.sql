-- +goose Up

-- Unlogged: it costs no WAL, and only losing Postgres and the turn's node together loses what is in it.
CREATE UNLOGGED TABLE turn_text (
    turn       text COLLATE "C" NOT NULL CHECK (turn <> ''),
    "offset"   bigint NOT NULL CHECK ("offset" >= 0),
    data_key   text NOT NULL,
    data       bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (turn, "offset")
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE turn_text ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX turn_text_age ON turn_text USING brin (written_at);

COMMENT ON TABLE turn_text IS
    'The text of running streamed turns, written before it is sent, so that any node can go on with a stream that broke off. Written by the node that runs the turn, which drops the rows when the turn''s end has been accepted; the sweeper drops what dead nodes left.';
COMMENT ON COLUMN turn_text."offset" IS 'Bytes of the text before this piece.';
COMMENT ON COLUMN turn_text.data IS 'The piece, sealed with the conversation''s data key.';
