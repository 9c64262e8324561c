package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/transport"
)

// listen accepts one connection, answers its first four bytes with themselves, and closes it.
func listen(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return // the test has failed to dial
		}
		defer conn.Close()
		io.CopyN(conn, conn, 4)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr()
}

func echo(t *testing.T, d *transport.Dialer, server string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := d.Dial(ctx, parse(t, server))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel() // bounds the dial only
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "ping" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func parse(t *testing.T, server string) *url.URL {
	t.Helper()
	u, err := transport.ParseURL(server)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestDialTCP(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	echo(t, new(transport.Dialer), "tcp://user:secret@"+addr.String())
}

func TestDialUnix(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "petrel") // the name of a socket is short: t.TempDir may be longer, and TMPDIR
	if errors.Is(err, fs.ErrNotExist) {
		dir, err = os.MkdirTemp("", "petrel")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "a b.sock")
	listen(t, "unix", path)
	echo(t, new(transport.Dialer), "unix:"+filepath.ToSlash(strings.ReplaceAll(path, " ", "%20")))
}

func TestDialUsesNetDial(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "value")
	refused := errors.New("refused")
	for _, c := range []struct{ server, network, address string }{
		{"host", "tcp", "host:1883"},
		{"mqtt://[::1]:7", "tcp", "[::1]:7"},
		{"unix:///run/mqtt.sock", "unix", "/run/mqtt.sock"},
	} {
		d := transport.Dialer{NetDial: func(got context.Context, network, address string) (net.Conn, error) {
			if got.Value(key{}) != "value" {
				t.Error("another ctx")
			}
			if network != c.network || address != c.address {
				t.Errorf("%s dials %s %s", c.server, network, address)
			}
			return nil, refused
		}}
		if _, err := d.Dial(ctx, parse(t, c.server)); !errors.Is(err, refused) {
			t.Errorf("%s: %v", c.server, err)
		}
	}
}

func TestDialEndsWithCtx(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, server := range []string{"mqtt://127.0.0.1", "unix:/nowhere"} {
		if conn, err := new(transport.Dialer).Dial(ctx, parse(t, server)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, %v", server, conn, err)
		}
	}
}

func TestDialRefused(t *testing.T) {
	_, err := new(transport.Dialer).Dial(t.Context(), parse(t, fmt.Sprint("mqtt://user:secret@127.0.0.1:", freeport.Take(t))))
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// A URL that does not come from ParseURL is checked as well: without its host it would mean this machine.
func TestDialChecksURL(t *testing.T) {
	d := transport.Dialer{NetDial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("was dialled")
		return nil, errors.New("unreachable")
	}}
	user := url.UserPassword("user", "secret")
	for _, c := range []struct {
		server *url.URL
		want   string
	}{
		{&url.URL{Scheme: "mqtt"}, "host is missing"},
		{&url.URL{Scheme: "mqtt", Host: ":1883", User: user}, "host is missing"},
		{&url.URL{Scheme: "mqtt", Host: "[host]:1883"}, "invalid IPv6 address"},
		{&url.URL{Scheme: "mqtt", Host: "::1"}, "needs brackets"},
		{&url.URL{Scheme: "mqtt", Host: "host", Path: "/secret@", User: user}, "must not have a path"},
		{&url.URL{Scheme: "unix", User: user}, "path is missing"},
		{&url.URL{Scheme: "http", Host: "host", User: user}, `unknown scheme "http"`},
		{&url.URL{}, `unknown scheme ""`},
		{&url.URL{Scheme: "https", Host: "host", RawQuery: "secret"}, `unknown scheme "https"`},
		{&url.URL{Scheme: "ws", Host: "host", RawQuery: "secret\n"}, "needs escaping"}, // out of a file, say
		{&url.URL{Scheme: "ws", Host: "a host", RawQuery: "secret"}, "needs escaping"},
	} {
		_, err := d.Dial(t.Context(), c.server)
		if err == nil || !strings.HasPrefix(err.Error(), "transport: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not say %q", c.server, err, c.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q shows the password", err)
		}
	}
}
