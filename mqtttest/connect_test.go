package mqtttest

import (
	"io"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/petrel-mqtt/mqtt/codec"
)

func ptr[T any](v T) *T { return &v }

// CONNACK says what the options say, and nothing otherwise.
func TestBrokerConnack(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []Option
		want codec.ConnackProperties
	}{
		{"default", nil, codec.ConnackProperties{TopicAliasMaximum: 10}},
		{"all", []Option{
			ReceiveMaximum(7), MaximumPacketSize(1000), MaximumQoS(1), TopicAliasMaximum(0), NoRetain(), NoWildcards(), NoSharedSubscriptions(),
			NoSubscriptionIdentifiers(), ServerKeepAlive(30 * time.Second), ResponseInformation("replies/"),
		}, codec.ConnackProperties{
			ReceiveMaximum: 7, MaximumPacketSize: 1000, MaximumQoS: ptr[byte](1), RetainAvailable: ptr(false),
			WildcardSubscriptionAvailable: ptr(false), SharedSubscriptionAvailable: ptr(false), SubscriptionIdentifiersAvailable: ptr(false),
			ServerKeepAlive: ptr[uint16](30), ResponseInformation: "replies/",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBroker(t, c.opts...)
			_, ack := connectAs(t, b, codec.V5, &codec.Connect{
				ClientID: "c", CleanStart: true, Properties: codec.ConnectProperties{RequestResponseInformation: ptr(true)},
			})
			if diff := cmp.Diff(&codec.Connack{Properties: c.want}, ack, packetOptions); diff != "" {
				t.Error(diff)
			}
			_, ack = connectAs(t, b, codec.V311, &codec.Connect{ClientID: "d", CleanStart: true})
			if diff := cmp.Diff(new(codec.Connack), ack, packetOptions); diff != "" {
				t.Error("3.1.1:", diff)
			}
		})
	}
}

// A client without an identifier gets one [MQTT-3.1.3-6], and MQTT 5.0 tells it [MQTT-3.1.3-7].
func TestBrokerAssignsClientIdentifier(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		_, first := connectAs(t, b, v, &codec.Connect{CleanStart: true})
		_, second := connectAs(t, b, v, &codec.Connect{CleanStart: true})
		ids := b.Clients()
		if len(ids) != 2 || ids[0] == ids[1] || ids[0] == "" {
			t.Errorf("Clients %q", ids)
		}
		a, z := first.Properties.AssignedClientID, second.Properties.AssignedClientID
		if v == codec.V5 && (a != ids[0] || z != ids[1]) {
			t.Errorf("assigned %q and %q, connected are %q", a, z, ids)
		}
	})
}

func TestBrokerRefuse(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		want := map[byte]codec.ReasonCode{0x87: codec.NotAuthorized, 0x89: codec.ServerBusy}
		if v == codec.V311 {
			want[0x89] = codec.ServerUnavailable // the nearest it has
		}
		for reason, code := range want {
			b.Refuse(2, reason)
			for range 2 {
				s := dial(t, b, v)
				s.Send(&codec.Connect{ClientID: "c", CleanStart: true})
				s.Expect(&codec.Connack{Code: code})
				s.ExpectEOF() // [MQTT-3.2.2-7], [MQTT311-3.2.2-5]
			}
			connect(t, b, v, "c")
		}
		b.Refuse(-1, 0x88)
		b.Refuse(0, 0)
		connect(t, b, v, "c")
	})
}

func TestBrokerAuthorize(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := dial(t, b, v)
		s.Send(&codec.Connect{ClientID: "c", CleanStart: true})
		s.Expect(&codec.Connack{Code: codec.BadUserNameOrPassword})
		connectAs(t, b, v, &codec.Connect{ClientID: "c", CleanStart: true, HasUsername: true, Username: "u", HasPassword: true, Password: []byte("secret")})
	}, Authorize(func(c *codec.Connect) codec.ReasonCode {
		if c.Username != "u" || string(c.Password) != "secret" {
			return codec.BadUserNameOrPassword
		}
		return codec.Success
	}))
}

