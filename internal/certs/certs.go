// Package certs makes certificates for tests.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificates are valid from the one to the other, so in the virtual time of testing/synctest as well.
var (
	notBefore = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Pair is a certificate with its key, both in PEM form.
type Pair struct {
	Certificate, Key []byte

	x509 *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a certificate that can issue others.
func NewAuthority(tb testing.TB) *Pair {
	tb.Helper()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Petrel's test authority"},
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	return issue(tb, template, nil)
}

// Issue makes a certificate for a server of these hosts, names or addresses, or for a client.
func (p *Pair) Issue(tb testing.TB, name string, hosts ...string) *Pair {
	tb.Helper()
	return issue(tb, leaf(name, hosts), p)
}

// IssueExpired makes one that was valid once.
func (p *Pair) IssueExpired(tb testing.TB, name string, hosts ...string) *Pair {
	tb.Helper()
	template := leaf(name, hosts)
	template.NotAfter = notBefore.Add(time.Hour)
	return issue(tb, template, p)
}

func leaf(name string, hosts []string) *x509.Certificate {
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, host)
		}
	}
	return c
}

// issue signs a certificate; issuer is nil for one that signs itself.
func issue(tb testing.TB, template *x509.Certificate, issuer *Pair) *Pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	template.NotBefore = notBefore
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	check(tb, err)
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.x509, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	check(tb, err)
	p := &Pair{key: key}
	p.x509, err = x509.ParseCertificate(der)
	check(tb, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(tb, err)
	p.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return p
}

// TLS returns the pair for a tls.Config.
func (p *Pair) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	c, err := tls.X509KeyPair(p.Certificate, p.Key)
	check(tb, err)
	return c
}

// Pool returns a pool with the certificate.
func (p *Pair) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.x509)
	return pool
}

// Files writes the pair to two files of a folder, in place of what they held.
func (p *Pair) Files(tb testing.TB, folder, name string) (certificate, key string) {
	tb.Helper()
	certificate, key = filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key")
	check(tb, os.WriteFile(certificate, p.Certificate, 0o600))
	check(tb, os.WriteFile(key, p.Key, 0o600))
	return certificate, key
}

// Joined returns certificate and key as the text of one file.
func (p *Pair) Joined() []byte { return bytes.Join([][]byte{p.Certificate, p.Key}, nil) }

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
