-- Which data key sealed the personal half of an entry on its way: by it an erasure finds what belongs to a conversation. And
-- until when the row may be inserted, see clickhouse_fence.go.
ALTER TABLE {db:Identifier}.requests
    ADD COLUMN IF NOT EXISTS data_key String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS insert_by DateTime64(3, 'UTC') CODEC(ZSTD(1))
