-- messages is filled by message.received, reply.completed, reply.failed and reply.cancelled: one row each, never changed;
-- conversation.erased deletes them.
CREATE TABLE messages (
    stream         text COLLATE "C" NOT NULL,
    version        bigint NOT NULL,
    idx            integer NOT NULL,    -- of the event within its commit
    id             text COLLATE "C" NOT NULL,
    turn           text COLLATE "C" NOT NULL,
    role           text NOT NULL,       -- user, assistant
    outcome        text NOT NULL,       -- received, completed, failed, cancelled
    code           text NOT NULL,       -- why it failed
    text_key       text NOT NULL,       -- the text, sealed: data key and text; both empty for none
    text_data      bytea NOT NULL,
    model          text NOT NULL,
    input_tokens   bigint NOT NULL,
    output_tokens  bigint NOT NULL,
    estimated      boolean NOT NULL,    -- the provider did not tell all of these tokens
    finish         text NOT NULL,       -- why a whole reply ends where it does; empty where nobody said
    first_reply_ns bigint NOT NULL,
    full_reply_ns  bigint NOT NULL,
    at             timestamptz NOT NULL,
    PRIMARY KEY (stream, version, idx)
);
-- Sealed text is random bytes: compressing it would cost and gain nothing.
ALTER TABLE messages ALTER COLUMN text_data SET STORAGE EXTERNAL;
-- Whoever follows a turn comes with its id alone.
CREATE INDEX messages_end_of_turn ON messages (turn) WHERE outcome <> 'received';
