package mqtttest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/petrel-mqtt/mqtt/codec"
)

// defaultPatience is how long a script waits for what it expects.
const defaultPatience = 10 * time.Second

// Script is a connection to a client that the test drives step by step. If what is expected does not come in time, ten seconds
// unless Patience says otherwise, or something else comes, the test ends. Its methods must be called from the goroutine that
// runs the test.
type Script struct {
	tb       testing.TB
	end      *endpoint
	version  codec.Version
	patience time.Duration
}

// Patience sets how long the script waits for what it expects.
func (s *Script) Patience(d time.Duration) { s.patience = d }

// Receive returns the next packet.
func (s *Script) Receive() codec.Packet {
	s.tb.Helper()
	p, err := s.read()
	if err != nil {
		s.tb.Fatalf("mqtttest: no packet: %v", err)
	}
	return p
}

// ReceiveAs returns the next packet, which must be of type P, such as *codec.Publish.
func ReceiveAs[P codec.Packet](s *Script) P {
	s.tb.Helper()
	got := s.Receive()
	p, ok := got.(P)
	if !ok {
		s.tb.Fatalf("mqtttest: %s comes, want %s: %+v", got.Type(), reflect.TypeFor[P](), got)
	}
	return p
}

// Expect waits for a packet that equals want. Empty and nil slices are equal where they mean the same.
func (s *Script) Expect(want codec.Packet) {
	s.tb.Helper()
	got, err := s.read()
	if err != nil {
		s.tb.Fatalf("mqtttest: no %s: %v", want.Type(), err)
	}
	if diff := cmp.Diff(want, got, packetOptions); diff != "" {
		s.tb.Fatalf("mqtttest: other packet than expected (-want +got):\n%s", diff)
	}
}

// packetOptions compare packets by what they say. An absent Correlation Data or Authentication Data is not an empty one.
var packetOptions = cmp.Options{
	cmp.FilterPath(func(path cmp.Path) bool {
		field, ok := path.Last().(cmp.StructField)
		return ok && field.Name() != "CorrelationData" && field.Name() != "AuthenticationData" && field.Name() != "Data"
	}, cmpopts.EquateEmpty()),
	cmpopts.IgnoreFields(codec.Connect{}, "Version"),
}

func (s *Script) read() (codec.Packet, error) {
	_ = s.end.SetReadDeadline(time.Now().Add(s.patience))
	return codec.ReadPacket(s.end, s.version, 0)
}

// ExpectBytes waits for exactly these bytes.
func (s *Script) ExpectBytes(want ...byte) {
	s.tb.Helper()
	_ = s.end.SetReadDeadline(time.Now().Add(s.patience))
	got := make([]byte, len(want))
	n, err := io.ReadFull(s.end, got)
	if err != nil || !bytes.Equal(got, want) {
		s.tb.Fatalf("mqtttest: bytes % x come (error %v), want % x", got[:n], err, want)
	}
}

// ExpectEOF waits for the client to close the connection without sending anything before.
func (s *Script) ExpectEOF() {
	s.tb.Helper()
	p, err := s.read()
	switch {
	case err == nil:
		s.tb.Fatalf("mqtttest: %s comes, want the end of the connection: %+v", p.Type(), p)
	case err != io.EOF:
		s.tb.Fatalf("mqtttest: %v, want the end of the connection", err)
	}
}

// ExpectSilence waits for d and fails the test if anything comes, or the client closes.
func (s *Script) ExpectSilence(d time.Duration) {
	s.tb.Helper()
	_ = s.end.SetReadDeadline(time.Now().Add(d))
	n, err := s.end.Read(make([]byte, 1))
	if n > 0 {
		s.tb.Fatal("mqtttest: something comes, want silence")
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		s.tb.Fatalf("mqtttest: %v, want silence", err)
	}
}

// Send writes packets, all at once.
func (s *Script) Send(packets ...codec.Packet) {
	s.tb.Helper()
	var b []byte
	for _, p := range packets {
		var err error
		if b, err = p.Append(b, s.version); err != nil {
			s.tb.Fatalf("mqtttest: %v; SendBytes sends what is not allowed", err)
		}
	}
	s.SendBytes(b...)
}

// SendBytes writes any bytes.
func (s *Script) SendBytes(b ...byte) {
	s.tb.Helper()
	_ = s.end.SetWriteDeadline(time.Now().Add(s.patience))
	if _, err := s.end.Write(b); err != nil {
		s.tb.Fatalf("mqtttest: %v", err)
	}
}

// Close closes the connection: the client gets what was sent, then its end.
func (s *Script) Close() { _ = s.end.Close() }

// Cut breaks the connection: what is on its way is lost, and the client gets an error.
func (s *Script) Cut() { s.end.reset() }

// HalfOpen makes the connection half-open: from now on nothing that either side does reaches the other, and neither is told.
func (s *Script) HalfOpen() { s.end.vanish() }
