// Package commands is the write side: it gathers what a decision needs (time, ids, secrets, sealed text), loads the
// stream, asks the aggregate's decider, appends the commit to the log and waits until the fold has said who won.
//
// A command that returns without error is durable in the log and visible in the Postgres read models on every node.
package commands
