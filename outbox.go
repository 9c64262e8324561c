package mqtt

import (
	"fmt"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// outbox is the outgoing half of a client. The messages themselves are in the session; the outbox knows the calls that
// wait to hand one over.
type outbox struct {
	*core
	notices *notices

	// waiters keeps the Deliveries of Publish calls, to be used again. Clients do not share it, because a channel that
	// was made in a testing/synctest bubble must not be used outside that bubble.
	waiters sync.Pool

	// Guarded by mu.
	room    waitlist      // publishes at QoS 0 that wait for room in the write buffer
	queue   waitlist      // publishes at QoS 1 and 2 that wait for room in the queue
	drained chan struct{} // closed when nothing is queued or in flight; nil: no goroutine waits for that
	waves   waves
	expiry  expiry
}

// sendOrQueue sends m if nothing has to go out before it, and otherwise queues it. It reports false if the queue has no
// room.
// The caller holds mu.
func (out *outbox) sendOrQueue(d *Delivery, m *session.Message) (placed bool, err error) {
	if err := out.stale(m); err != nil {
		return false, err
	}
	if m.QoS == 2 {
		out.session.ExpectQoS2()
	}
	if d.details != nil && d.details.stored != nil {
		return out.storeAndQueue(d, m)
	}
	switch l := out.live(); {
	case l == nil || l.Full():
	case m.QoS == 0 && out.session.FrontQoS0() == nil: // the client has connected since publishQoS0 found no connection
		if err := out.writeQoS0(l, m, d.publishing()); err != nil {
			return false, err
		}
		wake(d.resolve(nil, Success, nil))
		return true, nil
	case m.QoS > 0 && out.session.Ready():
		b, id, err := out.session.Send(l.Buffer(), m, out.nowFor(m))
		if err != nil {
			return false, &notSent{err}
		}
		l.Commit(b)
		d.id = id
		d.noteSent()
		return true, nil
	}
	if !out.canQueue(m) {
		return false, nil
	}
	d.ticket = out.session.Queue(m)
	d.publishing().queued()
	out.watchExpiry()
	return true, nil
}

// canQueue reports whether the queue has room for m. Messages that have expired take none.
// The caller holds mu.
func (out *outbox) canQueue(m *session.Message) bool {
	size := len(m.Topic) + len(m.Payload)
	if out.session.CanQueue(size) {
		return true
	}
	wake(out.dropExpired(nil))
	return out.session.CanQueue(size)
}

// storeAndQueue gives a message its place in the store and in the queue. It reports false if the queue has no room.
// The caller holds mu.
func (out *outbox) storeAndQueue(d *Delivery, m *session.Message) (placed bool, err error) {
	if !out.canQueue(m) {
		return false, nil
	}
	var expires int64
	if m.Expires != 0 {
		expires = wallClock(m.Expires - out.now())
	}
	record, err := appendMessage(nil, m, d.details.name, expires)
	if err != nil {
		return false, &notSent{err}
	}
	own, _, _, err := decodeMessage(record) // the publisher may change its slices
	if err != nil {
		return false, &notSent{err}
	}
	own.Expires, own.Owner = m.Expires, d
	j := out.journal
	j.number++
	d.details.number = j.number
	j.stored[d.number()] = d
	d.details.record = record
	j.putMessage(d.details)
	d.ticket = out.session.Queue(&own)
	d.publishing().queued()
	j.then(step{kind: stepStored, d: d})
	wake(out.sendQueued(nil))
	out.watchExpiry()
	return true, nil
}

// prepare gives the message at the front of the queue a packet identifier. It is sent when both are on disk.
// The caller holds mu.
func (out *outbox) prepare(d *Delivery) error {
	id, err := out.session.PrepareFront()
	if err != nil {
		return &notSent{err}
	}
	d.id = id
	out.journal.putFlight(d.number(), flight{id: id})
	out.journal.then(step{kind: stepSend, id: id, d: d})
	return nil
}

// The caller holds mu.
// [MQTT-3.3.4-8] [MQTT-4.3.1-1] [MQTT311-4.3.1-1]
func (out *outbox) writeQoS0(l *link.Link, m *session.Message, p *publishing) error {
	err := out.stale(m)
	if err == nil {
		var b []byte
		b, err = out.session.AppendPublish(l.Buffer(), m, 0, false, out.nowFor(m))
		l.Commit(b)
	}
	if !out.room.empty() && !l.Full() {
		out.room.wake()
	}
	if err != nil {
		return err
	}
	out.stats.Published++
	p.sent()
	return nil
}

// sendQueued sends messages from the queue while the window and the write buffer have room: first those that are sent
// again, then the new ones. It resolves messages that cannot be sent any more, and adds them to toWake.
// The caller holds mu.
func (out *outbox) sendQueued(toWake []*Delivery) []*Delivery {
	if !out.session.Waits() {
		out.queueChanged()
		return toWake
	}
	l := out.live()
	for l != nil && !l.Full() {
		m := out.session.Resending()
		if m == nil {
			break
		}
		toWake = out.resend(l, m, toWake)
	}
	toWake = out.sendOffline(toWake)
	for l != nil && !l.Full() {
		m := out.session.Front()
		if m == nil {
			break
		}
		d, waited := m.Owner.(*Delivery) // read now: m is no longer valid after it was sent
		if waited && d.resolved.Load() {
			out.session.DropFront() // the store did not take it
			continue
		}
		err := out.stale(m)
		var id uint16
		if err == nil && waited && d.number() != 0 {
			if err = out.prepare(d); err == nil {
				continue
			}
		}
		if err == nil {
			var b []byte
			b, id, err = out.session.SendFront(l.Buffer(), out.nowFor(m))
			l.Commit(b)
		}
		switch {
		case err != nil:
			toWake = resolveOwner(toWake, out.session.DropFront().Owner, err)
		case waited:
			d.id = id
			d.noteSent()
		}
	}
	out.queueChanged()
	return toWake
}

// sendOffline sends the messages at QoS 0 that wait for a connection (QueueOffline).
// The caller holds mu.
func (out *outbox) sendOffline(toWake []*Delivery) []*Delivery {
	l := out.live()
	if l == nil || out.session.FrontQoS0() == nil {
		return toWake
	}
	for m := out.session.FrontQoS0(); m != nil && !l.Full(); m = out.session.FrontQoS0() {
		var p *publishing
		if d, ok := m.Owner.(*Delivery); ok {
			p = d.publishing()
		}
		err := out.writeQoS0(l, m, p)
		toWake = resolveOwner(toWake, out.session.DropQoS0().Owner, err)
	}
	out.room.wake()
	return toWake
}

// resend sends a message again, in the session that the server has kept, or for the first time once the store has it. A
// message that the server no longer accepts is not sent again; whether the server has it already is unknown.
// The caller holds mu.
func (out *outbox) resend(l *link.Link, m *session.Message, toWake []*Delivery) []*Delivery {
	err := out.stale(m)
	if err == nil {
		if d, ok := m.Owner.(*Delivery); ok {
			d.noteSent()
		}
		var b []byte
		b, err = out.session.Resend(l.Buffer(), out.nowFor(m))
		l.Commit(b)
	}
	if err != nil {
		m := out.session.GiveUpResend()
		toWake = resolveOwner(toWake, m.Owner, err)
		out.journal.reserve(m)
	}
	return toWake
}

// noteSent notes that the message was handed to the connection.
// The caller holds mu.
func (d *Delivery) noteSent() {
	d.sends = min(d.sends+1, 2)
	d.publishing().sent()
}

// resolveOwner resolves the Delivery of a message that leaves the queue: because it must not be sent, or not again, or
// because it was sent at QoS 0.
// The caller holds mu.
func resolveOwner(toWake []*Delivery, owner any, err error) []*Delivery {
	d, ok := owner.(*Delivery)
	if !ok {
		return toWake
	}
	if n, ok := err.(*notSent); ok && d.sends > 0 {
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, n.err) // it was sent earlier, so the server may have it
	}
	return d.resolve(toWake, Success, err)
}

