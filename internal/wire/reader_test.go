package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
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

// source is a connection: each Read brings a chunk, or a part of it.
type source struct{ chunks [][]byte }

func (s *source) Read(b []byte) (int, error) {
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.chunks[0])
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
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

// readPacket reads until a packet has come.
func readPacket(r *Reader, src io.Reader) (codec.Header, []byte, error) {
	for {
		if h, packet, ok, err := r.Next(); ok || err != nil {
			return h, packet, err
		}
		if _, err := r.Fill(src); err != nil {
			return codec.Header{}, nil, err
		}
	}
}

// [MQTT-4.2.0-1] [MQTT311-4.2]: packets may be split and joined at will.
func TestPacketsComeWholeHoweverTheyAreCut(t *testing.T) {
	want := [][]byte{packet(0x40, 2), packet(0x30, 0), packet(0x30, 127), packet(0x32, 128), packet(0x50, 2), packet(0x20, 300)}
	joined := slices.Concat(want...)
	for i := 1; i <= len(joined); i++ {
		r := Reader{Version: codec.V5}
		src := &source{[][]byte{joined[:i], joined[i:]}}
		if i == len(joined) {
			src.chunks = chunks(joined, func() int { return 1 })
		}
		for j, w := range want {
			h, p, err := readPacket(&r, src)
			if err != nil || !bytes.Equal(p, w) || h.Type != codec.Type(w[0]>>4) || len(Body(h, p)) != h.Length {
				t.Fatalf("cut at %d, packet %d: % X, error %v", i, j, p, err)
			}
		}
	}
}

// Whatever the sizes of packets and reads are: every packet comes whole.
func TestRandomStreams(t *testing.T) {
	sizes := map[string]func(rng *rand.Rand) int{
		"small":  func(rng *rand.Rand) int { return rng.IntN(50) },
		"medium": func(rng *rand.Rand) int { return rng.IntN(2 * smallBuffer) },
		"large":  func(rng *rand.Rand) int { return rng.IntN(3 * largeBuffer) },
		"mixed":  func(rng *rand.Rand) int { return rng.IntN(2 << rng.IntN(18)) },
	}
	for packetSizes, packetSize := range sizes {
		for readSizes, readSize := range sizes {
			t.Run(packetSizes+" packets, "+readSizes+" reads", func(t *testing.T) {
				rng := rand.New(rand.NewPCG(7, 8))
				var want [][]byte
				for total := 0; total < 1<<19; total += 1000 + len(want[len(want)-1]) {
					want = append(want, packet(0x30, packetSize(rng)))
				}
				r := Reader{Version: codec.V5}
				src := &source{chunks(slices.Concat(want...), func() int { return readSize(rng) })}
				for i, w := range want {
					if _, p, err := readPacket(&r, src); err != nil || !bytes.Equal(p, w) {
						t.Fatalf("packet %d of %d bytes: %d bytes, error %v", i, len(w), len(p), err)
					}
				}
				if _, _, err := readPacket(&r, src); err != io.EOF || len(r.in.unread()) > 0 {
					t.Errorf("at the end: error %v, %d bytes left", err, len(r.in.unread()))
				}
			})
		}
	}
}

