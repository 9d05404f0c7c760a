package postgres

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nidohq/nido/infra/enginestest"
)

func TestAConnectionDoesNotWaitForEverForAServerThatVanished(t *testing.T) {
	pool, err := Open(t.Context(), Config{URL: enginestest.Postgres(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	raw, err := conn.Conn().PgConn().Conn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var bound int
	var refused error
	err = raw.Control(func(socket uintptr) {
		bound, refused = unix.GetsockoptInt(int(socket), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	})
	if err != nil || refused != nil || bound != int(userTimeout.Milliseconds()) {
		t.Errorf("unacknowledged data is sent again for %d ms: %v %v", bound, err, refused)
	}
}