// A will that the server cannot publish is refused [MQTT-3.2.2-12] [MQTT-3.2.2-13].
func TestBrokerRefusesWill(t *testing.T) {
	b := NewBroker(t, MaximumQoS(1), NoRetain())
	for _, c := range []struct {
		will codec.Will
		want codec.ReasonCode
	}{
		{codec.Will{Topic: "w", QoS: 2}, codec.QoSNotSupported},
		{codec.Will{Topic: "w", Retain: true}, codec.RetainNotSupported},
		{codec.Will{Topic: "w", QoS: 1}, codec.Success},
	} {
		s := dial(t, b, codec.V5)
		s.Send(&codec.Connect{ClientID: "c", Will: &c.will})
		if got := ReceiveAs[*codec.Connack](s).Code; got != c.want {
			t.Errorf("will at QoS %d, retain %v: %v", c.will.QoS, c.will.Retain, got)
		}
	}
}

// Nothing heard for one and a half times the keep alive ends the connection [MQTT-3.1.2-22], [MQTT311-3.1.2-24].
func TestBrokerKeepAlive(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s, _ := connectAs(t, b, v, &codec.Connect{ClientID: "c", CleanStart: true, KeepAlive: 10})
		start := time.Now()
		for range 3 {
			s.ExpectSilence(14 * time.Second)
			s.barrier()
		}
		s.Patience(time.Minute)
		if v == codec.V5 {
			s.Expect(&codec.Disconnect{Code: codec.KeepAliveTimeout})
		}
		s.ExpectEOF()
		if d := time.Since(start); d != (3*14+15)*time.Second {
			t.Errorf("ended after %v", d)
		}
	}, Tolerate("MQTT-3.1.2-20", "MQTT-3.1.2-23"))
}

func TestBrokerServerKeepAlive(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.ExpectSilence(3*time.Second - 1)
		s.Expect(&codec.Disconnect{Code: codec.KeepAliveTimeout})
	}, ServerKeepAlive(2*time.Second), Tolerate("MQTT-3.1.2-20"))
}

func TestBrokerNoKeepAlive(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		s.ExpectSilence(math.MaxUint16 * time.Hour)
	})
}

// What is not CONNECT, or not one of a version that exists, is refused.
func TestBrokerGarbage(t *testing.T) {
	for _, c := range []struct {
		name       string
		send, want []byte
		rule       string
	}{
		{"PINGREQ", []byte{0xC0, 0}, nil, "MQTT-3.1.0-1"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), nil, ""},
		{"version 6", []byte("\x10\x0D\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00"), []byte{0x20, 3, 0, 0x84, 0}, "MQTT-3.1.2-2"},
		{"version 3", []byte("\x10\x0C\x00\x04MQTT\x03\x02\x00\x00\x00\x00"), []byte{0x20, 2, 0, 1}, "MQTT-3.1.2-2"},
		{"3.1.1 without client identifier", []byte("\x10\x0C\x00\x04MQTT\x04\x00\x00\x00\x00\x00"), []byte{0x20, 2, 0, 2}, "MQTT-3.1.3-8"},
		{"3.1.1 password without user name", []byte("\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01c\x00\x01p"), nil, "MQTT-3.1.2-22"},
		{"will at QoS 3", []byte("\x10\x15\x00\x04MQTT\x05\x1E\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x01x"), []byte{0x20, 3, 0, 0x81, 0}, "MQTT-3.1.2-12"},
		{"Receive Maximum 0", []byte("\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x01c"), []byte{0x20, 3, 0, 0x82, 0}, "3.1.2.11.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := New()
			defer b.Close()
			s := dial(t, b, codec.V5)
			s.SendBytes(c.send...)
			if got, err := io.ReadAll(s.end); string(got) != string(c.want) || err != nil {
				t.Errorf("answer % x, %v", got, err)
			}
			s.Close()
			b.Close()
			v := b.Violations()
			if len(v) != 1 || c.rule != "" && v[0].Rule != c.rule {
				t.Errorf("violations %v", v)
			}
		})
	}
}

