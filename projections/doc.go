// Package projections is the read side: projectors fold the log's commits into read models, and queries answer from
// them. A read model is its tables and its questions, so both stand in one file, with the SQL beside the Go that runs
// it. Nothing here is primary data: the tables can be dropped and folded from the log again, and come out the same.
//
// Postgres decides: its projector alone says which commits were accepted, and everyone else asks it.
package projections
