package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/transport"
)

// run starts a program, which is killed when the test is over, and waits until it listens on the port.
func run(t *testing.T, port int, program string, args ...string) {
	cmd := exec.Command(program, args...)
	check(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	awaitListener(t, port, exited)
}

// startTinyproxy starts an HTTP proxy that wants the user "user" with the password "secret", and returns its host:port.
func startTinyproxy(t *testing.T) string {
	port := freeport.Take(t)
	config := filepath.Join(t.TempDir(), "tinyproxy.conf")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "Port %d\nListen 127.0.0.1\nTimeout 60\nBasicAuth user secret\n", port), 0o600))
	run(t, port, find(t, "tinyproxy"), "-d", "-c", config)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// startMicrosocks starts a SOCKS proxy that wants the same.
func startMicrosocks(t *testing.T) string {
	port := freeport.Take(t)
	run(t, port, find(t, "microsocks"), "-i", "127.0.0.1", "-p", fmt.Sprint(port), "-u", "user", "-P", "secret")
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// via is a proxy's URL.
func via(scheme, user, password, address string) mqtt.Option {
	u := &url.URL{Scheme: scheme, Host: address}
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	return mqtt.WithProxy(u)
}

// Each scheme goes through each kind of proxy.
func TestProxies(t *testing.T) {
	server := startFortress(t)
	proxies := map[string]string{"http": startTinyproxy(t), "socks5": startMicrosocks(t)}
	for scheme, address := range proxies {
		for _, name := range []string{"mqtt", "mqtts", "mqtts with a client certificate", "ws", "wss"} {
			for _, v := range versions {
				t.Run(fmt.Sprintf("%s/%s/%s", scheme, name, v.name), func(t *testing.T) {
					ctx := within(t)
					e := server.endpoints[name].withOptions(via(scheme, "user", "secret", address))
					c, err := v.connect(ctx, e.url, e.opts...)
					check(t, err)
					defer c.Close()
					sub, err := c.Subscribe(ctx, "proxied", mqtt.AtLeastOnce)
					check(t, err)
					check(t, c.Publish(ctx, "proxied", []byte(name), mqtt.AtLeastOnce))
					if got := next(t, ctx, sub); got != name {
						t.Errorf("got %q", got)
					}
					check(t, c.Disconnect(ctx))
				})
			}
		}
	}
}

// Whatever is wrong with a proxy is an error of its type, within the deadline.
func TestProxiesRefuse(t *testing.T) {
	server := startMosquitto(t)
	tiny, socks := startTinyproxy(t), startMicrosocks(t)
	nobody := fmt.Sprintf("127.0.0.1:%d", freeport.Take(t))
	soon := mqtt.WithConnectTimeout(2 * time.Second) // for what hangs
	hang, err := net.Listen("tcp", "127.0.0.1:0")    // takes connections and says nothing
	check(t, err)
	t.Cleanup(func() { hang.Close() })
	var socksFailure transport.SOCKSError
	for name, c := range map[string]struct {
		server string
		opts   mqtt.Options
		status int // of an UpgradeError
		want   any // for errors.As; nil: no more than a ProxyError
		is     error
	}{
		"HTTP, no credentials":  {server.url(), mqtt.Options{via("http", "", "", tiny)}, http.StatusProxyAuthRequired, nil, nil},
		"HTTP, wrong password":  {server.url(), mqtt.Options{via("http", "user", "wrong", tiny)}, http.StatusUnauthorized, nil, nil},
		"HTTP, no server":       {"mqtt://" + nobody, mqtt.Options{via("http", "user", "secret", tiny)}, http.StatusInternalServerError, nil, nil},
		"SOCKS, no credentials": {server.url(), mqtt.Options{via("socks5", "", "", socks)}, 0, nil, nil},
		"SOCKS, wrong password": {server.url(), mqtt.Options{via("socks5", "user", "wrong", socks)}, 0, nil, nil},
		"SOCKS, no server":      {"mqtt://" + nobody, mqtt.Options{via("socks5", "user", "secret", socks)}, 0, &socksFailure, nil},
		"HTTP that is SOCKS":    {server.url(), mqtt.Options{via("http", "user", "secret", socks)}, 0, nil, nil},
		"SOCKS that is HTTP":    {server.url(), mqtt.Options{via("socks5", "user", "secret", tiny), soon}, 0, nil, nil},
		"no proxy":              {server.url(), mqtt.Options{via("http", "user", "secret", nobody)}, 0, new(*net.OpError), nil},
		"HTTP that hangs":       {server.url(), mqtt.Options{via("http", "user", "secret", hang.Addr().String()), soon}, 0, nil, context.DeadlineExceeded},
		"HTTP with TLS, hangs":  {server.url(), mqtt.Options{via("https", "user", "secret", hang.Addr().String()), soon}, 0, nil, context.DeadlineExceeded},
		"SOCKS that hangs":      {server.url(), mqtt.Options{via("socks5", "user", "secret", hang.Addr().String()), soon}, 0, nil, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := mqtt.NewClient(within(t), c.server, c.opts)
			if err == nil {
				client.Close()
				t.Fatal("connects")
			}
			var failed *mqtt.ConnectError
			var proxy *transport.ProxyError
			var refused *transport.UpgradeError
			switch {
			case !errors.As(err, &failed), !errors.As(err, &proxy), errors.As(err, &refused) != (c.status != 0),
				refused != nil && refused.StatusCode != c.status,
				c.want != nil && !errors.As(err, c.want), c.is != nil && !errors.Is(err, c.is):
				t.Errorf("error %v", err)
			default:
				t.Log(err)
			}
		})
	}
}

// The environment says which proxy. To 0.0.0.0, which is this machine too, the way is not always direct.
func TestProxyOfTheEnvironment(t *testing.T) {
	server := startMosquitto(t)
	address := fmt.Sprintf("mqtt://0.0.0.0:%d", server.port)
	socks := startMicrosocks(t)
	t.Setenv("ALL_PROXY", "socks5://user:secret@"+socks)
	c, err := mqtt.NewClient(within(t), address)
	check(t, err)
	check(t, c.Close())
	t.Setenv("ALL_PROXY", "socks5://user:wrong@"+socks)
	if _, err = mqtt.NewClient(within(t), address); !errors.As(err, new(*transport.ProxyError)) {
		t.Errorf("error %v", err)
	}
	c, err = mqtt.NewClient(within(t), address, mqtt.WithProxy(nil))
	check(t, err)
	check(t, c.Close())
}
