package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// Where flags without a URL lead.
func TestAddress(t *testing.T) {
	for _, c := range []struct {
		flags  string
		secure bool
		want   string // as ParseURL has it
	}{
		{"--host h", false, "mqtt://h"},
		{"--host h", true, "mqtts://h"},
		{"--port 1884", false, "mqtt://localhost:1884"},
		{"--host 10.0.0.1 --port 1", false, "mqtt://10.0.0.1:1"},
		{"--host ::1", false, "mqtt://[::1]"},
		{"--host [::1]", false, "mqtt://[::1]"},
		{"--host [::1] --port 1884", false, "mqtt://[::1]:1884"},
		{"--host fe80::1%eth0", false, "mqtt://[fe80::1%25eth0]"},
		{"--host fe80::1%eth0 --port 1884", true, "mqtts://[fe80::1%25eth0]:1884"},
		{"--host [fe80::1%eth0] --port 1884", false, "mqtt://[fe80::1%25eth0]:1884"},
		{"--host h --protocol wss --path /x/y", false, "wss://h/x/y"},
		{"--protocol ws", false, "ws://localhost"},
		{"--unix /run/a~b.sock", false, "unix:///run/a%20b.sock"},
		{"--unix a.sock", false, "unix:a.sock"},
	} {
		var s serverFlags
		g := s.group(new(string))
		if err := g.Parse(words(c.flags)); err != nil {
			t.Fatal(err)
		}
		got, err := s.address(c.secure)
		if err != nil {
			t.Fatalf("%s: %v", c.flags, err)
		}
		if u, err := transport.ParseURL(got); err != nil || u.String() != c.want {
			t.Errorf("%s: %s, which is %v, %v; want %s", c.flags, got, u, err, c.want)
		}
	}
	for _, flags := range []string{"--host [::1", "--host ::1]", "--host h/x", "--host h?x", "--host u@h"} {
		var s serverFlags
		g := s.group(new(string))
		if err := g.Parse(words(flags)); err != nil {
			t.Fatal(err)
		}
		got, err := s.address(false)
		if err == nil {
			_, err = transport.ParseURL(got)
		}
		if err == nil {
			t.Errorf("%s: no error, and %s", flags, got)
		}
	}
}

// passwords are those of the CONNECTs that a broker gets.
func passwords(b *mqtttest.Broker) func() []string {
	var mu sync.Mutex
	var seen []string
	b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
		mu.Lock()
		defer mu.Unlock()
		if c, ok := p.(*codec.Connect); ok {
			seen = append(seen, string(c.Password))
		}
		return true
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// The password changes at the server, and a moment later in the file: the client comes back.
func TestPasswordFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\nmore\n"), 0o600); err != nil {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		seen := passwords(b)
		write("old")
		go func() {
			time.Sleep(time.Second)
			b.Refuse(-1, 0x87)
			b.Cut()
			time.Sleep(5 * time.Second)
			write("new")
			b.Refuse(0, 0)
			time.Sleep(time.Minute)
			b.Publish(text("a", "x"))
		}()
		r := run(t.Context(), b, "", words("sub -t a -q 1 -n 1 -u me --reconnect-max-interval 1 --password-file "+file)...)
		all := seen()
		if r.code != exitOK || r.out != "x\n" || all[0] != "old" || all[len(all)-1] != "new" || !strings.Contains(r.errors, "WARN trying again") {
			t.Errorf("%+v, passwords %q", r, all)
		}
	})
	// At the start a wrong password is an error.
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		b.Refuse(-1, 0x87)
		if r := run(t.Context(), b, "", words("sub -t a -u me --password-file "+file)...); r.code != exitConnection || !strings.Contains(r.errors, "not authorized") && !strings.Contains(r.errors, "Not authorized") {
			t.Errorf("%+v", r)
		}
	})
}

// A refusal ends a client, unless it is told to go on.
func TestRetryRefused(t *testing.T) {
	for flags, want := range map[string]int{"": exitConnection, "--retry-refused": exitOK} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				time.Sleep(time.Second)
				b.Refuse(3, 0x87)
				b.Cut()
				select {
				case <-time.After(10 * time.Minute):
					b.Publish(text("a", "x"))
				case <-ctx.Done():
				}
			}()
			if r := run(t.Context(), b, "", append(words("sub -t a -n 1 -u me -P secret"), words(flags)...)...); r.code != want {
				t.Errorf("%s: %+v", flags, r)
			}
			cancel()
			synctest.Wait()
		})
	}
}