// All packets of one read stay good until the next one: an owner may collect them.
func TestPacketsOfOneReadStay(t *testing.T) {
	want := [][]byte{packet(0x30, 100), packet(0x30, 20), packet(0x30, 120)}
	r := Reader{Version: codec.V5}
	src := &source{[][]byte{append(slices.Concat(want...), 0x30, 9, 1)}}
	if _, err := r.Fill(src); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for {
		_, p, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got = append(got, p)
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("% X, want % X", got, want)
	}
	for _, b := range got {
		if len(b) != cap(b) {
			t.Error("an append to one packet would change the next one")
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		name     string
		first    byte
		length   int  // the limit is 100
		show     bool // Oversized is set
		too, pas bool // it is refused, or shown and thrown away
	}{
		{"as large as it may be", 0x30, 98, false, false, false},
		{"[MQTT-3.1.2-24] [MQTT-3.2.2-15] one more", 0x30, 99, false, true, false},
		{"another type", 0x90, 99, false, true, false},
		{"shown, as large as it may be", 0x30, 98, true, false, false},
		{"shown", 0x30, 99, true, false, true},
		{"shown, another type", 0x90, 99, true, true, false},
	} {
		r := Reader{Version: codec.V5, Limit: 100, LimitRule: "a rule"}
		shown := 0
		if c.show {
			r.Oversized = func(codec.Header, []byte) error { shown++; return nil }
		}
		b := packet(c.first, c.length)
		_, p, err := readPacket(&r, &source{[][]byte{b[:2], b[2:], packet(0x40, 2)}})
		var broken *codec.Error
		too := errors.As(err, &broken) && broken.Code == codec.PacketTooLarge && broken.Rule == "a rule"
		if too != c.too || !c.too && err != nil || shown == 1 != c.pas || c.pas && len(p) != 4 {
			t.Errorf("%s: shown %d times, error %v", c.name, shown, err)
		}
	}
}

func TestErrorOfOversized(t *testing.T) {
	r := Reader{Version: codec.V311, Limit: 100, Oversized: func(codec.Header, []byte) error { return io.ErrNoProgress }}
	if _, _, err := readPacket(&r, &source{[][]byte{packet(0x30, 200)}}); err != io.ErrNoProgress {
		t.Errorf("error %v", err)
	}
}

// A packet beyond the limit is refused as soon as its header says so.
func TestLimitGoesByTheHeader(t *testing.T) {
	r := Reader{Version: codec.V5, Limit: 1 << 20}
	if _, _, err := readPacket(&r, &source{[][]byte{{0x30, 0xFF, 0xFF, 0xFF, 0x7F}}}); err == nil || err == io.EOF {
		t.Errorf("error %v", err)
	}
}

// What is too large is shown as its start, and what follows it is not lost.
func TestOversized(t *testing.T) {
	for _, size := range []int{200, 3000, 70_000, 200_000} {
		large := packet(0x32, size)
		small := packet(0x40, 2)
		joined := slices.Concat(small, large, large, small)
		rng := rand.New(rand.NewPCG(11, 12))
		for name, cut := range map[string]func() int{
			"at once":   func() int { return len(joined) },
			"at random": func() int { return rng.IntN(1 << rng.IntN(18)) },
			"in halves": func() int { return len(joined)/2 + 1 },
			"in tens":   func() int { return 10 },
		} {
			shown := 0
			start := large[len(large)-size:][:min(size, startSize)]
			r := Reader{Version: codec.V311, Limit: 100, Oversized: func(h codec.Header, b []byte) error {
				if !bytes.Equal(b, start) || h.Length != size || h.Flags != 2 {
					t.Errorf("%d bytes %s: %d bytes are shown of header %v", size, name, len(b), h)
				}
				shown++
				return nil
			}}
			src := &source{chunks(joined, cut)}
			for i := range 2 {
				if _, p, err := readPacket(&r, src); err != nil || !bytes.Equal(p, small) {
					t.Fatalf("%d bytes %s: packet %d has %d bytes, error %v", size, name, i, len(p), err)
				}
				if r.Held() > largeBuffer+startSize+5 {
					t.Errorf("a buffer of %d bytes for what is thrown away", r.Held())
				}
			}
			if shown != 2 {
				t.Errorf("%d bytes %s: %d packets are shown, want 2", size, name, shown)
			}
		}
	}
}

// A read buffer loses nothing, always has room, and is never more than twice as large as what came needs.
func TestReadBuffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	var b readBuffer
	var want []byte // what should be unread
	most := 0       // the length of want at its longest, since it was last empty
	for i := range 20_000 {
		need := 0
		if len(want) >= 5 { // then the header is known, and the packet has not come completely
			need = len(want) + 1 + rng.IntN(1<<rng.IntN(22))
		}
		if pending := len(want); rng.IntN(4) > 0 {
			space := b.space(need)
			if len(space) == 0 {
				t.Fatalf("step %d: no room with %d bytes unread", i, pending)
			}
			if pending == 0 {
				most = 0
			}
			most = max(most, pending)
			if len(b.data) > max(largeBuffer, 2*most) {
				t.Fatalf("step %d: %d bytes of memory for %d", i, len(b.data), pending)
			}
			n := 1 + rng.IntN(min(len(space), 1<<rng.IntN(18)))
			for j := range n {
				space[j] = byte(rng.Uint32())
			}
			b.took(n, len(space))
			want = append(want, space[:n]...)
		}
		if !bytes.Equal(b.unread(), want) {
			t.Fatalf("step %d: what is unread has changed", i)
		}
		n := rng.IntN(len(want) + 1)
		if rng.IntN(3) == 0 {
			n = len(want)
		}
		if rng.IntN(3) > 0 && len(want) < 1<<20 {
			n = 0
		}
		b.from += n
		want = want[n:]
	}
}

