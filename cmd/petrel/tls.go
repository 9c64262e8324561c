package main

import (
	"crypto/tls"
	"os"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/transport"
)

// tlsFlags say whom to trust, and how to prove who the client is.
type tlsFlags struct {
	caFile, caPath, caData string
	cert, key              string
	insecure, systemRoots  bool
	version                choice
	keyForm                choice
	alpn                   []string
	serverName             string
	keyLog                 string
}

// tlsNames are the flags by which a server without URL is one that speaks TLS.
var tlsNames = []string{"ca-file", "ca-path", "ca-data", "cert", "key", "insecure", "alpn", "servername", "keylog", "tls-version", "tls-use-os-certs", "keyform"}

func (t *tlsFlags) group() *group {
	g := newGroup("TLS")
	g.StringVar(&t.caFile, "ca-file", "", "PEM `FILE` of certificate authorities to trust, in place of the system's")
	g.StringVar(&t.caPath, "ca-path", "", "`FOLDER` of such files")
	g.StringVar(&t.caData, "ca-data", "", "such `CERTIFICATES` themselves")
	g.StringVar(&t.cert, "cert", "", "PEM `FILE` of the client's certificate")
	g.StringVar(&t.key, "key", "", "PEM `FILE` of its key (default the same file)")
	g.BoolVar(&t.insecure, "insecure", false, "trust any server: anybody in between can read and change everything")
	g.StringSliceVar(&t.alpn, "alpn", nil, "application `PROTOCOL` to negotiate; may be repeated")
	g.StringVar(&t.serverName, "servername", "", "`HOST` that the server's certificate is for (default the URL's)")
	g.StringVar(&t.keyLog, "keylog", "", "append the session keys to a `FILE`, to decrypt recorded traffic with")
	t.version = choice{words: []string{"tlsv1.2", "tlsv1.3"}}
	g.Var(&t.version, "tls-version", "the only version to speak, in place of both")
	// Mosquitto's: what they ask for is always so.
	t.keyForm = choice{words: []string{"pem"}}
	g.Var(&t.keyForm, "keyform", "how the key is written")
	g.BoolVar(&t.systemRoots, "tls-use-os-certs", false, "trust the system's certificate authorities")
	g.Lookup("keyform").Hidden, g.Lookup("tls-use-os-certs").Hidden = true, true
	return g
}

// given reports whether any of the flags was given.
func (t *tlsFlags) given(changed func(string) bool) bool {
	for _, name := range tlsNames {
		if changed(name) {
			return true
		}
	}
	return false
}

func (t *tlsFlags) options(o *options, given func(string) bool, server string) error {
	for _, name := range tlsNames {
		if u, err := transport.ParseURL(server); given(name) && err == nil && u.Scheme != "mqtts" && u.Scheme != "wss" {
			return usagef("--%s is for TLS, which %s:// is not: give a URL of mqtts:// or wss://", name, u.Scheme)
		}
	}
	if t.key != "" && t.cert == "" {
		return usagef("--key needs --cert")
	}
	for name, path := range map[string]string{"ca-file": t.caFile, "ca-path": t.caPath, "cert": t.cert, "key": t.key} {
		if err := mustExist("--"+name, path); path != "" && err != nil {
			return err
		}
	}
	if ca := t.caFile + t.caPath; ca != "" || t.cert != "" {
		o.add(mqtt.WithTLSFiles(ca, t.cert, t.key))
	}
	if t.caData != "" {
		o.add(mqtt.WithCAData([]byte(t.caData)))
	}
	if t.systemRoots && t.caFile+t.caPath+t.caData != "" {
		return usagef("--tls-use-os-certs trusts the system's authorities, and --ca-file, --ca-path and --ca-data others in their place")
	}
	if !t.insecure && t.alpn == nil && t.serverName == "" && t.keyLog == "" && t.version.word == "" {
		return nil
	}
	c := &tls.Config{InsecureSkipVerify: t.insecure, NextProtos: t.alpn, ServerName: t.serverName}
	if t.version.word != "" {
		c.MinVersion = map[string]uint16{"tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13}[t.version.word]
		c.MaxVersion = c.MinVersion
	}
	if t.keyLog != "" {
		file, err := os.OpenFile(t.keyLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return usagef("--keylog: %w", err)
		}
		c.KeyLogWriter = file // open until the program ends
	}
	o.add(mqtt.WithTLS(c))
	return nil
}
