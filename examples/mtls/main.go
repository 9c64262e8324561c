// Mtls connects with a client certificate, and goes on with a new one when its files are replaced.
//
//	go run ./examples/mtls
//	go run ./examples/mtls -server mqtts://broker:8883 -ca ca.pem -cert client.pem -key client.key
//
// Without -server a broker in this program serves, on a port of this machine, with certificates made on the fly.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "", "`URL` of the server; without it a broker in this program serves")
	ca := flag.String("ca", "", "`file` or folder with the certificates that the server's must go back to; empty: the system's")
	certificate := flag.String("cert", "", "`file` with the client's certificate")
	key := flag.String("key", "", "`file` with its key; empty: the same file")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	if *server == "" {
		err = demonstrate(ctx)
	} else {
		err = run(ctx, *server, *ca, *certificate, *key, nil)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run publishes a message, replaces the client's certificate, if there is a way to, and publishes another.
func run(ctx context.Context, server, ca, certificate, key string, replace func() error) error {
	client, err := mqtt.NewClient(ctx, server, mqtt.WithTLSFiles(ca, certificate, key))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Publish(ctx, "petrel/mtls", []byte("hello"), mqtt.AtLeastOnce); err != nil {
		return err
	}
	fmt.Println("published with a client certificate to", server)
	if replace != nil {
		if err := replace(); err != nil {
			return err
		}
		if err := client.Reconnect(ctx); err != nil { // or whenever the connection is lost
			return err
		}
		if err := client.Publish(ctx, "petrel/mtls", []byte("hello again"), mqtt.AtLeastOnce); err != nil {
			return err
		}
		fmt.Println("published with the next one")
	}
	return client.Disconnect(ctx)
}

// demonstrate runs a broker that asks for certificates, and a client that has one.
func demonstrate(ctx context.Context) error {
	broker := mqtttest.New(mqtttest.ServerTLS(func(c *tls.Config) {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.VerifyConnection = func(s tls.ConnectionState) error {
			fmt.Println("the broker sees the certificate of", s.PeerCertificates[0].Subject.CommonName)
			return nil
		}
	}))
	defer broker.Close()
	folder, err := os.MkdirTemp("", "petrel-mtls-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := func(name string) string { return filepath.Join(folder, name) }
	issue := func(name string) error {
		certificate, key := mqtttest.PEM(broker.Authority().Certificate(func(c *x509.Certificate) { c.Subject.CommonName = name }))
		if err := os.WriteFile(file("client.pem"), certificate, 0o600); err != nil {
			return err
		}
		return os.WriteFile(file("client.key"), key, 0o600)
	}
	if err := os.WriteFile(file("ca.pem"), broker.Authority().PEM(), 0o600); err != nil {
		return err
	}
	if err := issue("billing, first year"); err != nil {
		return err
	}
	next := func() error { return issue("billing, second year") }
	return run(ctx, broker.ListenTLS(), file("ca.pem"), file("client.pem"), file("client.key"), next)
}
