package engine

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

var mutations = flag.Int("mutations", 2000, "how many conversations TestMutated mutates")

// said is a connection on which a client has said everything already, and reads everything.
type said struct {
	net.Conn
	from bytes.Reader
}

func (r *said) Read(p []byte) (int, error)       { return r.from.Read(p) }
func (r *said) Write(p []byte) (int, error)      { return len(p), nil }
func (r *said) SetReadDeadline(time.Time) error  { return nil }
func (r *said) SetWriteDeadline(time.Time) error { return nil }
func (r *said) Hurry(time.Duration)              {}
func (r *said) RemoteAddr() net.Addr             { return new(net.TCPAddr) }

// conversations are what well-behaved clients say, by version: every packet that there is, with every property.
func conversations(t *testing.T, v codec.Version) (all [][]codec.Packet) {
	expiry, properties := uint32(300), codec.PublishProperties{}
	if v == codec.V5 {
		properties = codec.PublishProperties{
			UTF8Payload: true, MessageExpiry: time.Minute, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{1},
			UserProperties: codec.UserProperties{{Key: "k", Value: "v"}},
		}
	}
	for _, id := range []string{"a", "b", ""} {
		connect := &codec.Connect{
			Version: v, CleanStart: id == "", ClientID: id, KeepAlive: 10, HasUsername: true, Username: "u", HasPassword: true, Password: []byte("p"),
			Will: &codec.Will{Topic: "w", Payload: []byte("w"), QoS: 1, Retain: true},
		}
		publish := &codec.Publish{Topic: "t/1", QoS: 2, PacketID: 1, Payload: []byte("x"), Properties: properties}
		subscribe := &codec.Subscribe{PacketID: 2, Filters: []codec.SubscribeFilter{{Filter: "t/+", QoS: 2}, {Filter: "$share/g/#", QoS: 1}}}
		if v == codec.V5 {
			connect.Properties = codec.ConnectProperties{SessionExpiry: &expiry, ReceiveMaximum: 3, MaximumPacketSize: 1000, TopicAliasMaximum: 3,
				UserProperties: codec.UserProperties{{Key: "k", Value: "v"}}}
			connect.Will.Properties = codec.WillProperties{WillDelay: time.Second, MessageExpiry: time.Second, ContentType: "c"}
			publish.TopicAlias, subscribe.SubscriptionIdentifier = 1, 7
		}
		all = append(all, []codec.Packet{
			connect, subscribe, publish, &codec.Pubrel{PacketID: 1}, &codec.Pubrec{PacketID: 1}, &codec.Pubcomp{PacketID: 1},
			&codec.Publish{Topic: "t/2", QoS: 1, PacketID: 3, Retain: true, Payload: []byte("kept")}, &codec.Puback{PacketID: 2},
			&codec.Publish{Topic: "t/3", Payload: []byte("x")}, &codec.Pingreq{}, &codec.Unsubscribe{PacketID: 4, Filters: []string{"t/+"}}, &codec.Disconnect{},
		})
	}
	return all
}

// mutate changes a few bytes: it sets, inserts, removes or repeats some, or cuts the rest off.
func mutate(random *rand.Rand, b []byte) []byte {
	for range 1 + random.IntN(4) {
		if len(b) == 0 {
			return b
		}
		i := random.IntN(len(b))
		switch random.IntN(6) {
		case 0, 1:
			b[i] = byte(random.Uint32())
		case 2:
			b[i] ^= 1 << random.IntN(8)
		case 3:
			b = append(b[:i], append([]byte{byte(random.Uint32())}, b[i:]...)...)
		case 4:
			b = append(b[:i], b[min(i+1+random.IntN(4), len(b)):]...)
		case 5:
			n := min(1+random.IntN(40), len(b)-i)
			b = append(b[:i+n:i+n], b[i:]...)
		}
	}
	return b
}

// Packets that are wrong anywhere, before, in and after CONNECT, cause no panic, and nothing grows.
func TestMutated(t *testing.T) {
	const bound = 16 * mebi
	c := config(nil)
	c.Policy, c.Log, c.MaxMemory, c.MaxQueuedMessages, c.Overflow, c.Store = quiet{}, slog.New(faults{t}), bound, 1000, DropOldest, memoryless{}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	var originals, connects [][]byte
	packets := 0
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		for _, conversation := range conversations(t, v) {
			var b []byte
			for i, p := range conversation {
				if b, err = p.Append(b, v); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					connects = append(connects, b[:len(b):len(b)])
				}
			}
			packets += len(conversation)
			originals = append(originals, b)
		}
	}
	goroutines := runtime.NumGoroutine()
	began := time.Now()
	for i := range *mutations {
		n := random.IntN(len(originals))
		b := bytes.Clone(originals[n])
		if whole := len(connects[n]); i%4 > 0 {
			b = append(b[:whole:whole], mutate(random, b[whole:])...)
		} else {
			b = mutate(random, b)
		}
		nc := &said{}
		nc.from.Reset(b)
		e.Serve(nc, Peer{Listener: "l", Connected: func() Client { return Client{Remote: new(net.TCPAddr)} }})
	}
	took := time.Since(began)
	s := e.Stats()
	if s.Memory > bound+mebi {
		t.Errorf("%d bytes are kept", s.Memory)
	}
	for range 100 { // writers and the journal come to rest
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 4*bound {
		t.Errorf("%d bytes of heap", m.HeapAlloc)
	}
	e.Close()
	if err := e.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d packets in %v; %d of %d clients connected; %d sessions, %d retained, %d subscriptions, %d MiB of heap",
		*mutations*packets/len(originals), took.Round(time.Millisecond), s.Connects, *mutations, s.Sessions, s.Retained, s.Subscriptions, m.HeapAlloc>>20)
}

// memoryless is a store that forgets everything.
type memoryless struct{}

func (memoryless) Load(func(bucket byte, key, value []byte) error) error { return nil }
func (memoryless) Commit([]Change) error                                 { return nil }
func (memoryless) Close() error                                          { return nil }

// quiet allows everything, and remembers nothing.
type quiet struct{}

func (quiet) Authenticate(context.Context, *Client, bool, []byte) (any, codec.ReasonCode) {
	return nil, codec.Success
}
func (quiet) Valid(any) bool                          { return true }
func (quiet) Exchange(*Client, string) Exchange       { return nil }
func (quiet) Identify(*Client, bool) codec.ReasonCode { return codec.Success }
func (quiet) Allows(*Client, Access, string) bool     { return true }
func (quiet) Asks() bool                              { return false }
func (quiet) Ask(*Client, Access, string) Decision    { return Abstain }
func (quiet) Connected(*Client)                       {}
func (quiet) Disconnected(*Client, error)             {}
func (quiet) Subscribed(*Client, string, byte)        {}
func (quiet) Unsubscribed(*Client, string)            {}
func (quiet) Hears() bool                             { return false }
func (quiet) Published(*Client, Message)              {}
