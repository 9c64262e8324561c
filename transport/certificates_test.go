package transport_test

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

func TestCertificates(t *testing.T) {
	folder := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(folder, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, data, 0o600))
		return path
	}
	one, two, other := mqtttest.NewAuthority(), mqtttest.NewAuthority(), mqtttest.NewAuthority()
	client, client2 := issue(one, "client"), issue(one, "client 2")
	both := append(bytes.Clone(one.PEM()), two.PEM()...)
	file("cas/1.pem", one.PEM())
	file("cas/2.pem", two.PEM())
	file("cas/README", []byte("no certificate"))
	file("cas/folder/3.pem", other.PEM())
	cas := filepath.Join(folder, "cas")
	certPEM, keyPEM := mqtttest.PEM(client)
	certPEM2, keyPEM2 := mqtttest.PEM(client2)
	crt, key := file("client.crt", certPEM), file("client.key", keyPEM)
	joined := file("joined.pem", append(bytes.Clone(certPEM), keyPEM...))
	junk := file("junk", []byte("junk"))
	check(t, os.Mkdir(filepath.Join(folder, "empty"), 0o700))

	for name, c := range map[string]struct {
		from  transport.Certificates
		roots []*mqtttest.Authority
		own   *tls.Certificate
		err   string
	}{
		"none":                  {},
		"a CA file":             {from: transport.Certificates{CAFile: file("one.pem", one.PEM())}, roots: []*mqtttest.Authority{one}},
		"a file of two":         {from: transport.Certificates{CAFile: file("both.pem", both)}, roots: []*mqtttest.Authority{one, two}},
		"a folder":              {from: transport.Certificates{CAFile: cas}, roots: []*mqtttest.Authority{one, two}},
		"CA data":               {from: transport.Certificates{CAData: both}, roots: []*mqtttest.Authority{one, two}},
		"a folder and data":     {from: transport.Certificates{CAFile: cas, CAData: other.PEM()}, roots: []*mqtttest.Authority{one, two, other}},
		"files":                 {from: transport.Certificates{CertFile: crt, KeyFile: key}, own: &client},
		"one file":              {from: transport.Certificates{CertFile: joined}, own: &client},
		"data":                  {from: transport.Certificates{CertData: certPEM, KeyData: keyPEM}, own: &client},
		"files before data":     {from: transport.Certificates{CertFile: joined, CertData: certPEM2, KeyData: keyPEM2}, own: &client},
		"an absent CA file":     {from: transport.Certificates{CAFile: filepath.Join(folder, "absent")}, err: "CA certificates: "},
		"no CA in a file":       {from: transport.Certificates{CAFile: junk}, err: "none in PEM form"},
		"no CA in a folder":     {from: transport.Certificates{CAFile: filepath.Join(folder, "empty")}, err: "none in PEM form"},
		"no CA in data":         {from: transport.Certificates{CAData: []byte("junk")}, err: "none in PEM form"},
		"an absent certificate": {from: transport.Certificates{CertFile: filepath.Join(folder, "absent")}, err: "client certificate: "},
		"an absent key":         {from: transport.Certificates{CertFile: crt, KeyFile: filepath.Join(folder, "absent")}, err: "client certificate: "},
		"another's key":         {from: transport.Certificates{CertData: certPEM, KeyData: keyPEM2}, err: "does not match"},
		"no key":                {from: transport.Certificates{CertData: certPEM}, err: "client certificate: "},
	} {
		t.Run(name, func(t *testing.T) {
			before := tls.Config{RootCAs: other.Pool(), Certificates: []tls.Certificate{client2}}
			config := before.Clone()
			err := c.from.Apply(config)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v does not say %q", err, c.err)
				}
				return
			}
			check(t, err)
			want := before.Clone()
			if c.roots != nil {
				want.RootCAs = c.roots[0].Pool()
				for _, p := range c.roots[1:] {
					want.RootCAs.AppendCertsFromPEM(p.PEM())
				}
			}
			if c.own != nil {
				want.Certificates = []tls.Certificate{*c.own}
			}
			if !config.RootCAs.Equal(want.RootCAs) {
				t.Error("other CAs")
			}
			if got := config.Certificates; len(got) != 1 || !bytes.Equal(got[0].Certificate[0], want.Certificates[0].Certificate[0]) {
				t.Error("another client certificate")
			}
		})
	}
}
