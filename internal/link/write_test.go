package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// joined returns what the server got since the last call, and in how many writes.
func (s *station) joined() (all []byte, writes int) {
	w := s.cable.written()
	for i := range w {
		all = append(all, w[i].bytes...)
	}
	return all, len(w)
}

func (s *station) wantWritten(what string, want []byte, writes int) {
	s.t.Helper()
	synctest.Wait()
	got, n := s.joined()
	if !bytes.Equal(got, want) || n != writes {
		s.t.Errorf("%s: %d bytes in %d writes, want %d in %d, or their contents differ", what, len(got), n, len(want), writes)
	}
}

func TestWritesAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		var want []byte
		var packets [][]byte
		for i := range 500 {
			packets = append(packets, packet(0x30, i))
			want = append(want, packets[i]...)
		}
		synctest.Wait()
		s.send(packets...)
		s.wantWritten("appended in one critical section", want, 1)

		s.cable.limit(0)
		s.send(packets[0])
		synctest.Wait()
		for _, p := range packets[1:] {
			s.send(p)
			synctest.Wait()
		}
		s.cable.limit(unlimited)
		s.wantWritten("appended during a write", want, 2)
		if _, out := s.Bytes(); out != uint64(2*len(want)) {
			t.Errorf("%d bytes were written, want %d", out, 2*len(want))
		}
	})
}

// A Commit at any moment of the writer's is written.
func TestNoWakeUpIsLost(t *testing.T) {
	s := start(t, Config{}, 0)
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for range 2000 {
				s.send(somePacket)
			}
		})
	}
	senders.Wait()
	s.finish(io.EOF, somePacket)
	s.cable.change(func() {
		for !s.cable.halved {
			s.cable.changed.Wait()
		}
	})
	s.cable.hangUp()
	if err := s.Wait(); err != io.EOF {
		t.Errorf("the link ends with %v", err)
	}
	if got, _ := s.joined(); len(got) != (8*2000+1)*len(somePacket) {
		t.Errorf("%d bytes were written, want %d", len(got), (8*2000+1)*len(somePacket))
	}
}

func TestCommitOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		s.send(nil, nil)
		s.wantWritten("nothing", nil, 0)
		s.send(nil, somePacket, nil)
		s.wantWritten("something in between", somePacket, 1)
	})
}

func TestWriteFails(t *testing.T) {
	inBubble(t, "the server takes nothing", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.limit(3)
		s.send(somePacket)
		s.at(10 * time.Second)
		s.cable.giveUp()
		s.wantEnd(ErrServerSilent, 10)
	})
	inBubble(t, "an error", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.change(func() { s.cable.halved = true })
		s.send(somePacket)
		began := time.Now()
		if err := s.Wait(); !errors.Is(err, net.ErrClosed) || time.Since(began) != lastWord {
			t.Errorf("the link ends with %v after %v", err, time.Since(began))
		}
	})
	inBubble(t, "an error, and the server says why", func(t *testing.T) {
		s := start(t, Config{}, 0)
		why := errors.New("why")
		s.owner.onPacket = func(codec.Header, []byte) error { return why }
		s.cable.change(func() { s.cable.halved = true })
		s.send(somePacket)
		s.at(lastWord / 2)
		s.cable.feed(packet(0xE0, 1))
		began := time.Now()
		if err := s.Wait(); err != why || time.Since(began) != 0 {
			t.Errorf("the link ends with %v after %v", err, time.Since(began))
		}
	})
}

func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		full := func() bool {
			s.owner.mu.Lock()
			defer s.owner.mu.Unlock()
			return s.Full()
		}
		rooms := func() int {
			s.owner.mu.Lock()
			defer s.owner.mu.Unlock()
			return s.owner.rooms
		}
		s.owner.onRoom = func() {
			if s.Full() {
				t.Error("full while the handler is told of room")
			}
		}
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait() // the writer is at work with it
		s.send(make([]byte, wire.Bound-1))
		if full() {
			t.Error("full below the bound")
		}
		s.send([]byte{0})
		if !full() || rooms() != 0 {
			t.Error("not full at the bound")
		}
		s.send(somePacket) // an acknowledgement is taken all the same
		s.cable.limit(unlimited)
		s.wantWritten("everything", append(append(bytes.Clone(somePacket), make([]byte, wire.Bound)...), somePacket...), 2)
		if full() || rooms() != 1 {
			t.Errorf("full %v, Room was called %d times, want once", full(), rooms())
		}
		s.send(make([]byte, 2*wire.Bound))
		synctest.Wait()
		if rooms() != 1 {
			t.Error("Room is called although Full was not asked")
		}
	})
}

