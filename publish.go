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

// queues reports whether a message at QoS 0 that could not be handed over for this reason is to wait.
func (o *publishOptions) queues(err error) bool {
	return o.flags&QueueOffline != 0 && errors.Is(err, ErrNotConnected)
}

// publish sends a message and waits for its fate.
func (c *client) publish(ctx context.Context, topicName string, payload []byte, o *publishOptions) error {
	var m session.Message
	if err := c.compose(&m, topicName, payload, o); err != nil {
		return err
	}
	if m.QoS == 0 {
		if err := c.publishQoS0(ctx, &m); !o.queues(err) {
			return err
		}
	}
	d := c.waiter()
	defer c.reuse(d)
	m.Owner = d
	if err := c.submit(ctx, d, &m); err != nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return c.giveUp(ctx, d)
	}
}

// waiter returns a Delivery for a Publish to wait with.
func (c *client) waiter() *Delivery {
	if d, ok := c.waiters.Get().(*Delivery); ok {
		return d
	}
	return &Delivery{client: c, reused: true, done: make(chan struct{}, 1)}
}

// reuse gives a Delivery that nobody refers to any more back for another Publish.
func (c *client) reuse(d *Delivery) {
	*d = Delivery{client: c, reused: true, done: d.done}
	c.waiters.Put(d)
}

// giveUp ends the waiting of a Publish whose ctx has ended.
func (c *client) giveUp(ctx context.Context, d *Delivery) error {
	switch settled, sent := c.letGo(d); {
	case settled:
		return d.err
	case !sent:
		return ended(ctx)
	}
	return fmt.Errorf("%w: waiting for an acknowledgement: %w", ErrOutcomeUnknown, ctx.Err())
}

// letGo ends the waiting for what becomes of a message: one that was sent stays in flight, without its publisher, one that
// was not is withdrawn. Nobody refers to d any more. If it is settled already, d says how.
func (c *client) letGo(d *Delivery) (settled, sent bool) {
	c.mu.Lock()
	switch {
	case d.settled.Load():
		c.mu.Unlock()
		<-d.done
		return true, d.sent
	case !d.sent:
		c.session.Withdraw(d.ticket)
		c.queueChanged()
	default:
		c.session.Keep(d.id, d)
	}
	c.mu.Unlock()
	return false, d.sent
}

