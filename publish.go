package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// outbox is the outgoing half of a client: the publishes that wait.
type outbox struct {
	*core

	// waiters has the Deliveries that Publish waits with. It is not shared with other clients: a channel that was made
	// in a testing/synctest bubble must not be used outside.
	waiters sync.Pool

	// Guarded by mu.
	room    waitlist      // publishes at QoS 0 that wait for room in the write buffer
	queue   waitlist      // publishes at QoS 1 and 2 that wait for room in the queue
	drained chan struct{} // closed when nothing is queued or in flight; nil: nobody waits for that
}

// queues reports whether a message at QoS 0 that could not be handed over for this reason is to wait.
func (o *publishOptions) queues(err error) bool {
	return o.flags&QueueOffline != 0 && errors.Is(err, ErrNotConnected)
}

// publish sends a message and waits for its fate.
func (out *outbox) publish(ctx context.Context, topicName string, payload []byte, o *publishOptions) error {
	var m session.Message
	if err := out.compose(&m, topicName, payload, o); err != nil {
		return err
	}
	if m.QoS == 0 {
		if err := out.publishQoS0(ctx, &m); !o.queues(err) {
			return err
		}
	}
	d := out.waiter()
	defer out.reuse(d)
	m.Owner = d
	if err := out.submit(ctx, d, &m); err != nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return out.stopWaiting(ctx, d)
	}
}

// waiter returns a Delivery for a Publish to wait with.
func (out *outbox) waiter() *Delivery {
	if d, ok := out.waiters.Get().(*Delivery); ok {
		return d
	}
	return &Delivery{outbox: out, reused: true, done: make(chan struct{}, 1)}
}

// reuse gives a Delivery that nobody refers to any more back for another Publish.
func (out *outbox) reuse(d *Delivery) {
	*d = Delivery{outbox: out, reused: true, done: d.done}
	out.waiters.Put(d)
}

// stopWaiting ends the waiting of a Publish whose ctx has ended.
func (out *outbox) stopWaiting(ctx context.Context, d *Delivery) error {
	switch settled, sent := out.letGo(d); {
	case settled:
		return d.err
	case !sent:
		return notPublished(ctx)
	}
	return fmt.Errorf("%w: waiting for an acknowledgement: %w", ErrOutcomeUnknown, ctx.Err())
}

// letGo ends the waiting for what becomes of a message: one that was sent stays in flight, without its publisher, one that
// was not is withdrawn. Nobody refers to d any more. If it is settled already, d says how.
func (out *outbox) letGo(d *Delivery) (resolved, sent bool) {
	out.mu.Lock()
	switch {
	case d.resolved.Load():
		out.mu.Unlock()
		<-d.done
		return true, d.sent
	case !d.sent:
		out.session.Withdraw(d.ticket)
		out.queueChanged()
	default:
		out.session.Keep(d.id, d)
	}
	out.mu.Unlock()
	return false, d.sent
}

// publishAsync sends or queues a message.
func (out *outbox) publishAsync(ctx context.Context, topicName string, payload []byte, o *publishOptions) *Delivery {
	var m session.Message
	if err := out.compose(&m, topicName, payload, o); err != nil {
		return NewDelivery(Success, err)
	}
	if m.QoS == 0 {
		switch err := out.publishQoS0(ctx, &m); {
		case err == nil:
			return delivered
		case !o.queues(err):
			return NewDelivery(Success, err)
		}
	}
	if m.Properties != nil {
		p := *m.Properties // the caller may fill the same struct for the next message
		m.Properties = &p
	}
	d := &Delivery{outbox: out}
	m.Owner = d
	if err := out.submit(ctx, d, &m); err != nil {
		return NewDelivery(Success, err)
	}
	return d
}

// compose makes and checks a message, as far as that is possible without a connection.
// [MQTT-3.3.1-3] [MQTT-3.3.2.1] [MQTT311-3.3.1-3]
func (out *outbox) compose(m *session.Message, topicName string, payload []byte, o *publishOptions) error {
	if err := topic.CheckName(topicName); err != nil {
		return topicError(topicName, false, err)
	}
	for i := len(out.config.topicDefaults) - 1; i >= 0; i-- {
		if d := &out.config.topicDefaults[i]; topic.Match(d.filter, topicName) {
			o.defaults(&d.options)
		}
	}
	m.Topic, m.Payload, m.QoS, m.Retain = topicName, payload, byte(o.qos), o.retain
	m.Properties = (*codec.PublishProperties)(o.properties)
	if o.qos > ExactlyOnce {
		return &notSent{fmt.Errorf("mqtt: publishing to %q: %v does not exist", topicName, o.qos)} // [MQTT-3.3.1-4]
	}
	if m.Properties != nil || len(payload) > codec.MaxRemainingLength/2 {
		return out.checkContent(m)
	}
	return nil
}

