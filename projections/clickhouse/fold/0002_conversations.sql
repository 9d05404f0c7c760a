-- conversations is filled by conversation.started, conversation.resolved and conversation.reopened: one whole row for
-- each. The newest of a stream says how the conversation stands. A row's identity is (account, stream, version, idx);
-- what else is in the sorting key follows from the event. Nobody asks for these rows with FINAL. A start has no time of
-- its own and takes its commit's.
CREATE TABLE IF NOT EXISTS {db:Identifier}.conversations (
    account         String CODEC(ZSTD(1)),
    agent_id        LowCardinality(String),
    at              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    stream          String CODEC(ZSTD(1)),
    version         Int64 CODEC(T64, ZSTD(1)),
    idx             UInt16 CODEC(T64, ZSTD(1)),
    conversation    UInt64 MATERIALIZED cityHash64(stream),
    kind            Enum8('started' = 1, 'resolved' = 2, 'reopened' = 3),
    conversation_id String CODEC(ZSTD(1)),                       -- as the client knows it; starts only; empty where erased
    metadata        String CODEC(ZSTD(1)),                       -- JSON object; starts only; empty where erased
    erased          Bool,
    by_message      Bool,                                        -- a new message reopened it
    part            Int32,
    off             Int64 CODEC(Delta, ZSTD(1)),
    insert_by       DateTime64(3, 'UTC') CODEC(ZSTD(1)),         -- no row is taken later than this, see clickhouse_fence.go
    CONSTRAINT in_time CHECK nowInBlock64(3, 'UTC') <= insert_by
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (account, agent_id, at, stream, version, idx)
-- Parts that an erasure has replaced must go at once. Otherwise they are looked for every half minute, and every five minutes
-- where little happens.
SETTINGS non_replicated_deduplication_window = 1000, old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 2,
    cleanup_delay_period_random_add = 0
