package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/transport"
)

// The schemes of servers that an option is for.
var (
	secureSchemes    = []string{"mqtts", "wss"}
	webSocketSchemes = []string{"ws", "wss"}
)

// WithTLS sets the TLS configuration for servers of the schemes mqtts and wss. It is cloned, never changed. TLS 1.2 is
// the least that is spoken, whatever it says.
//
// What it leaves empty has sensible values: ServerName is the host of the URL, RootCAs are the system's, and NextProtos
// (ALPN) is "mqtt" for mqtts on port 443. AWS IoT wants "x-amzn-mqtt-ca" there for client certificates. Without a
// ClientSessionCache the client resumes TLS sessions, except where the server could take it for who it was before: not
// with another client certificate, and not with GetClientCertificate.
//
// WithTLSFiles, WithCAData and WithCertificateData add to it, in any order. An attempt function sees the result.
func WithTLS(t *tls.Config) Option {
	return option(func(c *config) error {
		if t == nil {
			return errors.New("mqtt: WithTLS: nil")
		}
		c.tls = t.Clone()
		return c.forSchemes("WithTLS", secureSchemes)
	})
}

// WithTLSFiles names files in PEM form: the certificates that the server's must go back to, or a folder of such files,
// in place of the system's; the client's certificate; and its key. "" leaves one out; a certificate without a key file
// has the key in the same file. They are read at every attempt to connect, so that files which are replaced while the
// client runs take effect; a file that is missing is an attempt that fails.
func WithTLSFiles(ca, certificate, key string) Option {
	return option(func(c *config) error {
		if key != "" && certificate == "" {
			return errors.New("mqtt: WithTLSFiles: a key without a certificate")
		}
		f := c.ownCertificates()
		f.CAFile, f.CertFile, f.KeyFile = ca, certificate, key
		return c.forSchemes("WithTLSFiles", secureSchemes)
	})
}

// WithCAData sets the certificates that the server's must go back to, in PEM form, in place of the system's. Those of
// WithTLSFiles come on top.
func WithCAData(pem []byte) Option {
	return option(func(c *config) error {
		c.ownCertificates().CAData = slices.Clone(pem)
		return c.checkCertificates("WithCAData", transport.Certificates{CAData: pem})
	})
}

// WithCertificateData sets the client's certificate and its key, in PEM form.
func WithCertificateData(certificate, key []byte) Option {
	return option(func(c *config) error {
		d := c.ownCertificates()
		d.CertData, d.KeyData = slices.Clone(certificate), slices.Clone(key)
		return c.checkCertificates("WithCertificateData", transport.Certificates{CertData: certificate, KeyData: key})
	})
}

// WithHeader sets fields of the request for a WebSocket, of the schemes ws and wss: authorisation, cookies, or Host. h is
// cloned. For a token that expires, set Attempt.Header in an attempt function. The fields of the WebSocket handshake
// itself are not allowed.
func WithHeader(h http.Header) Option {
	return option(func(c *config) error {
		c.header = h.Clone()
		return c.forSchemes("WithHeader", webSocketSchemes)
	})
}

// WithProxy connects through a proxy: a URL of scheme http or https, which is asked with CONNECT, or socks5; its user name
// and password are for the proxy. nil means none. The names of servers are for the proxy to look up. An https proxy must
// be one that the TLS options trust, and gets no client certificate. It is dialled as WithDialer says.
//
// Without this option the environment says, as for net/http: HTTPS_PROXY for mqtts and wss, HTTP_PROXY for mqtt and ws,
// ALL_PROXY for what these leave open, and NO_PROXY. It does not with WithDialer, nor for unix and localhost.
func WithProxy(proxy *url.URL) Option {
	return option(func(c *config) (err error) {
		if c.dialer.Proxy, err = transport.ProxyURL(proxy); err != nil {
			return fmt.Errorf("mqtt: WithProxy: %w", err)
		}
		return nil
	})
}

// WithTCPUserTimeout sets how long what was sent may stay unacknowledged by the other system before TCP gives the
// connection up (TCP_USER_TIMEOUT), at least 1 ms. Without it Linux takes some 15 minutes, but the keep alive is faster.
// It is for Linux: on other systems the constructor fails with errors.ErrUnsupported. It cannot go with WithDialer.
func WithTCPUserTimeout(d time.Duration) Option {
	return option(func(c *config) error {
		c.dialer.UserTimeout = d
		switch {
		case d < time.Millisecond:
			return fmt.Errorf("mqtt: WithTCPUserTimeout: %v is less than 1 ms", d)
		case !transport.UserTimeoutSupported:
			return fmt.Errorf("mqtt: WithTCPUserTimeout: %w on %s", errors.ErrUnsupported, runtime.GOOS)
		}
		return nil
	})
}

// ownCertificates returns those that options have set, to be changed.
func (c *config) ownCertificates() *transport.Certificates {
	if c.certificates == nil {
		c.certificates = new(transport.Certificates)
	}
	return c.certificates
}

// checkCertificates finds mistakes in data while the caller's stack still shows whose they are.
func (c *config) checkCertificates(name string, data transport.Certificates) error {
	if len(data.CAData)+len(data.CertData) == 0 {
		return fmt.Errorf("mqtt: %s: empty", name)
	}
	if err := data.Apply(new(tls.Config)); err != nil {
		return fmt.Errorf("mqtt: %s: %w", name, err)
	}
	return c.forSchemes(name, secureSchemes)
}

// schemeOption is an option that is of no use unless a server's URL has one of some schemes.
type schemeOption struct {
	name    string
	schemes []string
}

func (c *config) forSchemes(name string, schemes []string) error {
	c.schemeOptions = append(c.schemeOptions, schemeOption{name, schemes})
	return nil
}

// checkTransport refuses options that would have no effect: a client that was given certificates and a URL of scheme
// mqtt would talk in the clear. An attempt function may change the URL.
func (c *config) checkTransport() error {
	for _, o := range c.schemeOptions {
		fits := func(u *url.URL) bool { return slices.Contains(o.schemes, u.Scheme) }
		if c.attemptFunc == nil && !slices.ContainsFunc(c.servers, fits) {
			return fmt.Errorf("mqtt: %s: no server has a URL of scheme %s or %s", o.name, o.schemes[0], o.schemes[1])
		}
	}
	if c.dialer.UserTimeout != 0 && c.dialer.NetDial != nil {
		return errors.New("mqtt: WithTCPUserTimeout: it cannot go with WithDialer, which makes the connections")
	}
	return nil
}

// isSecure reports whether connections to a server are encrypted.
func isSecure(u *url.URL) bool { return slices.Contains(secureSchemes, u.Scheme) }

// tlsConfig makes the TLS configuration of an attempt.
func (c *config) tlsConfig() (*tls.Config, error) {
	t := c.tls.Clone()
	if t == nil {
		t = new(tls.Config)
	}
	if c.certificates == nil {
		return t, nil
	}
	return t, c.certificates.Apply(t)
}