// stale returns an error if a message must not be sent or queued now: it has expired, or the server does not accept it.
// A message that was sent before, in a session that is lost, no longer expires.
// The caller holds mu.
func (out *outbox) stale(m *session.Message) error {
	if m.Expires == 0 && !out.limited {
		return nil // most messages end here, so the compiler is to inline this part
	}
	return out.judge(m)
}

// judge does the rest of stale.
// The caller holds mu.
func (out *outbox) judge(m *session.Message) error {
	if m.Expires != 0 && m.Expires <= out.now() && !wasSent(m) {
		out.stats.Expired++
		return &notSent{ErrExpired}
	}
	return out.forbidden(m)
}

// wasSent reports whether a message in the queue was sent before, in a session that the server has lost.
func wasSent(m *session.Message) bool {
	d, ok := m.Owner.(*Delivery)
	return m.QoS > 0 && (!ok || d.sends > 0) // no owner: its publisher stopped waiting, which it does only after the message was sent
}

// forbidden checks m against the limits that the server announced in CONNACK.
// The caller holds mu.
func (out *outbox) forbidden(m *session.Message) error {
	a := &out.connAck
	var code ReasonCode
	switch {
	case QoS(m.QoS) > a.MaximumQoS:
		code = QoSNotSupported // [MQTT-3.2.2-11]
	case m.Retain && !a.RetainAvailable:
		code = RetainNotSupported // [MQTT-3.2.2-14]
	case a.MaximumPacketSize != 0 && out.tooLarge(packetSize(m, out.version)):
		code = PacketTooLarge // [MQTT-3.2.2-15]
	default:
		return nil
	}
	return &notSent{&PublishError{Topic: m.Topic, Local: true, Refusal: Refusal{Code: code}}}
}

