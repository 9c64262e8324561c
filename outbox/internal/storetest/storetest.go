// Package storetest tests an outbox.Store, whatever it keeps its messages in.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/outbox"
)

// Outbox is an empty outbox of one test.
type Outbox struct {
	// Open returns a Store of the outbox, as another process would: each has its own.
	Open func() outbox.Store
	// Transact publishes in one transaction. It commits if f returns nil.
	Transact func(f func(publish Publish) error) error
	// Exclusive says that a Claim takes the whole outbox.
	Exclusive bool
}

// Publish is the outbox's, in a transaction.
type Publish func(topic string, payload []byte, opts ...outbox.Option) error

// Run runs the tests, in virtual time: what a Store waits for outside the process, such as a disk or a server, takes none.
// newOutbox makes an outbox.
func Run(t *testing.T, newOutbox func(t *testing.T) *Outbox) {
	for name, test := range map[string]func(*fixture){
		"Fields":        (*fixture).testFields,
		"Rollback":      (*fixture).testRollback,
		"Order":         (*fixture).testOrder,
		"Bounds":        (*fixture).testBounds,
		"Turns":         (*fixture).testTurns,
		"Claims":        (*fixture).testClaims,
		"Retry":         (*fixture).testRetry,
		"DeadLetters":   (*fixture).testDeadLetters,
		"Backlog":       (*fixture).testBacklog,
		"Relays":        (*fixture).testRelays,
		"Refused":       (*fixture).testRefused,
		"RefusedOften":  (*fixture).testRefusedOften,
		"Passing":       (*fixture).testPassing,
		"Unmarked":      (*fixture).testUnmarked,
		"Expired":       (*fixture).testExpired,
		"Cut":           (*fixture).testCut,
		"Held":          (*fixture).testHeld,
		"StoppedAtWork": (*fixture).testStopped,
		"Pipelined":     (*fixture).testPipelined,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				o := newOutbox(t)
				test(&fixture{T: t, Outbox: o, ctx: ctx, store: o.Open()})
			})
		})
	}
}

type fixture struct {
	*testing.T
	*Outbox
	ctx   context.Context
	store outbox.Store
}

