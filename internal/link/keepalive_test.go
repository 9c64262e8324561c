package link

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// inBubble runs f in virtual time. Nothing may be left running.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// somePacket is a packet that a client may send.
var somePacket = []byte{0x40, 2, 0, 1}

// every calls f at each interval, until the link ends.
func (s *station) every(interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				f()
			case <-s.Ended():
				return
			}
		}
	}()
}

// wantPings waits until the time until and compares when PINGREQs were written, in seconds since the link was made. It
// is asked a moment later.
func (s *station) wantPings(until int, want ...int) {
	s.t.Helper()
	s.at(time.Duration(until)*time.Second + time.Millisecond)
	var got []int
	for _, w := range s.cable.written() {
		if at := w.at.Sub(s.began); bytes.Contains(w.bytes, pingreq) {
			if at%time.Second != 0 {
				s.t.Errorf("a PINGREQ after %v", at)
			}
			got = append(got, int(at/time.Second))
		}
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("PINGREQs after %v seconds, want %v", got, want)
	}
}

// wantEnd checks that the link ends with this cause so many seconds after it was made.
func (s *station) wantEnd(cause error, after int) {
	s.t.Helper()
	select {
	case <-s.Ended():
	case <-time.After(time.Hour):
		s.Close(errors.New("the test has waited for too long"))
	}
	if got := time.Since(s.began); got != time.Duration(after)*time.Second {
		s.t.Errorf("the link ends after %v, want %d s", got, after)
	}
	if err := s.Wait(); !errors.Is(err, cause) {
		s.t.Errorf("the link ends with %v, want %v", err, cause)
	}
}

func TestPingreq(t *testing.T) {
	const keepAlive = 10 * time.Second
	inBubble(t, "an idle connection", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.wantPings(35, 10, 20, 30)
	})
	inBubble(t, "[MQTT-3.1.2-20] what comes in does not count", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.every(time.Second, func() { s.cable.feed(somePacket) })
		s.wantPings(35, 10, 20, 30)
	})
	inBubble(t, "never before it is due", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.every(time.Second, func() { s.cable.feed(somePacket) })
		s.at(7 * time.Second)
		s.send(somePacket)
		s.wantPings(18, 17)
	})
	inBubble(t, "not while something is sent", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.every(9*time.Second, func() {
			s.send(somePacket)
			s.cable.feed(somePacket)
		})
		s.wantPings(100)
	})
	inBubble(t, "who only sends asks too", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.every(3*time.Second, func() { s.send(somePacket) })
		s.wantPings(35, 10, 20, 30)
	})
	inBubble(t, "keep alive 0", func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		s.wantPings(100_000)
	})
	inBubble(t, "counts from the end of a long write", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.every(time.Second, func() { s.cable.feed(somePacket) })
		s.cable.limit(0)
		s.send(bytes.Repeat(somePacket, 100))
		s.at(8 * time.Second)
		s.cable.limit(unlimited)
		s.wantPings(19, 18)
	})
	// The longest gap that a server tolerates is 1.5 times the interval [MQTT-3.1.2-22], whatever the answers do.
	inBubble(t, "goes on while an answer is late", func(t *testing.T) {
		s := start(t, Config{}, time.Second)
		defer s.stop()
		s.wantPings(5, 1, 2, 3, 4, 5)
		s.cable.feed(pingresp, pingresp, pingresp, pingresp, pingresp)
		s.wantPings(7, 6, 7)
	})
}

func TestPingresp(t *testing.T) {
	inBubble(t, "does not come", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.wantEnd(ErrServerSilent, 60+10)
	})
	inBubble(t, "does not come, patience is the shorter time", func(t *testing.T) {
		s := start(t, Config{}, 2*time.Second)
		s.wantEnd(ErrServerSilent, 2+10)
	})
	inBubble(t, "bytes are a sign of life", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.at(65 * time.Second)
		s.cable.feed(somePacket)
		s.wantEnd(ErrServerSilent, 65+10)
	})
	inBubble(t, "bytes are a sign of life for two intervals", func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		s.every(9*time.Second, func() { s.cable.feed(somePacket) })
		s.wantEnd(ErrServerSilent, 60+2*60)
	})
	inBubble(t, "does not come although the client never stops sending", func(t *testing.T) {
		s := newStation(t, Config{})
		s.cable.onWrite = func() { // there is always more when a write ends
			time.Sleep(time.Second)
			s.send(somePacket)
		}
		s.Start(s.owner, 10*time.Second)
		s.send(somePacket)
		s.wantEnd(ErrServerSilent, 10+1+int(backlog/time.Second)) // the second is the PINGREQ's on its way
	})
	inBubble(t, "that nobody asked for", func(t *testing.T) {
		s := start(t, Config{}, 10*time.Second)
		defer s.stop()
		s.cable.feed(pingresp, pingresp)
		s.at(time.Second)
		s.cable.feed(pingresp)
		s.wantPings(12, 10)
		if got := s.owner.got(); len(got) != 0 {
			t.Errorf("the handler gets %v", got)
		}
	})
	inBubble(t, "with content", func(t *testing.T) {
		s := start(t, Config{}, 0)
		s.cable.feed([]byte{0xD0, 1, 0})
		var broken *codec.Error
		if err := s.Wait(); !errors.As(err, &broken) || broken.Code != codec.MalformedPacket {
			t.Errorf("the link ends with %v", err)
		}
	})
}

