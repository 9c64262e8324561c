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

// The URL schemes to which an option applies.
var (
	secureSchemes    = []string{"mqtts", "wss"}
	webSocketSchemes = []string{"ws", "wss"}
)

// WithTLS sets the TLS configuration for servers of the schemes mqtts and wss. It is cloned, never changed. The lowest
// version is TLS 1.2, whatever MinVersion says.
//
// Empty fields get defaults: ServerName is the host of the URL, RootCAs are the system's, and NextProtos (ALPN) is
// "mqtt" for mqtts on port 443. AWS IoT needs "x-amzn-mqtt-ca" there for client certificates. Without a
// ClientSessionCache the client resumes TLS sessions, except with another client certificate and with
// GetClientCertificate, because the server assumes that whoever resumes a session is the client that started it.
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

// WithTLSFiles names files in PEM form: the certificate authorities that are trusted instead of the system's, or a
// folder of such files; the client's certificate; and its key. "" leaves one out. If only the certificate is given, the
// key is in the same file. The files are read at every attempt to connect, so that a replaced file is used from the
// next attempt on. If a file is missing, the attempt fails.
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

// WithCAData sets the certificate authorities that are trusted instead of the system's, in PEM form. Those of
// WithTLSFiles are trusted in addition.
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

// WithHeader sets header fields of the HTTP request for a WebSocket, with the schemes ws and wss: authorisation,
// cookies, or Host. h is cloned. For a token that expires, set Attempt.Header in an attempt function. The fields of the
// WebSocket handshake itself are not allowed.
func WithHeader(h http.Header) Option {
	return option(func(c *config) error {
		c.header = h.Clone()
		return c.forSchemes("WithHeader", webSocketSchemes)
	})
}

// WithProxy connects through a proxy: a URL with the scheme http or https, for an HTTP proxy that supports CONNECT, or
// socks5. The user name and password of the URL are sent to the proxy. nil means no proxy. The proxy looks up the names
// of servers. The certificate of an https proxy is checked as the TLS options say, and the proxy gets no client
// certificate. The proxy is dialled with the function of WithDialer.
//
// Without this option the environment names the proxy, as for net/http: HTTPS_PROXY for mqtts and wss, HTTP_PROXY for
// mqtt and ws, ALL_PROXY if the other one is not set, and NO_PROXY. The environment is not used with WithDialer, and
// not for unix and localhost.
func WithProxy(proxy *url.URL) Option {
	return option(func(c *config) (err error) {
		if c.dialer.Proxy, err = transport.ProxyURL(proxy); err != nil {
			return fmt.Errorf("mqtt: WithProxy: %w", err)
		}
		return nil
	})
}

// WithTCPUserTimeout sets how long TCP waits for the other system to acknowledge data before it ends the connection
// (TCP_USER_TIMEOUT), at least 1 ms. Without it Linux waits about 15 minutes, and the keep alive ends the connection
// earlier. The option works on Linux; on other systems the constructor returns errors.ErrUnsupported. It cannot be
// combined with WithDialer.
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

// ownCertificates returns the certificates that options have set. The caller may change them.
func (c *config) ownCertificates() *transport.Certificates {
	if c.certificates == nil {
		c.certificates = new(transport.Certificates)
	}
	return c.certificates
}

// checkCertificates finds mistakes in PEM data at once, in the call of the option's user.
func (c *config) checkCertificates(name string, data transport.Certificates) error {
	if len(data.CAData)+len(data.CertData) == 0 {
		return fmt.Errorf("mqtt: %s: empty", name)
	}
	if err := data.Apply(new(tls.Config)); err != nil {
		return fmt.Errorf("mqtt: %s: %w", name, err)
	}
	return c.forSchemes(name, secureSchemes)
}

// schemeOption is an option that has no effect except with certain URL schemes.
type schemeOption struct {
	name    string
	schemes []string
}

func (c *config) forSchemes(name string, schemes []string) error {
	c.schemeOptions = append(c.schemeOptions, schemeOption{name, schemes})
	return nil
}

// checkTransport refuses options that would have no effect: with certificates and a URL of the scheme mqtt a client
// would connect without encryption. With an attempt function it checks nothing, because that may change the URL.
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
