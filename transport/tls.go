package transport

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/url"
	"strings"
)

// secure is a TLS connection.
type secure struct{ *tls.Conn }

// Close drops the connection at once. It is CloseWrite that says goodbye: to write here could mean to wait for a peer
// that takes nothing.
func (c *secure) Close() error { return c.NetConn().Close() }

// handshake makes a TLS connection of conn.
func handshake(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return &secure{c}, nil
}

// tlsConfig completes a clone of d.TLS for a server.
func (d *Dialer) tlsConfig(server *url.URL) *tls.Config {
	c := d.TLS.Clone()
	if c == nil {
		c = new(tls.Config)
	}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if c.ServerName == "" {
		c.ServerName, _, _ = strings.Cut(server.Hostname(), "%") // a zone is no part of a name
	}
	if c.NextProtos == nil {
		c.NextProtos = protocols(server)
	}
	if c.ClientSessionCache == nil && d.Sessions != nil && c.GetClientCertificate == nil && c.VerifyPeerCertificate == nil {
		c.ClientSessionCache = sessions{d.Sessions, identity(c.Certificates)}
	}
	return c
}

// protocols returns what is negotiated where the application says nothing. On port 443 a server needs to be told that
// this is not HTTP.
func protocols(server *url.URL) []string {
	switch {
	case server.Scheme == "wss":
		return []string{"http/1.1"}
	case server.Port() == "443":
		return []string{"mqtt"}
	}
	return nil
}

// sessions is a cache of sessions that began with the same client certificates. A server may take who resumes a session
// for who began it.
type sessions struct {
	cache    tls.ClientSessionCache
	identity string
}

func (s sessions) Get(key string) (*tls.ClientSessionState, bool) {
	return s.cache.Get(s.identity + key)
}
func (s sessions) Put(key string, cs *tls.ClientSessionState) { s.cache.Put(s.identity+key, cs) }

// identity tells client certificates apart.
func identity(certificates []tls.Certificate) string {
	h := sha256.New()
	for i := range certificates {
		if chain := certificates[i].Certificate; len(chain) > 0 {
			h.Write(chain[0])
		}
	}
	return string(h.Sum(nil))
}