// publishAsync sends or queues a message.
func (c *client) publishAsync(ctx context.Context, topicName string, payload []byte, o *publishOptions) *Delivery {
	var m session.Message
	if err := c.compose(&m, topicName, payload, o); err != nil {
		return NewDelivery(Success, err)
	}
	if m.QoS == 0 {
		switch err := c.publishQoS0(ctx, &m); {
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
	d := &Delivery{client: c}
	m.Owner = d
	if err := c.submit(ctx, d, &m); err != nil {
		return NewDelivery(Success, err)
	}
	return d
}

// compose makes and checks a message, as far as that is possible without a connection.
// [MQTT-3.3.1-3] [MQTT-3.3.2.1] [MQTT311-3.3.1-3]
func (c *client) compose(m *session.Message, topicName string, payload []byte, o *publishOptions) error {
	if err := topic.CheckName(topicName); err != nil {
		return topicError(topicName, false, err)
	}
	for i := len(c.config.topicDefaults) - 1; i >= 0; i-- {
		if d := &c.config.topicDefaults[i]; topic.Match(d.filter, topicName) {
			o.defaults(&d.options)
		}
	}
	m.Topic, m.Payload, m.QoS, m.Retain = topicName, payload, byte(o.qos), o.retain
	m.Properties = (*codec.PublishProperties)(o.properties)
	if o.qos > ExactlyOnce {
		return &notSent{fmt.Errorf("mqtt: publishing to %q: %v does not exist", topicName, o.qos)} // [MQTT-3.3.1-4]
	}
	if m.Properties != nil || len(payload) > codec.MaxRemainingLength/2 {
		return c.checkContent(m)
	}
	return nil
}

// scratches are buffers for packets that are not sent.
var scratches = sync.Pool{New: func() any {
	b := make([]byte, 0, 512)
	return &b
}}

// checkContent checks properties and size of a message, and notes when it expires.
func (c *client) checkContent(m *session.Message) error {
	if p := m.Properties; p != nil {
		// What the codec would refuse must be found before the message waits in a queue.
		probe := codec.Publish{Topic: m.Topic, Properties: *p}
		scratch := scratches.Get().(*[]byte)
		defer scratches.Put(scratch)
		if _, err := probe.Append((*scratch)[:0], c.version); err != nil {
			return &notSent{fmt.Errorf("mqtt: publishing to %q: %w", m.Topic, err)}
		}
		if p.MessageExpiry != 0 {
			if p.MessageExpiry < time.Millisecond {
				c.countExpired()
				return &notSent{ErrExpired}
			}
			m.Expires = c.now() + p.MessageExpiry
		}
	}
	if size := packetSize(m, c.version); size > maxPacketSize {
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

// forbidden checks m against what the server announced; mu is held.
func (c *client) forbidden(m *session.Message) error {
	a := &c.connAck
	var code ReasonCode
	switch {
	case QoS(m.QoS) > a.MaximumQoS:
		code = QoSNotSupported // [MQTT-3.2.2-11]
	case m.Retain && !a.RetainAvailable:
		code = RetainNotSupported // [MQTT-3.2.2-14]
	case a.MaximumPacketSize != 0 && c.tooLarge(packetSize(m, c.version)):
		code = PacketTooLarge // [MQTT-3.2.2-15]
	default:
		return nil
	}
	return &notSent{&PublishError{Topic: m.Topic, Local: true, Refusal: Refusal{Code: code}}}
}

// maxPacketSize is the length of the largest packet there can be, fixed header included.
const maxPacketSize = codec.MaxRemainingLength + 5

// publishQoS0 hands a message to the connection; it waits for room in the write buffer.
func (c *client) publishQoS0(ctx context.Context, m *session.Message) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	woken := false
	for {
		l := c.live()
		if l == nil || c.draining {
			return c.notConnected()
		}
		if !l.Full() && c.session.Offline() == nil && (woken || c.room.empty()) {
			return c.writeQoS0(l, m)
		}
		if c.room.wait(ctx, &c.mu, woken) != nil {
			return ended(ctx)
		}
		woken = true
	}
}

// [MQTT-3.3.4-8] [MQTT-4.3.1-1] [MQTT311-4.3.1-1]
func (c *client) writeQoS0(l *link.Link, m *session.Message) error {
	err := c.stale(m)
	if err == nil {
		var b []byte
		b, err = c.session.AppendPublish(l.Buffer(), m, 0, false, c.nowFor(m))
		l.Commit(b)
	}
	if !c.room.empty() && !l.Full() {
		c.room.wake()
	}
	if err != nil {
		return err
	}
	c.stats.Published++
	return nil
}

// ended is the error of a publish whose ctx has ended before it was sent.
func ended(ctx context.Context) error {
	return &notSent{fmt.Errorf("mqtt: waiting to publish: %w", ctx.Err())}
}

// submit sends a message at QoS 1 or 2 or puts it in the queue. When there is no room in either it waits for some, as
// long as the client is connected.
func (c *client) submit(ctx context.Context, d *Delivery, m *session.Message) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	woken := false
	for {
		if c.err != nil || c.draining {
			return c.notConnected()
		}
		if woken || c.queue.empty() {
			if placed, err := c.place(d, m); placed || err != nil {
				c.queueChanged()
				return err
			}
		}
		if c.link == nil {
			return &notSent{ErrQueueFull}
		}
		if c.queue.wait(ctx, &c.mu, woken) != nil {
			return ended(ctx)
		}
		woken = true
	}
}

// place sends m if its turn is now, or queues it if there is room; mu is held.
func (c *client) place(d *Delivery, m *session.Message) (placed bool, err error) {
	if err := c.stale(m); err != nil {
		return false, err
	}
	switch l := c.live(); {
	case l == nil || l.Full():
	case m.QoS == 0 && c.session.Offline() == nil: // a connection has come since there was none
		if err := c.writeQoS0(l, m); err != nil {
			return false, err
		}
		wake(d.settle(nil, Success, nil))
		return true, nil
	case m.QoS > 0 && c.session.Ready():
		b, id, err := c.session.Send(l.Buffer(), m, c.nowFor(m))
		if err != nil {
			return false, &notSent{err}
		}
		l.Commit(b)
		d.sent, d.id = true, id
		return true, nil
	}
	if !c.session.CanQueue(len(m.Topic) + len(m.Payload)) {
		return false, nil
	}
	d.ticket = c.session.Queue(*m)
	return true, nil
}

// sendOffline sends the messages at QoS 0 that waited for a connection; mu is held.
func (c *client) sendOffline(told []*Delivery) []*Delivery {
	l := c.live()
	if l == nil || c.session.Offline() == nil {
		return told
	}
	for m := c.session.Offline(); m != nil && !l.Full(); m = c.session.Offline() {
		err := c.writeQoS0(l, m)
		told = settleOwner(told, c.session.DropOffline(), err)
	}
	c.room.wake()
	return told
}

// sendQueued sends what waits in the queue, as far as the window and the write buffer have room; mu is held. Messages
// that cannot be sent any more are settled and added to told.
func (c *client) sendQueued(told []*Delivery) []*Delivery {
	l := c.live()
	for l != nil && !l.Full() {
		m := c.session.Resending()
		if m == nil {
			break
		}
		told = c.resend(l, m, told)
	}
	told = c.sendOffline(told)
	for l != nil && !l.Full() {
		m := c.session.Front()
		if m == nil {
			break
		}
		d, waited := m.Owner.(*Delivery) // m is gone when it has been sent
		err := c.stale(m)
		var id uint16
		if err == nil {
			var b []byte
			b, id, err = c.session.SendFront(l.Buffer(), c.nowFor(m))
			l.Commit(b)
		}
		switch {
		case err != nil:
			told = settleOwner(told, c.session.DropFront(), err)
		case waited:
			d.id, d.sent, d.again = id, true, d.sent
		}
	}
	c.queueChanged()
	return told
}

// settleOwner tells the publisher of a message that will not be sent, or not again, or of one at QoS 0 that was.
func settleOwner(told []*Delivery, m session.Message, err error) []*Delivery {
	d, ok := m.Owner.(*Delivery)
	if !ok {
		return told
	}
	if n, ok := err.(*notSent); ok && d.sent {
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, n.err) // sent before, on a session that is lost or a window that is gone
	}
	return d.settle(told, Success, err)
}

// resend sends a message again, on the session that the server has kept; mu is held. What the server does not take any
// more is not sent; nobody can know whether it has it already.
func (c *client) resend(l *link.Link, m *session.Message, told []*Delivery) []*Delivery {
	err := c.forbidden(m)
	if err == nil {
		var b []byte
		if d, ok := m.Owner.(*Delivery); ok {
			d.again = true
		}
		b, err = c.session.Resend(l.Buffer(), c.nowFor(m))
		l.Commit(b)
	}
	if err != nil {
		told = settleOwner(told, c.session.GiveUpResend(), err)
	}
	return told
}

// wasSent reports whether a message that waits was sent before, on a session that is lost.
func wasSent(m *session.Message) bool {
	d, ok := m.Owner.(*Delivery)
	return m.QoS > 0 && (!ok || d.sent) // without an owner: its publisher has stopped waiting after it was sent
}

// stale says why a message, which may have waited, must not be sent or queued; mu is held. One that was sent before, on
// a session that is lost, does not expire any more.
func (c *client) stale(m *session.Message) error {
	if m.Expires != 0 && m.Expires <= c.now() && !wasSent(m) {
		c.stats.Expired++
		return &notSent{ErrExpired}
	}
	return c.forbidden(m)
}

// queueChanged lets the next publish try that waits for room, and a waiting Disconnect; mu is held.
func (c *client) queueChanged() {
	if !c.queue.empty() && (c.session.Ready() || c.session.CanQueue(0)) {
		c.queue.wake()
	}
	c.checkDrained()
}

// checkDrained tells a waiting Disconnect when nothing is left to wait for; mu is held.
func (c *client) checkDrained() {
	if c.drained == nil || c.session.InFlight() > 0 {
		return
	}
	if queued, _ := c.session.Queued(); queued > 0 {
		return
	}
	select {
	case <-c.drained:
	default:
		close(c.drained)
	}
}

// Withdraw takes back a message that was not sent. It reports whether it did: then the Delivery is done, with an error
// that is SafeToRetry.
func (d *Delivery) Withdraw() bool {
	if d.settled.Load() {
		return false
	}
	d.client.mu.Lock()
	if d.settled.Load() || d.sent || !d.client.session.Withdraw(d.ticket) {
		d.client.mu.Unlock()
		return false
	}
	told := d.settle(nil, Success, &notSent{errWithdrawn})
	d.client.queueChanged()
	d.client.mu.Unlock()
	wake(told)
	return true
}

func (c *client) countExpired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Expired++
}
