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
	insecure               bool
	alpn                   []string
	serverName             string
	keyLog                 string
}

// tlsNames are the flags by which a server without URL is one that speaks TLS.
var tlsNames = []string{"ca-file", "ca-path", "ca-data", "cert", "key", "insecure", "alpn", "servername", "keylog"}

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
	if !t.insecure && t.alpn == nil && t.serverName == "" && t.keyLog == "" {
		return nil
	}
	c := &tls.Config{InsecureSkipVerify: t.insecure, NextProtos: t.alpn, ServerName: t.serverName}
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
