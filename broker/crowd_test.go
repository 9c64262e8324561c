package broker

import (
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// comers is a listener at which connections come when a test says so.
type comers chan net.Conn

func (c comers) Accept() (net.Conn, error) {
	if conn, ok := <-c; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (c comers) Close() error   { close(c); return nil }
func (c comers) Addr() net.Addr { return &net.TCPAddr{} }

// accepting runs a listener's accept loop, and returns what it has accepted and when.
func accepting(t *testing.T, strangers, rate, come int) (l *listener, accepted chan *socket) {
	l = newListener(Listener{}, slog.New(slog.DiscardHandler), time.Hour)
	l.crowd = newCrowd(strangers, rate)
	queue := make(comers, come)
	l.socket = queue
	for range come {
		conn, other := net.Pipe()
		t.Cleanup(func() { other.Close() })
		queue <- conn
	}
	accepted = make(chan *socket, come)
	go func() {
		defer close(accepted)
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- s.(*socket)
		}
	}()
	return l, accepted
}

// There are at most so many connections without CONNECT. When one is known, or gone, the next one is accepted.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, accepted := accepting(t, 2, 0, 5)
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			if len(accepted) != n {
				t.Errorf("%d are accepted, want %d", len(accepted), n)
			}
		}
		want(2)
		first, second := <-accepted, <-accepted
		(&conn{Conn: first, socket: first}).connected()
		want(1)
		first.Close() // it counts once
		want(1)
		second.Close()
		want(2)
		(<-accepted).Close()
		(<-accepted).Close()
		want(1)
		last := <-accepted
		l.shut()
		want(0)
		last.Close()
		if _, open := <-accepted; open {
			t.Error("a connection is accepted after the end")
		}
	})
}

// A second's worth of connections is accepted at once, and the rest at the rate.
func TestConnectRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, accepted := accepting(t, 100, 10, 30)
		for _, c := range []struct {
			wait time.Duration
			want int // in all
		}{{0, 10}, {time.Second, 20}, {450 * time.Millisecond, 24}} {
			time.Sleep(c.wait)
			synctest.Wait()
			if len(accepted) != c.want {
				t.Errorf("after another %v %d are accepted, want %d", c.wait, len(accepted), c.want)
			}
		}
		l.shut()
		for s := range accepted {
			s.Close()
		}
	})
}
