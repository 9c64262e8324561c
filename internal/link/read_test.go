package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// packet makes a packet of any content with the given first byte.
func packet(first byte, length int) []byte {
	b := []byte{first}
	for n := length; ; {
		if n < 0x80 {
			b = append(b, byte(n))
			break
		}
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	for i := range length {
		b = append(b, byte(i*7+length))
	}
	return b
}

// stream joins packets, and says what a handler should get.
func stream(packets ...[]byte) (joined []byte, want []received) {
	for _, p := range packets {
		h, n, err := codec.ParseHeader(p, codec.V5)
		if err != nil || n == 0 {
			panic(fmt.Sprintf("% X: %v", p, err))
		}
		want = append(want, received{h, string(p[n:])})
		joined = append(joined, p...)
	}
	return joined, want
}

// chunks cuts b into pieces whose sizes size says.
func chunks(b []byte, size func() int) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(max(1, size()), len(b))
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return pieces
}

func wantPackets(t *testing.T, what string, got, want []received) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %d packets, want %d, or their contents differ", what, len(got), len(want))
	}
}

// [MQTT-4.2.0-1] [MQTT311-4.2]: packets may be split and joined at will.
func TestFraming(t *testing.T) {
	joined, want := stream(packet(0x40, 2), packet(0x30, 0), packet(0x30, 127), packet(0x32, 128), packet(0x50, 2), packet(0x20, 300))
	run := func(name string, pieces [][]byte) {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, Config{}, 0)
			defer s.stop()
			s.cable.feed(pieces...)
			synctest.Wait()
			wantPackets(t, name, s.owner.got(), want)
			if in, _ := s.Bytes(); in != uint64(len(joined)) {
				t.Errorf("%s: %d bytes were read, want %d", name, in, len(joined))
			}
		})
	}
	run("all at once", [][]byte{joined})
	run("one by one", chunks(joined, func() int { return 1 }))
	for i := 1; i < len(joined); i++ {
		run(fmt.Sprintf("cut at %d", i), [][]byte{joined[:i], joined[i:]})
	}
}

// Before Start the same rules hold, and what is read too early is kept.
func TestReadPacket(t *testing.T) {
	joined, want := stream(packet(0x20, 3), packet(0x30, 5000), packet(0x30, 10))
	for i := 1; i < len(joined); i += 7 {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, Config{})
			defer s.stop()
			s.cable.feed(joined[:i], joined[i:])
			h, body, err := s.ReadPacket()
			if err != nil || !slices.Equal([]received{{h, string(body)}}, want[:1]) {
				t.Fatalf("cut at %d: %v, error %v", i, h, err)
			}
			s.Start(s.owner, 0)
			synctest.Wait()
			wantPackets(t, fmt.Sprintf("cut at %d", i), s.owner.got(), want[1:])
		})
	}
}

func TestReadPacketErrors(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		bytes  []byte
		want   func(error) bool
	}{
		"the server closes":  {Config{}, []byte{0x20, 3, 0}, func(err error) bool { return errors.Is(err, ErrServerClosed) }},
		"a bad header":       {Config{}, []byte{0x00}, isBroken(codec.MalformedPacket)},
		"too large":          {Config{MaximumPacketSize: 4}, []byte{0x20, 3}, isBroken(codec.PacketTooLarge)},
		"too large, 3.1.1":   {Config{MaximumPacketSize: 4, Version: codec.V311}, []byte{0x30, 3}, isBroken(codec.PacketTooLarge)},
		"as large as it may": {Config{MaximumPacketSize: 5}, []byte{0x20, 3, 0, 0, 0}, func(err error) bool { return err == nil }},
	} {
		s := newStation(t, c.config)
		s.cable.feed(c.bytes)
		s.cable.hangUp()
		if _, _, err := s.ReadPacket(); !c.want(err) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func isBroken(code codec.ReasonCode) func(error) bool {
	return func(err error) bool {
		var broken *codec.Error
		return errors.As(err, &broken) && broken.Code == code
	}
}

func TestMaximumPacketSize(t *testing.T) {
	for _, c := range []struct {
		name     string
		v        codec.Version
		first    byte
		length   int // the limit is 100
		too, end bool
	}{
		{"5.0 as large as it may be", codec.V5, 0x30, 98, false, false},
		{"5.0 [MQTT-3.1.2-24]", codec.V5, 0x30, 99, true, true},
		{"5.0 a packet of another type", codec.V5, 0x90, 99, true, true},
		{"5.0 from the header alone", codec.V5, 0x30, 1 << 20, true, true},
		{"3.1.1 as large as it may be", codec.V311, 0x30, 98, false, false},
		{"3.1.1 PUBLISH", codec.V311, 0x30, 99, true, false},
		{"3.1.1 a packet of another type", codec.V311, 0x90, 99, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, Config{Version: c.v, MaximumPacketSize: 100}, 0)
				defer s.stop()
				s.cable.feed(packet(c.first, c.length)[:5])
				synctest.Wait()
				if ended := s.ended(); ended != c.end {
					t.Errorf("after the header: ended %v, want %v", ended, c.end)
				}
				if !c.end {
					s.cable.feed(packet(c.first, c.length)[5:])
					synctest.Wait()
					if too := len(s.owner.oversized) == 1; too != c.too || len(s.owner.got()) == 1 == c.too {
						t.Errorf("too large %v, want %v", too, c.too)
					}
				}
			})
		})
	}
}

