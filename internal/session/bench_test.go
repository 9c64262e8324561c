package session

import (
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// benchmarkWindow is how many messages are in flight while the benchmarks measure.
const benchmarkWindow = 1000

// pipeline returns a step that sends a message at QoS 1 and takes the PUBACK of the one sent window messages before.
func pipeline(tb testing.TB, window int) (step func()) {
	s := serving(codec.V5, Limits{InFlight: window + 1}, 0)
	renew(s, 65_535)
	m := Message{Topic: "sensors/7/temperature", Payload: make([]byte, 64), QoS: 1, Owner: s}
	ids := make([]uint16, 0, window)
	buffer := make([]byte, 0, 1<<10)
	send := func() uint16 {
		_, id, err := s.Send(buffer, &m, 0)
		if err != nil {
			tb.Fatal(err)
		}
		return id
	}
	for range window {
		ids = append(ids, send())
	}
	next := 0
	return func() {
		if m, ok := s.Puback(ids[next]); !ok || m.Owner != s {
			tb.Fatalf("PUBACK %d: known %v, owner %v", ids[next], ok, m.Owner)
		}
		ids[next] = send()
		if next++; next == window {
			next = 0
		}
	}
}

// arrivals returns a step that takes a message and acknowledges it, at QoS 2 with the whole handshake.
func arrivals(tb testing.TB, qos byte) (step func()) {
	s := serving(codec.V5, Limits{}, benchmarkWindow)
	buffer := make([]byte, 0, 1<<10)
	id := uint16(0)
	return func() {
		if id++; id == 0 {
			id = 1
		}
		b, verdict := s.Arrive(buffer, view(id, qos, false))
		if verdict != Deliver {
			tb.Fatalf("message %d: verdict %v", id, verdict)
		}
		b = s.Accept(b, view(id, qos, false), nil)
		if qos == 2 {
			b = s.Pubrel(b, id)
		}
		if len(b) == 0 {
			tb.Fatal("nothing was acknowledged")
		}
	}
}

func BenchmarkSendPuback(b *testing.B) {
	step := pipeline(b, benchmarkWindow)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

func BenchmarkArriveAccept(b *testing.B) {
	for name, qos := range map[string]byte{"QoS1": 1, "QoS2": 2} {
		b.Run(name, func(b *testing.B) {
			step := arrivals(b, qos)
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}

func TestSendPubackDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(10_000, pipeline(t, benchmarkWindow)); n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func TestArriveAcceptDoesNotAllocate(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		if n := testing.AllocsPerRun(10_000, arrivals(t, qos)); n != 0 {
			t.Errorf("QoS %d: %v allocations per message", qos, n)
		}
	}
}
