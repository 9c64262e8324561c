package broker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// door checks passwords at a bounded cost: hashing, which is slow on purpose, takes at most half the cores, and a password
// that was right once is known again without it. Its methods may be called concurrently.
type door struct {
	places   chan struct{} // has an element for each hash that is being computed
	attempts *attempts     // nil: nobody is limited
	key      []byte        // of remembered, random

	mu         sync.Mutex                   // guards remembered
	remembered map[string][sha256.Size]byte // by user: the proof of the password that was right
}

// hashPatience is how long a client waits until its password is hashed.
const hashPatience = 10 * time.Second

// newDoor returns a door that lets at most perMinute wrong passwords a minute come from one address; 0 is no limit.
func newDoor(perMinute int) *door {
	d := &door{
		places:     make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		key:        make([]byte, sha256.Size),
		remembered: map[string][sha256.Size]byte{},
	}
	rand.Read(d.key)
	if perMinute > 0 {
		d.attempts = newAttempts(perMinute)
	}
	return d
}

// check says what a CONNECT with a user name is answered: Success, BadUserNameOrPassword, ServerBusy if there was no time
// to hash the password before ctx ended or ten seconds were over, or ConnectionRateExceeded after too many wrong ones.
func (d *door) check(ctx context.Context, p *Passwords, user string, password []byte, from net.Addr) codec.ReasonCode {
	if !d.attempts.take(from) {
		return codec.ConnectionRateExceeded
	}
	proof := d.proof(p, user, password)
	if d.knows(user, proof) {
		d.attempts.giveBack(from)
		return codec.Success
	}
	ctx, cancel := context.WithTimeout(ctx, hashPatience)
	defer cancel()
	select {
	case d.places <- struct{}{}: // who has waited for the longest time comes first
	case <-ctx.Done():
		d.attempts.giveBack(from)
		return codec.ServerBusy
	}
	right := p.Match(user, password)
	<-d.places
	if !right {
		return codec.BadUserNameOrPassword
	}
	d.attempts.giveBack(from)
	d.remember(user, proof)
	return codec.Success
}

// proof stands for a password that is checked against the user's present hash. Nobody can make one without the key.
func (d *door) proof(p *Passwords, user string, password []byte) (proof [sha256.Size]byte) {
	h := hmac.New(sha256.New, d.key)
	for _, part := range [][]byte{[]byte(user), []byte(p.hashOf(user)), password} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Sum(proof[:0])
	return proof
}

func (d *door) knows(user string, proof [sha256.Size]byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.remembered[user]
	return ok && hmac.Equal(known[:], proof[:])
}

func (d *door) remember(user string, proof [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remembered[user] = proof
}

// forget makes every password be hashed again.
func (d *door) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.remembered)
}

// attempts limits wrong passwords by address: an address has so many of them, and gets one back from time to time. Nil
// limits nobody.
type attempts struct {
	interval time.Duration // in which an address gets one back

	mu    sync.Mutex                 // guards spent
	spent map[netip.Prefix]time.Time // when an address will have all of its attempts back, if it has not
}

// maxSpent bounds the addresses that are remembered.
const maxSpent = 1 << 16

func newAttempts(perMinute int) *attempts {
	return &attempts{interval: time.Minute / time.Duration(perMinute), spent: map[netip.Prefix]time.Time{}}
}

// take takes an attempt and reports whether there was one.
func (a *attempts) take(from net.Addr) bool {
	if a == nil {
		return true
	}
	network, ok := networkOf(from)
	if !ok {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	ready, ok := a.spent[network]
	if !ok {
		a.makeRoom(now)
	}
	if ready.Before(now) {
		ready = now
	}
	ready = ready.Add(a.interval)
	if ready.Sub(now) > time.Minute {
		return false
	}
	a.spent[network] = ready
	return true
}

// giveBack undoes take: the password was right, or has not been looked at.
func (a *attempts) giveBack(from net.Addr) {
	if a == nil {
		return
	}
	network, _ := networkOf(from)
	a.mu.Lock()
	defer a.mu.Unlock()
	if ready, ok := a.spent[network]; ok {
		a.spent[network] = ready.Add(-a.interval)
	}
}

// makeRoom forgets addresses that have all of their attempts back, a few at a time, and any one if there are too many.
func (a *attempts) makeRoom(now time.Time) {
	looked := 0
	for network, ready := range a.spent { // in random order
		if !ready.After(now) || len(a.spent) >= maxSpent {
			delete(a.spent, network)
		}
		if looked++; looked == 4 {
			return
		}
	}
}

// networkOf returns what counts as one address: with IPv6 it is the network, because a host has as many addresses in it
// as it likes.
func networkOf(a net.Addr) (netip.Prefix, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, false
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}
