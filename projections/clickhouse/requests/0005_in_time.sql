ALTER TABLE {db:Identifier}.requests ADD CONSTRAINT IF NOT EXISTS in_time CHECK nowInBlock64(3, 'UTC') <= insert_by
