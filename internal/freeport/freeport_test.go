package freeport

import (
	"fmt"
	"net"
	"testing"
)

// A port is not returned again while its test runs, nor one at which somebody listens. Afterwards it is free.
func TestTake(t *testing.T) {
	address := ""
	t.Run("held", func(t *testing.T) {
		address = fmt.Sprint("127.0.0.1:", Take(t))
		if take(address) != nil {
			t.Error("taken twice")
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err) // it is for this
		}
		l.Close()
	})
	hold := take(address)
	if hold == nil {
		t.Fatal("still held after the test")
	}
	hold.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if take(address) != nil {
		t.Error("taken while somebody listens")
	}
}
