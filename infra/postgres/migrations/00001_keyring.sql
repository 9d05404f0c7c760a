-- +goose Up

CREATE TABLE data_keys (
    id           text PRIMARY KEY CHECK (id <> ''),
    owner        text NOT NULL CHECK (owner <> ''),
    shared       boolean NOT NULL DEFAULT false,
    wrapped      bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
CREATE INDEX data_keys_owner ON data_keys (owner);
-- Nodes that make an owner's one key at the same time agree here.
CREATE UNIQUE INDEX data_keys_shared ON data_keys (owner) WHERE shared;

COMMENT ON TABLE data_keys IS
    'The keys that seal personal text in the log and in every store. Written by the keyring: one row before the first commit that names it, and once more when it is destroyed. As durable as the log, backed up after it; rows are never deleted: a destroyed key stays as a tombstone, without which its text would read as damage instead of as erased.';
COMMENT ON COLUMN data_keys.id IS 'Random, "dk_…"; sealed text carries it.';
COMMENT ON COLUMN data_keys.owner IS 'Whose erasure destroys the key: a stream id, or an account id.';
COMMENT ON COLUMN data_keys.shared IS 'True for the one key that an owner has for everything of its own, made at its first use.';
COMMENT ON COLUMN data_keys.wrapped IS 'Nonce and AES-256-GCM, under the master key, of the key and its owner; null once destroyed.';

CREATE TABLE master_check (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE master_check IS
    'Tells at start whether a node was given the master key that the data keys are wrapped with. One row, written by the first node that ever started, kept for ever.';
COMMENT ON COLUMN master_check.value IS 'Derived from the master key; says nothing about it or about what else is derived from it.';
