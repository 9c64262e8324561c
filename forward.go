package mqtt

import (
	"context"
	"errors"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// ForwardingStores makes of one Store those of two clients of which one publishes what the other receives, so that the death of
// their process neither loses a message at QoS 2 nor publishes it twice. The receiving client gets the one with WithStore, and
// the publishing client the other. A message is passed on, and acknowledged after that:
//
//	d := publisher.PublishAsync(ctx, topic, m.Payload, m.QoS, mqtt.Forwards(m))
//	if d.Err() == nil && ctx.Err() == nil { // it is stored
//		m.Ack()
//	}
//
// In one Apply the store gets the message to publish, and that the receiving client has accepted it. So after a crash there is
// either neither, or both:
//
//	The process dies                               The store has           After the restart
//	before the message is stored                   nothing                 the server sends PUBLISH again, and it is forwarded
//	while it is stored                             nothing, or both        as before this row, or as below
//	before PUBREC is sent                          both                    the server sends PUBLISH again, which is answered with
//	                                                                       PUBREC and not delivered
//	before PUBREL comes                            both                    the same, or the server sends PUBREL
//	after PUBREL, before its record is written     both                    the server sends PUBREL again
//	before PUBCOMP is sent                         the message alone       the server sends PUBREL again
//	after that                                     the message, until it   nothing comes again; the identifier is free
//	                                               is delivered
//
// and the publishing client sends the message as any that is stored. When the first server has lost the session, the record that
// the message was accepted is removed before the new session begins: otherwise another message with the same identifier would
// be taken for it. A message at QoS 1 has no such record; after the second and the third row it is forwarded again.
//
// Each of the two is used once until both are released.
func ForwardingStores(s Store) (receiving, publishing Store) {
	f := &forwarding{store: s, turn: make(chan struct{}, 1), early: make(map[uint16]bool), undo: make(map[uint16]bool)}
	f.halves = [2]*half{{forwarding: f, receiving: true}, {forwarding: f}}
	return f.halves[0], f.halves[1]
}

// Forwards is a publish option: the message is m, which a client with the other one of ForwardingStores has received. With other
// stores it means nothing. If m was delivered to several subscriptions, the last one that passes it on counts.
func Forwards(m Message) PublishOption { return (*forwards)(m.origin) }

// forwarding is a Store that two clients share.
type forwarding struct {
	store  Store
	turn   chan struct{} // capacity 1: whoever has put something in owns the fields below, and may call the store
	halves [2]*half
	loaded map[*half][]StoreChange // what the store had, until the half asks for it; nil: it is not loaded
	early  map[uint16]bool         // received identifiers that were written with a message, and not yet by the receiving client
	undo   map[uint16]bool         // those of messages that the store did not take, in case that it has them after all
}

// half is the Store of one client. Keys of the receiving one have keyForwarding before them in the store.
type half struct {
	*forwarding
	receiving bool
	used      bool // owned as the fields of forwarding
}

// take waits for the turn. give ends it.
func (f *forwarding) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case f.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *forwarding) give() { <-f.turn }

// Load implements Store.
func (h *half) Load(ctx context.Context, f func(key, value []byte) error) error {
	if err := h.take(ctx); err != nil {
		return err
	}
	defer h.give()
	if h.loaded == nil {
		if err := h.load(ctx); err != nil {
			return err
		}
	}
	records, fresh := h.loaded[h]
	if !fresh {
		return ErrStoreInUse
	}
	for i := range records {
		if err := f(records[i].Key, records[i].Value); err != nil {
			return errors.Join(err, h.release())
		}
	}
	delete(h.loaded, h)
	h.used = true
	return nil
}

// load loads the store for both halves.
func (f *forwarding) load(ctx context.Context) error {
	loaded := map[*half][]StoreChange{f.halves[0]: nil, f.halves[1]: nil}
	err := f.store.Load(ctx, func(key, value []byte) error {
		h := f.halves[1]
		if len(key) > 1 && key[0] == keyForwarding {
			h, key = f.halves[0], key[1:]
		}
		loaded[h] = append(loaded[h], StoreChange{Key: key, Value: value})
		return nil
	})
	if err == nil {
		f.loaded = loaded
		clear(f.early)
		clear(f.undo)
	}
	return err
}

// Release implements Store.
func (h *half) Release() error {
	_ = h.take(context.Background())
	defer h.give()
	h.used = false
	return h.release()
}

// release ends the use of the store if neither half is used.
func (f *forwarding) release() error {
	if f.halves[0].used || f.halves[1].used {
		return nil
	}
	f.loaded = nil
	return f.store.Release()
}

// Apply implements Store.
func (h *half) Apply(ctx context.Context, changes []StoreChange) error {
	if err := h.take(ctx); err != nil {
		return err
	}
	defer h.give()
	all := make([]StoreChange, 0, len(changes)+len(h.undo))
	for id := range h.undo {
		all = append(all, StoreChange{Key: forwardingKey(receivedKey(id))})
	}
	var accepted []uint16
	for i := range changes {
		if h.receiving {
			all = h.appendReceiving(all, &changes[i])
			continue
		}
		all = append(all, changes[i])
		if m := changes[i].forwards.accepted(h.halves[0]); m.ID != 0 {
			accepted = append(accepted, m.ID)
			all = append(all, StoreChange{Key: forwardingKey(receivedKey(m.ID)), Value: encodeReceived(m)})
		}
	}
	err := h.store.Apply(ctx, all)
	if err == nil {
		h.applied(changes, accepted)
		return nil
	}
	for _, id := range accepted {
		h.undo[id] = true
	}
	return err
}

// appendReceiving appends a change of the receiving client, as it is in the store.
func (f *forwarding) appendReceiving(all []StoreChange, c *StoreChange) []StoreChange {
	if isRenewal(c) {
		for id := range f.early {
			all = append(all, StoreChange{Key: forwardingKey(receivedKey(id))})
		}
		return all
	}
	own := *c
	own.Key = forwardingKey(c.Key)
	return append(all, own)
}

// applied notes what is in the store now. accepted are the identifiers that were written with messages.
func (h *half) applied(changes []StoreChange, accepted []uint16) {
	clear(h.undo)
	for i := range changes {
		switch _, id := numberOf(changes[i].Key); {
		case !h.receiving:
		case isRenewal(&changes[i]):
			clear(h.early)
		case id != 0 && changes[i].Key[0] == keyReceived:
			delete(h.early, id)
		}
	}
	for _, id := range accepted {
		h.early[id] = true
	}
}

func forwardingKey(key []byte) []byte { return append([]byte{keyForwarding}, key...) }

// isRenewal reports whether a change says that the server has lost the session.
func isRenewal(c *StoreChange) bool { return len(c.Key) == 1 && c.Key[0] == keyRenewal }

// accepted returns what is recorded of a message at QoS 2 that is accepted once it is stored, or nothing: the message has no
// packet identifier, its session is gone, it came to a client with another store, or other subscriptions have to settle it, too.
func (o *origin) accepted(receiving Store) session.Received {
	if o == nil || o.receipt == nil || o.sub.inbox == nil {
		return session.Received{}
	}
	in := o.sub.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.journal == nil || in.journal.store != receiving || o.receipt.QoS() != 2 || o.receipt.Forgotten() || !o.receipt.LastFor(o.sub) {
		return session.Received{}
	}
	return o.receipt.Received()
}
