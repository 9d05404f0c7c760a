-- +goose Up

CREATE TABLE destroyed_owners (
    owner        text COLLATE "C" PRIMARY KEY CHECK (owner <> ''),
    destroyed_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE destroyed_owners IS
    'The owners whose data keys have been destroyed, those too that never had one: no key is made for them any more. Written by the keyring in the transaction that destroys the keys; as durable as these, and kept for ever.';

INSERT INTO destroyed_owners (owner, destroyed_at)
SELECT owner, min(destroyed_at) FROM data_keys WHERE wrapped IS NULL GROUP BY owner;

CREATE TABLE erasures (
    id                text COLLATE "C" PRIMARY KEY CHECK (id <> ''),
    stream            text COLLATE "C" NOT NULL,
    account           text COLLATE "C" NOT NULL,
    requested_at      timestamptz NOT NULL,
    keys_destroyed_at timestamptz,
    done_at           timestamptz,
    claimed_until     timestamptz NOT NULL DEFAULT '-infinity',
    attempts          integer NOT NULL DEFAULT 0,
    error             text NOT NULL DEFAULT ''
);
CREATE INDEX erasures_open ON erasures (requested_at) WHERE done_at IS NULL;
CREATE INDEX erasures_of_account ON erasures (account);

COMMENT ON TABLE erasures IS
    'How far every erasure has come that the log asks for. Written by the policy that carries them out: a row when it takes one up from the read model, changed until it is done, kept for ever. Emptied, together with erasure_marks, it has everything erased again, which a restore does.';
COMMENT ON COLUMN erasures.stream IS 'Of the conversation or the account that was erased.';
COMMENT ON COLUMN erasures.requested_at IS 'The time of the event.';
COMMENT ON COLUMN erasures.claimed_until IS 'Until then a node works on it; past this any node may.';
COMMENT ON COLUMN erasures.error IS 'Why the last attempt came to nothing; empty once it is done.';

CREATE TABLE erasure_marks (
    part integer PRIMARY KEY,
    off  bigint NOT NULL
);

COMMENT ON TABLE erasure_marks IS
    'Up to which offset of each of the log''s partitions the erasures have been taken up. Written together with them.';

-- The answer to a chat is sealed with the conversation's key, so that it goes with the conversation.
ALTER TABLE idempotency ADD COLUMN owner text NOT NULL DEFAULT '', ADD COLUMN response_key text NOT NULL DEFAULT '';
CREATE INDEX idempotency_owner ON idempotency (owner) WHERE owner <> '';

COMMENT ON COLUMN idempotency.data_key IS 'The account''s data key, which seals the seed, and the response too where it has no key of its own.';
COMMENT ON COLUMN idempotency.owner IS 'The stream of the conversation whose texts are in the response; empty for none.';
COMMENT ON COLUMN idempotency.response_key IS 'The data key that seals the response; empty where it is the account''s, or where the conversation was erased before it could be kept.';