func TestFinish(t *testing.T) {
	cause := errors.New("cause")
	last := []byte{0xE0, 0}
	inBubble(t, "flushes everything", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait()
		large := make([]byte, 3*wire.Bound)
		s.send(large)
		s.finish(cause, last)
		s.finish(io.EOF, somePacket) // too late
		s.send(somePacket)           // [MQTT-3.14.4-1]
		s.owner.mu.Lock()
		s.Ping(nil)
		finishing := s.Finishing()
		s.owner.mu.Unlock()
		if !finishing || !s.ended() {
			t.Errorf("finishing %v, ended %v", finishing, s.ended())
		}
		s.cable.limit(unlimited)
		s.wantWritten("everything", append(append(bytes.Clone(somePacket), large...), last...), 2)
		if closed, halved := s.cable.ends(); closed || !halved {
			t.Errorf("closed %v, half closed %v, want the latter", closed, halved)
		}
		s.send(somePacket)
		s.cable.feed(somePacket) // is not delivered any more
		s.cable.hangUp()
		s.wantEnd(cause, 0)
		s.wantWritten("afterwards", nil, 0)
		if closed, _ := s.cable.ends(); !closed {
			t.Error("the connection is open") // [MQTT-3.14.4-2]
		}
		if len(s.owner.packets) != 0 {
			t.Errorf("the handler gets %v", s.owner.packets)
		}
	})
	inBubble(t, "the server does not close", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.every(time.Millisecond, func() {})
		s.finish(cause, last)
		s.wantWait(cause, wire.Farewell)
		s.wantWritten("the last packet", last, 1)
	})
	inBubble(t, "the server takes nothing", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.limit(0)
		s.finish(cause, last)
		s.wantWait(cause, wire.Farewell)
	})
	inBubble(t, "the server sends on, and nonsense", func(t *testing.T) {
		s := start(t, Config{Version: 4, MaximumPacketSize: 10}, 0)
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait()
		s.finish(cause, last)
		s.cable.feed(packet(0x30, 100), packet(0x40, 3), []byte{0, 0}, somePacket)
		time.Sleep(wire.Farewell / 2)
		s.cable.limit(unlimited)
		s.wantWritten("everything", append(bytes.Clone(somePacket), last...), 2)
		s.cable.hangUp()
		s.wantWait(cause, wire.Farewell/2)
		if len(s.owner.packets)+len(s.owner.oversized) != 0 {
			t.Errorf("the handler gets %v and %v", s.owner.packets, s.owner.oversized)
		}
	})
	inBubble(t, "without a packet", func(t *testing.T) {
		s := start(t, Config{}, 0)
		synctest.Wait()
		s.finish(cause, nil)
		synctest.Wait()
		if _, halved := s.cable.ends(); !halved {
			t.Error("the connection is not half closed")
		}
		s.cable.hangUp()
		s.wantWait(cause, 0)
	})
	inBubble(t, "a connection that cannot be closed by half", func(t *testing.T) {
		s := newStation(t, Config{})
		s.Link.conn = struct{ net.Conn }{s.cable}
		s.Start(s.owner, 0)
		s.finish(cause, last)
		s.wantWait(cause, 0)
		s.wantWritten("the last packet", last, 1)
	})
	inBubble(t, "before Start", func(t *testing.T) {
		s := newStation(t, Config{})
		s.finish(cause, last)
		s.Start(s.owner, time.Minute)
		s.wantWritten("the last packet", last, 1)
		s.cable.hangUp()
		s.wantWait(cause, 0)
	})
	inBubble(t, "without Start", func(t *testing.T) {
		s := newStation(t, Config{})
		s.finish(cause, last)
		s.wantWait(cause, wire.Farewell)
	})
}

// wantWait checks that Wait returns after so long since the station was made, with the connection closed.
func (s *station) wantWait(cause error, after time.Duration) {
	s.t.Helper()
	if err := s.Wait(); err != cause || time.Since(s.began) != after {
		s.t.Errorf("after %v the link ends with %v, want %v after %v", time.Since(s.began), err, cause, after)
	}
	if closed, _ := s.cable.ends(); !closed {
		s.t.Error("the connection is open")
	}
}

func TestClose(t *testing.T) {
	cause := errors.New("cause")
	inBubble(t, "at rest", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		synctest.Wait()
		s.Close(cause)
		s.Close(io.EOF) // too late
		s.wantWait(cause, 0)
	})
	inBubble(t, "without a cause", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		synctest.Wait()
		s.Close(nil)
		s.wantWait(nil, 0)
	})
	inBubble(t, "during a write", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait()
		s.Close(cause)
		s.wantWait(cause, 0)
	})
	inBubble(t, "with packets that wait", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		synctest.Wait()
		s.owner.mu.Lock()
		s.Commit(append(s.Buffer(), somePacket...))
		s.Close(cause)
		s.owner.mu.Unlock()
		s.wantWait(cause, 0)
		s.owner.mu.Lock()
		s.Commit(append(s.Buffer(), somePacket...)) // harmless
		s.Ping(nil)
		s.owner.mu.Unlock()
	})
	inBubble(t, "after Finish", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.cable.limit(0)
		s.finish(cause, somePacket)
		s.Close(io.EOF)
		s.wantWait(cause, 0)
	})
	inBubble(t, "before Start", func(t *testing.T) {
		s := newStation(t, Config{})
		s.Close(cause)
		s.Start(s.owner, time.Minute)
		s.wantWait(cause, 0)
	})
	inBubble(t, "without Start", func(t *testing.T) {
		s := newStation(t, Config{})
		s.Close(cause)
		s.wantWait(cause, 0)
	})
}

