package transport_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/transport"
)

func TestUserTimeout(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	d := transport.Dialer{UserTimeout: 1234 * time.Millisecond}
	conn, err := d.Dial(t.Context(), parse(t, "mqtt://"+addr.String()))
	check(t, err)
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	check(t, err)
	var got int
	check(t, raw.Control(func(fd uintptr) {
		got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, 0x12)
	}))
	if got != 1234 || err != nil {
		t.Errorf("the timeout is %d ms, %v", got, err)
	}
	io.WriteString(conn, "ping")
	io.ReadAll(conn)
}
