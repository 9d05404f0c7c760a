-- turns is filled by message.received; every reply.* and conversation.erased delete the row. It holds what is being answered right now.
CREATE TABLE turns (
    stream   text COLLATE "C" PRIMARY KEY,
    turn     text COLLATE "C" NOT NULL,
    boot     text COLLATE "C" NOT NULL,
    received timestamptz NOT NULL,
    deadline timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX turns_by_id ON turns (turn);