// After Close nothing is sent any more, not even what waited: section 3.14.4 wants silence after a server's DISCONNECT.
func TestNothingIsWrittenAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait()
		s.send(pingreq)
		s.Close(io.EOF)
		s.cable.limit(unlimited)
		s.wantWritten("what was under way", somePacket, 1)
		s.stop()
	})
}

// Everything may be called at any moment from any goroutine.
func TestEndsAtAnyMoment(t *testing.T) {
	for i := range 300 {
		s := newStation(t, Config{Version: 4 + 1})
		var callers sync.WaitGroup
		causes := map[error]bool{ErrServerClosed: true}
		for j := range 4 {
			cause := fmt.Errorf("cause %d", j)
			causes[cause] = true
			callers.Go(func() {
				for range j * i % 97 {
					s.send(somePacket)
				}
				switch (i + j) % 4 {
				case 0:
					s.Close(cause)
				case 1:
					s.finish(cause, somePacket)
					s.Close(cause)
				case 2:
					s.cable.feed(packet(0x30, 3000), pingresp)
				case 3:
					s.cable.hangUp()
				}
			})
		}
		s.Start(s.owner, time.Minute)
		if cause := s.Wait(); !causes[cause] {
			t.Errorf("the link ends with %v", cause)
		}
		callers.Wait()
		if closed, _ := s.cable.ends(); !closed {
			t.Error("the connection is open")
		}
	}
}

func TestIdleLinkHoldsNoWriteBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		for range 10 {
			s.send(make([]byte, 10_000))
			synctest.Wait()
			s.send(somePacket, somePacket)
			synctest.Wait()
		}
		s.owner.mu.Lock()
		kept := s.out.Idle()
		s.owner.mu.Unlock()
		if !kept {
			t.Error("a busy link has given its write buffers back")
		}
		time.Sleep(wire.BufferRest) // virtual
		synctest.Wait()
		if s.out.Idle() {
			t.Error("an idle link holds a write buffer")
		}
	})
}

func TestWriteBeforeStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, Config{})
		if err := s.Write(somePacket); err != nil {
			t.Fatal(err)
		}
		s.wantWritten("the handshake", somePacket, 1)
		s.cable.limit(0)
		s.cable.giveUp()
		if err := s.Write(somePacket); err != ErrServerSilent {
			t.Errorf("error %v from a server that takes nothing", err)
		}
		s.stop()
	})
}

// Sending and receiving cost no allocations once the buffers are there.
func TestTrafficDoesNotAllocate(t *testing.T) {
	s := newStation(t, Config{})
	s.handler = silent{}
	source := &sink{brings: bytes.Repeat(packet(0x40, 2), 90), closed: make(chan struct{})} // within a small buffer
	n := testing.AllocsPerRun(200, func() {
		s.send(somePacket)
		if out, _ := s.take(); len(out) != 1 || len(out[0]) != len(somePacket) {
			t.Fatal("nothing is written")
		}
		if _, err := s.in.Fill(source); err != nil {
			t.Fatal(err)
		}
		if more, err := s.dispatch(); !more || err != nil {
			t.Fatal(more, err)
		}
		if more, err := s.dispatch(); more || err != nil {
			t.Fatal(more, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a packet out and 90 packets in", n)
	}
}

// Written waits for what was appended before it was asked, and for nothing that comes after: on a busy link there is always
// more.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		written := func() <-chan struct{} {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.Written()
		}
		is := func(c <-chan struct{}) bool {
			synctest.Wait()
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		if !is(written()) {
			t.Error("a new link has something to write")
		}
		s.cable.limit(0)
		s.send(somePacket)
		synctest.Wait()
		first := written()
		s.send(somePacket)
		second := written()
		if is(first) || is(second) {
			t.Error("the server has taken nothing yet")
		}
		s.cable.take(len(somePacket))
		synctest.Wait()
		s.send(somePacket)
		if !is(first) || is(second) {
			t.Errorf("of two packets the server has taken one: %v, %v", is(first), is(second))
		}
		s.cable.take(len(somePacket))
		if !is(second) {
			t.Error("the second packet is written, and a third one waits")
		}
		s.cable.limit(unlimited)
		if !is(written()) {
			t.Error("everything is written")
		}
	})
}