// Nothing is allocated on the word of a length field: five bytes that announce 256 MiB cost no more than others.
func TestLengthFieldThatLies(t *testing.T) {
	r := Reader{Version: codec.V5}
	header := []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}
	feed := func(pieces ...[]byte) {
		src := &source{pieces}
		for len(src.chunks) > 0 {
			if _, _, ok, err := r.Next(); ok || err != nil {
				t.Fatalf("a packet of 256 MiB is complete: %v, %v", ok, err)
			}
			if _, err := r.Fill(src); err != nil {
				t.Fatal(err)
			}
		}
	}
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	before := allocated()
	feed(header, make([]byte, 10))
	if n := r.Held(); n != smallBuffer {
		t.Errorf("15 bytes are kept in %d", n)
	}
	if n := allocated() - before; n > 2*largeBuffer {
		t.Errorf("15 bytes made the reader allocate %d", n)
	}
	feed(chunks(make([]byte, 1<<20), func() int { return 10_000 })...)
	if n := r.Held(); n > 2<<20+smallBuffer {
		t.Errorf("a mebibyte is kept in %d bytes", n)
	}
	if r.need != len(header)+codec.MaxRemainingLength {
		t.Errorf("the reader waits for %d bytes", r.need)
	}
}

// A large packet that comes in many small pieces must not be copied for each of them.
func TestLargePacketIsNotCopiedForEachRead(t *testing.T) {
	var b readBuffer
	moves := 0
	var last *byte
	const need = 8 << 20
	for read := 0; read < need; read += 1000 {
		space := b.space(need)
		if first := &b.data[0]; first != last {
			last = first
			moves++
		}
		if b.from != 0 {
			t.Fatal("the packet does not begin at the front")
		}
		n := min(1000, len(space))
		b.took(n, len(space))
	}
	if moves > 12 {
		t.Errorf("%d buffers for one packet", moves)
	}
}

func TestReadBufferAdapts(t *testing.T) {
	r := Reader{Version: codec.V5}
	for _, c := range []struct {
		what  string
		comes []byte
		want  int
	}{
		{"a small packet", packet(0x30, 100), smallBuffer},
		{"a burst", bytes.Repeat(packet(0x30, 100), 100), largeBuffer},
		{"a small packet after the burst", packet(0x30, 100), smallBuffer},
		{"a very large packet", packet(0x30, 10*largeBuffer), smallBuffer},
		{"an acknowledgement", packet(0x40, 2), smallBuffer},
	} {
		src := &source{[][]byte{c.comes}}
		for len(src.chunks) > 0 {
			for {
				if _, _, ok, err := r.Next(); err != nil {
					t.Fatal(err)
				} else if !ok {
					break
				}
			}
			if _, err := r.Fill(src); err != nil {
				t.Fatal(err)
			}
		}
		for ok := true; ok; {
			_, _, ok, _ = r.Next()
		}
		r.in.space(r.need) // as the next Fill does before it waits
		if r.Held() != c.want {
			t.Errorf("after %s: a buffer of %d bytes, want %d", c.what, r.Held(), c.want)
		}
	}
	if r.Release(); r.Held() != 0 {
		t.Errorf("%d bytes are held after Release", r.Held())
	}
}

