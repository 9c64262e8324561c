package interop

import (
	"context"
	"crypto/tls"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	paho5 "github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/petrel-mqtt/mqtt/broker"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// startPetrelBroker starts Petrel's own broker with every kind of listener, and returns their URLs and how to trust them.
func startPetrelBroker(t *testing.T) (urls []string, trust *tls.Config) {
	authority, dir := mqtttest.NewAuthority(), t.TempDir()
	certificate, key := mqtttest.PEM(authority.Certificate())
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, content := range map[string][]byte{certFile: certificate, keyFile: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := broker.DefaultConfig()
	config.Listeners = nil
	for _, kind := range []string{"tcp", "ws"} {
		l := broker.Listener{Name: kind, Type: kind, Bind: "127.0.0.1:0"}
		config.Listeners = append(config.Listeners, l)
		l.Name, l.SSL, l.CertFile, l.KeyFile = kind+" with TLS", true, certFile, keyFile
		config.Listeners = append(config.Listeners, l)
	}
	b, err := broker.New(config)
	if err == nil {
		err = b.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b.URLs(), &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
}

// Clients that are not Petrel's, by every transport: Mosquitto's programs have no WebSocket before 2.1.
func TestOtherClients(t *testing.T) {
	urls, trust := startPetrelBroker(t)
	for _, u := range urls {
		scheme, _, _ := strings.Cut(u, ":")
		t.Run(scheme+"/3.1.1", func(t *testing.T) { pahoV311(t, u, trust) })
		t.Run(scheme+"/5.0", func(t *testing.T) { pahoV5(t, u, trust) })
	}
}

// pahoV311 sends a message at each QoS to the client itself.
func pahoV311(t *testing.T, server string, trust *tls.Config) {
	wait := func(token paho3.Token) {
		t.Helper()
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatalf("%T: %v", token, token.Error())
		}
	}
	c := paho3.NewClient(paho3.NewClientOptions().AddBroker(server).SetTLSConfig(trust).SetClientID("paho").SetProtocolVersion(4))
	wait(c.Connect())
	defer c.Disconnect(1000)
	got := make(chan paho3.Message, 3)
	wait(c.Subscribe("paho/+", 2, func(_ paho3.Client, m paho3.Message) { got <- m }))
	for qos := range byte(3) {
		wait(c.Publish("paho/trip", qos, false, "round"))
		select {
		case m := <-got:
			if m.Topic() != "paho/trip" || string(m.Payload()) != "round" || m.Qos() != qos {
				t.Errorf("QoS %d: got %+v", qos, m)
			}
		case <-time.After(patience):
			t.Fatalf("QoS %d: nothing came", qos)
		}
	}
}

// pahoV5 is pahoV311 for MQTT 5, with a property.
func pahoV5(t *testing.T, server string, trust *tls.Config) {
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan *paho5.Publish, 3)
	c, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, TlsCfg: trust, KeepAlive: 30, CleanStartOnInitialConnection: true,
		ClientConfig: paho5.ClientConfig{
			ClientID: "paho5",
			OnPublishReceived: []func(paho5.PublishReceived) (bool, error){func(p paho5.PublishReceived) (bool, error) {
				got <- p.Packet
				return true, nil
			}},
		},
	})
	if err == nil {
		err = c.AwaitConnection(ctx)
	}
	if err == nil {
		_, err = c.Subscribe(ctx, &paho5.Subscribe{Subscriptions: []paho5.SubscribeOptions{{Topic: "paho5/+", QoS: 2}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	for qos := range byte(3) {
		_, err := c.Publish(ctx, &paho5.Publish{
			Topic: "paho5/trip", Payload: []byte("round"), QoS: qos, Properties: &paho5.PublishProperties{ContentType: "text/plain"},
		})
		if err != nil {
			t.Fatalf("QoS %d: %v", qos, err)
		}
		select {
		case m := <-got:
			if m.Topic != "paho5/trip" || string(m.Payload) != "round" || m.QoS != qos || m.Properties.ContentType != "text/plain" {
				t.Errorf("QoS %d: got %+v", qos, m)
			}
		case <-ctx.Done():
			t.Fatalf("QoS %d: nothing came", qos)
		}
	}
	if err := c.Disconnect(ctx); err != nil {
		t.Error(err)
	}
}