// queueChanged wakes the next publish that waits for room, and Disconnect if nothing is left.
// The caller holds mu.
func (out *outbox) queueChanged() {
	if out.drained != nil || !out.queue.empty() {
		out.wakeForRoom()
	}
}

// wakeForRoom does the work of queueChanged when a publish waits for room, or Disconnect until nothing is left.
// The caller holds mu.
func (out *outbox) wakeForRoom() {
	if !out.queue.empty() && (out.session.Ready() || out.session.CanQueue(0)) {
		out.queue.wake()
	}
	out.checkDrained()
}

// checkDrained wakes Disconnect if nothing is queued or in flight.
// The caller holds mu.
func (out *outbox) checkDrained() {
	if out.drained == nil || out.session.InFlight() > 0 {
		return
	}
	if queued, _ := out.session.Queued(); queued > 0 {
		return
	}
	select {
	case <-out.drained:
	default:
		close(out.drained)
	}
}

// suspects reports whether connections were lost in a row because of a message, as far as one can tell.
func (out *outbox) suspects() bool {
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.session.Suspects()
}

// expiryPause is the shortest time between two searches of the queue for messages that have expired.
const expiryPause = 100 * time.Millisecond

// expiry is the timer that looks for messages that have expired in the queue. Its goroutine counts among the client's.
type expiry struct {
	timer *time.Timer   // nil: none has waited yet
	at    time.Duration // when it goes off; 0: it is not set
}

// watchExpiry sets the timer, if a message in the queue expires before it goes off.
// The caller holds mu.
func (out *outbox) watchExpiry() {
	next := out.session.NextExpiry()
	if next == 0 || out.err != nil {
		return
	}
	now := out.now()
	at := max(next, now+expiryPause)
	if out.expiry.at != 0 && out.expiry.at <= at {
		return
	}
	out.stopExpiry()
	out.goroutines.Add(1)
	out.expiry = expiry{time.AfterFunc(at-now, out.expire), at}
}

// stopExpiry stops the timer.
// The caller holds mu.
func (out *outbox) stopExpiry() {
	if t := out.expiry.timer; t != nil && t.Stop() {
		out.goroutines.Done()
	}
	out.expiry = expiry{}
}

// expire drops the messages in the queue that have expired, and sets the timer for the next.
func (out *outbox) expire() {
	defer out.goroutines.Done()
	out.mu.Lock()
	toWake := out.dropExpired(nil)
	out.expiry.at = 0
	out.watchExpiry()
	out.queueChanged()
	out.mu.Unlock()
	wake(toWake)
}

// dropExpired resolves the messages in the queue that have expired.
// The caller holds mu.
func (out *outbox) dropExpired(toWake []*Delivery) []*Delivery {
	now := out.now()
	if next := out.session.NextExpiry(); next == 0 || next > now {
		return toWake
	}
	for _, m := range out.session.DropExpired(now) {
		out.stats.Expired++
		toWake = resolveOwner(toWake, m.Owner, &notSent{ErrExpired})
	}
	return toWake
}
