// Package transport turns the URL of a server into a connection to it. It knows nothing of MQTT's packets.
package transport

import (
	"context"
	"fmt"
	"net"
	"net/url"
)

// Dialer dials the servers of mqtt (TCP) and unix URLs. The zero value is ready to use. Its methods may be called
// concurrently; its fields must not change meanwhile.
type Dialer struct {
	// NetDial makes the network connection, through an in-memory network or a proxy for example. The network is "tcp"
	// and the address a host:port, with an IPv6 address in brackets, or the network is "unix" and the address a path.
	// If it is nil, a net.Dialer with its defaults does it: keep-alive and no-delay are on for TCP, and the addresses of
	// a host are tried in turn, IPv4 and IPv6 in parallel.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial connects to server, a URL as ParseURL describes. A URL without a port means the default port of its scheme. The
// user name and password are not used here.
//
// The ctx bounds the dial: when it ends first, Dial fails with an error that says so. It has no effect on the
// connection, which belongs to the caller. Other errors are those of NetDial or package net. No error contains the
// password.
func (d *Dialer) Dial(ctx context.Context, server *url.URL) (net.Conn, error) {
	u, err := normalise(server)
	if err != nil {
		return nil, fmt.Errorf("transport: server %s: %w", shown(server.Redacted()), err)
	}
	switch u.Scheme {
	case "mqtt":
		return d.netDial(ctx, "tcp", address(u))
	case "unix":
		return d.netDial(ctx, "unix", u.Path)
	}
	return nil, fmt.Errorf("transport: scheme %q is not supported", u.Scheme)
}

func (d *Dialer) netDial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.NetDial != nil {
		return d.NetDial(ctx, network, address)
	}
	var nd net.Dialer
	return nd.DialContext(ctx, network, address)
}
