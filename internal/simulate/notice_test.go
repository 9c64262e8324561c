package simulate_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// step is a packet that passes by the witness.
type step struct {
	outbound bool
	packet   codec.Packet
}

// The witness notices what a client does wrong, and does not blame it for what faults have done.
func TestWitness(t *testing.T) {
	connect := step{false, &codec.Connect{Version: codec.V5, ClientID: "c0", Properties: codec.ConnectProperties{SessionExpiry: ptr(uint32(3600))}}}
	begun, resumed := step{true, &codec.Connack{}}, step{true, &codec.Connack{SessionPresent: true}}
	first, second := publishes("c0/p0/q1", 1, 0, false), publishes("c0/p0/q1", 2, 1, false)
	for _, c := range []struct {
		name  string
		steps []step
		want  string // part of the complaint; "": there is none
	}{
		{"in order", []step{connect, begun, first, second}, ""},
		{"out of order", []step{connect, begun, second, first}, "leaves after a later one"},
		{"out of order in the next connection", []step{connect, begun, second, connect, resumed, first}, "leaves after a later one"},
		{"sent again", []step{connect, begun, first, second, connect, resumed, publishes("c0/p0/q1", 1, 0, true)}, ""},
		{"afresh in a new session", []step{connect, begun, first, second, connect, begun, first, second}, ""},
		{"out of order in a new session", []step{connect, begun, first, second, connect, begun, second, first}, "leaves after a later one"},
		{"everything is lost that was sent in the new session", []step{connect, begun, first, second, connect, begun, connect, resumed, first}, ""},
		{"what nobody has published", []step{connect, begun, publishes("c0/p0/q1", 1, 7, false)}, "nobody has asked for"},
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

// The witness says that the members of a shared subscription have lost a message, except where one may have been given it that is
// gone without a word.
func TestWitnessOfShares(t *testing.T) {
	connect := func(clean bool) step {
		p := &codec.Connect{Version: codec.V5, CleanStart: clean, Properties: codec.ConnectProperties{SessionExpiry: ptr(uint32(3600))}}
		return step{false, p}
	}
	begun, busy := step{true, &codec.Connack{}}, step{true, &codec.Connack{Code: codec.ServerBusy}}
	joins := []step{connect(true), begun,
		{false, &codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: sharedFilter, QoS: 1}}}},
		{true, &codec.Suback{PacketID: 1, Codes: []codec.ReasonCode{codec.GrantedQoS1}}},
	}
	for _, c := range []struct {
		name  string
		steps []step // of c0, after it has joined
		lost  bool   // the witness says so
	}{
		{"it is there", nil, true},
		{"its CONNECT is refused", []step{connect(true), busy}, true},
		{"it has a new session", []step{connect(true), begun}, true},
		{"it has a new session after a CONNECT without an answer", []step{connect(true), connect(true), begun}, true},
		{"its CONNECT has no answer", []step{connect(true)}, false},
		{"two have none", []step{connect(true), connect(true)}, false},
		{"one has none, and the next is refused", []step{connect(true), connect(true), busy}, false},
		{"one has none, and the next, which is to go on with the session, is refused", []step{connect(true), connect(false), busy}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				found := &complaints{TB: t}
				s := newSimulation(found, 1)
				s.clients = []*simulated{{s: s, id: "c0", mortal: true}, {s: s, id: "c1", mortal: true}}
				p := &publisher{client: s.clients[1], name: "c1/p0"}
				p.add(&published{publisher: p, topic: "c1/p0/q1", qos: mqtt.AtLeastOnce})
				play := func(clientID string, steps ...step) {
					for _, step := range steps {
						time.Sleep(time.Second)
						s.witness.see(0, clientID, step.outbound, step.packet)
					}
				}
				play("c0", joins...)
				play("c1", joins...)
				play("c0", c.steps...)
				play("c1", publishes("c1/p0/q1", 2, 0, false), step{true, &codec.Puback{PacketID: 2}})
				s.messages = s.witness.messages()
				s.checkShare(0, sharedFilter)
				if all := strings.Join(found.found, "\n"); strings.Contains(all, "are lost") != c.lost {
					t.Errorf("the witness says %q; it says that a message is lost: want %v", all, c.lost)
				}
			})
		})
	}
}

// publishes is the PUBLISH of a message by its number.
func publishes(topic string, id uint16, number int, dup bool) step {
	m := &published{number: number}
	return step{false, &codec.Publish{PacketID: id, QoS: 1, Dup: dup, Topic: topic, Payload: m.payload()}}
}

func ptr[T any](v T) *T { return &v }
