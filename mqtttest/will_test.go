package mqtttest

import (
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// withWill connects with a will on "will" that has a delay.
func withWill(t *testing.T, b *Broker, v codec.Version, delay time.Duration) *Script {
	p := persistent(v, "dying", false)
	p.Will = &codec.Will{Topic: "will", Payload: []byte("gone"), QoS: 1, Retain: true, Properties: codec.WillProperties{WillDelay: delay}}
	s, _ := connectAs(t, b, v, p)
	return s
}

func wantWill(t *testing.T, b *Broker, want bool) {
	t.Helper()
	if got := b.Received("will"); len(got) > 0 != want {
		t.Errorf("wills %v", got)
	}
}

// A will is published when the connection ends without a DISCONNECT [MQTT-3.1.2-8].
func TestBrokerWill(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		heir := connect(t, b, v, "heir")
		heir.subscribe(at(1, "will"))
		withWill(t, b, v, 0)
		heir.barrier()
		b.Cut("dying")
		heir.wantPublish("will=gone q1")
		got := b.Received()
		if len(got) != 1 || got[0].ClientID != "dying" {
			t.Errorf("Received %v", got)
		}
		heir.subscribe(at(1, "+"))
		heir.wantPublish("will=gone q1 retain")
	})
}

// A normal DISCONNECT removes the will [MQTT-3.14.4-3], and 0x04 does not.
func TestBrokerWillAndDisconnect(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := withWill(t, b, v, 0)
		s.Send(&codec.Disconnect{})
		s.ExpectEOF()
		s.Close()
		wantWill(t, b, false)
		if v == codec.V5 {
			s = withWill(t, b, v, 0)
			s.Send(&codec.Disconnect{Code: codec.DisconnectWithWill})
			s.ExpectEOF()
			wantWill(t, b, true)
		}
	})
}

func TestBrokerWillDelay(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		withWill(t, b, codec.V5, 10*time.Second)
		b.Cut()
		time.Sleep(9 * time.Second)
		s := withWill(t, b, codec.V5, 10*time.Second) // [MQTT-3.1.3-9]
		time.Sleep(time.Minute)
		wantWill(t, b, false)
		s.Cut()
		time.Sleep(10*time.Second - time.Millisecond)
		wantWill(t, b, false)
		time.Sleep(2 * time.Millisecond)
		wantWill(t, b, true)
	})
}

// A will does not wait longer than the session lives, for which the tests take 100 s.
func TestBrokerWillAtSessionEnd(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *Broker){
		"expiry":      func(*testing.T, *Broker) { time.Sleep(101 * time.Second) },
		"clean start": func(t *testing.T, b *Broker) { connect(t, b, codec.V5, "dying") },
		"Forget":      func(_ *testing.T, b *Broker) { b.Forget("dying") },
	} {
		t.Run(name, func(t *testing.T) {
			forV5(t, func(t *testing.T, b *Broker) {
				withWill(t, b, codec.V5, time.Hour)
				b.Cut()
				time.Sleep(99 * time.Second)
				wantWill(t, b, false)
				end(t, b)
				wantWill(t, b, true)
			})
		})
	}
}
