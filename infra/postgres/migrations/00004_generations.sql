-- +goose Up

CREATE TABLE generations (
    read_model  text PRIMARY KEY CHECK (read_model <> ''),
    generation  integer NOT NULL CHECK (generation > 0),
    switched_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE generations IS
    'Which generation of a read model answers. Written by a rebuild when it switches, one row per read model, kept for ever; a read model without a row is in its first generation.';
