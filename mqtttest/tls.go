package mqtttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"time"
)

// Authority is a certificate authority, made on the fly. Its methods may be called concurrently.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey

	mu     sync.Mutex // guards serial
	serial int64
}

// NewAuthority returns an authority that nobody trusts yet: for a test in which a client trusts another authority than the
// broker's.
func NewAuthority() *Authority {
	a := &Authority{key: newKey(), serial: 1}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(a.serial),
		Subject:               pkix.Name{CommonName: "mqtttest authority"},
		NotBefore:             validFrom,
		NotAfter:              validUntil,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	must(err)
	a.certificate, err = x509.ParseCertificate(der)
	must(err)
	return a
}

// Certificates are valid whenever a test plays, in virtual time too.
var (
	validFrom  = time.Unix(0, 0)
	validUntil = time.Date(2199, time.December, 31, 0, 0, 0, 0, time.UTC)
)

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return key
}

// must panics on an error that only a mistake in the test or here can cause.
func must(err error) {
	if err != nil {
		panic("mqtttest: " + err.Error())
	}
}

// Pool returns a pool of this authority alone, to be trusted.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// PEM returns the authority's certificate as a file has it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// Certificate returns a new certificate for localhost, 127.0.0.1 and ::1, which is good for servers and for clients. change may
// change what it says:
//
//	expired := authority.Certificate(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
//	billing := authority.Certificate(func(c *x509.Certificate) { c.Subject.CommonName = "billing" })
func (a *Authority) Certificate(change ...func(*x509.Certificate)) tls.Certificate {
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: a.nextSerial(),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    validFrom,
		NotAfter:     validUntil,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *Authority) nextSerial() *big.Int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serial++
	return big.NewInt(a.serial)
}

// PEM returns a certificate and its key as two files have them, for programs that are told the names of files.
func PEM(c tls.Certificate) (certificate, key []byte) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Authority returns the authority that has signed the broker's certificate, and that the broker trusts if it asks clients
// for theirs.
func (b *Broker) Authority() *Authority { return b.authority() }

// ClientTLS returns a new configuration for a client: it trusts the broker, and has a certificate that the broker trusts.
func (b *Broker) ClientTLS() *tls.Config {
	a := b.Authority()
	return &tls.Config{RootCAs: a.Pool(), Certificates: []tls.Certificate{a.Certificate()}, MinVersion: tls.VersionTLS12}
}

// ServerTLS changes the TLS configuration of the broker, to ask clients for a certificate, or to show another one:
//
//	mqtttest.ServerTLS(func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert })
//	mqtttest.ServerTLS(func(c *tls.Config) { c.Certificates = []tls.Certificate{expired} })
//
// change is called once, when the configuration is first needed. Of the broker's methods it may call only Authority.
func ServerTLS(change func(*tls.Config)) Option {
	return func(s *settings) {
		before := s.changeTLS
		s.changeTLS = func(c *tls.Config) {
			if before != nil {
				before(c)
			}
			change(c)
		}
	}
}

// newServerTLS makes the TLS configuration of settings.
func (b *Broker) newServerTLS(change func(*tls.Config)) *tls.Config {
	a := b.Authority()
	config := &tls.Config{Certificates: []tls.Certificate{a.Certificate()}, ClientCAs: a.Pool(), MinVersion: tls.VersionTLS12}
	if change != nil {
		change(config)
	}
	return config
}