// MQTT 3.1.1 cannot announce a bound. A larger PUBLISH is thrown away as it comes, however it is cut, and
// what follows it is not lost.
func TestOversizedIsSkipped(t *testing.T) {
	for _, size := range []int{200, 3000, 70_000, 200_000} {
		large := packet(0x32, size)
		joined, want := stream(packet(0x40, 2), packet(0x30, 50), packet(0x50, 2))
		joined = slices.Concat(joined[:4], large, large, joined[4:])
		rng := rand.New(rand.NewPCG(11, 12))
		cuts := map[string]func() int{
			"at once":   func() int { return len(joined) },
			"at random": func() int { return rng.IntN(1 << rng.IntN(18)) },
			"in halves": func() int { return len(joined)/2 + 1 },
		}
		if size < 5000 {
			cuts["one by one"] = func() int { return 1 }
		}
		for name, cut := range cuts {
			t.Run(fmt.Sprintf("%d bytes %s", size, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := start(t, Config{Version: codec.V311, MaximumPacketSize: 100}, 0)
					defer s.stop()
					s.cable.feed(chunks(joined, cut)...)
					synctest.Wait()
					wantPackets(t, "the others", s.owner.got(), want)
					checkOversized(t, s.owner.oversized, large)
					if s.in.Held() > 64<<10+truncated {
						t.Errorf("a buffer of %d bytes for what is thrown away", s.in.Held())
					}
				})
			})
		}
	}
}

// truncated is how much of the body of a PUBLISH that is too large is shown.
const truncated = 2 + 65_535 + 2

func checkOversized(t *testing.T, got []received, large []byte) {
	t.Helper()
	if len(got) != 2 {
		t.Fatalf("%d packets are thrown away, want 2", len(got))
	}
	for _, r := range got {
		body := large[len(large)-r.header.Length:]
		if r.body != string(body[:min(len(body), truncated)]) || r.header.Flags != 2 {
			t.Errorf("the handler sees header %v and %d other bytes", r.header, len(r.body))
		}
	}
}

func TestBrokenPacketIsRefused(t *testing.T) {
	broken := &codec.Error{Packet: codec.PUBLISH, Code: codec.TopicNameInvalid}
	for _, c := range []struct {
		name  string
		v     codec.Version
		bytes []byte
		err   error // the handler's
		want  string
	}{
		{"[MQTT-4.13.1] header", codec.V5, []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF}, nil, "\x40\x02\x00\x01\xE0\x01\x81"},
		{"[MQTT-3.1.2-24] size", codec.V5, []byte{0x30, 0xFF, 0x7F}, nil, "\x40\x02\x00\x01\xE0\x01\x95"},
		{"[MQTT-4.13.1] content", codec.V5, []byte{0x30, 0}, broken, "\x40\x02\x00\x01\xE0\x01\x90"},
		{"wrapped", codec.V5, []byte{0x30, 0}, fmt.Errorf("wrapped: %w", broken), "\x40\x02\x00\x01\xE0\x01\x90"},
		{"another error", codec.V5, []byte{0x30, 0}, io.ErrUnexpectedEOF, "\x40\x02\x00\x01"},
		{"[MQTT311-4.8.0-1] header, 3.1.1", codec.V311, []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF}, nil, "\x40\x02\x00\x01"},
		{"[MQTT311-4.8.0-1] content, 3.1.1", codec.V311, []byte{0x30, 0}, broken, "\x40\x02\x00\x01"},
	} {
		inBubble(t, c.name, func(t *testing.T) {
			s := start(t, Config{Version: c.v, MaximumPacketSize: 1000}, 0)
			s.send(somePacket)
			synctest.Wait()
			s.owner.onPacket = func(codec.Header, []byte) error { return c.err }
			s.cable.feed(c.bytes, packet(0x30, 10), packet(0x30, 10))
			time.Sleep(wire.Farewell / 2)
			s.send(somePacket) // nothing may follow the last packet
			cause := s.Wait()
			var got []byte
			for _, w := range s.cable.written() {
				got = append(got, w.bytes...)
			}
			if string(got) != c.want {
				t.Errorf("the server gets % X, want % X", got, c.want)
			}
			if c.err != nil && cause != c.err || c.err == nil && !errors.As(cause, &broken) {
				t.Errorf("the link ends with %v", cause)
			}
			if n := len(s.owner.got()); n > 1 {
				t.Errorf("the handler gets %d packets", n)
			}
			if told := s.owner.refused == 1; told != strings.Contains(c.want, "\xE0") {
				t.Errorf("Refused is called %d times", s.owner.refused)
			}
		})
	}
}

func TestServerThatCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.cable.feed(packet(0x30, 10), []byte{0x30, 5, 0})
		s.cable.hangUp()
		if err := s.Wait(); !errors.Is(err, ErrServerClosed) {
			t.Errorf("the link ends with %v", err)
		}
		if len(s.owner.packets) != 1 {
			t.Errorf("the handler gets %v", s.owner.packets)
		}
	})
}

// A batch of packets is handled in one critical section, but not without end, and Flush follows.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		s.cable.feed(bytes.Repeat(packet(0x40, 2), 10*batch))
		synctest.Wait()
		if n := len(s.owner.got()); n != 10*batch {
			t.Errorf("%d packets", n)
		}
		s.owner.mu.Lock()
		defer s.owner.mu.Unlock()
		if s.owner.flushes < 10 || s.owner.flushes > 15 {
			t.Errorf("%d critical sections for %d packets", s.owner.flushes, 10*batch)
		}
	})
}
