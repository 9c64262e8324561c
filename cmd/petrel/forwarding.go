package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// forwarding is a bridge at work.
type forwarding struct {
	*bridge
	source, target *client

	received, stored, returned, refused atomic.Int64
	waits                               atomic.Bool // for the store: it is full, or fails
}

// forwarders is how many messages may be on their way into the store, to share a sync of the disk.
const forwarders = 64

// run forwards until ctx or a client ends.
func (f *forwarding) run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		f.watch(ctx)
	}()
	go func() {
		select {
		case <-f.target.Done():
			end(f.target.Err())
		case <-ctx.Done():
		}
	}()
	sub, err := f.subscribe(ctx)
	if err == nil {
		f.meet(ctx)
		f.logger.Info("forwarding", "from", f.name, "to", f.bridge.target.name, "store", f.buffer.file, "outstanding", len(f.target.Outstanding()))
		err = sub.Handle(ctx, func(_ context.Context, m mqtt.Message) error { return f.forward(ctx, m) }, mqtt.Workers(forwarders))
	}
	if ended := context.Cause(ctx); ended != nil {
		err = ended
	}
	end(nil)
	<-watched
	return f.leave(ctx, err)
}

// firstContact is how long a bridge that starts waits for the second server.
const firstContact = 10 * time.Second

// meet waits a while for the second server, to know whether it has QoS 2 and keeps messages: what is stored before that and is too much for
// the server becomes a dead letter. What comes at QoS 1 or 2 is with the first server meanwhile.
func (f *forwarding) meet(ctx context.Context) {
	brief, cancel := context.WithTimeout(ctx, firstContact)
	defer cancel()
	_ = f.target.WaitConnected(brief) // without it the bridge stores what comes; and the end of the client ends ctx
}

// subscribe subscribes to all filters.
func (f *forwarding) subscribe(ctx context.Context) (*mqtt.Subscription, error) {
	qos := mqtt.QoS(f.qos)
	sub, err := f.source.subscribe(ctx, f.filters[0], mqtt.SubscribeOptions{qos, mqtt.Also(qos, f.filters[1:]...)},
		mqtt.NoLocal, mqtt.RetainAsPublished, mqtt.SendRetainedIfNew)
	if err != nil {
		return nil, err
	}
	for _, granted := range sub.Filters() {
		if granted.Granted < granted.QoS {
			f.logger.Warn("the first server grants less than was asked for", "filter", granted.Filter, "asked", int(granted.QoS), "granted", int(granted.Granted))
		}
	}
	return sub, nil
}

// leave disconnects from the first server. Whoever interrupts a bridge gets no error.
func (f *forwarding) leave(ctx context.Context, err error) error {
	f.tell()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if f.stateTopic != "" && f.source.Status().State == mqtt.StateConnected {
		brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		f.publishState(brief, "0")
	}
	if ended := f.source.finish(ctx); err == nil && !errors.Is(ended, context.DeadlineExceeded) {
		err = ended
	}
	return err
}

// storePatience is how long a store that is full or fails is left alone.
const storePatience = time.Second

// forward stores a message for the second server. Its error is that of ctx, and then the message stays with the first server,
// unless it is stored; see mqtt.ForwardingStores.
func (f *forwarding) forward(ctx context.Context, m mqtt.Message) error {
	f.received.Add(1)
	properties, ok := f.mark(m.Properties)
	if !ok {
		f.returned.Add(1)
		return nil
	}
	topic := f.prefix + strings.TrimPrefix(m.Topic, f.strip)
	qos, retain := m.QoS, mqtt.RetainFlag(m.Retain)
	for {
		err := f.target.publish(ctx, topic, m.Payload, properties, qos, retain, mqtt.QueueOffline, mqtt.Forwards(m)).Err()
		var failed *mqtt.StoreError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil || wasSent(err):
			f.stored.Add(1)
			f.waits.Store(false)
			return nil
		case errors.Is(err, mqtt.QoSNotSupported) && qos > 0:
			qos--
		case errors.Is(err, mqtt.RetainNotSupported) && bool(retain):
			retain = mqtt.NoRetain
		case errors.Is(err, mqtt.ErrQueueFull) || errors.As(err, &failed):
			if !f.waits.Swap(true) {
				f.logger.Error("the store takes nothing: the first server keeps its messages", "because", plain(err))
			}
			pause(ctx, storePatience)
		default:
			f.refused.Add(1)
			f.logger.Error("a message is not forwarded", "topic", topic, "because", plain(err))
			return nil
		}
	}
}

// wasSent reports whether the fate of a message, which is known already, is that of one that was stored and sent. If that is a
// refusal, the store has it as a dead letter.
func wasSent(err error) bool {
	var refusal *mqtt.PublishError
	return errors.As(err, &refusal) && !refusal.Local || errors.Is(err, mqtt.ErrOutcomeUnknown)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// watch publishes the state of the bridge and logs its counts, until ctx ends.
func (f *forwarding) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said, saidOn := "", uint64(0) // the latest state, and the number of the connection on which it was published
	reported := time.Now()
	for {
		connected := f.source.Status().State == mqtt.StateConnected // before the number of the connection
		now, on := f.state(), f.source.Stats().Connects
		if f.stateTopic != "" && connected && (now != said || on != saidOn) && f.publishState(ctx, now) {
			said, saidOn = now, on
		}
		if f.bridge.report > 0 && time.Since(reported) >= time.Duration(f.bridge.report) {
			reported = time.Now()
			f.tell()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// state is "1" while the second server is connected.
func (f *forwarding) state() string {
	if f.target.Status().State == mqtt.StateConnected {
		return "1"
	}
	return "0"
}

func (f *forwarding) publishState(ctx context.Context, state string) bool {
	return f.source.publish(ctx, string(f.stateTopic), []byte(state), nil, mqtt.AtLeastOnce, mqtt.Retain).Err() == nil
}

// tell logs the counts.
func (f *forwarding) tell() {
	outcomes := 0
	for _, m := range f.target.Outcomes() {
		if m.Outcome.Err != nil {
			outcomes++
		}
	}
	f.logger.Info("bridge", "connected", f.state() == "1", "received", f.received.Load(), "stored", f.stored.Load(), "returned", f.returned.Load(),
		"refused", f.refused.Load(), "published", f.target.Stats().Published, "outstanding", len(f.target.Outstanding()), "dead_letters", outcomes)
}
