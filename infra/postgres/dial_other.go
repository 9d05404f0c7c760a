//go:build !linux

package postgres

import "syscall"

// unacknowledged does nothing where the kernel has no such bound.
func unacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
