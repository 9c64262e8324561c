package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// memoryStore is a store that survives its engine. It takes time to commit, fails when it is told to, and can be read as it
// would be found after a crash: with every commit that has returned, and nothing else.
type memoryStore struct {
	mu      sync.Mutex
	values  map[string][]byte // by bucket and key
	takes   time.Duration
	fails   bool
	commits int
	closed  bool
}

func newMemoryStore() *memoryStore {
	return &memoryStore{values: map[string][]byte{}, takes: time.Millisecond}
}

func (s *memoryStore) Load(f func(bucket byte, key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(s.values)) {
		if err := f(k[0], []byte(k[1:]), s.values[k]); err != nil {
			return err
		}
	}
	return nil
}

func (s *memoryStore) Commit(changes []Change) error {
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	time.Sleep(takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits++
	if s.fails {
		return errors.New("the disk is full")
	}
	for _, c := range changes {
		if len(c.Key) > 32<<10 {
			return errors.New("a key is too long")
		}
		if key := string(c.Bucket) + string(c.Key); c.Value == nil {
			delete(s.values, key)
		} else {
			s.values[key] = bytes.Clone(c.Value)
		}
	}
	return nil
}

func (s *memoryStore) Close() error {
	s.closed = true
	return nil
}

// crash returns what is there after a loss of power.
func (s *memoryStore) crash() *memoryStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newMemoryStore()
	c.values = maps.Clone(s.values)
	return c
}

// count returns how many values a bucket has.
func (s *memoryStore) count(bucket byte) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.values {
		if k[0] == bucket {
			n++
		}
	}
	return n
}

func (s *memoryStore) setTakes(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = d
}

func (s *memoryStore) setFails(fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = fails
}

func with(s Store) func(*Config) { return func(c *Config) { c.Store = s } }

// Everything that belongs to a session survives a crash, if it was acknowledged; and nothing is left in the store of what
// is over.
func TestStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		connect := kept5("x", true)
		connect.HasUsername, connect.Username = true, "ada"
		p, _ := l.join(codec.V5, connect)
		p.send(&codec.Subscribe{PacketID: 1, SubscriptionIdentifier: 7, Filters: []codec.SubscribeFilter{
			{Filter: "a", QoS: 2, NoLocal: true}, {Filter: "$share/g/s", QoS: 1}, {Filter: "gone", QoS: 1},
		}})
		receive[*codec.Suback](p)
		p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"gone"}})
		receive[*codec.Unsuback](p)
		p.leave(false)
		pub, _ := l.join(codec.V5, kept5("p", true))
		properties := codec.PublishProperties{MessageExpiry: time.Hour, ContentType: "c", CorrelationData: []byte{}, UserProperties: codec.UserProperties{{Key: "k", Value: "v"}}}
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("one"), Properties: properties})
		receive[*codec.Puback](pub)
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 2, Payload: []byte("two")}) // PUBREL does not come
		receive[*codec.Pubrec](pub)
		pub.publish("s", "shared")
		pub.publish("gone", "nobody's")

		l = newLab(t, with(s.crash()))
		time.Sleep(10 * time.Second)
		eve := kept5("x", false)
		if _, ack := l.join(codec.V5, eve); ack.Code != codec.ClientIdentifierNotValid {
			t.Errorf("a session's owner is forgotten: %v", ack.Code)
		}
		connect.CleanStart = false
		p, ack := l.join(codec.V5, connect)
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		m := p.want("one")
		if pr := m.Properties; m.QoS != 1 || m.Retain || m.Dup || pr.ContentType != "c" || pr.CorrelationData == nil || len(pr.UserProperties) != 1 ||
			pr.MessageExpiry > time.Hour-10*time.Second || pr.MessageExpiry < time.Hour-12*time.Second || !slices.Equal(m.SubscriptionIdentifiers, []uint32{7}) {
			t.Errorf("%+v", m)
		}
		got := []string{string(p.take().Payload), string(p.take().Payload)} // QoS 2 waits until its identifier is stored
		if slices.Sort(got); !slices.Equal(got, []string{"shared", "two"}) {
			t.Errorf("%q", got)
		}
		p.quiet()
		pub, _ = l.join(codec.V5, kept5("p", false))
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 2, Dup: true, Payload: []byte("two")}, &codec.Pubrel{PacketID: 2})
		receive[*codec.Pubrec](pub)
		if ack := receive[*codec.Pubcomp](pub); ack.Code != codec.Success {
			t.Errorf("%v", ack.Code)
		}
		p.quiet()
		late := l.client("late")
		late.subscribe(1, "a")
		if m := late.want("one"); !m.Retain || m.Properties.ContentType != "c" {
			t.Errorf("%+v", m)
		}
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 9, Retain: true}) // the end of the retained one
		receive[*codec.Puback](pub)
		p.take()
		for _, p := range []*peer{pub, p} {
			p.send(&codec.Disconnect{SessionExpiry: new(uint32)})
			p.ended()
		}
		time.Sleep(2 * lazyCommit)
		rest := l.config.Store.(*memoryStore)
		for i := range len(Buckets) {
			if n := rest.count(Buckets[i]); n != 0 {
				t.Errorf("bucket %c still has %d values", Buckets[i], n)
			}
		}
	})
}

