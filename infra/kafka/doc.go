// Package kafka is the log: it appends commits to a Kafka topic and hands them, in the log's order, to projectors.
//
// It stands twice in the story: behind the decision, where a commit becomes one record (Log), and before the fold,
// where records become batches (Consumer). Watermill carries the messages both ways. What is not its business: who won
// a stream's version (the fold decides) and what a batch means (the handler knows).
//
// docs/events describes the records for foreign consumers.
package kafka
