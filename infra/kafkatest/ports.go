package kafkatest

// This file stands below everything that is stopped and started again at the same address.

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// lowestPort is where FreePorts begins to look.
const lowestPort = 10_000

// FreePorts finds ports below those that the kernel hands out by itself: while a server that is to come back at its
// address is down, no client's connection and no other server may get its port. Where the kernel hands out all of them, it
// is asked.
func FreePorts(count int) (ports []int, err error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, fmt.Errorf("find free ports: %w", err)
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return nil, fmt.Errorf("find free ports: %w", err)
	}
	for tries := 0; len(ports) < count && tries < 1000; tries++ {
		port := 0
		if first > lowestPort {
			port = lowestPort + rand.IntN(first-lowestPort)
		}
		listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer listener.Close() // all of them at the end, so that no two are the same
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	if len(ports) < count {
		return nil, fmt.Errorf("find free ports: %d of %d are free between %d and %d", len(ports), count, lowestPort, first)
	}
	return ports, nil
}