// scratches are buffers for packets that are not sent.
var scratches = sync.Pool{New: func() any {
	b := make([]byte, 0, 512)
	return &b
}}

// checkContent checks properties and size of a message, and notes when it expires.
func (out *outbox) checkContent(m *session.Message) error {
	if p := m.Properties; p != nil {
		// What the codec would refuse must be found before the message waits in a queue.
		probe := codec.Publish{Topic: m.Topic, Properties: *p}
		scratch := scratches.Get().(*[]byte)
		defer scratches.Put(scratch)
		if _, err := probe.Append((*scratch)[:0], out.version); err != nil {
			return &notSent{fmt.Errorf("mqtt: publishing to %q: %w", m.Topic, err)}
		}
		if p.MessageExpiry != 0 {
			if p.MessageExpiry < time.Millisecond {
				out.countExpired()
				return &notSent{ErrExpired}
			}
			m.Expires = out.now() + p.MessageExpiry
		}
	}
	if size := packetSize(m, out.version); size > maxPacketSize {
		return &notSent{fmt.Errorf("mqtt: publishing to %q: %d bytes are too many for a packet", m.Topic, size)}
	}
	return nil
}

// packetSize returns the length of the PUBLISH packet that m becomes.
func packetSize(m *session.Message, v codec.Version) int {
	p := codec.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, PacketID: 1}
	if m.Properties != nil {
		p.Properties = *m.Properties
	}
	return p.Size(v)
}

// forbidden checks m against what the server announced.
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

// maxPacketSize is the length of the largest packet there can be, fixed header included.
const maxPacketSize = codec.MaxRemainingLength + 5

