package engine

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// FuzzServe feeds a connection with anything, from its first byte or after a CONNECT, in pieces of any size. Nothing may end
// the process, harm another client, or be left over.
func FuzzServe(f *testing.F) {
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		for _, packets := range [][]codec.Packet{
			{&codec.Connect{CleanStart: true, ClientID: "x", Will: &codec.Will{Topic: "w", Payload: []byte("w"), QoS: 1, Retain: true}}},
			{&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "#", QoS: 2}, {Filter: "$share/g/+", QoS: 1}}},
				&codec.Publish{Topic: "a", QoS: 2, PacketID: 1, Payload: []byte("x")}, &codec.Pubrel{PacketID: 1}, &codec.Pubrec{PacketID: 1}, &codec.Pubcomp{PacketID: 1}},
			{&codec.Publish{Topic: "a/b", QoS: 1, PacketID: 2, Retain: true, Payload: []byte("x")}, &codec.Puback{PacketID: 1}, &codec.Pingreq{},
				&codec.Unsubscribe{PacketID: 3, Filters: []string{"#"}}, &codec.Disconnect{}},
		} {
			var b []byte
			for _, p := range packets {
				var err error
				if b, err = p.Append(b, v); err != nil {
					f.Fatal(err)
				}
			}
			f.Add(byte(v), byte(7), b)
			f.Add(byte(v)|0x80, byte(0), b)
		}
	}
	f.Add(byte(codec.V5), byte(0), []byte("\x82\x06\x00\x01\x00\x00\x01a"))
	f.Add(byte(codec.V5), byte(0), []byte("\x30\x07\x00\x01a\x03\x23\x00\x01\x30\x06\x00\x00\x03\x23\x00\x01"))
	f.Add(byte(codec.V5), byte(0), []byte("\xf0\x06\x19\x04\x15\x00\x01m"))
	f.Fuzz(func(t *testing.T, kind, size byte, data []byte) {
		synctest.Test(t, func(t *testing.T) { serveAnything(t, kind, size, data) })
	})
}

func serveAnything(t *testing.T, kind, size byte, data []byte) {
	l := newLab(t, func(c *Config) {
		c.Log = slog.New(faults{t})
		if size&1 == 1 {
			c.Store = newMemoryStore()
		}
	})
	watcher := l.client("watcher")
	watcher.subscribe(1, "watched")
	v := codec.Version(kind &^ 0x80)
	if v != codec.V5 {
		v = codec.V311
	}
	p := l.dialDeaf(v)
	go io.Copy(io.Discard, p.conn)
	p.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	if kind&0x80 == 0 {
		b, err := kept5("x", false).Append(nil, codec.V5)
		if v != codec.V5 {
			b, err = (&codec.Connect{ClientID: "x"}).Append(nil, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.conn.Write(b)
	}
	piece := int(size)*4 + 1
	for len(data) > 0 {
		n := min(piece, len(data))
		if _, err := p.conn.Write(data[:n]); err != nil {
			break
		}
		data = data[n:]
	}
	synctest.Wait()
	p.conn.Close()
	time.Sleep(time.Second)
	l.Publish("watched", []byte("still there"), 1, false)
	for {
		if m := watcher.take(); string(m.Payload) == "still there" {
			break
		}
	}
	l.end()
	if n := l.stats.connected.Load(); n != 0 {
		t.Errorf("%d clients are still connected", n)
	}
}

// faults is a log in which a fault of the broker is an error of the test.
type faults struct{ t *testing.T }

func (f faults) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (f faults) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	f.t.Error(text)
	return nil
}
func (f faults) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f faults) WithGroup(string) slog.Handler      { return f }