func (f *fixture) check(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// publish publishes one message in a transaction of its own.
func (f *fixture) publish(topic, payload string, opts ...outbox.Option) {
	f.Helper()
	f.check(f.Transact(func(publish Publish) error { return publish(topic, []byte(payload), opts...) }))
}

var plenty = outbox.Want{Keys: 64, PerKey: 64, Bytes: 1 << 20, Hold: time.Minute}

func (f *fixture) claim(want outbox.Want) outbox.Batch {
	f.Helper()
	b, err := f.store.Claim(f.ctx, want)
	f.check(err)
	return b
}

// payloads returns what a batch has, and finishes it without results.
func (f *fixture) payloads(want outbox.Want) string {
	f.Helper()
	b := f.claim(want)
	if b == nil {
		return ""
	}
	f.check(b.Finish(f.ctx, nil))
	return text(b.Messages())
}

func text(messages []outbox.Message) string {
	var all []string
	for _, m := range messages {
		all = append(all, string(m.Payload))
	}
	return strings.Join(all, " ")
}

func (f *fixture) testFields() {
	properties := &mqtt.PublishProperties{UTF8Payload: true, ContentType: "text/plain", ResponseTopic: "answers",
		CorrelationData: []byte{0, 1, 255}, MessageExpiry: time.Hour,
		UserProperties: mqtt.UserProperties{{Key: "b", Value: "2"}, {Key: "a", Value: "ä\"\\"}, {Key: "b", Value: ""}}}
	f.check(f.Transact(func(publish Publish) error {
		return errors.Join(
			publish("full", []byte{0, 255, 'x'}, outbox.Key("k1"), outbox.Identifier("i1"),
				outbox.With(mqtt.ExactlyOnce, mqtt.Retain, properties)),
			publish("plain", nil, outbox.With(mqtt.PublishOptions{mqtt.AtLeastOnce}, &mqtt.PublishProperties{CorrelationData: []byte{}})),
			publish("free", []byte{}, outbox.Unordered(), nil))
	}))
	b := f.claim(plenty)
	found := map[string]outbox.Message{}
	for _, m := range b.Messages() {
		found[m.Topic] = m
	}
	full, plain, free := found["full"], found["plain"], found["free"]
	if full.ID != "i1" || full.Key != "k1" || full.QoS != mqtt.ExactlyOnce || !full.Retain || !bytes.Equal(full.Payload, []byte{0, 255, 'x'}) {
		f.Errorf("%+v", full)
	}
	if left := time.Until(full.Expires); left < 59*time.Minute || left > time.Hour {
		f.Errorf("expires in %v", left)
	}
	if age := time.Since(full.Created); age < -time.Second || age > time.Minute {
		f.Errorf("created %v ago", age)
	}
	want := *properties
	want.MessageExpiry = 0
	if got := fmt.Sprintf("%+v", full.Properties); got != fmt.Sprintf("%+v", want) {
		f.Errorf("properties %s", got)
	}
	if plain.Key != "plain" || plain.ID == "" || plain.QoS != mqtt.AtLeastOnce || plain.Retain || len(plain.Payload) != 0 || !plain.Expires.IsZero() {
		f.Errorf("%+v", plain)
	}
	if plain.Properties.CorrelationData == nil || free.Properties.CorrelationData != nil {
		f.Error("empty correlation data is not the same as none")
	}
	if free.Key != free.ID || free.ID == plain.ID {
		f.Errorf("%+v", free)
	}
	f.check(b.Finish(f.ctx, nil))
}

func (f *fixture) testRollback() {
	failure := errors.New("the application has changed its mind")
	err := f.Transact(func(publish Publish) error { return errors.Join(publish("t", []byte("no")), failure) })
	if !errors.Is(err, failure) {
		f.Fatal(err)
	}
	if b := f.claim(plenty); b != nil {
		f.Errorf("%+v", b.Messages())
	}
	for _, refused := range []error{
		f.Transact(func(publish Publish) error { return publish("t/#", nil) }),
		f.Transact(func(publish Publish) error { return publish("t", nil, outbox.With(mqtt.AtMostOnce)) }),
		f.Transact(func(publish Publish) error { return publish("t", nil, outbox.Key("a\x00b")) }),
		f.Transact(func(publish Publish) error { return publish("t", nil, outbox.Key("")) }),
		f.Transact(func(publish Publish) error {
			return publish("t", nil, outbox.With(&mqtt.PublishProperties{MessageExpiry: -1}))
		}),
		f.Transact(func(publish Publish) error {
			return publish("t", nil, outbox.With(&mqtt.PublishProperties{ResponseTopic: "+"}))
		}),
		f.Transact(func(publish Publish) error {
			return publish("t", nil, outbox.With(&mqtt.PublishProperties{UserProperties: mqtt.UserProperties{{Key: outbox.IDProperty}}}))
		}),
	} {
		if refused == nil {
			f.Error("a message that nobody can publish was stored")
		}
	}
}

func (f *fixture) testOrder() {
	for i := range 10 {
		f.publish("t", fmt.Sprint("a", i), outbox.Key("a"))
		f.publish("t", fmt.Sprint("b", i), outbox.Key("b"))
	}
	of := map[string]string{}
	b := f.claim(plenty)
	var last int64
	for _, m := range b.Messages() {
		of[m.Key] += string(m.Payload)
	}
	for _, m := range b.Messages() {
		if m.Key == "a" {
			if m.Seq <= last {
				f.Errorf("place %d behind %d", m.Seq, last)
			}
			last = m.Seq
		}
	}
	if of["a"] != "a0a1a2a3a4a5a6a7a8a9" || of["b"] != "b0b1b2b3b4b5b6b7b8b9" {
		f.Error(of)
	}
	f.check(b.Finish(f.ctx, nil))
}

func (f *fixture) testBounds() {
	big := strings.Repeat("x", 1000)
	for _, key := range []string{"a", "b", "c"} {
		for range 5 {
			f.publish("t", big, outbox.Key(key))
		}
	}
	for _, c := range []struct {
		want outbox.Want
		n    int
	}{
		{outbox.Want{Keys: 3, PerKey: 5, Bytes: 1 << 20}, 15},
		{outbox.Want{Keys: 2, PerKey: 5, Bytes: 1 << 20}, 10},
		{outbox.Want{Keys: 3, PerKey: 2, Bytes: 1 << 20}, 6},
		{outbox.Want{Keys: 3, PerKey: 5, Bytes: 4500}, 6},
		{outbox.Want{Keys: 3, PerKey: 5, Bytes: 1}, 3},
	} {
		f.store = f.Open()
		if got := f.payloads(c.want); len(got) != c.n*1001-1 {
			f.Errorf("%+v: %d messages", c.want, len(got)/1000)
		}
	}
}

// A key with very many messages lets the others have their turn.
func (f *fixture) testTurns() {
	for i := range 30 {
		f.publish("t", fmt.Sprint("hot", i), outbox.Key("b"))
	}
	for _, key := range []string{"a", "c", "d", "e"} {
		f.publish("t", key, outbox.Key(key))
	}
	one := outbox.Want{Keys: 1, PerKey: 1, Bytes: 1 << 20}
	var got []string
	for range 10 {
		got = append(got, f.payloads(one))
	}
	if fmt.Sprint(got) != "[a hot0 c d e a hot0 c d e]" {
		f.Error(got)
	}
}

// What one has claimed no other gets, until it is given back.
func (f *fixture) testClaims() {
	f.publish("t", "a1", outbox.Key("a"))
	f.publish("t", "a2", outbox.Key("a"))
	f.publish("t", "b1", outbox.Key("b"))
	mine := f.claim(outbox.Want{Keys: 1, PerKey: 1, Bytes: 1 << 20, Hold: time.Minute})
	if text(mine.Messages()) != "a1" {
		f.Fatal(text(mine.Messages()))
	}
	f.publish("t", "a3", outbox.Key("a"))
	other, want := f.Open(), "b1"
	theirs, err := other.Claim(f.ctx, plenty)
	f.check(err)
	if f.Exclusive {
		want = ""
	}
	got := ""
	if theirs != nil {
		got = text(theirs.Messages())
		f.check(theirs.Finish(f.ctx, nil))
	}
	if got != want {
		f.Errorf("another relay got %q", got)
	}
	f.check(mine.Finish(f.ctx, []outbox.Result{{Seq: mine.Messages()[0].Seq}}))
	theirs, err = other.Claim(f.ctx, outbox.Want{Keys: 2, PerKey: 9, Bytes: 1 << 20, Hold: time.Minute})
	f.check(err)
	got = text(slices.DeleteFunc(slices.Clone(theirs.Messages()), func(m outbox.Message) bool { return m.Key == "b" }))
	if got != "a2 a3" {
		f.Errorf("another relay got %q", got)
	}
	f.check(theirs.Finish(f.ctx, nil))
}

func (f *fixture) testRetry() {
	f.publish("t", "a1", outbox.Key("a"))
	f.publish("t", "a2", outbox.Key("a"))
	f.publish("t", "b1", outbox.Key("b"))
	b := f.claim(plenty)
	first := b.Messages()[slices.IndexFunc(b.Messages(), func(m outbox.Message) bool { return string(m.Payload) == "a1" })]
	f.check(b.Finish(f.ctx, []outbox.Result{{Seq: first.Seq, Outcome: outbox.Retry, Again: time.Now().Add(time.Hour), Reason: "not now"}}))
	if got := f.payloads(plenty); got != "b1" {
		f.Errorf("while a key waits: %q", got)
	}
	b = f.claim(plenty)
	f.check(b.Finish(f.ctx, []outbox.Result{{Seq: first.Seq, Outcome: outbox.Retry, Again: time.Now().Add(-time.Second), Reason: "not now"}}))
	b = f.claim(plenty)
	i := slices.IndexFunc(b.Messages(), func(m outbox.Message) bool { return string(m.Payload) == "a1" })
	if i < 0 || b.Messages()[i].Attempts != 2 || b.Messages()[i].Reason != "not now" {
		f.Errorf("%+v", b.Messages())
	}
	f.check(b.Finish(f.ctx, nil))
}

func (f *fixture) testDeadLetters() {
	for _, p := range []string{"1", "2", "3"} {
		f.publish("t", p, outbox.Key("a"), outbox.Identifier("id"+p))
	}
	b := f.claim(plenty)
	one, two := b.Messages()[0].Seq, b.Messages()[1].Seq
	f.check(b.Finish(f.ctx, []outbox.Result{
		{Seq: one, Outcome: outbox.Dead, Reason: "never"}, {Seq: two, Outcome: outbox.Dead, Reason: "never"}}))
	if got := f.payloads(plenty); got != "3" {
		f.Errorf("behind dead letters: %q", got)
	}
	dead, err := f.store.Dead(f.ctx, 10)
	f.check(err)
	if len(dead) != 2 || dead[0].Reason != "never" || dead[0].ID != "id1" || dead[0].Attempts != 1 {
		f.Errorf("%+v", dead)
	}
	if dead, err := f.store.Dead(f.ctx, 1); err != nil || len(dead) != 1 {
		f.Error(dead, err)
	}
	waits := b.Messages()[2].Seq
	if n, err := f.store.Requeue(f.ctx, one, waits, 4711); n != 1 || err != nil {
		f.Errorf("requeued %d, %v", n, err)
	}
	b = f.claim(plenty)
	if got := text(b.Messages()); got != "3 1" || b.Messages()[1].Attempts != 0 || b.Messages()[1].ID != "id1" || b.Messages()[1].Seq <= waits {
		f.Errorf("requeued: %+v", b.Messages())
	}
	f.check(b.Finish(f.ctx, nil))
	if n, err := f.store.Drop(f.ctx, one, two, waits); n != 1 || err != nil {
		f.Errorf("dropped %d, %v", n, err)
	}
	if dead, err := f.store.Dead(f.ctx, 10); len(dead) != 0 || err != nil {
		f.Error(dead, err)
	}
	if n, err := f.store.Drop(f.ctx); n != 0 || err != nil {
		f.Error(n, err)
	}
}

func (f *fixture) testBacklog() {
	if b, err := f.store.Backlog(f.ctx); err != nil || b != (outbox.Backlog{}) {
		f.Errorf("%+v, %v", b, err)
	}
	f.publish("t", "1")
	f.publish("t", "2")
	f.publish("u", "3")
	b := f.claim(plenty)
	f.check(b.Finish(f.ctx, []outbox.Result{{Seq: b.Messages()[0].Seq, Outcome: outbox.Dead}}))
	got, err := f.store.Backlog(f.ctx)
	if age := time.Since(got.Oldest); err != nil || got.Waiting != 2 || got.Dead != 1 || age < -time.Second || age > time.Minute {
		f.Errorf("%+v, %v", got, err)
	}
}

// relay is a relay of a test with its client.
type relay struct {
	*outbox.Relay
	stop func()
}

func (f *fixture) relay(b *mqtttest.Broker, store outbox.Store, change func(*outbox.Relay)) *relay {
	f.Helper()
	client, err := mqtt.NewClient(f.ctx, "mqtt://test", mqtt.WithDialer(b.DialContext),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 10 * time.Millisecond, MaxDelay: 20 * time.Millisecond}))
	f.check(err)
	r := &outbox.Relay{Store: store, Client: client, Poll: 10 * time.Millisecond,
		RetryDelay: 10 * time.Millisecond, RetryMaximum: 20 * time.Millisecond}
	if change != nil {
		change(r)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			f.Errorf("Run: %v", err)
		}
		client.Close()
	}
	return &relay{r, stop}
}

