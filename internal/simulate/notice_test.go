package simulate_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// complaints keeps what the simulation finds, so that a test can compare it.
type complaints struct {
	testing.TB
	found []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

// step is a packet that passes by the witness. Its client is c0.
type step struct {
	outbound bool
	packet   codec.Packet
}

// The witness notices what a client does wrong, and does not blame it for what faults have done.
func TestWitness(t *testing.T) {
	connect := step{false, &codec.Connect{Version: codec.V5, ClientID: "c0", Properties: codec.ConnectProperties{SessionExpiry: ptr(uint32(3600))}}}
	begun, resumed := step{true, &codec.Connack{}}, step{true, &codec.Connack{SessionPresent: true}}
	first, second := publishes(1, 0, false), publishes(2, 1, false)
	for _, c := range []struct {
		name  string
		steps []step
		want  string // part of the complaint; "": there is none
	}{
		{"in order", []step{connect, begun, first, second}, ""},
		{"out of order", []step{connect, begun, second, first}, "leaves after a later one"},
		{"out of order in the next connection", []step{connect, begun, second, connect, resumed, first}, "leaves after a later one"},
		{"sent again", []step{connect, begun, first, second, connect, resumed, publishes(1, 0, true)}, ""},
		{"afresh in a new session", []step{connect, begun, first, second, connect, begun, first, second}, ""},
		{"out of order in a new session", []step{connect, begun, first, second, connect, begun, second, first}, "leaves after a later one"},
		{"everything is lost that was sent in the new session", []step{connect, begun, first, second, connect, begun, connect, resumed, first}, ""},
		{"what nobody has published", []step{connect, begun, publishes(1, 7, false)}, "nobody has asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				found := &complaints{TB: t}
				s := newSimulation(found, 1)
				p := &publisher{client: &simulated{s: s, id: "c0", version: codec.V5}, name: "c0/p0"}
				for range 2 {
					p.add(&published{publisher: p, topic: "c0/p0/q1", qos: mqtt.AtLeastOnce})
				}
				for _, step := range c.steps {
					s.witness.see(0, "c0", step.outbound, step.packet)
				}
				switch all := strings.Join(found.found, "\n"); {
				case c.want == "" && all != "":
					t.Errorf("the witness complains: %s", all)
				case !strings.Contains(all, c.want):
					t.Errorf("the witness says %q, want %q", all, c.want)
				}
			})
		})
	}
}

// publishes is the PUBLISH of a message by its number.
func publishes(id uint16, number int, dup bool) step {
	m := &published{number: number}
	return step{false, &codec.Publish{PacketID: id, QoS: 1, Dup: dup, Topic: "c0/p0/q1", Payload: m.payload()}}
}

func ptr[T any](v T) *T { return &v }
