package transport_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

const patience = 10 * time.Second

// slow is a connection that takes a byte at a time.
type slow struct {
	net.Conn
	every time.Duration
}

func (c slow) Read(b []byte) (int, error) {
	time.Sleep(c.every)
	return c.Conn.Read(b[:1])
}

// unframed brings the content of frames.
type unframed struct{ *wsServer }

func (u unframed) Read(b []byte) (int, error) {
	_, payload, err := u.receive()
	return copy(b, payload), err
}

// dialImpatient dials a server that serve plays, over a network without buffers.
func dialImpatient(t *testing.T, url string, config *tls.Config, serve func(net.Conn)) net.Conn {
	d := transport.Dialer{Patience: patience, TLS: config, NetDial: pipes(t, serve)}
	conn, err := d.Dial(t.Context(), parse(t, url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPatience(t *testing.T) {
	ca := mqtttest.NewAuthority()
	client := &tls.Config{RootCAs: ca.Pool()}
	server := &tls.Config{
		Certificates:           []tls.Certificate{issue(ca, "server", "host")},
		SessionTicketsDisabled: true,
	}
	// The functions make the server's side of a connection, as far as a handshake.
	plain := func(c net.Conn) net.Conn { return c }
	secured := func(c net.Conn) net.Conn {
		s := tls.Server(c, server)
		s.Handshake()
		return s
	}
	for url, accept := range map[string]func(net.Conn) net.Conn{
		"mqtt://host":  plain,
		"mqtts://host": secured,
		"ws://host":    func(c net.Conn) net.Conn { return unframed{acceptWebSocket(c)} },
		"wss://host":   func(c net.Conn) net.Conn { return unframed{acceptWebSocket(secured(c))} },
	} {
		inBubble(t, url+" the peer takes nothing", func(t *testing.T) {
			conn := dialImpatient(t, url, client, func(c net.Conn) {
				accept(c)
				time.Sleep(time.Hour)
			})
			began := time.Now()
			n, err := conn.Write([]byte("hello"))
			if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != patience {
				t.Errorf("%d bytes after %v: %v", n, time.Since(began), err)
			}
		})
		inBubble(t, url+" the peer is slow", func(t *testing.T) {
			want := bytes.Repeat([]byte("slow"), 10)
			read := make(chan []byte, 1)
			conn := dialImpatient(t, url, client, func(c net.Conn) {
				got := make([]byte, len(want))
				io.ReadFull(accept(slow{c, patience - time.Second}), got)
				read <- got
			})
			if n, err := conn.Write(want); n != len(want) || err != nil {
				t.Errorf("wrote %d bytes: %v", n, err)
			}
			if got := <-read; !bytes.Equal(got, want) {
				t.Errorf("read %q", got)
			}
		})
	}
}

func TestPatienceWithDeadline(t *testing.T) {
	for name, set := range map[string]func(net.Conn, time.Time) error{
		"SetWriteDeadline": net.Conn.SetWriteDeadline,
		"SetDeadline":      net.Conn.SetDeadline,
	} {
		inBubble(t, name, func(t *testing.T) {
			conn := dialImpatient(t, "mqtt://host", nil, func(c net.Conn) { io.Copy(io.Discard, slow{c, time.Second}) })
			began := time.Now()
			wantAfter := func(what string, n int, after time.Duration) {
				t.Helper()
				got, err := conn.Write(make([]byte, 1000))
				if got != n || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != after {
					t.Errorf("%s: %d bytes, after %v: %v", what, got, time.Since(began), err)
				}
			}
			check(t, set(conn, began.Add(5500*time.Millisecond)))
			wantAfter("before the patience ends", 5, 5500*time.Millisecond)
			check(t, set(conn, began.Add(30500*time.Millisecond)))
			wantAfter("after it", 25, 30500*time.Millisecond)
			time.AfterFunc(time.Second, func() { set(conn, time.Now()) })
			check(t, set(conn, time.Time{}))
			wantAfter("set during a write", 1, 31500*time.Millisecond)
			check(t, set(conn, time.Time{}))
			if n, err := conn.Write(make([]byte, 100)); n != 100 || err != nil {
				t.Errorf("without a deadline: %d bytes, %v", n, err)
			}
		})
	}
}

// SetDeadline and SetReadDeadline bound reads, which know no patience.
func TestReadDeadline(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		conn := dialImpatient(t, "mqtt://host", nil, func(c net.Conn) { time.Sleep(time.Hour) })
		for _, set := range []func(time.Time) error{conn.SetDeadline, conn.SetReadDeadline} {
			began := time.Now()
			check(t, set(began.Add(time.Minute)))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		}
	})
}

func TestCloseWriteOfANetworkThatCannot(t *testing.T) {
	conn := dialImpatient(t, "mqtt://host", nil, func(net.Conn) {})
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
