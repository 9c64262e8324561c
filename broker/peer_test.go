package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// peer is the other end of a connection, packet by packet.
type peer struct {
	t       *testing.T
	conn    net.Conn
	version codec.Version
}

// dial connects without CONNECT.
func dial(t *testing.T, b *Broker, v codec.Version) *peer {
	t.Helper()
	c, err := net.Dial("tcp", b.Addr("default").String())
	check(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &peer{t, c, v}
}

// join connects, and returns the CONNACK too.
func join(t *testing.T, b *Broker, v codec.Version, connect *codec.Connect) (*peer, *codec.Connack) {
	t.Helper()
	p := dial(t, b, v)
	p.send(connect)
	return p, receive[*codec.Connack](p)
}

func (p *peer) send(packets ...codec.Packet) {
	p.t.Helper()
	var bytes []byte
	for _, packet := range packets {
		var err error
		bytes, err = packet.Append(bytes, p.version)
		check(p.t, err)
	}
	_, err := p.conn.Write(bytes)
	check(p.t, err)
}

// receive reads the next packet, which must be of type P.
func receive[P codec.Packet](p *peer) P {
	p.t.Helper()
	packet, err := codec.ReadPacket(p.conn, p.version, 1<<20)
	check(p.t, err)
	got, ok := packet.(P)
	if !ok {
		p.t.Fatalf("got %T %+v", packet, packet)
	}
	return got
}

// ended reads until the connection ends: with a reset if the broker has not waited for all that was sent.
func (p *peer) ended() {
	p.t.Helper()
	for {
		packet, err := codec.ReadPacket(p.conn, p.version, 1<<20)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			p.conn.Close()
			return
		}
		check(p.t, err)
		p.t.Errorf("got %T %+v before the end", packet, packet)
	}
}

// quiet checks that nothing is on its way from the broker: the next packet is an answer to PINGREQ.
func (p *peer) quiet() {
	p.t.Helper()
	p.send(&codec.Pingreq{})
	receive[*codec.Pingresp](p)
}

func (p *peer) subscribe(id uint16, qos byte, filters ...string) *codec.Suback {
	p.t.Helper()
	s := &codec.Subscribe{PacketID: id}
	for _, f := range filters {
		s.Filters = append(s.Filters, codec.SubscribeFilter{Filter: f, QoS: qos})
	}
	p.send(s)
	return receive[*codec.Suback](p)
}

// certificates are files of an authority, a server on loopback, and a client.
type certificates struct {
	ca, cert, key         string
	clientCert, clientKey string
	pool                  *x509.CertPool
}

// makeCertificates writes new ones into a folder.
func makeCertificates(t *testing.T, dir string) certificates {
	t.Helper()
	c := certificates{pool: x509.NewCertPool()}
	ca, caKey := issue(t, nil, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	c.pool.AddCert(ca)
	c.ca = writePEM(t, dir, "ca.pem", "CERTIFICATE", ca.Raw)
	pair := func(name string, template *x509.Certificate) (string, string) {
		cert, key := issue(t, ca, caKey, template)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		check(t, err)
		return writePEM(t, dir, name+".pem", "CERTIFICATE", cert.Raw), writePEM(t, dir, name+".key", "PRIVATE KEY", der)
	}
	c.cert, c.key = pair("server", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	c.clientCert, c.clientKey = pair("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return c
}

func issue(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: fmt.Sprint("petrel test ", template.SerialNumber)}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return cert, key
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, filepath.Join(dir, name), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (c certificates) client(t *testing.T, withCertificate bool) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: c.pool, ServerName: "localhost"}
	if withCertificate {
		pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
		check(t, err)
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}
