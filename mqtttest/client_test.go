package mqtttest

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt/codec"
)

// forBoth runs a test in virtual time for each version, with a broker that must see no violation.
func forBoth(t *testing.T, f func(t *testing.T, b *Broker, v codec.Version), opts ...Option) {
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(v.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, NewBroker(t, opts...), v)
			})
		})
	}
}

// forV5 is forBoth for MQTT 5.0 alone.
func forV5(t *testing.T, f func(t *testing.T, b *Broker), opts ...Option) {
	synctest.Test(t, func(t *testing.T) { f(t, NewBroker(t, opts...)) })
}

// dial opens a connection to the broker that the test drives.
func dial(t *testing.T, b *Broker, v codec.Version) *Script {
	t.Helper()
	nc, err := b.DialContext(t.Context(), "tcp", "test:1883")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &Script{tb: t, end: nc.(*endpoint), version: v, patience: defaultPatience}
}

// connectAs connects with p, and returns CONNACK, which must be a success.
func connectAs(t *testing.T, b *Broker, v codec.Version, p *codec.Connect) (*Script, *codec.Connack) {
	t.Helper()
	s := dial(t, b, v)
	s.Send(p)
	ack := ReceiveAs[*codec.Connack](s)
	if ack.Code != codec.Success {
		t.Fatalf("CONNACK: %v", ack.Code)
	}
	return s, ack
}

// connect connects with a clean start and no session expiry.
func connect(t *testing.T, b *Broker, v codec.Version, id string) *Script {
	t.Helper()
	s, _ := connectAs(t, b, v, &codec.Connect{ClientID: id, CleanStart: true})
	return s
}

// persistent is a CONNECT whose session outlives the connection.
func persistent(v codec.Version, id string, clean bool) *codec.Connect {
	p := &codec.Connect{ClientID: id, CleanStart: clean}
	if v == codec.V5 {
		p.Properties.SessionExpiry = new(uint32)
		*p.Properties.SessionExpiry = 100
	} else {
		p.CleanStart = false // the session would end with the connection
	}
	return p
}

// subscribe subscribes with packet identifier 1000.
func (s *Script) subscribe(filters ...codec.SubscribeFilter) *codec.Suback {
	s.tb.Helper()
	s.Send(&codec.Subscribe{PacketID: 1000, Filters: filters})
	return ReceiveAs[*codec.Suback](s)
}

func at(qos byte, filter string) codec.SubscribeFilter {
	return codec.SubscribeFilter{Filter: filter, QoS: qos}
}

// barrier waits until the broker has handled what was sent, and fails if it sent anything in between.
func (s *Script) barrier() {
	s.tb.Helper()
	s.Send(&codec.Pingreq{})
	s.Expect(&codec.Pingresp{})
}

// wantPublish receives a PUBLISH, compares what is said about it in short, and answers it with PUBACK or PUBREC; see complete.
func (s *Script) wantPublish(want string) *codec.Publish {
	s.tb.Helper()
	p := ReceiveAs[*codec.Publish](s)
	if got := brief(p); got != want {
		s.tb.Fatalf("PUBLISH %q, want %q", got, want)
	}
	switch p.QoS {
	case 1:
		s.Send(&codec.Puback{PacketID: p.PacketID})
	case 2:
		s.Send(&codec.Pubrec{PacketID: p.PacketID})
	}
	return p
}

// complete ends the flows of messages at QoS 2.
func (s *Script) complete(publishes ...*codec.Publish) {
	s.tb.Helper()
	for _, p := range publishes {
		s.Expect(&codec.Pubrel{PacketID: p.PacketID})
		s.Send(&codec.Pubcomp{PacketID: p.PacketID})
	}
}

// brief is topic, payload, QoS and flags, such as "a/b=21 q1 retain dup".
func brief(p *codec.Publish) string {
	s := fmt.Sprintf("%s=%s q%d", p.Topic, p.Payload, p.QoS)
	if p.Retain {
		s += " retain"
	}
	if p.Dup {
		s += " dup"
	}
	return s
}

// publish publishes, and completes the flow; the broker must accept the message.
func (s *Script) publish(p *codec.Publish) {
	s.tb.Helper()
	s.Send(p)
	var code codec.ReasonCode
	switch p.QoS {
	case 1:
		code = ReceiveAs[*codec.Puback](s).Code
	case 2:
		code = ReceiveAs[*codec.Pubrec](s).Code
		s.Send(&codec.Pubrel{PacketID: p.PacketID})
		s.Expect(&codec.Pubcomp{PacketID: p.PacketID})
	}
	if code.Failed() {
		s.tb.Fatalf("PUBLISH is refused: %v", code)
	}
}

// message is a PUBLISH of "x"; its packet identifier is 1 if it needs one.
func publishOf(qos byte, topic string) *codec.Publish {
	p := &codec.Publish{Topic: topic, QoS: qos, Payload: []byte("x")}
	if qos > 0 {
		p.PacketID = 1
	}
	return p
}

func TestBrokerMessages(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		alice, bob := connect(t, b, v, "alice"), connect(t, b, v, "bob")
		if got := bob.subscribe(at(0, "q0/+"), at(1, "q1/#"), at(2, "q2/x")); fmt.Sprint(got.Codes) != fmt.Sprint([]codec.ReasonCode{0, 1, 2}) {
			t.Errorf("SUBACK %v", got.Codes)
		}
		for _, topic := range []string{"q0/x", "q1/x", "q2/x"} {
			for qos := range byte(3) {
				alice.publish(publishOf(qos, topic))
			}
		}
		for i, topic := range []string{"q0/x", "q1/x", "q2/x"} {
			for qos := range 3 {
				p := bob.wantPublish(fmt.Sprintf("%s=x q%d", topic, min(qos, i)))
				if p.QoS == 2 {
					bob.complete(p)
				}
			}
		}
		alice.barrier()
		bob.barrier()
		if got := b.Received(); len(got) != 9 || got[8].Topic != "q2/x" || got[8].ClientID != "alice" || got[8].QoS != 2 {
			t.Errorf("Received: %v", got)
		}
	})
}
