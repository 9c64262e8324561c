// Package freeport finds ports for the servers of tests that cannot find one themselves, or that come back at the same one.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The ports are below those that systems give to whoever asks for any: between the end of one server and the start of the
// next one nobody else is given them, also not as the near end of a connection.
const (
	first = 10000
	count = 10000
)

// Take returns a port of 127.0.0.1 that nobody listens at, and that no other call returns, in whatever process, before the end
// of the test: until then its UDP port is held, which a server of MQTT does not want.
func Take(t testing.TB) int {
	t.Helper()
	for range 10 * count {
		port := first + rand.IntN(count)
		if hold := take(net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); hold != nil {
			t.Cleanup(func() { hold.Close() })
			return port
		}
	}
	t.Fatalf("none of the ports from %d to %d is free", first, first+count-1)
	return 0
}

// take holds the UDP port of an address. It returns nil if somebody has that, or listens at the TCP port.
func take(address string) net.PacketConn {
	hold, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		hold.Close()
		return nil
	}
	l.Close()
	return hold
}