// publishQoS0 hands a message to the connection; it waits for room in the write buffer.
func (out *outbox) publishQoS0(ctx context.Context, m *session.Message) error {
	if ctx.Err() != nil {
		return notPublished(ctx)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	woken := false
	for {
		l := out.live()
		if l == nil || out.draining {
			return out.notConnected()
		}
		if !l.Full() && out.session.FrontQoS0() == nil && (woken || out.room.empty()) {
			return out.writeQoS0(l, m)
		}
		if out.room.wait(ctx, &out.mu, woken) != nil {
			return notPublished(ctx)
		}
		woken = true
	}
}

// The caller holds mu.
// [MQTT-3.3.4-8] [MQTT-4.3.1-1] [MQTT311-4.3.1-1]
func (out *outbox) writeQoS0(l *link.Link, m *session.Message) error {
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
	return nil
}

// notPublished is the error of a publish whose ctx has ended before it was sent.
func notPublished(ctx context.Context) error {
	return &notSent{fmt.Errorf("mqtt: waiting to publish: %w", ctx.Err())}
}

// submit sends a message at QoS 1 or 2 or puts it in the queue. When there is no room in either it waits for some, as
// long as the client is connected.
func (out *outbox) submit(ctx context.Context, d *Delivery, m *session.Message) error {
	if ctx.Err() != nil {
		return notPublished(ctx)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	woken := false
	for {
		if out.err != nil || out.draining {
			return out.notConnected()
		}
		if woken || out.queue.empty() {
			if placed, err := out.sendOrQueue(d, m); placed || err != nil {
				out.queueChanged()
				return err
			}
		}
		if out.link == nil {
			return &notSent{ErrQueueFull}
		}
		if out.queue.wait(ctx, &out.mu, woken) != nil {
			return notPublished(ctx)
		}
		woken = true
	}
}

// sendOrQueue sends m if its turn is now, or queues it if there is room.
// The caller holds mu.
func (out *outbox) sendOrQueue(d *Delivery, m *session.Message) (placed bool, err error) {
	if err := out.stale(m); err != nil {
		return false, err
	}
	switch l := out.live(); {
	case l == nil || l.Full():
	case m.QoS == 0 && out.session.FrontQoS0() == nil: // a connection has come since there was none
		if err := out.writeQoS0(l, m); err != nil {
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
		d.sent, d.id = true, id
		return true, nil
	}
	if !out.session.CanQueue(len(m.Topic) + len(m.Payload)) {
		return false, nil
	}
	d.ticket = out.session.Queue(*m)
	return true, nil
}

// sendOffline sends the messages at QoS 0 that waited for a connection.
// The caller holds mu.
func (out *outbox) sendOffline(toWake []*Delivery) []*Delivery {
	l := out.live()
	if l == nil || out.session.FrontQoS0() == nil {
		return toWake
	}
	for m := out.session.FrontQoS0(); m != nil && !l.Full(); m = out.session.FrontQoS0() {
		err := out.writeQoS0(l, m)
		toWake = resolveOwner(toWake, out.session.DropQoS0(), err)
	}
	out.room.wake()
	return toWake
}

// sendQueued sends what waits in the queue, as far as the window and the write buffer have room. Messages that cannot
// be sent any more are settled and added to told.
// The caller holds mu.
func (out *outbox) sendQueued(toWake []*Delivery) []*Delivery {
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
		d, waited := m.Owner.(*Delivery) // m is gone when it has been sent
		err := out.stale(m)
		var id uint16
		if err == nil {
			var b []byte
			b, id, err = out.session.SendFront(l.Buffer(), out.nowFor(m))
			l.Commit(b)
		}
		switch {
		case err != nil:
			toWake = resolveOwner(toWake, out.session.DropFront(), err)
		case waited:
			d.id, d.sent, d.resent = id, true, d.sent
		}
	}
	out.queueChanged()
	return toWake
}

// resolveOwner tells the publisher of a message that will not be sent, or not again, or of one at QoS 0 that was.
// The caller holds mu.
func resolveOwner(toWake []*Delivery, m session.Message, err error) []*Delivery {
	d, ok := m.Owner.(*Delivery)
	if !ok {
		return toWake
	}
	if n, ok := err.(*notSent); ok && d.sent {
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, n.err) // sent before, on a session that is lost or a window that is gone
	}
	return d.resolve(toWake, Success, err)
}

// resend sends a message again, on the session that the server has kept. What the server does not take any more is not
// sent; nobody can know whether it has it already.
// The caller holds mu.
func (out *outbox) resend(l *link.Link, m *session.Message, toWake []*Delivery) []*Delivery {
	err := out.forbidden(m)
	if err == nil {
		var b []byte
		if d, ok := m.Owner.(*Delivery); ok {
			d.resent = true
		}
		b, err = out.session.Resend(l.Buffer(), out.nowFor(m))
		l.Commit(b)
	}
	if err != nil {
		toWake = resolveOwner(toWake, out.session.GiveUpResend(), err)
	}
	return toWake
}

// wasSent reports whether a message that waits was sent before, on a session that is lost.
func wasSent(m *session.Message) bool {
	d, ok := m.Owner.(*Delivery)
	return m.QoS > 0 && (!ok || d.sent) // without an owner: its publisher has stopped waiting after it was sent
}

// stale says why a message, which may have waited, must not be sent or queued. One that was sent before, on a session
// that is lost, does not expire any more.
// The caller holds mu.
func (out *outbox) stale(m *session.Message) error {
	if m.Expires != 0 && m.Expires <= out.now() && !wasSent(m) {
		out.stats.Expired++
		return &notSent{ErrExpired}
	}
	return out.forbidden(m)
}

// queueChanged lets the next publish try that waits for room, and a waiting Disconnect.
// The caller holds mu.
func (out *outbox) queueChanged() {
	if !out.queue.empty() && (out.session.Ready() || out.session.CanQueue(0)) {
		out.queue.wake()
	}
	out.checkDrained()
}

// checkDrained tells a waiting Disconnect when nothing is left to wait for.
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

// Withdraw takes back a message that was not sent. It reports whether it did: then the Delivery is done, with an error
// that is SafeToRetry.
func (d *Delivery) Withdraw() bool {
	if d.resolved.Load() {
		return false
	}
	d.outbox.mu.Lock()
	if d.resolved.Load() || d.sent || !d.outbox.session.Withdraw(d.ticket) {
		d.outbox.mu.Unlock()
		return false
	}
	toWake := d.resolve(nil, Success, &notSent{errWithdrawn})
	d.outbox.queueChanged()
	d.outbox.mu.Unlock()
	wake(toWake)
	return true
}