// echo is an authentication method: it asks twice, and refuses "bad".
func echo(_ string, data []byte) ([]byte, codec.ReasonCode) {
	switch string(data) {
	case "bad":
		return nil, codec.NotAuthorized
	case "last":
		return []byte("done"), codec.Success
	}
	return append([]byte("re:"), data...), codec.ContinueAuthentication
}

func TestBrokerAuthentication(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := dial(t, b, codec.V5)
		step := func(code codec.ReasonCode, data string) *codec.Auth {
			return &codec.Auth{Code: code, Method: "echo", Data: []byte(data)}
		}
		s.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{AuthenticationMethod: "echo", AuthenticationData: []byte("1")}})
		s.Expect(step(codec.ContinueAuthentication, "re:1")) // [MQTT-4.12.0-2]
		s.Send(step(codec.ContinueAuthentication, "2"))
		s.Expect(step(codec.ContinueAuthentication, "re:2"))
		s.Send(step(codec.ContinueAuthentication, "last"))
		ack := ReceiveAs[*codec.Connack](s)
		if p := ack.Properties; p.AuthenticationMethod != "echo" || string(p.AuthenticationData) != "done" { // [MQTT-4.12.0-5]
			t.Errorf("CONNACK %+v", ack)
		}
		s.Send(step(codec.ReAuthenticate, "3")) // [MQTT-4.12.1-1]
		s.Expect(step(codec.ContinueAuthentication, "re:3"))
		s.publish(publishOf(1, "a"))
		s.Send(step(codec.ContinueAuthentication, "last"))
		s.Expect(step(codec.Success, "done"))
		s.Send(step(codec.ReAuthenticate, "bad")) // [MQTT-4.12.1-2]
		s.Expect(&codec.Disconnect{Code: codec.NotAuthorized})
		s.ExpectEOF()
	}, Authentication("echo", echo))
}

// A server may refuse any step of an authentication, the first one as well as one to re-authenticate [MQTT-4.12.1-2].
func TestFaultReasonAuth(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		connect := func() *Script {
			s := dial(t, b, codec.V5)
			s.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{AuthenticationMethod: "echo"}})
			ReceiveAs[*codec.Auth](s)
			s.Send(&codec.Auth{Code: codec.ContinueAuthentication, Method: "echo", Data: []byte("last")})
			return s
		}
		s := connect()
		ReceiveAs[*codec.Connack](s)
		remove := b.Fault(Fault{Packet: "AUTH", Reason: 0x87})
		s.Send(&codec.Auth{Code: codec.ReAuthenticate, Method: "echo", Data: []byte("last")})
		s.Expect(&codec.Disconnect{Code: codec.NotAuthorized})
		s.ExpectEOF()
		s = connect()
		s.Expect(&codec.Connack{Code: codec.NotAuthorized})
		s.ExpectEOF()
		remove()
		ReceiveAs[*codec.Connack](connect())
	}, Authentication("echo", echo))
}

// [MQTT-4.12.0-1], [MQTT-4.12.0-4]
func TestBrokerRefusesAuthentication(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		for method, want := range map[string]codec.ReasonCode{"echo": codec.NotAuthorized, "other": codec.BadAuthenticationMethod} {
			s := dial(t, b, codec.V5)
			s.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{AuthenticationMethod: method, AuthenticationData: []byte("bad")}})
			s.Expect(&codec.Connack{Code: want})
			s.ExpectEOF()
		}
	}, Authentication("echo", echo))
}

// The connection ends without CONNACK, and then all is as before.
func TestBrokerHangUp(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		b.HangUp(2)
		for range 2 {
			s := dial(t, b, v)
			s.Send(persistent(v, "sub", false))
			s.ExpectEOF()
			s.Close()
		}
		resume(t, b, v)
		b.HangUp(-1)
		b.HangUp(0)
		connect(t, b, v, "c")
	})
}
