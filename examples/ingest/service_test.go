package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// world is the service with a database in a file, and a broker in memory. Its tests run in virtual time.
type world struct {
	*testing.T
	broker  *mqtttest.Broker
	service *service
	tell    func() // the service to stop
	ended   chan error
}

func start(t *testing.T) *world {
	store, err := openStore(filepath.Join(t.TempDir(), "readings.db"))
	check(t, err)
	t.Cleanup(func() { store.close() })
	w := &world{T: t, broker: mqtttest.NewBroker(t), ended: make(chan error, 1)}
	w.service, err = newService(store, "mqtt://test", mqtt.WithDialer(w.broker.DialContext), mqtt.WithClientID("ingest-1"))
	check(t, err)
	t.Cleanup(func() { w.service.client.Close() })
	told, tell := context.WithCancel(context.Background())
	w.tell = tell
	t.Cleanup(tell)
	go func() { w.ended <- w.service.run(told) }()
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish publishes readings of one sensor.
func (w *world) publish(from, to int) {
	for n := from; n < to; n++ {
		w.send(fmt.Sprintf(`{"at":"2026-01-02T03:%02d:%02dZ","value":%d}`, n/60, n%60, n))
	}
}

func (w *world) send(payload string) {
	w.broker.Publish(mqtttest.Message{Topic: "sensors/7/reading", QoS: 1, Payload: []byte(payload)})
}

func (w *world) want(table string, rows int) {
	w.Helper()
	var got int
	check(w.T, w.service.store.db.QueryRow(`SELECT count(*) FROM `+table).Scan(&got))
	if got != rows {
		w.Errorf("%s has %d rows, want %d", table, got, rows)
	}
}

func (w *world) wantUnacknowledged(n int) {
	w.Helper()
	if got := len(w.broker.Unacknowledged("ingest-1")); got != n {
		w.Errorf("%d messages are not acknowledged, want %d", got, n)
	}
}

func (w *world) wantReady(code int, text string) {
	w.Helper()
	r := httptest.NewRecorder()
	w.service.handler().ServeHTTP(r, httptest.NewRequest("GET", "/readyz", nil))
	if r.Code != code || !strings.Contains(r.Body.String(), text) {
		w.Errorf("/readyz: %d %s, want %d and %q", r.Code, r.Body, code, text)
	}
}

// breakDatabase makes inserts fail, until the function that it returns is called.
func (w *world) breakDatabase() (mend func()) {
	rename := func(from, to string) {
		_, err := w.service.store.db.Exec(`ALTER TABLE ` + from + ` RENAME TO ` + to)
		check(w.T, err)
	}
	rename("readings", "broken")
	return func() { rename("broken", "readings") }
}

// A reading that comes twice is stored once, and what is not a reading is put aside and does not come again.
func TestStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		check(t, w.service.awaitReady(t.Context()))
		w.publish(0, 1200)
		w.publish(0, 10)
		w.send("no reading")
		w.send(`{"at":"2026-01-02T03:04:05Z"}`)
		time.Sleep(time.Second)
		w.want("readings", 1200)
		w.want("rejected", 2)
		w.wantUnacknowledged(0)
		w.tell()
		check(t, <-w.ended)
	})
}

// While the database fails nothing is acknowledged, and /readyz says so; then everything is stored.
func TestAcknowledgedAfterTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		check(t, w.service.awaitReady(t.Context()))
		mend := w.breakDatabase()
		w.publish(0, 50)
		time.Sleep(time.Minute)
		w.wantUnacknowledged(50)
		w.wantReady(http.StatusServiceUnavailable, "the database fails")
		mend()
		time.Sleep(10 * time.Second)
		w.want("readings", 50)
		w.wantUnacknowledged(0)
		w.wantReady(http.StatusOK, "ready")
		w.tell()
		check(t, <-w.ended)
	})
}

// A service that is told to stop stores what it was given, and is given nothing more.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		check(t, w.service.awaitReady(t.Context()))
		mend := w.breakDatabase()
		w.publish(0, 50)
		time.Sleep(time.Second)
		w.tell()
		time.Sleep(time.Second) // it is draining, and the database still fails
		w.publish(50, 60)       // for the others of its group
		mend()
		check(t, <-w.ended)
		w.want("readings", 50)
		w.wantUnacknowledged(0)
		w.wantReady(http.StatusServiceUnavailable, "the client has ended")
	})
}

// A database that fails for good does not keep the service from stopping. It says so, and acknowledges nothing.
func TestDrainRunsOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		check(t, w.service.awaitReady(t.Context()))
		w.breakDatabase()
		w.publish(0, 700) // more than a batch
		time.Sleep(time.Second)
		w.tell()
		told := time.Now()
		if err := <-w.ended; err == nil {
			t.Error("it is content")
		}
		if took := time.Since(told); took > drainTime+time.Second {
			t.Errorf("stopping takes %v", took)
		}
		w.wantUnacknowledged(700) // they come again
	})
}

// The service starts without the server, and says when it is not connected.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		check(t, w.service.awaitReady(t.Context()))
		w.wantReady(http.StatusOK, "ready")
		w.broker.Offline()
		time.Sleep(time.Minute)
		w.wantReady(http.StatusServiceUnavailable, "not connected since")
		w.broker.Online()
		time.Sleep(2 * time.Minute)
		w.wantReady(http.StatusOK, "ready")
		w.tell()
		check(t, <-w.ended)
	})
}

// A client that is connected is not all: the service must have subscribed.
func TestNotReadyBeforeItHasSubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := mqtttest.NewBroker(t)
		s, err := newService(nil, "mqtt://test", mqtt.WithDialer(broker.DialContext))
		check(t, err)
		defer s.client.Close()
		synctest.Wait()
		check(t, s.client.Ready())
		if err := s.ready(); err == nil || err.Error() != "not subscribed yet" {
			t.Errorf("ready: %v", err)
		}
	})
}

// It can be stopped also while it has never been connected.
func TestStoppedBeforeItIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := mqtttest.NewBroker(t)
		broker.Offline()
		s, err := newService(nil, "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithClientID("ingest-1"))
		check(t, err)
		told, tell := context.WithTimeout(t.Context(), time.Minute)
		defer tell()
		s.run(told)
		if s.client.Err() == nil {
			t.Error("the client lives")
		}
	})
}