// The wait for PINGRESP follows the interval unless it is given.
func TestPatience(t *testing.T) {
	for _, c := range []struct{ interval, given, want time.Duration }{
		{time.Second, 0, 2 * time.Second},
		{4 * time.Second, 0, 2 * time.Second},
		{10 * time.Second, 0, 5 * time.Second},
		{time.Minute, 0, 10 * time.Second},
		{time.Second, time.Minute, time.Minute},
		{time.Minute, time.Second, time.Second},
	} {
		config := Config{Patience: c.given}
		if got := config.patience(c.interval); got != c.want {
			t.Errorf("interval %v, given %v: %v, want %v", c.interval, c.given, got, c.want)
		}
	}
	inBubble(t, "without end", func(t *testing.T) {
		s := start(t, Config{Patience: math.MaxInt64}, 2*time.Second)
		defer s.stop()
		s.wantPings(11, 2, 4, 6, 8, 10)
		if s.ended() {
			t.Error("the link has ended")
		}
		s.cable.feed(somePacket)
		if s.at(20 * time.Second); s.ended() {
			t.Error("the link has ended")
		}
	})
}

// A slow link on which the PINGREQ is behind much else is not dead: the server makes room for our bytes.
func TestSlowUplink(t *testing.T) {
	inBubble(t, "answers in the end", func(t *testing.T) {
		s := newStation(t, Config{})
		writes := 0
		s.cable.onWrite = func() { // there is always more when a write ends, and the server is 40 s behind
			time.Sleep(4 * time.Second)
			s.send(somePacket)
			if writes++; writes%10 == 0 {
				s.cable.feed(pingresp)
			}
		}
		s.Start(s.owner, 10*time.Second)
		defer s.stop()
		s.send(somePacket)
		if s.at(20 * time.Minute); s.ended() {
			t.Errorf("the link has ended after %v", time.Since(s.began))
		}
		s.cable.change(func() { s.cable.onWrite = nil })
	})
	inBubble(t, "dies", func(t *testing.T) {
		s := newStation(t, Config{})
		s.cable.onWrite = func() {
			if time.Since(s.began) < 31*time.Second {
				time.Sleep(4 * time.Second)
				s.send(somePacket)
			}
		}
		s.Start(s.owner, 10*time.Second)
		s.send(somePacket)
		s.wantEnd(ErrServerSilent, 32+10)
	})
	inBubble(t, "writes that are not held up say nothing", func(t *testing.T) {
		s := start(t, Config{}, 10*time.Second)
		s.every(10*time.Millisecond, func() { s.send(somePacket) })
		s.wantEnd(ErrServerSilent, 10+10)
	})
}

// An acknowledgement that is long overdue sends a PINGREQ before the keep alive does.
func TestEarlyPing(t *testing.T) {
	const keepAlive = time.Minute
	await := func(s *station, awaiting bool) {
		s.owner.mu.Lock()
		s.owner.awaiting = awaiting
		s.owner.mu.Unlock()
	}
	inBubble(t, "nothing comes", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		s.at(20 * time.Second)
		await(s, true)
		s.send(somePacket)
		s.wantEnd(ErrServerSilent, 20+5+10)
	})
	inBubble(t, "nothing comes, and the client sends on", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		await(s, true)
		s.send(somePacket)
		s.every(time.Second, func() { s.send(somePacket) })
		s.wantEnd(ErrServerSilent, 5+10)
	})
	inBubble(t, "the server is slow, and asked less and less often", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		await(s, true)
		s.send(somePacket)
		s.wantPings(130, 5, 15, 35, 75)
	})
	inBubble(t, "the usual round trip is long", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		await(s, true)
		s.send(somePacket)
		s.at(2 * time.Second)
		s.cable.feed(somePacket)
		synctest.Wait()
		s.at(3 * time.Second)
		s.send(somePacket)
		s.wantPings(60, 3+longTrip*2)
	})
	inBubble(t, "nothing is to be acknowledged", func(t *testing.T) {
		s := start(t, Config{}, keepAlive)
		defer s.stop()
		s.cable.answer(true)
		s.send(somePacket)
		s.wantPings(59)
	})
	inBubble(t, "keep alive 0", func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		await(s, true)
		s.send(somePacket)
		s.wantPings(1000)
	})
}

