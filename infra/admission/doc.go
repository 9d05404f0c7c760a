// Package admission stands between the door and a chat turn: it counts requests against their limits, exactly and on all
// nodes together, and refuses from memory what Postgres has refused until there is room again.
//
// A node has at most one admit call under way per account, which carries all requests that wait for it. Nothing is
// fetched ahead, so a node that dies takes along what its one call admitted and nothing else.
package admission
