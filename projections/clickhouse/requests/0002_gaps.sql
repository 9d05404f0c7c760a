-- gaps is filled beside requests: what the request log is known to have lost, one row for each account and loss. A log
-- that cannot say what it lacks would be taken for complete.
CREATE TABLE IF NOT EXISTS {db:Identifier}.gaps (
    account     String,                                          -- empty: of accounts that are not known any more
    id          String,
    node        String,
    lost        UInt64,                                          -- requests
    from_at     DateTime64(3, 'UTC'),                            -- the first of them
    to_at       DateTime64(3, 'UTC'),                            -- the last of them
    why         LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (account, id)
SETTINGS non_replicated_deduplication_window = 1000