// Sessions end, and wills are sent, although the broker was away meanwhile.
func TestStoredTimes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		for _, id := range []string{"short", "long", "connected"} {
			connect := kept5(id, true)
			if id == "short" {
				connect.Properties.SessionExpiry = seconds32(10)
			}
			if id == "connected" {
				connect.Will = &codec.Will{Topic: "will", Payload: []byte("w"), QoS: 1}
			}
			p, _ := l.join(codec.V5, connect)
			p.subscribe(1, "will")
			if id != "connected" {
				p.leave(true)
			}
		}
		time.Sleep(2 * time.Second)
		crashed := s.crash()
		time.Sleep(20 * time.Second)
		l = newLab(t, with(crashed))
		time.Sleep(time.Second)
		if n := l.Stats().Sessions; n != 2 {
			t.Errorf("%d sessions", n)
		}
		p, _ := l.join(codec.V5, kept5("long", false))
		p.want("w")
	})
}

// While the store fails nothing that must be kept is acknowledged, and everything goes on when it works again.
func TestStoreFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		p.leave(true)
		s.setFails(true)
		pub := l.client("p")
		if code := pub.publish("a", "lost"); code != codec.QuotaExceeded {
			t.Errorf("%v", code)
		}
		if code := pub.publish("other", "nobody's"); code != codec.NoMatchingSubscribers {
			t.Errorf("%v", code)
		}
		three, _ := l.join(codec.V311, &codec.Connect{CleanStart: true, ClientID: "three"})
		three.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("lost")})
		for three.next() != nil { // no PUBACK may be seen as a promise, so the connection is gone
		}
		dropped := l.Stats().Dropped
		pub.send(&codec.Publish{Topic: "r", Retain: true, Payload: []byte("lost")})
		pub.publish("other", "comes after that")
		if n := l.Stats().Dropped - dropped; n != 1 {
			t.Errorf("%d are counted as dropped", n)
		}
		s.setFails(false)
		if code := pub.publish("a", "kept"); code != codec.Success {
			t.Errorf("%v", code)
		}
		p, _ = l.join(codec.V5, kept5("x", false))
		p.want("kept")
		p.quiet()
	})
}

