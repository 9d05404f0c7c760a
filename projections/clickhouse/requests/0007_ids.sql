-- Request ids are found by the time that they begin with; for tables that were made when they had an index.
ALTER TABLE {db:Identifier}.requests DROP INDEX IF EXISTS by_request_id
