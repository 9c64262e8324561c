package mqtttest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs f in virtual time with the two ends of a connection. Nothing may be left running.
func inBubble(t *testing.T, f func(t *testing.T, a, b *endpoint)) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newConnection("client", "server", shape{})
		defer a.Close()
		defer b.Close()
		f(t, a, b)
	})
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func wantTimeout(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what, err, os.ErrDeadlineExceeded)
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("%s: %v is not a net.Error with Timeout", what, err)
	}
}

// Bytes arrive unchanged and in order, however they are cut [MQTT-4.2.0-1].
func TestNetworkIntegrity(t *testing.T) {
	for _, fragment := range []int{0, 1, 1000} {
		sent := make([]byte, 3*window+17)
		for i := range sent {
			sent[i] = byte(rand.Uint32())
		}
		a, b := newConnection("client", "server", shape{fragment: fragment})
		var wg sync.WaitGroup
		for _, pair := range [][2]*endpoint{{a, b}, {b, a}} {
			wg.Go(func() { writeChunks(t, pair[0], sent) })
			wg.Go(func() {
				if got := readChunks(t, pair[1], len(sent)); !bytes.Equal(got, sent) {
					t.Error("other bytes arrive than were sent")
				}
			})
		}
		wg.Wait()
		a.Close()
		b.Close()
	}
}

func writeChunks(t *testing.T, c net.Conn, b []byte) {
	for len(b) > 0 {
		n, err := c.Write(b[:min(len(b), rand.IntN(20_000))])
		if err != nil {
			t.Error(err)
			return
		}
		b = b[n:]
	}
}

func readChunks(t *testing.T, c net.Conn, n int) []byte {
	var got []byte
	buffer := make([]byte, 30_000)
	for len(got) < n {
		k, err := c.Read(buffer[:1+rand.IntN(len(buffer)-1)])
		if err != nil {
			t.Error(err)
			return got
		}
		got = append(got, buffer[:k]...)
	}
	return got
}

func TestNetworkFragment(t *testing.T) {
	a, b := newConnection("client", "server", shape{fragment: 2})
	defer a.Close()
	defer b.Close()
	if _, err := b.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 10)); n != 2 || err != nil {
		t.Errorf("Read returns %d, %v; want 2 bytes", n, err)
	}
	if _, err := a.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(make([]byte, 10)); n != 5 || err != nil {
		t.Errorf("Read at the server returns %d, %v; want 5 bytes", n, err)
	}
}

// Concurrent writes do not mix, even where each waits for room.
func TestNetworkConcurrentWrites(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		const size = window + 1000
		for c := range byte(3) {
			go func() {
				if _, err := a.Write(bytes.Repeat([]byte{c}, size)); err != nil {
					t.Error(err)
				}
			}()
		}
		for range 3 {
			got := make([]byte, size)
			if _, err := io.ReadFull(b, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, bytes.Repeat(got[:1], size)) {
				t.Fatal("writes are mixed")
			}
		}
	})
}

func TestNetworkWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		done := false
		go func() {
			if n, err := a.Write(make([]byte, window+1)); n != window+1 || err != nil {
				t.Errorf("Write returns %d, %v", n, err)
			}
			done = true
		}()
		synctest.Wait()
		if done {
			t.Fatal("a write of more than the window does not wait")
		}
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !done {
			t.Error("the write does not go on when there is room")
		}
	})
}

func TestNetworkDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		start := time.Now()
		if err := a.SetDeadline(start.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := a.Read(make([]byte, 1))
		wantTimeout(t, "Read", err)
		if d := time.Since(start); d != time.Second {
			t.Errorf("Read returns after %v", d)
		}
		_, err = a.Write(make([]byte, 1))
		wantTimeout(t, "Write after the deadline", err)

		a.SetDeadline(time.Now().Add(-time.Second))
		b.Write([]byte("x"))
		_, err = a.Read(make([]byte, 1))
		wantTimeout(t, "Read with bytes there, after a past deadline", err)

		a.SetDeadline(time.Time{})
		if _, err := a.Read(make([]byte, 1)); err != nil {
			t.Errorf("Read without a deadline: %v", err)
		}
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(make([]byte, window+1))
		wantTimeout(t, "Write into a full window", err)
		if n != window {
			t.Errorf("Write took %d bytes", n)
		}
	})
}

// A deadline that is moved counts from then on, for calls that wait already too.
func TestNetworkDeadlineMoved(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		go func() {
			time.Sleep(500 * time.Millisecond)
			a.SetReadDeadline(start.Add(2 * time.Second))
		}()
		_, err := a.Read(make([]byte, 1))
		wantTimeout(t, "Read", err)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("Read returns after %v", d)
		}
		go func() {
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Unix(1, 0))
		}()
		a.SetReadDeadline(time.Time{})
		_, err = a.Read(make([]byte, 1))
		wantTimeout(t, "Read that waits when its deadline becomes past", err)
	})
}