// However often the broker crashes, what was acknowledged arrives, at QoS 2 once, and in order.
func TestCrashes(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { crashes(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// sender publishes numbers at one QoS, one after the other, until they are acknowledged completely.
type sender struct {
	qos      byte
	number   int
	released bool // PUBREC has come
}

func crashes(t *testing.T, random *rand.Rand) {
	s := newMemoryStore()
	l := newLab(t, with(s))
	const rounds = 12
	senders := []*sender{{qos: 1}, {qos: 2}}
	next := map[byte]int{1: 0, 2: 0} // what the subscriber waits for
	setUp, _ := l.join(codec.V5, kept5("sub", true))
	setUp.subscribe(2, "t/+")
	for round := range rounds {
		sub, ack := l.join(codec.V5, kept5("sub", false))
		if !ack.SessionPresent {
			t.Fatalf("round %d: the session is lost", round)
		}
		var clients []*peer
		for _, n := range senders {
			p, ack := l.join(codec.V5, kept5(fmt.Sprint("sender ", n.qos), round == 0))
			if !ack.SessionPresent && round > 0 {
				t.Fatalf("round %d: a sender's session is lost", round)
			}
			clients = append(clients, p)
			n.send(p, true)
		}
		crashAfter := time.Duration(random.IntN(40)) * time.Millisecond / 3
		deadline := time.After(crashAfter)
		for going := true; going; {
			select {
			case packet := <-sub.packets:
				takes(t, sub, packet, next, random)
			case packet := <-clients[0].packets:
				senders[0].takes(clients[0], packet)
			case packet := <-clients[1].packets:
				senders[1].takes(clients[1], packet)
			case <-deadline:
				going = false
			}
		}
		crashed := s.crash() // what comes later does not count; clients know only what they have been told by now
		for _, p := range append(clients, sub) {
			p.conn.Close()
		}
		synctest.Wait()
		l.end()
		s = crashed
		l = newLab(t, with(s))
	}
	sub, _ := l.join(codec.V5, kept5("sub", false))
	for {
		synctest.Wait()
		select {
		case packet := <-sub.packets:
			takes(t, sub, packet, next, rand.New(rand.NewPCG(0, 0)))
			continue
		case <-time.After(5 * time.Second):
		}
		break
	}
	for _, n := range senders {
		if next[n.qos] < n.number {
			t.Errorf("QoS %d: %d were acknowledged, %d arrived", n.qos, n.number, next[n.qos])
		}
	}
	if senders[0].number+senders[1].number < rounds {
		t.Errorf("only %d and %d were published", senders[0].number, senders[1].number)
	}
}

// send publishes the present number, again after a crash.
func (n *sender) send(p *peer, dup bool) {
	if n.released {
		p.send(&codec.Pubrel{PacketID: n.id()})
		return
	}
	p.send(&codec.Publish{Topic: fmt.Sprint("t/", n.qos), QoS: n.qos, PacketID: n.id(), Dup: dup, Payload: fmt.Append(nil, n.number)})
}

func (n *sender) id() uint16 { return uint16(n.number%100 + 1) }

func (n *sender) takes(p *peer, packet codec.Packet) {
	switch packet.(type) {
	case *codec.Puback, *codec.Pubcomp:
		n.number++
		n.released = false
	case *codec.Pubrec:
		n.released = true
	default:
		return
	}
	n.send(p, false)
}

// takes is the subscriber. It acknowledges most of what comes, now and then without a second thought.
func takes(t *testing.T, p *peer, packet codec.Packet, next map[byte]int, random *rand.Rand) {
	switch m := packet.(type) {
	case *codec.Publish:
		var i int
		fmt.Sscan(string(m.Payload), &i)
		switch {
		case i > next[m.QoS]:
			t.Fatalf("QoS %d: got %d, want %d", m.QoS, i, next[m.QoS])
		case i < next[m.QoS] && m.QoS == 2 && !m.Dup:
			t.Fatalf("QoS 2: %d came again as new", i)
		case i == next[m.QoS]:
			next[m.QoS]++
		}
		if random.IntN(10) == 0 {
			return
		}
		if m.QoS == 1 {
			p.send(&codec.Puback{PacketID: m.PacketID})
		} else {
			p.send(&codec.Pubrec{PacketID: m.PacketID})
		}
	case *codec.Pubrel:
		p.send(&codec.Pubcomp{PacketID: m.PacketID})
	}
}

// A publisher whose connection ends while its message at QoS 2 is on its way to the disk gets the PUBREC on its next one, as do those
// behind it, and the message is delivered once.
func TestPublisherGoneWhileStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		away, _ := l.join(codec.V5, kept5("away", true))
		away.subscribe(2, "a")
		pub, _ := l.join(codec.V5, kept5("pub", true))
		time.Sleep(time.Second)
		s.setTakes(time.Second)
		message := codec.Publish{Topic: "a", QoS: 2, PacketID: 1, Payload: []byte("first")}
		pub.send(&message)
		synctest.Wait()
		pub.leave(false)
		time.Sleep(time.Minute)
		s.setTakes(time.Millisecond)
		pub, _ = l.join(codec.V5, kept5("pub", false))
		message.Dup = true
		pub.send(&message, &codec.Publish{Topic: "a", QoS: 2, PacketID: 2, Payload: []byte("second")})
		for id := uint16(1); id <= 2; id++ {
			if got := receive[*codec.Pubrec](pub); got.PacketID != id || got.Code != codec.Success {
				t.Errorf("%+v", got)
			}
		}
		for _, want := range []string{"first", "second"} {
			if got := receive[*codec.Publish](away); string(got.Payload) != want {
				t.Errorf("%q has come, and not %q", got.Payload, want)
			}
		}
	})
}

