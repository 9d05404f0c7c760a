-- checkpoints is filled by every batch of bundles that was written: how far requests and gaps have come in each
-- partition of their topic. The largest offset counts; it is written behind the rows.
CREATE TABLE IF NOT EXISTS {db:Identifier}.checkpoints (
    part            Int32,
    off             Int64,
    hash            String,
    up_to           DateTime64(3, 'UTC')                         -- everything of this partition up to here is in
)
ENGINE = ReplacingMergeTree(off)
ORDER BY part
SETTINGS old_parts_lifetime = 1
