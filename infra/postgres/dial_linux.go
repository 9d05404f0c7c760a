package postgres

// This file stands at the connection: how long the kernel believes in a server that does not acknowledge what it was sent.

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// unacknowledged is for the dialler. Keep-alive probes are only sent on a connection that is quiet; where a statement is on
// its way to a server that has vanished, the kernel would send it again for a quarter of an hour.
func unacknowledged(_, _ string, connection syscall.RawConn) error {
	var refused error
	err := connection.Control(func(socket uintptr) {
		refused = unix.SetsockoptInt(int(socket), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
	if err := errors.Join(err, refused); err != nil {
		return fmt.Errorf("bound the wait for acknowledgements: %w", err)
	}
	return nil
}
