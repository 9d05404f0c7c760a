-- requests is the request log, filled from the topic of the same name by infra/requestlog: one row for each HTTP request
-- that was answered. It is primary data: no rebuild touches it. A bundle that arrives twice writes the same rows again;
-- they replace the first ones, and until a merge has done so queries drop the copies.
--
-- The sorting key serves the question that is asked most, "one account, newest first", in both senses of the word: a
-- page reads the newest granules and stops. Narrowing by key, agent, status or route stays on that path, since a page of
-- all but the rarest of them lies in a few granules; those columns are one byte a row, so that even passing over an
-- account's millions costs milliseconds. A conversation's requests are close together in time, so that an index names
-- the few granules that have them. A request id begins with its time, which is in the sorting key.
--
-- Granules are small because pages are: fifty rows of two dozen columns, of which ClickHouse reads whole granules. With
-- 8,192 rows in each a page took more than twice as long. The size cannot be altered: a table that was made with those
-- keeps them, and answers the same.
--
-- Months, not days, as partitions: a query without a time range opens every partition, and an account that asks for
-- its newest fifty must not pay for a year of days.
CREATE TABLE IF NOT EXISTS {db:Identifier}.requests (
    account             String CODEC(ZSTD(1)),
    at                  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    request_id          String CODEC(ZSTD(1)),
    key_id              LowCardinality(String),
    agent_id            LowCardinality(String),
    conversation_id     String CODEC(ZSTD(1)),                   -- as the client knows it
    method              LowCardinality(String),
    route               LowCardinality(String),                  -- the path's template in the contract
    path                String CODEC(ZSTD(1)),
    query               String CODEC(ZSTD(1)),
    status              UInt16 CODEC(T64, ZSTD(1)),
    latency_us          UInt64 CODEC(T64, ZSTD(1)),
    first_token_us      UInt64 CODEC(T64, ZSTD(1)),              -- 0 where nothing was streamed
    error_code          LowCardinality(String),
    model               LowCardinality(String),
    input_tokens        Int64 CODEC(T64, ZSTD(1)),
    output_tokens       Int64 CODEC(T64, ZSTD(1)),
    client_request_id   String CODEC(ZSTD(1)),
    remote_ip           String CODEC(ZSTD(1)),
    user_agent          String CODEC(ZSTD(1)),
    trace               String CODEC(ZSTD(1)),                   -- W3C traceparent
    request_headers     String CODEC(ZSTD(1)),                   -- JSON, secrets redacted before it left the node
    response_headers    String CODEC(ZSTD(1)),
    request_body        String CODEC(ZSTD(3)),
    response_body       String CODEC(ZSTD(3)),
    request_truncated   Bool,
    response_truncated  Bool,
    request_bytes       UInt64 CODEC(T64, ZSTD(1)),              -- before it was truncated
    response_bytes      UInt64 CODEC(T64, ZSTD(1)),
    erased              Bool,                                    -- the key to its personal half was destroyed before it arrived
    words               String CODEC(ZSTD(3)),                   -- the distinct words of both bodies, see requests_words.go
    INDEX by_conversation_id conversation_id TYPE bloom_filter(0.01) GRANULARITY 8,
    -- Posting lists instead of a bloom filter: they name rows, so that bodies are not read to find a word, a rare word
    -- touches the granules that have it and two common ones are intersected before anything is read.
    INDEX by_words words TYPE text(tokenizer = splitByString([' ']))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (account, at, request_id)
SETTINGS index_granularity = 1024, non_replicated_deduplication_window = 1000, old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 2,
    cleanup_delay_period_random_add = 0
