// Package transport turns the URL of a server into a connection to it. It knows nothing of MQTT's packets.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Dialer dials the servers of mqtt (TCP), mqtts (TLS), ws and wss (WebSocket) and unix URLs. The zero value is ready to use. Its methods may be
// called concurrently; its fields must not change meanwhile.
type Dialer struct {
	// NetDial makes the network connection, through an in-memory network for example. The network is "tcp" and the
	// address a host:port, with an IPv6 address in brackets, or the network is "unix" and the address a path. If it is
	// nil, a net.Dialer with its defaults does it: keep-alive and no-delay are on for TCP. Of the addresses of a host's
	// name one more is tried every 250 ms, and at once after a failure; the first connection that is made is used.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)

	// TLS is cloned for each connection of a scheme with TLS; nil means the zero Config. TLS 1.2 is the least,
	// whatever it says. What it leaves empty comes from the URL: the server name, and the protocols to negotiate
	// (ALPN), "mqtt" for mqtts on port 443 and "http/1.1" for wss.
	TLS *tls.Config

	// Sessions keeps TLS sessions, so that a later connection can resume them, where TLS has no cache of its own. A
	// session is resumed only with the client certificates that it began with, so not at all if GetClientCertificate
	// chooses them, nor if VerifyPeerCertificate is to see the server's. nil: sessions are not resumed.
	Sessions tls.ClientSessionCache

	// Header goes into the request for a WebSocket upgrade. The fields of the upgrade itself are not allowed in it.
	Header http.Header

	// Proxy chooses the proxy for a server of any scheme but unix: a URL of scheme http or https, which is asked with
	// CONNECT, or socks5. A user name and password in it are for the proxy. nil means none. The name of the server is
	// for the proxy to look up. An https proxy is verified with TLS's RootCAs, and gets no client certificate. It may be
	// called concurrently. If it is nil, the environment says (see ProxyFromEnvironment), or there is none where NetDial
	// makes the network.
	Proxy func(server *url.URL) (*url.URL, error)

	// UserTimeout is how long data may stay unacknowledged before the system gives a TCP connection up
	// (TCP_USER_TIMEOUT), at least 1 ms; 0 leaves that to the system. It is for Linux, and without NetDial: on other
	// systems every dial fails with errors.ErrUnsupported.
	UserTimeout time.Duration

	// Addresses remembers addresses that accept connections which then come to nothing. nil: nothing is remembered.
	// It has no effect with NetDial.
	Addresses *Addresses

	// Patience is how long the peer may accept no byte of a Write before that fails with os.ErrDeadlineExceeded. A Write
	// that makes progress, however slow, does not fail. 0: there is no bound.
	Patience time.Duration
}

// Dial connects to server, a URL as ParseURL describes. A URL without a port means the default port of its scheme. The
// user name and password are not used here.
//
// The ctx bounds all of it together: dial, proxy, TLS handshake and WebSocket upgrade. When it ends first, Dial fails with an
// error that says so. It has no effect on the connection, which belongs to the caller. Other errors are those of
// NetDial, package net and crypto/tls, *ProxyError and *UpgradeError. No error contains the password or the query of the
// URL, or the password of a proxy.
//
// One goroutine may read from the connection while others write. Close drops it at once. CloseWrite, where the
// connection has that method, tells the peer before that no more will come. With TLS and WebSocket a deadline that has
// ended a Read or Write has ended the connection.
//
// A WebSocket has the subprotocol mqtt and carries bytes in binary frames, wherever one ends. An end that the server
// gives a reason for is an error that tells it, any other io.EOF. A URL without a path means /mqtt.
func (d *Dialer) Dial(ctx context.Context, server *url.URL) (net.Conn, error) {
	u, err := normalise(server)
	if err != nil {
		return nil, fmt.Errorf("transport: server %s: %w", shown(server.Redacted()), err)
	}
	conn, err := d.reach(ctx, u)
	if err == nil && schemes[u.Scheme].tls {
		conn, err = step(ctx, conn, "TLS handshake", func() (net.Conn, error) {
			return handshake(ctx, conn, d.tlsConfig(u))
		})
	}
	if err == nil && schemes[u.Scheme].webSocket {
		conn, err = step(ctx, conn, "WebSocket upgrade", func() (net.Conn, error) {
			return upgrade(ctx, conn, u, d.Header)
		})
	}
	return conn, err
}

// reach makes the network connection, through a proxy where there is one.
func (d *Dialer) reach(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Scheme == "unix" {
		return d.netDial(ctx, "unix", u.Path)
	}
	proxy, err := d.proxyFor(u)
	switch {
	case err != nil:
		return nil, fmt.Errorf("choosing a proxy: %w", err)
	case proxy != nil:
		return d.through(ctx, proxy, address(u))
	}
	return d.netDial(ctx, "tcp", address(u))
}

func (d *Dialer) netDial(ctx context.Context, network, address string) (net.Conn, error) {
	dial := d.NetDial
	if dial == nil {
		var nd net.Dialer
		if d.UserTimeout > 0 && network == "tcp" {
			nd.Control = userTimeout(d.UserTimeout)
		}
		dial = nd.DialContext
		if network == "tcp" {
			dial = func(ctx context.Context, _, address string) (net.Conn, error) { return d.dialAny(ctx, &nd, address) }
		}
	}
	conn, err := dial(ctx, network, address)
	if err != nil || d.Patience == 0 {
		return conn, err
	}
	return &patient{Conn: conn, patience: d.Patience}, nil
}

// step runs f, which makes another connection of conn. It closes conn if f fails, and to stop f when ctx ends.
func step(ctx context.Context, conn net.Conn, name string, f func() (net.Conn, error)) (net.Conn, error) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		close(closed)
	})
	next, err := f()
	var refused *UpgradeError
	if !stop() {
		<-closed
		if !errors.As(err, &refused) {
			err = ctx.Err()
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return next, nil
}
