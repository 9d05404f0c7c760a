-- messages is filled by message.received, reply.completed, reply.failed and reply.cancelled: one whole row for each.
--
-- A row's identity is its event's place in the log: (part, off, idx). account, day and agent_id follow from the event, so
-- that they can stand in front of it in the sorting key. A second insert of the same event has the same key and replaces
-- the first. For the same reason a month's partition holds all copies of its rows, and FINAL need not compare partitions
-- with one another.
--
-- The day comes before the agent because rows come in by time: the parts of two inserts then lie side by side, and FINAL
-- reads them as they are instead of merging row by row. One agent's month is thirty places instead of one, which costs less.
-- Numbers are compared where FINAL has to; stream and version would be the same identity, in seventy bytes.
CREATE TABLE IF NOT EXISTS {db:Identifier}.messages (
    account         String CODEC(ZSTD(1)),
    agent_id        LowCardinality(String),
    at              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),  -- when it was said or the reply ended
    stream          String CODEC(ZSTD(1)),
    version         Int64 CODEC(T64, ZSTD(1)),
    idx             UInt16 CODEC(T64, ZSTD(1)),                  -- which event of its commit
    conversation    UInt64 MATERIALIZED cityHash64(stream),      -- counting distinct numbers is several times faster than streams
    kind            Enum8('received' = 1, 'completed' = 2, 'failed' = 3, 'cancelled' = 4),
    said            Bool,                                        -- a text came with it, even if it has been erased since
    turn_id         String CODEC(ZSTD(1)),
    message_id      String CODEC(ZSTD(1)),
    text            String CODEC(ZSTD(1)),                       -- empty where it was erased
    erased          Bool,
    model           LowCardinality(String),
    error_code      LowCardinality(String),
    input_tokens    Int64 CODEC(T64, ZSTD(1)),
    output_tokens   Int64 CODEC(T64, ZSTD(1)),
    first_reply_us  Int64 CODEC(T64, ZSTD(1)),                   -- from the message to the first token; completed replies only
    full_reply_us   Int64 CODEC(T64, ZSTD(1)),                   -- from the message to the last token; completed replies only
    part            Int32,                                       -- where the log keeps the commit
    off             Int64 CODEC(Delta, ZSTD(1)),
    insert_by       DateTime64(3, 'UTC') CODEC(ZSTD(1)),         -- no row is taken later than this, see clickhouse_fence.go
    CONSTRAINT in_time CHECK nowInBlock64(3, 'UTC') <= insert_by
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (account, toDate32(at), agent_id, part, off, idx)
-- Parts that an erasure has replaced must go at once. Otherwise they are looked for every half minute, and every five minutes
-- where little happens.
SETTINGS non_replicated_deduplication_window = 1000, old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 2,
    cleanup_delay_period_random_add = 0
