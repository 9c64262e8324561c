package engine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The record of a ledger says what its owner needs, whatever was settled in whatever order, and however often it was read
// again.
func TestLedgerRecord(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		j := newJournal(new(Engine), memoryless{})
		l := &ledger{journal: j, number: 1, lock: new(sync.Mutex)}
		var stored []*message // that the store has, for this owner or for others
		needed := map[*message]bool{}
		sequence := uint64(0)
		for range 1000 {
			switch n := random.IntN(100); {
			case n < 55:
				sequence += 1 + random.Uint64N(3)
				m := &message{sequence: sequence}
				m.debts.Store(2) // another owner needs it for ever
				l.enter(m)
				stored, needed[m] = append(stored, m), true
			case n < 99 && len(stored) > 0:
				m := stored[random.IntN(len(stored))]
				if seed%3 == 0 {
					m = stored[len(stored)-1-random.IntN(min(len(stored), 20))] // the oldest stay
				}
				l.settle(m)
				delete(needed, m)
			case n == 99:
				r, err := newRestoredLedger(l.record())
				if err != nil {
					t.Fatal(err)
				}
				l = &ledger{journal: j, number: 1, lock: new(sync.Mutex)}
				l.resume(r)
				for _, m := range stored {
					if r.needs(m.sequence) != needed[m] {
						t.Fatalf("seed %d: %d is needed: %v", seed, m.sequence, needed[m])
					}
					if needed[m] {
						l.enter(m)
					} else {
						l.enterSettled(m)
					}
				}
				if !r.needs(sequence + 1) {
					t.Fatalf("seed %d: the next message is not needed", seed)
				}
			}
			for _, m := range stored[max(0, len(stored)-5):] {
				if l.has(m) != needed[m] {
					t.Fatalf("seed %d: the ledger has %d: %v", seed, m.sequence, !needed[m])
				}
			}
		}
	}
}

// A message that a client does not acknowledge, while it acknowledges all that come after it, costs no more than any other.
func TestOneUnacknowledged(t *testing.T) {
	for _, filter := range []string{"a", "$share/g/a"} {
		t.Run(filter[:1], func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const messages = 3000
				s := newMemoryStore()
				l := newLab(t, with(s))
				p, _ := l.join(codec.V5, kept5("x", true))
				p.subscribe(1, filter)
				pub := l.client("p")
				pub.publish("a", "first")
				receive[*codec.Publish](p) // and no PUBACK
				for i := range messages {
					pub.publish("a", "%d", i)
					p.want("%d", i)
				}
				synctest.Wait()
				c := l.sessions.shard("x").sessions["x"]
				g := l.groups.of[filter]
				of := c.ledger
				if g != nil {
					of = g.ledger.Load()
				}
				of.lock.Lock()
				debts, record := of.debts.Len(), len(of.record())
				of.lock.Unlock()
				if debts > 4*compactFrom || record > 1000 {
					t.Errorf("%d debts, and a record of %d bytes", debts, record)
				}
				p.conn.Close()
				l = newLab(t, with(s.crash()))
				p, _ = l.join(codec.V5, kept5("x", false))
				p.want("first")
				time.Sleep(time.Second)
				for len(p.packets) > 0 { // what the last commit did not say yet may come again
					if m := receive[*codec.Publish](p); string(m.Payload) != fmt.Sprint(messages-1) {
						t.Errorf("got %s", m.Payload)
					}
				}
			})
		})
	}
}
