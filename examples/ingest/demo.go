package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// demonstrate runs two instances of the service with a broker in memory. The connection of one breaks, the other is stopped
// in order, and all readings are there. A service has no use for this file.
func demonstrate(told context.Context) error {
	dir, err := os.MkdirTemp("", "ingest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := openStore(filepath.Join(dir, "readings.db"))
	if err != nil {
		return err
	}
	defer store.close()
	broker := mqtttest.New()
	defer broker.Close()

	start := func(name string) (stop func() error, err error) {
		s, err := newService(store, "mqtt://memory", mqtt.WithDialer(broker.DialContext), mqtt.WithClientID(name))
		if err != nil {
			return nil, err
		}
		told, tell := context.WithCancel(told)
		ended := make(chan error, 1)
		go func() { ended <- s.run(told) }()
		return func() error { tell(); return <-ended }, s.awaitReady(told)
	}
	stop1, err := start("ingest-1")
	if err != nil {
		return err
	}
	stop2, err := start("ingest-2")
	if err != nil {
		return err
	}
	const sensors, each = 10, 300
	measure := func(sensor, n int) {
		at := time.Date(2026, 1, 2, 3, 0, n, 0, time.UTC).Format(time.RFC3339)
		broker.Publish(mqtttest.Message{
			Topic: fmt.Sprintf("sensors/%d/reading", sensor), QoS: 1, Payload: fmt.Appendf(nil, `{"at":%q,"value":%d}`, at, 20+n%5),
		})
	}
	for n := range each {
		for sensor := range sensors {
			measure(sensor, n)
		}
		switch n {
		case each / 3:
			slog.Info("a connection breaks")
			broker.Cut("ingest-1")
		case 2 * each / 3:
			if err := stop1(); err != nil {
				return err
			}
		}
	}
	if err := stop2(); err != nil {
		return err
	}
	var stored int
	if err := store.db.QueryRow(`SELECT count(*) FROM readings`).Scan(&stored); err != nil {
		return err
	}
	fmt.Printf("%d of %d readings are stored\n", stored, sensors*each)
	if stored != sensors*each {
		return fmt.Errorf("%d readings are lost", sensors*each-stored)
	}
	return nil
}

// awaitReady waits until the service is ready.
func (s *service) awaitReady(ctx context.Context) error {
	for s.ready() != nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
