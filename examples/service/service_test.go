package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// world is the service with a broker in memory, in virtual time.
type world struct {
	*testing.T
	broker  *mqtttest.Broker
	service *service
	tell    func() // the service to stop
	ended   chan error
}

// test runs f with a service that works.
func test(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, broker: mqtttest.NewBroker(t), ended: make(chan error, 1)}
		var err error
		w.service, err = newService("mqtt://test", mqtt.WithDialer(w.broker.DialContext), mqtt.WithClientID("billing-1"))
		w.check(err)
		defer w.service.client.Close()
		told, tell := context.WithCancel(t.Context())
		defer tell()
		w.tell = tell
		go func() { w.ended <- w.service.run(told) }()
		w.check(w.broker.AwaitSubscription(t.Context(), "$share/billing/services/price"))
		synctest.Wait()
		f(w)
	})
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// order publishes an order.
func (w *world) order(number, what string) {
	w.broker.Publish(mqtttest.Message{Topic: "orders/" + number, Payload: []byte(what), QoS: 1})
}

// get returns what the HTTP server answers.
func (w *world) get(path string) (code int, body string) {
	r := httptest.NewRecorder()
	w.service.handler().ServeHTTP(r, httptest.NewRequest("GET", path, nil))
	return r.Code, r.Body.String()
}

// An order whose bill gets lost with the connection is billed after it, and is acknowledged then and not before.
func TestBillsThroughACut(t *testing.T) {
	test(t, func(w *world) {
		w.broker.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
		w.order("7", "owls")
		bills := w.broker.Await(w.Context(), "bills/7", 1)
		if len(bills) == 0 || string(bills[0].Payload) != "12" || bills[0].Properties.ContentType != "text/plain" {
			t.Errorf("bills: %+v", bills)
		}
		w.check(w.service.client.WaitConnected(w.Context()))
		time.Sleep(time.Minute)
		if left := w.broker.Unacknowledged("billing-1"); len(left) != 0 {
			t.Errorf("not acknowledged: %+v", left)
		}
		if _, metrics := w.get("/metrics"); !strings.Contains(metrics, "mqtt_connection_losses_total 1\n") ||
			!strings.Contains(metrics, "billing_orders_billed_total 1\n") {
			t.Errorf("metrics:\n%s", metrics)
		}
	})
}

// What cannot be billed goes to another topic with the reason, and holds up nobody.
func TestDeadLetter(t *testing.T) {
	test(t, func(w *world) {
		w.order("8", "dragons")
		w.order("9", "cats")
		w.broker.Await(w.Context(), "bills/9", 1)
		dead := w.broker.Await(w.Context(), "dead/orders/8", 1)
		if reason, _ := dead[0].Properties.UserProperties.Get("error"); !strings.Contains(reason, "dragons") {
			t.Errorf("the reason: %q", reason)
		}
	})
}

// A refused bill is tried again, and counted.
func TestRefusedBill(t *testing.T) {
	test(t, func(w *world) {
		w.broker.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 2, Reason: byte(mqtt.QuotaExceeded)})
		w.order("7", "toads")
		w.broker.Await(w.Context(), "bills/7", 1)
		synctest.Wait()
		if failed := w.service.failed.Load(); failed != 2 {
			t.Errorf("%d failed attempts, want 2", failed)
		}
	})
}

func TestPrices(t *testing.T) {
	test(t, func(w *world) {
		customer, err := mqtt.NewClient(w.Context(), "mqtt://test", mqtt.WithDialer(w.broker.DialContext))
		w.check(err)
		defer customer.Close()
		reply, err := customer.Request(w.Context(), "services/price", []byte("owls"))
		if err != nil || string(reply.Payload) != "12" {
			t.Errorf("%s, %v", reply.Payload, err)
		}
		var failed *mqtt.ResponseError
		if _, err = customer.Request(w.Context(), "services/price", []byte("dragons")); !errors.As(err, &failed) {
			t.Errorf("%v, want a *ResponseError", err)
		}
	})
}

// A service that is told to stop finishes the order that it has, and says that it is not ready.
func TestDrain(t *testing.T) {
	test(t, func(w *world) {
		if code, body := w.get("/readyz"); code != 200 {
			t.Errorf("ready: %d %s", code, body)
		}
		remove := w.broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
		w.order("7", "owls")
		w.broker.Await(w.Context(), "bills/7", 1)
		w.tell()
		synctest.Wait()
		select {
		case err := <-w.ended:
			t.Fatalf("it has ended with an order in its hands: %v", err)
		default:
		}
		remove()
		w.check(<-w.ended)
		if code, _ := w.get("/readyz"); code != 503 {
			t.Errorf("ready after the end: %d", code)
		}
		if left := w.broker.Unacknowledged("billing-1"); len(left) != 0 {
			t.Errorf("not acknowledged: %+v", left)
		}
	})
}
