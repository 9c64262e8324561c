package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// FuzzClient lets a server send anything after CONNACK, to a client that is busy. It must not panic, must end or go on,
// and must close in time, with every call answered and, which synctest sees, no goroutine left.
func FuzzClient(f *testing.F) {
	for _, h := range slices.Concat(append(afterConnack, harmless)...) {
		f.Add(h.only != v311, []byte(h.bytes))
	}
	for _, stream := range []string{
		// Everything is answered as it should be, out of order; then a message at each QoS.
		"\xd0\x00\x70\x02\x00\x09\x50\x02\x00\x02\x70\x02\x00\x02\x40\x02\x00\x01\xb0\x04\x00\x04\x00\x00\x90\x04\x00\x03\x00\x02" +
			"\x30\x06\x00\x01s\x02\x0b\x01\x32\x08\x00\x01s\x00\x01\x02\x0b\x01\x34\x08\x00\x01s\x00\x02\x02\x0b\x01\x62\x02\x00\x02",
		// Refusals.
		"\x50\x03\x00\x02\x97\x40\x03\x00\x01\x87\xb0\x04\x00\x04\x00\x87\x90\x04\x00\x03\x00\x80\x50\x03\x00\x06\x80",
		// Messages for the subscription that is there: repeated, joined, with aliases, more than its buffer takes.
		"\x34\x08\x00\x03a/b\x00\x05\x00\x3c\x08\x00\x03a/b\x00\x05\x00\x62\x02\x00\x05\x34\x08\x00\x03a/b\x00\x05\x00\x62\x02\x00\x05\x62\x02\x00\x05",
		"\x32\x0b\x00\x03a/b\x00\x05\x03\x23\x00\x01" + strings.Repeat("\x32\x08\x00\x00\x00\x06\x03\x23\x00\x01", 5) + "\x30\x06\x00\x00\x03\x23\x00\x01",
		"\xe0\x0e\x8b\x0c\x1f\x00\x03bye\x26\x00\x01k\x00\x00",
	} {
		f.Add(true, []byte(stream))
	}
	for _, stream := range []string{
		"\xd0\x00\x70\x02\x00\x09\x50\x02\x00\x02\x70\x02\x00\x02\x40\x02\x00\x01\xb0\x02\x00\x04\x90\x03\x00\x03\x02" +
			"\x30\x03\x00\x01s\x32\x05\x00\x01s\x00\x01\x34\x05\x00\x01s\x00\x02\x62\x02\x00\x02",
		"\x90\x03\x00\x03\x80",
		"\x34\x07\x00\x03a/b\x00\x05\x3c\x07\x00\x03a/b\x00\x05\x62\x02\x00\x05\x34\x07\x00\x03a/b\x00\x05\x62\x02\x00\x05\x62\x02\x00\x05",
		strings.Repeat("\x32\x07\x00\x03a/b\x00\x05", 5) + strings.Repeat("\x30\x05\x00\x03a/b", 5),
		"\x34\x8d\x06\x00\x03a/b\x00\x05" + strings.Repeat("x", 2000) + "\x62\x02\x00\x05",
	} {
		f.Add(false, []byte(stream))
	}
	f.Fuzz(func(t *testing.T, isV5 bool, stream []byte) {
		v := v311
		if isV5 {
			v = v5
		}
		// A fuzzing worker has no deadline, and neither synctest nor the runtime sees that all wait for a mutex.
		hangs := time.AfterFunc(time.Minute, func() {
			debug.SetTraceback("all")
			panic(fmt.Sprintf("the client hangs with version %v, %q", v, stream))
		})
		defer hangs.Stop()
		synctest.Test(t, func(t *testing.T) { fuzzClient(t, v, stream) })
	})
}

// fuzzClient starts a client with the packet identifiers 1 and 2 in flight at QoS 1 and 2, a SUBSCRIBE and an UNSUBSCRIBE,
// 3 and 4, that wait, and a subscription; and feeds it.
func fuzzClient(t *testing.T, v codec.Version, stream []byte) {
	conn := newFeed(v)
	opts := []mqtt.OptionV5{mqtt.WithKeepAlive(5 * time.Second), mqtt.WithMaximumPacketSize(1000)}
	if v == v5 {
		opts = append(opts, mqtt.WithTopicAliasMaximum(10))
	}
	c, _, err := dialClient(t.Context(), v, conn.dial, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx := endingIn(t, time.Minute)
	var calls sync.WaitGroup
	call := func(f func() error) {
		calls.Go(func() {
			if err := f(); err != nil && err.Error() == "" {
				t.Error("an error says nothing")
			}
		})
		synctest.Wait()
	}
	call(func() error { return c.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
	call(func() error { return c.Publish(ctx, "t", nil, mqtt.ExactlyOnce) })
	consume := func(filter string) func() error {
		return func() error {
			sub, err := c.Subscribe(ctx, filter, mqtt.ExactlyOnce, mqtt.Buffer(1))
			if err != nil {
				return err
			}
			m, err := sub.Next(ctx)
			if err == nil {
				err = c.Publish(ctx, "t", m.Payload, m.QoS)
			}
			return errors.Join(err, sub.Unsubscribe(ctx))
		}
	}
	call(consume("s"))
	call(func() error { return c.Unsubscribe(ctx, "u") })
	call(consume("a/#"))
	suback, err := (&codec.Suback{PacketID: 5, Codes: []codec.ReasonCode{2}}).Append(nil, v)
	noErr(t, err)
	conn.feed <- suback
	synctest.Wait()
	call(func() error { _, err := c.Ping(ctx); return err })
	conn.feed <- stream
	time.Sleep(3 * time.Second)
	start := time.Now()
	if err := c.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close: %v, after %v", err, time.Since(start))
	}
	calls.Wait()
	if time.Since(start) > time.Second || c.Err() == nil {
		t.Errorf("calls return %v after Close; %v", time.Since(start), c.Err())
	}
}

// feed is a connection whose other end takes everything and says what it is fed, then what is endless. It closes when the
// client has closed its direction, unless it is endless.
type feed struct {
	net.Conn // nil
	feed     chan []byte
	rest     []byte
	endless  []byte
	gone     chan struct{} // the client has closed its direction
	closed   chan struct{}
	once     [2]sync.Once
}

// newFeed returns a feed that begins with CONNACK.
func newFeed(v codec.Version) *feed {
	connack, _ := (&codec.Connack{}).Append(nil, v)
	return &feed{feed: make(chan []byte, 1), rest: connack, gone: make(chan struct{}), closed: make(chan struct{})}
}

func (f *feed) dial(context.Context, string, string) (net.Conn, error) { return f, nil }

func (f *feed) Read(b []byte) (int, error) {
	var more <-chan time.Time
	gone := f.gone
	if f.endless != nil {
		more, gone = time.After(time.Millisecond), nil
	}
	for len(f.rest) == 0 {
		select {
		case f.rest = <-f.feed:
		case <-more:
			f.rest = f.endless
		case <-gone:
			return 0, io.EOF
		case <-f.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *feed) Write(b []byte) (int, error)      { return len(b), nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }
func (f *feed) CloseWrite() error                { f.once[0].Do(func() { close(f.gone) }); return nil }
func (f *feed) Close() error                     { f.once[1].Do(func() { close(f.closed) }); return nil }