// strictStore looks whether at every moment the store says that a message at QoS 2 was acknowledged, or under which identifier it
// was sent: otherwise it would be sent as a new one after a crash.
type strictStore struct {
	*memoryStore
	forgotten []uint64 // messages of which it had said neither
}

func (s *strictStore) Commit(changes []Change) error {
	var over []flightKey
	for _, c := range changes {
		s.mu.Lock()
		old := s.values[string(c.Bucket)+string(c.Key)]
		s.mu.Unlock()
		if c.Bucket == bucketSent && c.Value == nil {
			if k, _, err := readFlight(old); err == nil {
				over = append(over, k)
			}
		}
	}
	err := s.memoryStore.Commit(changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range over {
		var l *restoredLedger
		if record := s.values[string(bucketLedgers)+string(number(k.debtor))]; record != nil {
			l, _ = newRestoredLedger(record)
		}
		if l.needs(k.sequence) {
			s.forgotten = append(s.forgotten, k.sequence)
		}
	}
	return err
}

// The identifier of a message at QoS 2 leaves the store with the note that the message was acknowledged, and not before it. To see what happens
// between two instructions takes many runs: go test -run TestAcknowledgedBeforeForgotten -count 200 .
func TestAcknowledgedBeforeForgotten(t *testing.T) {
	s := &strictStore{memoryStore: newMemoryStore()}
	s.takes = 0
	l := newLab(t, with(s))
	p, _ := l.join(codec.V5, kept5("x", true))
	p.subscribe(2, "a")
	pub, _ := l.join(codec.V5, kept5("p", true))
	go func() {
		for range 3000 {
			m := p.next()
			switch m := m.(type) {
			case *codec.Publish:
				p.send(&codec.Pubrec{PacketID: m.PacketID})
			case *codec.Pubrel:
				p.send(&codec.Pubcomp{PacketID: m.PacketID})
			}
		}
	}()
	for i := range 1500 {
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: uint16(i + 1), Payload: []byte("x")}, &codec.Pubrel{PacketID: uint16(i + 1)})
		receive[*codec.Pubrec](pub)
		receive[*codec.Pubcomp](pub)
	}
	l.end()
	if len(s.forgotten) > 0 {
		t.Errorf("%d messages would come again", len(s.forgotten))
	}
}

