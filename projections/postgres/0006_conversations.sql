-- conversations is filled by conversation.started, resolved and reopened, message.received, and every reply.*;
-- conversation.erased deletes the row.
-- A message changes no indexed column, so that its update stays within the page (HOT): hence no index on
-- last_message_at, and room for as much again in every page, since each row's first reply comes soon behind it. Where it
-- does not fit, the row moves, and five indexes with it.
CREATE TABLE conversations (
    stream          text COLLATE "C" PRIMARY KEY,
    account         text COLLATE "C" NOT NULL,
    agent           text COLLATE "C" NOT NULL,
    id_mac          text COLLATE "C" NOT NULL,
    id_key          text NOT NULL,      -- the client's id, sealed: data key and text
    id_data         bytea NOT NULL,
    key             text COLLATE "C" NOT NULL, -- the data key that seals the conversation's texts
    status          text NOT NULL,      -- open, resolved
    message_count   bigint NOT NULL,    -- the rows in messages that carry a text
    created_at      timestamptz NOT NULL,
    last_message_at timestamptz NOT NULL,
    metadata_key    text NOT NULL,      -- what the client attached, sealed; both empty for nothing
    metadata_data   bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX conversations_of_account ON conversations (account, created_at, stream);
CREATE INDEX conversations_of_agent ON conversations (agent, created_at, stream);
CREATE INDEX conversations_by_status ON conversations (account, status, created_at, stream);
CREATE INDEX conversations_by_id ON conversations (account, id_mac);
