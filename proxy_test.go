package mqtt_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

func proxyURL(t *testing.T, text string) *url.URL {
	u, err := url.Parse(text)
	noErr(t, err)
	return u
}

// A proxy is dialled as WithDialer says, its refusals are tried again, also 403, which is not the server's word, and its
// password shows nowhere.
func TestWithProxy(t *testing.T) {
	for _, answer := range []string{"403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"} {
		synctest.Test(t, func(t *testing.T) {
			dial := func(_ context.Context, network, address string) (net.Conn, error) {
				if network != "tcp" || address != "proxy:3128" {
					t.Errorf("dials %s %s", network, address)
				}
				client, server := net.Pipe()
				go func() {
					defer server.Close()
					server.Read(make([]byte, 1000))
					io.WriteString(server, "HTTP/1.1 "+answer+"\r\nContent-Length: 0\r\n\r\n")
				}()
				return client, nil
			}
			attempts := 0
			_, err := mqtt.NewClient(t.Context(), "mqtt://broker", mqtt.WithDialer(dial), mqtt.WithConnectRetry(),
				mqtt.WithProxy(proxyURL(t, "http://user:secret@proxy:3128")),
				mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
					if attempts++; f.Permanent || attempts == 3 {
						return 0, f.Err
					}
					return f.Delay, nil
				}}))
			var failed *mqtt.ConnectError
			var proxy *transport.ProxyError
			if !errors.As(err, &failed) || !errors.As(err, &proxy) || !strings.Contains(err.Error(), answer) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v", err)
			}
			if attempts != 3 {
				t.Errorf("%d attempts", attempts)
			}
			synctest.Wait()
		})
	}
}

func TestWithoutProxy(t *testing.T) {
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	synctest.Test(t, func(t *testing.T) {
		for _, opts := range []mqtt.Options{nil, {mqtt.WithProxy(nil)}} {
			c, err := mqtt.NewClient(t.Context(), "mqtt://broker", mqtt.WithDialer(mqtttest.NewBroker(t).DialContext), opts)
			noErr(t, err)
			noErr(t, c.Close())
		}
	})
}

func TestNetworkOptionsRefused(t *testing.T) {
	dial := mqtt.WithDialer(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("was dialled") })
	for _, c := range []struct {
		opts mqtt.Options
		want string
	}{
		{mqtt.Options{mqtt.WithProxy(proxyURL(t, "ftp://user:secret@proxy"))}, `WithProxy: transport: proxy ftp://***@proxy: unknown scheme "ftp"`},
		{mqtt.Options{mqtt.WithTCPUserTimeout(0)}, "WithTCPUserTimeout: 0s is less than 1 ms"},
		{mqtt.Options{mqtt.WithTCPUserTimeout(time.Second), dial}, "WithTCPUserTimeout: it cannot go with WithDialer"},
	} {
		if _, err := mqtt.NewClient(t.Context(), "mqtt://broker", c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v does not say %q", err, c.want)
		}
	}
}

func TestWithTCPUserTimeout(t *testing.T) {
	c, err := mqtt.NewClient(t.Context(), mqtttest.NewBroker(t).Listen(), mqtt.WithTCPUserTimeout(time.Minute))
	if runtime.GOOS != "linux" {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
		return
	}
	noErr(t, err)
	noErr(t, c.Close())
}
