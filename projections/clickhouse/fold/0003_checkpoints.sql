-- checkpoints is filled by every batch that was folded, whatever events it held: how far the fold has come in each of
-- the log's partitions. The largest offset counts, so that a zombie's late insert sets nothing back. It is written
-- behind the rows; a crash between the two folds them again, into the same rows.
CREATE TABLE IF NOT EXISTS {db:Identifier}.checkpoints (
    part            Int32,
    off             Int64,
    hash            String,                                      -- of the record at off, compared with the log at start
    up_to           DateTime64(3, 'UTC')                         -- everything of this partition up to here is in
)
ENGINE = ReplacingMergeTree(off)
ORDER BY part
SETTINGS old_parts_lifetime = 1