// What our own consumer holds up is not the server's fault, and must not let the server run out of patience either.
func TestReaderThatIsHeldUp(t *testing.T) {
	inBubble(t, "for long", func(t *testing.T) {
		s := newStation(t, Config{})
		free := make(chan struct{})
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.owner.mu.Unlock()
			<-free
			s.owner.mu.Lock()
			return nil
		}
		s.Start(s.owner, 10*time.Second)
		s.cable.answer(true)
		s.wantPings(15, 10)
		s.cable.feed(somePacket)
		s.wantPings(65, 20, 30, 40, 50, 60) // [MQTT-3.1.2-20]
		close(free)
		s.wantPings(75, 70)
		s.cable.answer(false)
		s.wantEnd(ErrServerSilent, 80+10) // and the blame is the server's again
	})
	inBubble(t, "silence begins when the reader listens again", func(t *testing.T) {
		s := newStation(t, Config{})
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.owner.mu.Unlock()
			time.Sleep(24 * time.Second)
			s.owner.mu.Lock()
			return nil
		}
		s.Start(s.owner, 10*time.Second)
		defer s.stop()
		s.cable.answer(true)
		s.at(time.Second)
		s.cable.feed(somePacket)
		s.every(3*time.Second, func() { s.send(somePacket) })
		s.wantPings(40, 35) // and not after 25 s, when what came meanwhile is not read yet
	})
	inBubble(t, "an answer is not late before the reader listens again", func(t *testing.T) {
		s := newStation(t, Config{})
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.owner.awaiting = true
			s.owner.mu.Unlock()
			time.Sleep(24 * time.Second)
			s.owner.mu.Lock()
			return nil
		}
		s.Start(s.owner, time.Minute)
		defer s.stop()
		s.cable.answer(true)
		s.at(time.Second)
		s.cable.feed(somePacket)
		s.at(2 * time.Second)
		s.send(somePacket)
		s.wantPings(32, 30)
	})
	inBubble(t, "again and again by a server that never answers", func(t *testing.T) {
		s := newStation(t, Config{})
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.owner.mu.Unlock()
			time.Sleep(500 * time.Millisecond)
			s.owner.mu.Lock()
			return nil
		}
		s.Start(s.owner, 10*time.Second)
		s.every(time.Second, func() { s.cable.feed(somePacket) })
		<-s.Ended()
		if err := s.Wait(); !errors.Is(err, ErrServerSilent) || time.Since(s.began) > 2*time.Minute {
			t.Errorf("after %v the link ends with %v", time.Since(s.began), err)
		}
	})
}

// The patience with a PINGRESP begins when the PINGREQ is out, not when it is in line.
func TestPingBehindASlowWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, time.Minute)
		defer s.stop()
		s.cable.limit(0)
		s.send(bytes.Repeat(somePacket, 100))
		s.every(time.Second, func() { s.cable.take(8) })
		done := make(chan struct{})
		s.owner.mu.Lock()
		s.Ping(done)
		s.owner.mu.Unlock()
		s.at(58 * time.Second)
		s.cable.feed(pingresp)
		<-done
		if s.at(59 * time.Second); s.ended() {
			t.Error("the link has ended")
		}
	})
}

func (s *station) ended() bool {
	select {
	case <-s.Ended():
		return true
	default:
		return false
	}
}

func TestPingsAreAnsweredInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{}, 0)
		defer s.stop()
		answered := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		s.owner.mu.Lock()
		for _, done := range answered {
			s.Ping(done)
		}
		s.owner.mu.Unlock()
		for i := range answered {
			s.cable.feed(pingresp)
			synctest.Wait()
			for j, done := range answered {
				select {
				case <-done:
					if j > i {
						t.Errorf("after %d PINGRESPs ping %d is answered", i+1, j)
					}
				default:
					if j <= i {
						t.Errorf("after %d PINGRESPs ping %d is not answered", i+1, j)
					}
				}
			}
		}
	})
}

// A round trip ends when the answer comes, however long the reader is busy before it handles the answer, and what came
// before the question is no answer.
func TestRoundTripWhileTheReaderIsBusy(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		s := newStation(t, Config{})
		handled := 0
		s.owner.onPacket = func(codec.Header, []byte) error {
			if handled++; handled != 2 {
				s.owner.mu.Unlock()
				time.Sleep(3 * time.Second)
				s.owner.mu.Lock()
			}
			return nil
		}
		s.Start(s.owner, time.Minute)
		defer s.stop()
		want := func(want time.Duration) {
			t.Helper()
			s.owner.mu.Lock()
			defer s.owner.mu.Unlock()
			if trip := s.RoundTrip(); trip != want {
				t.Errorf("the round trip is %v after %v, want %v", trip, time.Since(s.began), want)
			}
		}
		s.cable.feed(slices.Concat(somePacket, somePacket)) // the second is handled after 3 s
		s.at(time.Second)
		s.owner.mu.Lock()
		s.owner.awaiting = true
		s.owner.mu.Unlock()
		s.send(somePacket)
		s.at(4 * time.Second)
		want(0)
		s.at(5 * time.Second)
		s.cable.feed(somePacket)
		s.at(9 * time.Second)
		want(4 * time.Second)
		s.at(10 * time.Second)
		s.owner.mu.Lock()
		s.Ping(nil)
		s.owner.mu.Unlock()
		s.at(12 * time.Second)
		s.cable.feed(slices.Concat(somePacket, pingresp)) // the second is handled after 3 s
		s.at(16 * time.Second)
		want(2 * time.Second)
	})
}
