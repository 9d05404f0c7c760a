-- erasures is filled by conversation.erased and account.erased: what is to be forgotten. How far that has come is not
-- in the log and stands elsewhere.
CREATE TABLE erasures (
    stream       text COLLATE "C" PRIMARY KEY,
    erasure      text COLLATE "C" NOT NULL,
    account      text COLLATE "C" NOT NULL,
    id_mac       text COLLATE "C" NOT NULL, -- of the client's id, as in conversations; empty for an account
    turn         text COLLATE "C" NOT NULL, -- that it ended; empty where none was open
    with_account boolean NOT NULL,      -- a conversation that goes with its account
    part         integer NOT NULL,      -- where the log keeps the commit
    off          bigint NOT NULL,
    at           timestamptz NOT NULL
);
-- The conversations that go with an account share its erasure; the account itself comes first.
CREATE INDEX erasures_by_id ON erasures (erasure, with_account);
CREATE INDEX erasures_of_account ON erasures (account, id_mac);
CREATE INDEX erasures_by_turn ON erasures (turn) WHERE turn <> '';
CREATE INDEX erasures_in_order ON erasures (part, off) WHERE NOT with_account;
