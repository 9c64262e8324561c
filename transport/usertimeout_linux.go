package transport

import (
	"os"
	"syscall"
	"time"
)

// UserTimeoutSupported reports whether this system has Dialer.UserTimeout.
const UserTimeoutSupported = true

// tcpUserTimeout is TCP_USER_TIMEOUT of the kernel's linux/tcp.h, which package syscall does not have.
const tcpUserTimeout = 0x12

// userTimeout returns what sets the timeout of a socket before it is connected.
func userTimeout(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			err = os.NewSyscallError("setsockopt",
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds())))
		})
		if control != nil {
			return control
		}
		return err
	}
}
