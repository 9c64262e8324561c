package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	queue "github.com/eclipse/paho.golang/autopaho/queue/file"
	paho5 "github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/boltstore"
)

// acceptors make clients that are never connected, and keep messages of 100 bytes at QoS 1 in files. They return a publish that
// returns when the message is accepted. Only Petrel's has synced the disk then.
var acceptors = map[string]func(b *testing.B) func(payload []byte) error{
	"Petrel": func(b *testing.B) func([]byte) error { return acceptPetrel(b) },
	"Petrel, synced every 100 ms": func(b *testing.B) func([]byte) error {
		return acceptPetrel(b, boltstore.WithSyncInterval(100*time.Millisecond))
	},
	"paho.golang, file queue":     acceptPaho5,
	"paho.mqtt.golang, FileStore": acceptPaho3,
}

var errOffline = errors.New("there is no network")

func acceptPetrel(b *testing.B, opts ...boltstore.Option) func([]byte) error {
	store, err := boltstore.Open(filepath.Join(b.TempDir(), "store"), opts...)
	if err != nil {
		b.Fatal(err)
	}
	offline := func(context.Context, string, string) (net.Conn, error) { return nil, errOffline }
	c, err := mqtt.NewClient(b.Context(), "mqtt://test", mqtt.WithStore(store), mqtt.WithConnectInBackground(),
		mqtt.WithDialer(offline), mqtt.WithQueue(1<<30, math.MaxInt))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		c.Close()
		store.Close()
	})
	return func(payload []byte) error {
		return c.PublishAsync(context.Background(), "t", payload, mqtt.AtLeastOnce).Err()
	}
}

func acceptPaho5(b *testing.B) func([]byte) error {
	q, err := queue.New(b.TempDir(), "queue", ".msg")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls:        []*url.URL{{Scheme: "mqtt", Host: "test"}},
		Queue:             q,
		ConnectTimeout:    time.Second,
		AttemptConnection: func(context.Context, autopaho.ClientConfig, *url.URL) (net.Conn, error) { return nil, errOffline },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		<-c.Done()
	})
	return func(payload []byte) error {
		return c.PublishViaQueue(ctx, &autopaho.QueuePublish{Publish: &paho5.Publish{Topic: "t", QoS: 1, Payload: payload}})
	}
}

func acceptPaho3(b *testing.B) func([]byte) error {
	o := paho3.NewClientOptions().AddBroker("tcp://test:1883").SetClientID("accept").SetCleanSession(false).SetConnectRetry(true)
	o.SetStore(paho3.NewFileStore(b.TempDir())).SetCustomOpenConnectionFn(func(*url.URL, paho3.ClientOptions) (net.Conn, error) {
		return nil, errOffline
	})
	c := paho3.NewClient(o)
	c.Connect() // and goes on trying
	b.Cleanup(func() { c.Disconnect(0) })
	return func(payload []byte) error {
		token := c.Publish("t", 1, false, payload) // it is in the store when this returns
		select {
		case <-token.Done():
			return token.Error()
		default:
			return nil
		}
	}
}

// BenchmarkAccept measures how many messages publishers, each of which waits for its own, hand over for good without a connection.
// Every client gets 60,000 messages at most, since one of them has no more packet identifiers:
//
//	go -C benchmarks test -run '^$' -bench Accept -benchtime 20000x .
func BenchmarkAccept(b *testing.B) {
	for name, accept := range acceptors {
		for _, publishers := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/%d", name, publishers), func(b *testing.B) {
				publish := accept(b)
				work := make(chan struct{}, publishers)
				var all sync.WaitGroup
				b.ResetTimer()
				for range publishers {
					all.Go(func() {
						for range work {
							if err := publish(make([]byte, 100)); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			})
		}
	}
}