func TestNetworkClose(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		a.Write([]byte("last"))
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
			t.Errorf("after Close the peer reads %q, %v", got, err)
		}
		_, err := b.Write([]byte("x"))
		wantError(t, "Write to a closed peer", err, syscall.EPIPE)
		_, err = a.Read(make([]byte, 1))
		wantError(t, "Read after Close", err, net.ErrClosed)
		_, err = a.Write(nil)
		wantError(t, "Write after Close", err, net.ErrClosed)
		wantError(t, "second Close", a.Close(), net.ErrClosed)
		wantError(t, "SetDeadline after Close", a.SetDeadline(time.Now()), net.ErrClosed)
	})
}

func TestNetworkCloseWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		a.CloseWrite()
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read: %v", err)
		}
		if _, err := b.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("the other direction: Read returns %d, %v", n, err)
		}
	})
}

// What waits returns when either end closes, or the connection breaks.
func TestNetworkUnblock(t *testing.T) {
	for _, c := range []struct {
		name        string
		end         func(a, b *endpoint)
		read, write error
	}{
		{"own Close", func(a, b *endpoint) { a.Close() }, net.ErrClosed, net.ErrClosed},
		{"peer's Close", func(a, b *endpoint) { b.Close() }, io.EOF, syscall.EPIPE},
		{"reset", func(a, b *endpoint) { b.reset() }, syscall.ECONNRESET, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a, b *endpoint) {
				var wg sync.WaitGroup
				wg.Go(func() {
					_, err := a.Read(make([]byte, 1))
					wantError(t, "Read", err, c.read)
				})
				for range 2 { // one has its turn and waits for room, one waits for its turn
					wg.Go(func() {
						_, err := a.Write(make([]byte, window+1))
						wantError(t, "Write", err, c.write)
					})
				}
				synctest.Wait()
				c.end(a, b)
				wg.Wait()
			})
		})
	}
}

func TestNetworkReset(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		a.Write([]byte("lost"))
		a.reset()
		for name, e := range map[string]*endpoint{"client": a, "server": b} {
			_, err := e.Read(make([]byte, 10))
			wantError(t, name+" reads", err, syscall.ECONNRESET)
			_, err = e.Write([]byte("x"))
			wantError(t, name+" writes", err, syscall.ECONNRESET)
		}
	})
}

func TestNetworkVanish(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		b.Write([]byte("lost"))
		a.vanish()
		if n, err := a.Write(make([]byte, 10*window)); n != 10*window || err != nil {
			t.Errorf("Write returns %d, %v", n, err)
		}
		b.reset()
		b.Close()
		a.SetDeadline(time.Now().Add(time.Hour))
		_, err := a.Read(make([]byte, 10))
		wantTimeout(t, "Read", err)
		a.SetDeadline(time.Time{})
		if n, err := a.Write([]byte("x")); n != 1 || err != nil {
			t.Errorf("Write after the peer's Close returns %d, %v", n, err)
		}
	})
}

// A limited connection passes so many bytes per second, however they are written.
func TestNetworkRate(t *testing.T) {
	for _, rate := range []int{1, 1000, 10 * window} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newConnection("client", "server", shape{rate: rate})
			defer a.Close()
			defer b.Close()
			for _, pair := range [][2]*endpoint{{a, b}, {b, a}} {
				start := time.Now()
				go func() { _, _ = pair[0].Write(make([]byte, 5*rate)) }()
				if _, err := io.ReadFull(pair[1], make([]byte, 5*rate)); err != nil {
					t.Fatal(err)
				}
				// The last piece counts for what comes after it.
				if took := time.Since(start).Seconds(); took > 5 || took < 5-max(0.011, 1/float64(rate)) {
					t.Errorf("5 seconds' worth at %d bytes/s took %.3f s", rate, took)
				}
			}
		})
	}
}

// Throttle changes what is under way, a wait for a slow byte too.
func TestNetworkThrottle(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *endpoint) {
		read := func(n int, want time.Duration) {
			t.Helper()
			start := time.Now()
			if _, err := io.ReadFull(b, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("%d bytes take %v, want %v", n, took, want)
			}
		}
		if _, err := a.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		b.throttle(1)
		read(3, 2*time.Second)
		go func() {
			time.Sleep(100 * time.Millisecond)
			b.throttle(100)
		}()
		read(5, 140*time.Millisecond) // two at a time
		b.throttle(0)
		read(992, 0)
	})
}

// What is written within a time arrives together, at its end.
func TestNetworkCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newConnection("client", "server", shape{coalesce: time.Second, fragment: 4})
		defer a.Close()
		defer b.Close()
		start := time.Now()
		go func() {
			for range 3 {
				_, _ = b.Write([]byte("abc"))
				time.Sleep(400 * time.Millisecond)
			}
		}()
		for _, want := range []string{"abca", "bcab", "c"} {
			buffer := make([]byte, 100)
			n, err := a.Read(buffer)
			if got := string(buffer[:n]); got != want || err != nil || time.Since(start) != time.Second {
				t.Errorf("%q after %v, error %v; want %q", got, time.Since(start), err, want)
			}
		}
		if err := a.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, _ = b.Write([]byte("late"))
		_, err := a.Read(make([]byte, 1))
		wantTimeout(t, "Read", err)
	})
}
