package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// proxyPorts are the default ports of the kinds of proxy.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// ProxyError is what went wrong between us and a proxy, or between the proxy and the server. Err is an *UpgradeError if
// an HTTP proxy has refused, and a SOCKSError if a SOCKS proxy has.
type ProxyError struct {
	Proxy string // its URL; neither user name nor password are shown
	Err   error
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }
func (e *ProxyError) Unwrap() error { return e.Err }

// ProxyURL returns a function for Dialer.Proxy that always says this proxy, nil for none. Its scheme must be http, https
// or socks5; socks5h means the same, as the proxy looks up names in any case. The error does not contain its password.
func ProxyURL(proxy *url.URL) (func(server *url.URL) (*url.URL, error), error) {
	if proxy != nil {
		if err := checkProxy(proxy); err != nil {
			return nil, fmt.Errorf("transport: proxy %s: %w", Redact(proxy), err)
		}
		own := *proxy
		proxy = &own
	}
	return func(*url.URL) (*url.URL, error) { return proxy, nil }, nil
}

func checkProxy(proxy *url.URL) error {
	switch {
	case proxyPorts[proxy.Scheme] == "":
		return fmt.Errorf("unknown scheme %q: it must be http, https or socks5", proxy.Scheme)
	case proxy.Hostname() == "":
		return errors.New("the host is missing")
	}
	return nil
}

// proxyFor returns the proxy to use for a server, nil for none.
func (d *Dialer) proxyFor(server *url.URL) (*url.URL, error) {
	choose := d.Proxy
	switch {
	case choose != nil:
	case d.NetDial != nil:
		return nil, nil
	default:
		choose = ProxyFromEnvironment
	}
	proxy, err := choose(server)
	if err == nil && proxy != nil {
		err = checkProxy(proxy)
	}
	return proxy, err
}

// through connects to address, a host:port, through a proxy.
func (d *Dialer) through(ctx context.Context, proxy *url.URL, address string) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = proxyPorts[proxy.Scheme]
	}
	conn, err := d.netDial(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err == nil && proxy.Scheme == "https" {
		conn, err = step(ctx, conn, "TLS handshake", func() (net.Conn, error) {
			return handshake(ctx, conn, d.proxyTLS(proxy))
		})
	}
	if err == nil {
		ask := connect
		if strings.HasPrefix(proxy.Scheme, "socks") {
			ask = socks5
		}
		conn, err = step(ctx, conn, "connecting to "+address, func() (net.Conn, error) {
			return conn, ask(conn, proxy, address)
		})
	}
	if err != nil {
		return nil, &ProxyError{Proxy: Redact(proxy), Err: err}
	}
	return conn, nil
}

// proxyTLS is the configuration for an https proxy. It trusts whom the configuration for servers trusts; the rest of
// that, client certificates above all, is not for proxies.
func (d *Dialer) proxyTLS(proxy *url.URL) *tls.Config {
	c := &tls.Config{ServerName: proxy.Hostname(), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	if d.TLS != nil {
		c.RootCAs = d.TLS.RootCAs
	}
	return c
}

// connect asks an HTTP proxy for a connection (RFC 9110 section 9.3.6).
func connect(conn io.ReadWriter, proxy *url.URL, address string) error {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))
		r.Header.Set("Proxy-Authorization", "Basic "+credentials)
	}
	if err := r.Write(conn); err != nil {
		return err
	}
	secrets := secretsOf(proxy, r.Header)
	in := bufio.NewReader(io.LimitReader(conn, answerSize))
	response, err := http.ReadResponse(in, r)
	switch {
	case err != nil:
		return secrets.hideError(err)
	case response.StatusCode/100 != 2:
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // as much as comes
		return secrets.refusal(proxy, response, body)
	case in.Buffered() > 0:
		return errors.New("the proxy says more than it was asked") // a server says nothing before it hears something
	}
	return nil
}
