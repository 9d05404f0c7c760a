package e2e

// This file stands between a client that a test kills and the embedded ClickHouse.

import (
	"io"
	"net"
	"net/url"
	"testing"
	"time"
)

// throughTunnel gives a node a way to ClickHouse that reads on when the node is dead. The embedded ClickHouse aborts
// where a client dies while it is being answered (ADR 10); what such a test is about is the node, not that.
func throughTunnel(t *testing.T, dsn string) string {
	t.Helper()
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("the address of ClickHouse is no URL")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	target := address.Host
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.DialTimeout("tcp", target, 5*time.Second)
			if err != nil {
				near.Close()
				continue
			}
			go func() {
				io.Copy(far, near)
				far.(*net.TCPConn).CloseWrite()
			}()
			go func() {
				defer far.Close()
				defer near.Close()
				io.Copy(near, far)
				io.Copy(io.Discard, far)
			}()
		}
	}()
	address.Host = listener.Addr().String()
	return "NIDO_CLICKHOUSE_URL=" + address.String()
}