// A client that does not even read CONNACK holds up nothing that waits for the store.
func TestDeafClientAndStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, with(newMemoryStore()))
		away, _ := l.join(codec.V5, kept5("away", true))
		away.subscribe(1, "a")
		away.leave(true)
		deaf := l.dialDeaf(codec.V5)
		deaf.send(kept5("deaf", true))
		synctest.Wait()
		time.Sleep(10 * time.Millisecond)
		pub := l.client("p")
		began := time.Now()
		if code := pub.publish("a", "x"); code != codec.Success {
			t.Error(code)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// What a session or group has acknowledged does not come to it again, although the store keeps it for another session through
// several restarts.
func TestSettledThroughRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		acknowledged []int // of three
		filter       string
		want         []string
	}{
		"all":             {[]int{0, 1, 2}, "a", nil},
		"the last two":    {[]int{1, 2}, "a", []string{"0"}},
		"the second":      {[]int{1}, "a", []string{"0", "2"}},
		"all of a group":  {[]int{0, 1, 2}, "$share/g/a", nil},
		"some of a group": {[]int{1, 2}, "$share/g/a", []string{"0"}},
		"one of a group":  {[]int{1}, "$share/g/a", []string{"0", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newMemoryStore()
				l := newLab(t, with(s))
				away, _ := l.join(codec.V5, kept5("away", true))
				away.subscribe(1, "a")
				away.leave(true)
				p, _ := l.join(codec.V5, kept5("x", true))
				p.subscribe(1, c.filter)
				pub := l.client("p")
				var ids []uint16
				for i := range 3 {
					pub.publish("a", "%d", i)
					ids = append(ids, receive[*codec.Publish](p).PacketID)
				}
				for _, i := range c.acknowledged {
					p.send(&codec.Puback{PacketID: ids[i]})
				}
				restart := func() {
					time.Sleep(2 * lazyCommit)
					s = s.crash()
					l = newLab(t, with(s))
				}
				restart()
				restart()
				for range 2 {
					restart()
					p, _ = l.join(codec.V5, kept5("x", false))
					for _, want := range c.want {
						p.want("%s", want)
					}
					p.quiet()
					c.want = nil
				}
				away, _ = l.join(codec.V5, kept5("away", false))
				for i := range 3 {
					away.want("%d", i)
				}
			})
		})
	}
}

// After each crash a session goes on with packet identifiers that are half a circle away from those that its client may
// still acknowledge.
func TestIdentifiersAfterCrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		pub := l.client("p")
		for range 10 {
			pub.publish("a", "acknowledged")
			p.take()
		}
		pub.publish("a", "in flight")
		want := receive[*codec.Publish](p).PacketID
		for range 3 {
			time.Sleep(2 * lazyCommit)
			s = s.crash()
			l = newLab(t, with(s))
			p, _ = l.join(codec.V5, kept5("x", false))
			got := receive[*codec.Publish](p).PacketID
			want += halfCircle
			if distance := int16(got - want); distance < -10 || distance > 10 {
				t.Errorf("identifier %d, want about %d", got, want)
			}
			want = got
		}
	})
}

// A retained message that has expired leaves the store.
func TestRetainedExpireInStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		pub := l.client("p")
		for i := range 100 {
			pub.send(&codec.Publish{Topic: fmt.Sprint(i), QoS: 1, PacketID: 1, Retain: true, Payload: []byte("x"),
				Properties: codec.PublishProperties{MessageExpiry: time.Minute}})
			receive[*codec.Puback](pub)
		}
		if n := s.count(bucketRetained); n != 100 {
			t.Fatalf("%d are stored", n)
		}
		time.Sleep(time.Minute + 2*lazyCommit)
		if n := s.count(bucketRetained); n != 0 {
			t.Errorf("%d are still stored", n)
		}
	})
}

// A retained message expires after its successor was stored, and before anybody else knows of it.
func TestRetainedExpiresWhileReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		slow := &rules{ask: func(_ *Client, access Access, topic string) Decision {
			if access == Receive && topic == "slow" {
				time.Sleep(20 * time.Second) // the releaser
			}
			return Abstain
		}}
		l := newLab(t, func(c *Config) { c.Store, c.Policy = s, slow })
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "slow")
		pub := l.client("p")
		pub.send(&codec.Publish{Topic: "r", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("old"),
			Properties: codec.PublishProperties{MessageExpiry: 10 * time.Second}})
		receive[*codec.Puback](pub)
		pub.send(&codec.Publish{Topic: "slow", QoS: 1, PacketID: 2, Payload: []byte("x")})
		time.Sleep(time.Second)
		other := l.client("q")
		other.send(&codec.Publish{Topic: "r", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("new")})
		receive[*codec.Puback](other)
		time.Sleep(2 * lazyCommit)

		l = newLab(t, with(s.crash()))
		late := l.client("late")
		late.subscribe(1, "r")
		late.want("new")
	})
}
