//go:build !race

// The race detector allocates.

package mqtt_test

import (
	"testing"

	"github.com/petrel-mqtt/mqtt"
)

// Nothing is allocated for a message at QoS 0, and at QoS 1 the slice of options
// alone, which escapes through the interface.
func TestPublishAllocations(t *testing.T) {
	eachVersion(t, func(version string, c benchClient) {
		for range 10_000 { // let the buffers grow
			c.publishQoS0()
		}
		if n := testing.AllocsPerRun(10_000, func() { c.publishQoS0() }); n > 0 {
			t.Errorf("%s: %v allocations for a message at QoS 0", version, n)
		}
		if n := testing.AllocsPerRun(1000, func() { c.publish(mqtt.AtLeastOnce) }); n > 1 {
			t.Errorf("%s: %v allocations for a message at QoS 1", version, n)
		}
	})
}

// At most two allocations for a message received.
func TestReceiveAllocations(t *testing.T) {
	eachFlood(t, func(name string, sub *mqtt.Subscription) {
		messages := sub.Messages()
		for range 10_000 { // let the buffers grow
			<-messages
		}
		if n := testing.AllocsPerRun(20_000, func() { <-messages }); n > 2 {
			t.Errorf("%s: %v allocations for a message", name, n)
		}
	})
}

// A request costs three allocations: its key, and the payload and correlation data of the reply, which are the caller's.
func TestRequestAllocations(t *testing.T) {
	request := requestBench(t)
	for range 1000 { // let the buffers grow
		if err := request(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { request() }); n > 3 {
		t.Errorf("%v allocations for a request", n)
	}
}
