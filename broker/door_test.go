package broker

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// slowPasswords are those of users whose password is their name, and count how often one is hashed, which takes d.
func slowPasswords(t *testing.T, d time.Duration, hashed *atomic.Int32, users ...string) *Passwords {
	t.Helper()
	p, err := ParsePasswords(nil)
	check(t, err)
	for i, user := range users {
		p.line[user] = i
		p.lines = append(p.lines, passwordLine{"", hash{user, func(password []byte) bool {
			hashed.Add(1)
			time.Sleep(d)
			return string(password) == user
		}}})
	}
	return p
}

func address(text string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", text)
	if err != nil {
		panic(err)
	}
	return a
}

// A password that was right is not hashed again until all are forgotten, one that is wrong each time.
func TestDoorRemembers(t *testing.T) {
	var hashed atomic.Int32
	p := slowPasswords(t, 0, &hashed, "alice", "bob")
	d := newDoor(0)
	for i, c := range []struct {
		user, password string
		want           codec.ReasonCode
		hashed         int32 // until then
	}{
		{"alice", "alice", codec.Success, 1},
		{"alice", "alice", codec.Success, 1},
		{"alice", "Alice", codec.BadUserNameOrPassword, 2},
		{"alice", "Alice", codec.BadUserNameOrPassword, 3},
		{"alice", "alice", codec.Success, 3},
		{"bob", "alice", codec.BadUserNameOrPassword, 4},
		{"bob", "bob", codec.Success, 5},
		{"nobody", "alice", codec.BadUserNameOrPassword, 6},
	} {
		if got := d.check(t.Context(), p, c.user, []byte(c.password), address("127.0.0.1:1")); got != c.want || hashed.Load() != c.hashed {
			t.Errorf("%d: %v after %d, want %v after %d", i, got, hashed.Load(), c.want, c.hashed)
		}
	}
	changed := slowPasswords(t, 0, &hashed, "alice")
	changed.lines[0].hash.text = "another"
	if d.check(t.Context(), changed, "alice", []byte("alice"), nil); hashed.Load() != 7 {
		t.Error("a password is remembered that was another hash's")
	}
	d.forget()
	if d.check(t.Context(), p, "bob", []byte("bob"), nil); hashed.Load() != 8 {
		t.Error("a password is remembered that was forgotten")
	}
}

// At most half the cores hash, in the order in which clients came, and nobody waits for more than ten seconds.
func TestDoorHasPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hashed atomic.Int32
		p := slowPasswords(t, 3*time.Second, &hashed, "alice")
		d := newDoor(0)
		most := cap(d.places)
		if most < 1 {
			t.Fatal("nobody may hash")
		}
		type answer struct {
			code  codec.ReasonCode
			after time.Duration
		}
		answers := make([]answer, 5*most)
		began := time.Now()
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				code := d.check(t.Context(), p, "alice", fmt.Append(nil, i), nil)
				answers[i] = answer{code, time.Since(began)}
			})
			synctest.Wait()
			if got, want := int(hashed.Load()), min(i+1, most); got != want {
				t.Errorf("%d hash, want %d", got, want)
			}
		}
		all.Wait()
		for i, got := range answers {
			want := answer{codec.BadUserNameOrPassword, time.Duration(i/most+1) * 3 * time.Second}
			if i/most == 4 {
				want = answer{codec.ServerBusy, 10 * time.Second}
			}
			if got != want {
				t.Errorf("%d: %+v, want %+v", i, got, want)
			}
		}
	})
}

// When the broker ends nobody waits.
func TestDoorEnds(t *testing.T) {
	p := slowPasswords(t, 0, new(atomic.Int32), "alice")
	d := newDoor(0)
	for range cap(d.places) {
		d.places <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := d.check(ctx, p, "alice", []byte("alice"), nil); got != codec.ServerBusy {
		t.Errorf("%v", got)
	}
}

// Wrong passwords are limited by address. Right ones are not, as long as there are not too many wrong ones.
func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slowPasswords(t, 0, new(atomic.Int32), "alice")
		d := newDoor(3)
		try := func(from, password string, want codec.ReasonCode) {
			t.Helper()
			if got := d.check(t.Context(), p, "alice", []byte(password), address(from)); got != want {
				t.Errorf("%s: %v, want %v", from, got, want)
			}
		}
		wrong, limited := codec.BadUserNameOrPassword, codec.ConnectionRateExceeded
		for range 10 {
			try("192.0.2.1:1", "alice", codec.Success)
		}
		for port := range 3 {
			try(fmt.Sprintf("192.0.2.1:%d", port+1), "x", wrong)
		}
		try("192.0.2.1:5", "x", limited)
		try("192.0.2.1:5", "alice", limited) // or this would be a way to find out
		try("[::ffff:192.0.2.1]:5", "x", limited)
		try("192.0.2.2:1", "x", wrong)
		for host := range 3 {
			try(fmt.Sprintf("[2001:db8::%d]:1", host), "x", wrong)
		}
		try("[2001:db8::1:2:3:4]:1", "x", limited)
		try("[2001:db8:0:1::1]:1", "x", wrong)
		time.Sleep(20 * time.Second)
		try("192.0.2.1:1", "x", wrong)
		try("192.0.2.1:1", "x", limited)
		time.Sleep(20 * time.Second)
		try("192.0.2.1:1", "alice", codec.Success)
		try("192.0.2.1:1", "x", wrong)
		try("192.0.2.1:1", "x", limited)
		for range 10 { // no address to limit
			if got := d.check(t.Context(), p, "alice", nil, &net.UnixAddr{}); got != wrong {
				t.Errorf("%v", got)
			}
		}
		time.Sleep(time.Hour)
		for host := range 10 {
			try(fmt.Sprintf("198.51.100.%d:1", host), "x", wrong)
		}
		if n := len(d.attempts.spent); n > 10 {
			t.Errorf("%d addresses are remembered, want those of the last minute", n)
		}
	})
}

// However many addresses there are, they take a bounded memory.
func TestAttemptsAreBounded(t *testing.T) {
	a := newAttempts(1)
	for i := range maxSpent + 1000 {
		if !a.take(&net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}) {
			t.Fatalf("address %d is refused", i)
		}
	}
	if len(a.spent) > maxSpent {
		t.Errorf("%d addresses are remembered", len(a.spent))
	}
}
