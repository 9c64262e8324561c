package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/route"
)

// filterPacket is one SUBSCRIBE or UNSUBSCRIBE packet that waits for its answer.
type filterPacket struct {
	// Guarded by mu.
	call    *call // nil: no call waits
	filters []string
	user    UserProperties     // of an UNSUBSCRIBE
	routes  []*route.Route     // of a SUBSCRIBE
	sent    []*route.Subscribe // of a SUBSCRIBE, in the order of routes
	encode  func(b []byte, id uint16) ([]byte, error)
	resends int // how many times it was sent again
}

// call is a Subscribe or Unsubscribe that waits for the answers to its packets.
type call struct {
	sub  *Subscription // of a Subscribe
	done chan struct{} // closed when all answers have come, or when err is set
	err  error         // does not change after done is closed

	// Guarded by mu.
	pending  int            // packets without an answer
	rest     []*route.Route // of a Subscribe: to be sent when some answers have come
	failures []FilterError
	user     UserProperties // of all answers
}

func newCall(s *Subscription) *call { return &call{sub: s, done: make(chan struct{})} }

// finish ends the call, if it has not ended. k may be nil: then no call waits.
// The caller holds mu.
func (k *call) finish(err error) {
	if k == nil {
		return
	}
	select {
	case <-k.done:
	default:
		k.err = err
		close(k.done)
		if k.sub != nil {
			k.sub.holder.Settle()
		}
		switch {
		case k.sub == nil || k.sub.sink == nil:
		case err != nil:
			k.sub.sink.refused(err)
		default:
			k.sub.sink.granted() // if nothing had to be sent, there was no SUBACK
		}
	}
}

// unfinished reports whether the call still waits.
func (k *call) unfinished() bool {
	select {
	case <-k.done:
		return false
	default:
		return true
	}
}

// answered notes the answer to one packet of the call, with its user properties. k may be nil: then no call waits.
// The caller holds mu.
func (k *call) answered(user UserProperties) {
	if k == nil {
		return
	}
	k.pending--
	k.user = append(k.user, user...)
	if len(k.failures) > 0 {
		k.rest = nil
	}
	switch {
	case k.pending > 0 || len(k.rest) > 0:
	case len(k.failures) > 0:
		k.finish(&SubscribeError{k.failures, k.user})
	default:
		k.finish(nil)
	}
}

// inPackets sends a list in packets of at most most elements each, and of fewer if a packet would be larger than the
// server accepts.
// [MQTT-3.8.4-5] [MQTT311-3.8.4-4]
func inPackets[T any](list []T, most int, send func([]T) error) error {
	for some := range slices.Chunk(list, most) {
		err := send(some)
		if n := len(some); n > 1 && errors.Is(err, PacketTooLarge) {
			err = inPackets(some, (n+1)/2, send)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sendFilterPacket appends the packet that encode makes, with a packet identifier of its own, and keeps r until the answer.
// The caller holds mu.
func (in *inbox) sendFilterPacket(r *filterPacket, encode func(b []byte, id uint16) ([]byte, error)) error {
	r.encode = encode
	l := in.live()
	if l == nil {
		return in.notConnected()
	}
	id, err := in.session.TakeID(r)
	if err != nil {
		return &notSent{err}
	}
	b := l.Buffer()
	packet, err := encode(b, id)
	switch {
	case err != nil:
		in.session.ReturnID(id)
		return &notSent{fmt.Errorf("mqtt: %w", err)}
	case in.tooLarge(len(packet) - len(b)):
		in.session.ReturnID(id)
		return &notSent{fmt.Errorf("mqtt: filters %q: %w", r.filters, PacketTooLarge)}
	}
	l.Commit(packet)
	return nil
}

// wait waits for the answers to all packets of the call.
func (k *call) wait(ctx context.Context, packet string) error {
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for %s: %w", packet, ctx.Err())
	}
}
