-- erasures is filled by conversation.erased and account.erased: what is to be forgotten. How far that has come is not
-- in the log and stands elsewhere.
CREATE TABLE erasures (
    stream       text COLLATE "C" PRIMARY KEY,
    erasure      text COLLATE "C" NOT NULL,
    account      text COLLATE "C" NOT NULL,
    with_account boolean NOT NULL,      -- a conversation that goes with its account
    part         integer NOT NULL,      -- where the log keeps the commit
    off          bigint NOT NULL,
    at           timestamptz NOT NULL
);
CREATE INDEX erasures_by_id ON erasures (erasure);
CREATE INDEX erasures_in_order ON erasures (part, off) WHERE NOT with_account;
