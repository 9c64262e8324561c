//go:build !linux

package transport

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// UserTimeoutSupported reports whether this system has Dialer.UserTimeout.
const UserTimeoutSupported = false

// userTimeout returns what fails: the system does not have the option, or no common name for it.
func userTimeout(time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error {
		return fmt.Errorf("TCP_USER_TIMEOUT: %w", errors.ErrUnsupported)
	}
}
