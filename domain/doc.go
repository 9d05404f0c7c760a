// Package domain holds what Nido decides and remembers: commits, streams, deciders, and, one package each, the
// aggregates account, agent, host, apikey and conversation.
//
// It stands in the middle of the story: a command comes in, a decider answers with events or a refusal, and the
// events, once the log has accepted their commit, are folded into the state that the next decision sees. Nothing here
// knows a clock, a random number, a context or a network: what a decision depends on is in its command or its stream.
package domain
