package wire

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// commit appends p as an owner does.
func (w *Writer) commit(p string) (wake bool) { return w.Commit(append(w.Buffer(), p...)) }

// written does what the goroutine that writes does, and returns what it wrote.
func (w *Writer) written() string {
	out, _ := w.Take()
	s := string(slices.Concat(out...))
	w.Wrote()
	return s
}

// What waits goes out in the order in which it was appended, copied or shared, and whoever writes is told once.
func TestWriterOrder(t *testing.T) {
	large := strings.Repeat("l", 9000)
	for _, c := range []struct {
		name  string
		steps []string // with a star: shared
		want  string
	}{
		{"copied", []string{"a", "bc", "d"}, "abcd"},
		{"shared", []string{"*a"}, "a"},
		{"shared first", []string{"*ab", "c", "d"}, "abcd"},
		{"shared last", []string{"a", "b", "*cd"}, "abcd"},
		{"in turn", []string{"a", "*b", "*c", "d", "*e", "f"}, "abcdef"},
		{"the buffer grows", []string{"a", "*b", large, "*c", large, "d"}, "ab" + large + "c" + large + "d"},
		{"nothing", []string{"", "*"}, ""},
		{"nothing in between", []string{"a", "", "*", "*b", ""}, "ab"},
	} {
		var w Writer
		for round := range 3 { // the buffers are used again
			wakes := 0
			for _, s := range c.steps {
				shared, isShared := strings.CutPrefix(s, "*")
				if isShared && w.Share([]byte(shared)) || !isShared && w.commit(s) {
					wakes++
				}
			}
			if want := min(1, len(c.want)); wakes != want || w.Waiting() != len(c.want) {
				t.Errorf("%s, round %d: woken %d times, %d bytes wait", c.name, round, wakes, w.Waiting())
			}
			if got := w.written(); got != c.want || w.Waiting() != 0 {
				t.Errorf("%s, round %d: %d bytes are written, want %d, or they differ", c.name, round, len(got), len(c.want))
			}
		}
	}
}

// What is appended during a write waits for the next one and does not change what is being written.
func TestWriterDuringAWrite(t *testing.T) {
	var w Writer
	w.commit("first")
	if w.Writing() {
		t.Error("a write is under way before Take")
	}
	out, _ := w.Take()
	if !w.Writing() || w.Idle() {
		t.Error("no write is under way after Take")
	}
	if !w.commit("second") || w.commit(", third") {
		t.Error("whoever writes is not woken once")
	}
	if got := string(slices.Concat(out...)); got != "first" {
		t.Errorf("%q is being written", got)
	}
	w.Wrote()
	if got := w.written(); got != "second, third" || w.Writing() {
		t.Errorf("then %q", got)
	}
	if out, _ := w.Take(); len(out) != 0 || w.Writing() {
		t.Errorf("then % X", out)
	}
}

func TestWriterFull(t *testing.T) {
	w := Writer{Bound: 10}
	room := func() bool {
		_, room := w.Take()
		w.Wrote()
		return room
	}
	w.commit("123456789")
	if w.Full() {
		t.Error("full below the bound")
	}
	w.Share([]byte("0"))
	if !w.Full() {
		t.Error("not full at the bound")
	}
	if w.commit("an acknowledgement"); w.Waiting() != 28 {
		t.Errorf("%d bytes wait: beyond the bound nothing is taken", w.Waiting())
	}
	if !room() || w.Full() {
		t.Error("no room after everything was taken")
	}
	w.commit(strings.Repeat("x", 100))
	if room() {
		t.Error("room is told although nobody asked")
	}
}

// [MQTT-3.14.4-1]: nothing goes out after the last packet.
func TestWriterFinish(t *testing.T) {
	var w Writer
	w.commit("before, ")
	if w.Finishing() || !w.Finish([]byte("last")) || !w.Finishing() {
		t.Error("Finish does not finish")
	}
	if w.commit("after") || w.Share([]byte("after")) || w.Finish([]byte("second last")) {
		t.Error("something is taken after the last packet")
	}
	if got := w.written(); got != "before, last" {
		t.Errorf("%q is written", got)
	}
	if got := w.written(); got != "" {
		t.Errorf("then %q", got)
	}
}

func TestWriterMemory(t *testing.T) {
	var w Writer
	if w.Idle() {
		t.Error("a new writer holds memory")
	}
	w.commit("x")
	if w.Idle() {
		t.Error("idle with a byte that waits")
	}
	w.written()
	if !w.Idle() {
		t.Error("not idle after everything is written")
	}
	if w.Release(); w.Idle() || w.out != nil || w.taken != nil {
		t.Error("memory is held after Release")
	}
}

// A shared packet is let go as soon as it is written.
func TestSharedIsLetGo(t *testing.T) {
	var w Writer
	w.Share([]byte("shared"))
	w.written()
	w.commit("x")
	w.written() // the buffer that held the reference has been emptied now
	for _, b := range []*writeBuffer{w.out, w.taken} {
		for _, p := range b.pieces[:cap(b.pieces)] {
			if bytes.Equal(p, []byte("shared")) {
				t.Error("a packet that was written is still referred to")
			}
		}
	}
}

func TestVeryLargeWriteBufferIsForgotten(t *testing.T) {
	b := &writeBuffer{bytes: make([]byte, 10, keptBuffer)}
	if e := b.emptied(); e != b || len(e.bytes) != 0 {
		t.Errorf("a buffer at the bound becomes %v", e)
	}
	b = &writeBuffer{bytes: make([]byte, 10, keptBuffer+1)}
	if b.emptied() != nil || (*writeBuffer)(nil).emptied() != nil {
		t.Error("a very large buffer is kept")
	}
}

// Sending costs no allocations once the buffers are there.
func TestWriterDoesNotAllocate(t *testing.T) {
	var w Writer
	p := make([]byte, 64)
	if n := testing.AllocsPerRun(200, func() {
		w.Commit(append(w.Buffer(), p...))
		w.Share(p)
		if out, _ := w.Take(); len(out) != 2 {
			t.Fatal(len(out), "pieces")
		}
		w.Wrote()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCloseWrite(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := CloseWrite(a); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v from a pipe", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := CloseWrite(server); err != nil {
		t.Fatal(err)
	}
	r := Reader{Version: codec.V5}
	if _, err := r.Fill(client); err == nil {
		t.Error("the peer has not been told that no more comes")
	}
	if _, err := client.Write([]byte{1}); err != nil {
		t.Errorf("the other direction is closed as well: %v", err)
	}
}
