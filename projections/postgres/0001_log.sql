-- What the projector itself needs: how far it is, where every stream stands, and which commits won or lost.
-- Ids have the collation C: they are compared byte by byte, and no change of the operating system reorders an index.

-- generation says which binary's tables these are: its one row is written by Prepare, and read by every Apply.
CREATE TABLE generation (
    fingerprint bigint NOT NULL
);

-- checkpoints is moved by every batch, whatever is in it: the compare-and-set that fences a zombie.
CREATE TABLE checkpoints (
    part  integer PRIMARY KEY,
    off   bigint NOT NULL,      -- the last record that was folded
    hash  bytea NOT NULL,       -- of that record, to be compared with the log
    clock timestamptz NOT NULL  -- the latest commit time of all that were accepted: the log's own clock
) WITH (fillfactor = 10);

-- streams is filled by every accepted commit of every kind. Its rows are updated in place (HOT): no index but the key.
CREATE TABLE streams (
    stream  text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,    -- the number of accepted commits
    state   bytea NOT NULL      -- the aggregate's State as JSON, the very bytes that its codec wrote
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

-- commits is filled by every accepted commit, and kept for 48 hours of the log's clock: it answers a retry.
-- at is that clock and not the commit's own time, so that it never goes back within a partition, and a node whose clock
-- is ahead makes commits stay longer instead of disappearing at once.
CREATE TABLE commits (
    stream  text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    command text COLLATE "C" NOT NULL,
    part    integer NOT NULL,
    off     bigint NOT NULL,
    at      timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
-- A command's id is random and its commits are few: the stream need not be in the index.
CREATE INDEX commits_command ON commits (command);
CREATE INDEX commits_age ON commits (part, at);

-- rejections is filled by every commit that lost, and kept for ever: whoever folds the log asks here.
CREATE TABLE rejections (
    part integer NOT NULL,
    off  bigint NOT NULL,
    PRIMARY KEY (part, off)
);
