-- +goose Up

CREATE TABLE restores (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    backup      text NOT NULL CHECK (backup <> ''),
    taken_at    timestamptz NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT now(),
    tables_at   timestamptz,
    finished_at timestamptz
);

COMMENT ON TABLE restores IS
    'The restore that these stores came from, if they did. Written by `nido restore` before anything else and when it has finished; one row, kept for ever. While it has not finished no node starts: a part of a log looks like a whole one.';
COMMENT ON COLUMN restores.backup IS 'The id of the backup; only the same one can go on where a restore was interrupted.';
COMMENT ON COLUMN restores.taken_at IS 'When the backup was taken.';
COMMENT ON COLUMN restores.tables_at IS 'When the tables of this schema were filled, in one transaction; null before.';