// awaitEmpty waits until nothing waits in the outbox.
func (f *fixture) awaitEmpty() {
	f.Helper()
	for {
		b, err := f.store.Backlog(f.ctx)
		f.check(err)
		if b.Waiting == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// received returns the payloads of each key in the order of their first copies, and how many copies were repetitions.
func received(b *mqtttest.Broker) (of map[string]string, repeated int) {
	of = map[string]string{}
	seen := map[string]bool{}
	for _, m := range b.Received("#") {
		id, _ := m.Properties.UserProperties.Get(outbox.IDProperty)
		if seen[id] {
			repeated++
			continue
		}
		seen[id] = true
		key, n, _ := strings.Cut(string(m.Payload), ":")
		of[key] += n + " "
	}
	return of, repeated
}

// fill publishes messages of several keys, in order.
func (f *fixture) fill(keys, each int) (want map[string]string) {
	want = map[string]string{}
	for n := range each {
		f.check(f.Transact(func(publish Publish) error {
			for k := range keys {
				key := fmt.Sprint("key", k)
				want[key] += fmt.Sprint(n, " ")
				if err := publish("t/"+key, []byte(fmt.Sprintf("%s:%d", key, n)), outbox.Key(key)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return want
}

func (f *fixture) compare(b *mqtttest.Broker, want map[string]string) (repeated int) {
	f.Helper()
	got, repeated := received(b)
	for key, order := range want {
		if got[key] != order {
			f.Errorf("%s came as %s, not %s", key, got[key], order)
		}
	}
	return repeated
}

// Three relays publish everything, once, in order.
func (f *fixture) testRelays() {
	b := mqtttest.NewBroker(f)
	var relays []*relay
	for range 3 {
		relays = append(relays, f.relay(b, f.Open(), func(r *outbox.Relay) { r.Keys, r.PerKey = 3, 4 }))
	}
	want := f.fill(8, 40)
	f.awaitEmpty()
	for _, r := range relays {
		r.stop()
	}
	if repeated := f.compare(b, want); repeated != 0 {
		f.Errorf("%d messages came more than once", repeated)
	}
	var published uint64
	for _, r := range relays {
		s := r.Stats()
		published += s.Published
		if s.StoreErrors+s.Dead+s.Retried != 0 || s.Unmarked != 0 {
			f.Errorf("%+v", s)
		}
	}
	if published != 320 {
		f.Errorf("%d counted", published)
	}
}

// What the server refuses for good is a dead letter, and what is behind it goes on.
func (f *fixture) testRefused() {
	b := mqtttest.NewBroker(f)
	defer b.Fault(mqtttest.Fault{Packet: "PUBLISH", Skip: 1, Times: 1, Reason: byte(mqtt.NotAuthorized)})()
	f.fill(1, 4)
	r := f.relay(b, f.store, nil)
	f.awaitEmpty()
	r.stop()
	f.compare(b, map[string]string{"key0": "0 2 3 "})
	dead, err := f.store.Dead(f.ctx, 10)
	f.check(err)
	if len(dead) != 1 || string(dead[0].Payload) != "key0:1" || !strings.Contains(dead[0].Reason, "0x87") {
		f.Errorf("%+v", dead)
	}
	if s := r.Stats(); s.Dead != 1 || s.Published != 3 {
		f.Errorf("%+v", s)
	}
}

// What the server refuses for the time being holds its key, until it takes it.
func (f *fixture) testPassing() {
	b := mqtttest.NewBroker(f)
	defer b.Fault(mqtttest.Fault{Packet: "PUBLISH", Skip: 1, Times: 3, Reason: byte(mqtt.QuotaExceeded)})()
	want := f.fill(2, 5)
	r := f.relay(b, f.store, nil)
	f.awaitEmpty()
	r.stop()
	f.compare(b, want)
	if s := r.Stats(); s.Retried != 3 || s.Dead != 0 || s.Published != 10 {
		f.Errorf("%+v", s)
	}
}

// What was refused too often is a dead letter.
func (f *fixture) testRefusedOften() {
	b := mqtttest.NewBroker(f)
	defer b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 3, Reason: byte(mqtt.QuotaExceeded)})()
	f.fill(1, 2)
	r := f.relay(b, f.store, func(r *outbox.Relay) { r.Attempts = 3 })
	f.awaitEmpty()
	r.stop()
	f.compare(b, map[string]string{"key0": "1 "})
	dead, err := f.store.Dead(f.ctx, 10)
	f.check(err)
	if len(dead) != 1 || dead[0].Attempts != 3 || !strings.Contains(dead[0].Reason, "0x97") {
		f.Errorf("%+v", dead)
	}
}

// forgetful is a store in which the first Finish fails.
type forgetful struct {
	outbox.Store
	failures int
}

type forgetfulBatch struct {
	outbox.Batch
	store *forgetful
}

func (s *forgetful) Claim(ctx context.Context, want outbox.Want) (outbox.Batch, error) {
	b, err := s.Store.Claim(ctx, want)
	if b == nil {
		return nil, err
	}
	return &forgetfulBatch{b, s}, err
}

var errDisk = errors.New("the disk is full")

func (b *forgetfulBatch) Finish(ctx context.Context, results []outbox.Result) error {
	if b.store.failures > 0 {
		b.store.failures--
		return errors.Join(errDisk, b.Batch.Finish(ctx, nil))
	}
	return b.Batch.Finish(ctx, results)
}

// What was published and could not be marked is marked later, without being published again.
func (f *fixture) testUnmarked() {
	b := mqtttest.NewBroker(f)
	want := f.fill(2, 5)
	r := f.relay(b, &forgetful{f.store, 1}, nil)
	f.awaitEmpty()
	r.stop()
	if repeated := f.compare(b, want); repeated != 0 {
		f.Errorf("%d messages came more than once", repeated)
	}
	if s := r.Stats(); s.StoreErrors != 1 || s.Published != 10 || s.Unmarked != 0 {
		f.Errorf("%+v", s)
	}
}

// The life of a message is counted from Publish on, and the rest of it goes out.
func (f *fixture) testExpired() {
	b := mqtttest.NewBroker(f)
	f.publish("t", "a:short", outbox.Key("a"), outbox.With(&mqtt.PublishProperties{MessageExpiry: 10 * time.Millisecond}))
	f.publish("t", "a:long", outbox.Key("a"), outbox.With(&mqtt.PublishProperties{MessageExpiry: time.Hour}))
	time.Sleep(20 * time.Millisecond)
	r := f.relay(b, f.store, nil)
	f.awaitEmpty()
	r.stop()
	f.compare(b, map[string]string{"a": "long "})
	if s := r.Stats(); s.Expired != 1 || s.Published != 1 {
		f.Errorf("%+v", s)
	}
	if got := b.Received("#")[0].Properties.MessageExpiry; got < 59*time.Minute || got > time.Hour {
		f.Errorf("published with %v", got)
	}
}

// A connection that is cut again and again costs neither messages nor their order.
func (f *fixture) testCut() {
	b := mqtttest.NewBroker(f)
	want := f.fill(6, 30)
	stopCutting := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Skip: 20, Times: 4, Cut: true})
	r := f.relay(b, f.store, nil)
	f.awaitEmpty()
	stopCutting()
	r.stop()
	f.compare(b, want)
	if s := r.Stats(); s.Published != 180 || s.Dead != 0 {
		f.Errorf("%+v", s)
	}
}

// A server that does not answer holds a batch for a bounded time. The relay waits on for what is in flight, and does
// not publish it again.
func (f *fixture) testHeld() {
	b := mqtttest.NewBroker(f)
	release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
	want := f.fill(3, 4)
	r := f.relay(b, f.store, func(r *outbox.Relay) { r.Hold = 20 * time.Millisecond })
	b.Await(f.ctx, "#", 3)
	time.Sleep(100 * time.Millisecond)
	if n := len(b.Received("#")); n != 3 {
		f.Errorf("%d messages came before the first was acknowledged", n)
	}
	if n := r.Stats().Unmarked; n != 3 {
		f.Errorf("%d unmarked", n)
	}
	release()
	f.awaitEmpty()
	r.stop()
	if repeated := f.compare(b, want); repeated != 0 {
		f.Errorf("%d messages came more than once", repeated)
	}
}

// Whoever stops a relay gets the acknowledgements that are on their way marked.
func (f *fixture) testStopped() {
	b := mqtttest.NewBroker(f)
	release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
	f.fill(3, 2)
	r := f.relay(b, f.store, nil)
	b.Await(f.ctx, "#", 3)
	time.AfterFunc(50*time.Millisecond, release)
	r.stop()
	left, err := f.store.Backlog(f.ctx)
	f.check(err)
	if left.Waiting != 3 || r.Stats().Published != 3 {
		f.Errorf("%+v, %+v", left, r.Stats())
	}
}

// Messages of a key may follow one another without waiting, if asked for.
func (f *fixture) testPipelined() {
	b := mqtttest.NewBroker(f)
	release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
	want := f.fill(1, 20)
	r := f.relay(b, f.store, func(r *outbox.Relay) { r.Pipelined = true })
	if n := len(b.Await(f.ctx, "#", 20)); n != 20 {
		f.Errorf("%d messages without an acknowledgement", n)
	}
	release()
	f.awaitEmpty()
	r.stop()
	if repeated := f.compare(b, want); repeated != 0 {
		f.Errorf("%d messages came more than once", repeated)
	}
}