// A reader that has been busy gives its buffer back when nothing comes, and keeps what has come of a packet.
func TestTrim(t *testing.T) {
	whole := packet(0x30, 40_000)
	src := &source{[][]byte{bytes.Repeat(packet(0x30, 100), 100), whole[:20_000], whole[20_000:]}}
	r := Reader{Version: codec.V5}
	for left := 2; left > 0; left-- {
		for len(src.chunks) > left {
			if _, err := r.Fill(src); err != nil {
				t.Fatal(err)
			}
			for ok := true; ok; {
				_, _, ok, _ = r.Next()
			}
		}
		r.in.space(r.need)
		before := r.Held()
		if r.Trim(); before < largeBuffer || r.Held() > 20_000 {
			t.Errorf("%d bytes, %d before", r.Held(), before)
		}
	}
	if _, got, err := readPacket(&r, src); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}

func TestDiscard(t *testing.T) {
	r := Reader{Version: codec.V5}
	src := &source{[][]byte{packet(0x30, 10), packet(0x40, 2)}}
	if _, err := r.Fill(src); err != nil {
		t.Fatal(err)
	}
	r.Discard()
	if h, _, err := readPacket(&r, src); err != nil || h.Type != codec.PUBACK {
		t.Errorf("after what was thrown away comes %v, error %v", h.Type, err)
	}
}

// Whatever comes: no panic, no memory on the word of a length field, and packets that lie in what came, in order.
func FuzzReader(f *testing.F) {
	f.Add(slices.Concat(packet(0x30, 3), packet(0x30, 300), packet(0x40, 2)), uint16(0), false, uint8(5))
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0}, uint16(100), true, uint8(1))
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF}, uint16(100), false, uint8(2))
	f.Fuzz(func(t *testing.T, comes []byte, limit uint16, show bool, cut uint8) {
		for _, v := range []codec.Version{codec.V311, codec.V5} {
			rest := comes
			r := Reader{Version: v, Limit: int(limit)}
			if show {
				r.Oversized = func(h codec.Header, start []byte) error {
					at := bytes.Index(rest, start)
					if at < 0 || at > 5 {
						t.Fatalf("% X is shown of % X", start, rest)
					}
					rest = rest[min(len(rest), at+h.Length):]
					return nil
				}
			}
			src := &source{chunks(comes, func() int { return int(cut) })}
			for {
				_, p, err := readPacket(&r, src)
				if err != nil {
					break
				}
				if !bytes.HasPrefix(rest, p) || limit > 0 && len(p) > int(limit) {
					t.Fatalf("a packet of % X from % X", p, rest)
				}
				rest = rest[len(p):]
				if r.Held() > max(largeBuffer, 2*len(comes)) {
					t.Fatalf("%d bytes are held for %d", r.Held(), len(comes))
				}
			}
		}
	})
}

func BenchmarkNext(b *testing.B) {
	const perRead = 900
	comes := bytes.Repeat(packet(0x30, 62), perRead)
	r := Reader{Version: codec.V5}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Fill(bytes.NewReader(comes)); err != nil {
			b.Fatal(err)
		}
		for ok := true; ok; {
			var err error
			if _, _, ok, err = r.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*perRead), "ns/packet")
}

func ExampleReader() {
	r := Reader{Version: codec.V311, Limit: 1000}
	src := bytes.NewReader([]byte{0xC0, 0x00, 0xE0, 0x00})
	for {
		h, p, ok, err := r.Next()
		if err == nil && !ok {
			_, err = r.Fill(src)
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		if ok {
			fmt.Println(h.Type, len(Body(h, p)))
		}
	}
	// Output:
	// PINGREQ 0
	// DISCONNECT 0
	// EOF
}
