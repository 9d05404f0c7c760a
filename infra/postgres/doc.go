// Package postgres stands below the read models: it opens the pools that they are folded into and asked through, and it
// owns the schema nido, which holds what cannot be rebuilt from the log: data keys, idempotency rows, boots.
package postgres
